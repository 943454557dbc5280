"""Methods that make scenarios, one object each, swapped by name in one table.

    point            ridge mean, one scenario
    ridge-residual   ridge mean plus residual days of the same season, out-of-fold
    diffusion        conditional diffusion, trained on noise matching (two-stage)
    diffusion-dfl    the same, then trained jointly on the regret of the decision

All learn from the training days alone; validation days choose when to stop.
"""

from __future__ import annotations

from collections.abc import Sequence

from hedgecast.core.errors import ConfigError
from hedgecast.learning.config import LearningConfig
from hedgecast.learning.fit import Progress
from hedgecast.learning.methods.diffusion import fit_diffusion
from hedgecast.learning.methods.method import ScenarioMethod
from hedgecast.learning.methods.ridge import fit_baselines
from hedgecast.learning.part import Part
from hedgecast.programs.program import TwoStageProgram

METHODS = ("point", "ridge-residual", "diffusion", "diffusion-dfl")


def fit_methods(
    names: Sequence[str],
    train: Part,
    validation: Part,
    config: LearningConfig,
    program: TwoStageProgram | None = None,
    progress: Progress | None = None,
) -> dict[str, ScenarioMethod]:
    """The trained methods ``names``, in that order; what two of them share is fitted once.

    Parameters
    ----------
    names : sequence of str
        From `METHODS`.
    train, validation : Part
        Statistics and weights come from the first, when to stop from the second.
    config : LearningConfig
        Its seed is that of first weights, noise and the order of days.
    program : TwoStageProgram, optional
        Over all slots of a day; needed by methods that train on the decision.
    progress : callable, optional
        Called after each epoch.

    Raises
    ------
    ConfigError
        A name that is no method, or a method that needs the program without one.
    """
    for name in names:
        check_method(name)
    if program is None and "diffusion-dfl" in names:
        raise ConfigError("diffusion-dfl trains on the decision: give the program", key="program")
    found: dict[str, ScenarioMethod] = {}
    if {"point", "ridge-residual"} & set(names):
        found |= {method.name: method for method in fit_baselines(train)}
    if {"diffusion", "diffusion-dfl"} & set(names):
        joint = program if "diffusion-dfl" in names else None
        found |= fit_diffusion(train, validation, config, joint, progress)
    return {name: found[name] for name in names}


def check_method(name: str) -> None:
    """Refuse a method that does not exist.

    Raises
    ------
    ConfigError
        Names the known ones.
    """
    if name not in METHODS:
        raise ConfigError(f"no method {name!r}: choose from {', '.join(METHODS)}", key="learning.method")
