"""Methods that make scenarios, one object each, swapped by name in one table.

    point                   ridge mean, one scenario
    ridge-residual          ridge mean plus residual days of the same season, out-of-fold
    ridge-residual-scaled   the same, scaled by how large errors have been lately
    gaussian                conditional mean and covariance, by likelihood
    dfl-point               one scenario, trained on the cost of its decision
    dfl-gaussian            the Gaussian, then trained on the cost of the decision
    scoring-rule            one-pass generative network, trained on the energy score
    diffusion               conditional diffusion, trained on noise matching (two-stage)
    diffusion-dfl           the same, then trained jointly on the cost of the decision

All learn from the training days alone; validation days choose when to stop. All networks have the width, the
epochs and the rates of the one ``[learning]`` table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from hedgecast.core.errors import ConfigError
from hedgecast.learning.config import LearningConfig
from hedgecast.learning.fit import Progress, Trainer, train_here
from hedgecast.learning.methods.dfl_point import fit_dfl_point
from hedgecast.learning.methods.diffusion import fit_diffusion
from hedgecast.learning.methods.gaussian import fit_gaussian
from hedgecast.learning.methods.method import ScenarioMethod
from hedgecast.learning.methods.ridge import fit_baselines
from hedgecast.learning.methods.ridge_scaled import fit_scaled
from hedgecast.learning.methods.scoring_rule import fit_scoring_rule
from hedgecast.learning.part import Part
from hedgecast.programs.program import TwoStageProgram

DECISION_FOCUSED = ("dfl-point", "dfl-gaussian", "diffusion-dfl")
"""Methods that train on the decision and need its program."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Lesson:
    """What a family of methods learns from."""

    names: frozenset[str]
    """The methods asked for."""
    train: Part
    validation: Part
    config: LearningConfig
    program: TwoStageProgram | None
    progress: Progress | None
    trainer: Trainer


Fitted = Mapping[str, ScenarioMethod]


def _ridge(lesson: Lesson) -> Fitted:
    point, residual = fit_baselines(lesson.train)
    found: dict[str, ScenarioMethod] = {point.name: point, residual.name: residual}
    if "ridge-residual-scaled" in lesson.names:
        found["ridge-residual-scaled"] = fit_scaled(lesson.train, residual)
    return found


def _gaussian(lesson: Lesson) -> Fitted:
    program = lesson.program if "dfl-gaussian" in lesson.names else None
    return fit_gaussian(lesson.train, lesson.validation, lesson.config, program, lesson.progress)


def _dfl_point(lesson: Lesson) -> Fitted:
    assert lesson.program is not None
    found = fit_dfl_point(lesson.train, lesson.validation, lesson.config, lesson.program, lesson.progress)
    return {found.name: found}


def _scoring_rule(lesson: Lesson) -> Fitted:
    found = fit_scoring_rule(lesson.train, lesson.validation, lesson.config, lesson.progress)
    return {found.name: found}


def _diffusion(lesson: Lesson) -> Fitted:
    program = lesson.program if "diffusion-dfl" in lesson.names else None
    return fit_diffusion(
        lesson.train, lesson.validation, lesson.config, program, lesson.progress, lesson.trainer
    )


# What one function fits together shares its first part: one ridge, one pretraining.
_FAMILIES: tuple[tuple[tuple[str, ...], Callable[[Lesson], Fitted]], ...] = (
    (("point", "ridge-residual", "ridge-residual-scaled"), _ridge),
    (("gaussian", "dfl-gaussian"), _gaussian),
    (("dfl-point",), _dfl_point),
    (("scoring-rule",), _scoring_rule),
    (("diffusion", "diffusion-dfl"), _diffusion),
)
METHODS = (
    "point",
    "ridge-residual",
    "ridge-residual-scaled",
    "gaussian",
    "dfl-point",
    "dfl-gaussian",
    "scoring-rule",
    "diffusion",
    "diffusion-dfl",
)


def fit_methods(
    names: Sequence[str],
    train: Part,
    validation: Part,
    config: LearningConfig,
    program: TwoStageProgram | None = None,
    progress: Progress | None = None,
    trainer: Trainer = train_here,
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
        Over all slots of a day; needed by `DECISION_FOCUSED` methods.
    progress : callable, optional
        Called after each epoch.
    trainer : Trainer
        Who trains diffusion models: this process, unless workers do.

    Raises
    ------
    ConfigError
        A name that is no method, or a method that needs the program without one.
    """
    for name in names:
        check_method(name)
        if program is None and name in DECISION_FOCUSED:
            raise ConfigError(f"{name} trains on the decision: give the program", key="program")
    lesson = Lesson(
        names=frozenset(names),
        train=train,
        validation=validation,
        config=config,
        program=program,
        progress=progress,
        trainer=trainer,
    )
    found: dict[str, ScenarioMethod] = {}
    for members, fit in _FAMILIES:
        if lesson.names & set(members):
            found |= fit(lesson)
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
