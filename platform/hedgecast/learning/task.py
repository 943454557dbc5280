"""A task: the days of one decision problem in three parts, and the problem itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from hedgecast.learning.config import LearningConfig
from hedgecast.learning.part import Part
from hedgecast.programs.program import TwoStageProgram
from hedgecast.programs.risk import EXPECTATION, Risk
from hedgecast.regret.backtest import DecisionDays


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """All that a method is trained and tested on.

    A study gives one (`hedgecast.commands.workflow.Prepared.task`); a benchmark makes one from arrays.
    """

    train: Part
    """Statistics and weights come from these days alone."""
    validation: Part
    """They choose when to stop."""
    test: Part
    """What methods draw for."""
    test_days: DecisionDays
    """The same days as they came: windows, whose days may be longer or shorter, or ``test`` itself."""
    program_for: Callable[[int], TwoStageProgram]
    """Number of steps to the program over them."""
    config: LearningConfig
    """How methods learn; seed and estimator are set for each run."""
    risk: Risk = EXPECTATION
    """What test decisions minimize."""
    second_program_for: Callable[[int], TwoStageProgram] | None = None
    """The same for a second decision, which no method trains on: see `hedgecast.regret.transfer`."""

    def program(self) -> TwoStageProgram:
        """The program over all slots of a day, which methods train through."""
        return self.program_for(int(self.train.targets.shape[1]))
