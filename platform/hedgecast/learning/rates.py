"""The learning rate of a step: a rise over the first steps, then a fall over the rest.

With n steps of which w warm up, the factor of step k = 0, 1, .. is

    (k + 1) / w                                    k < w                                  (1)
    (1 + cos(pi u)) / 2,  1 - u,  or  1            u = (k - w) / (n - w)                  (2)

for `cosine`, `linear` and `constant`. It depends on k alone: a resumed run has the rates of one that was
not interrupted.

Source of the cosine: Loshchilov and Hutter (2017), eq. 5, https://arxiv.org/abs/1608.03983.
"""

from __future__ import annotations

import math

from hedgecast.learning.config import LearningConfig


def rate_factor(config: LearningConfig, step: int, num_steps: int) -> float:
    """Share of the largest rate at ``step``, counted from 0; zero from ``num_steps`` on unless constant."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.rate_schedule == "constant":
        return 1.0
    progress = min((step - config.warmup_steps) / max(num_steps - config.warmup_steps, 1), 1.0)
    if config.rate_schedule == "linear":
        return 1.0 - progress
    return 0.5 * (1.0 + math.cos(math.pi * progress))
