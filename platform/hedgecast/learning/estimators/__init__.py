"""How the gradient of the task loss on the denoiser is estimated: one protocol, one file each.

pathwise            through the decision and the last sampler steps
score-function      scenarios weighted by the slope of the cost in their probability
decision-weighted   noise matching with more weight where the cost is steep; no solver
surrogate           pathwise, through a learned map from scenarios to the decision
"""
