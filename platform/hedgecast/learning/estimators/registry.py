"""Estimators by the name used in `LearningConfig.estimator`."""

from __future__ import annotations

from hedgecast.learning.config import LearningConfig
from hedgecast.learning.estimators.decision_weighted import DecisionWeighted
from hedgecast.learning.estimators.elbo import Elbo
from hedgecast.learning.estimators.pathwise import Pathwise
from hedgecast.learning.estimators.score_function import ScoreFunction
from hedgecast.learning.estimators.seam import GradientEstimator
from hedgecast.learning.estimators.surrogate_gradient import SurrogateGradient


def estimator(config: LearningConfig) -> GradientEstimator:
    """The estimator that ``config.estimator`` names."""
    if config.estimator == "score-function":
        elbo = Elbo(config.score_function.elbo, log_mean=config.noise_log_mean, log_std=config.noise_log_std)
        return ScoreFunction(
            scenarios=config.scenarios, elbo=elbo, clip_ratio=config.score_function.clip_ratio
        )
    if config.estimator == "decision-weighted":
        return DecisionWeighted(config)
    pathwise = Pathwise(
        scenarios=config.scenarios,
        drawn=config.drawn or config.scenarios,
        grad_steps=config.grad_steps,
        checkpointed=config.checkpointed,
    )
    return SurrogateGradient(pathwise) if config.estimator == "surrogate" else pathwise
