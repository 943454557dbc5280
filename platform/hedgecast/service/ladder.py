"""Cheaper answers under load, as far as the operator allows: the step in use, and what it does to a query.

Steps are climbed at once, to the highest whose load is reached. They are left one at a time, and only after
the load has been under a share of the step's for some time: a service that goes up and down with every
request would answer like requests unlike.

The load is seen in two figures: questions under way, waiting ones included, and how long the last answers
waited, a moving average that counts for nothing while nothing is under way.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hedgecast.core.errors import ConfigError, OverloadedError
from hedgecast.registry.ladder import MeasuredStep, Rung, climbed, measured
from hedgecast.service.models import ModelDescription
from hedgecast.service.queries import DecideQuery
from hedgecast.service.settings import LadderStep, ServiceSettings

# Weight of the newest wait in the average: about the last five count.
_NEWEST = 0.2

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One step of the operator's ladder."""

    number: int
    """From 1."""
    rungs: frozenset[Rung]
    """Its own and those of the steps before; the baseline takes a student's place."""
    starts: LadderStep
    """At which load."""

    def __str__(self) -> str:
        return "+".join(sorted(rung.value for rung in self.rungs))


@dataclasses.dataclass(slots=True)
class Question:
    """One that is under way."""

    waited: float | None = None
    """What its answer took beside the work on it, in seconds; None: it has none."""


class Ladder:
    """Says which step is in use.

    Parameters
    ----------
    settings : ServiceSettings
        The steps, and when they are left.
    told : callable
        Told of the step's number whenever it changes; 0: full answers.
    clock : callable
        Seconds that never go back.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        told: Callable[[int], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._told, self._clock = settings, told, clock
        self._steps = _steps(settings.ladder_steps)
        self._at = 0
        self._calm_since: float | None = None
        self._under_way = 0
        self._wait = 0.0
        self._unmeasured: set[tuple[str, str, int]] = set()

    @property
    def step(self) -> Step | None:
        """The step in use; None: full answers."""
        return self._steps[self._at - 1] if self._at else None

    def check(self, models: Sequence[ModelDescription], *, shadow: str) -> None:
        """Refuse steps that were not measured for a model that is served; ``shadow``: the canary's alias.

        Raises
        ------
        ConfigError
            One was not; the message says how it is measured.
        """
        for model in models:
            if shadow not in model.aliases:
                self.check_measured(model.full_name, model.ladder)

    def check_measured(self, model: str, known: Sequence[MeasuredStep]) -> None:
        """The same for one model, by what was measured of it."""
        for step in self._steps:
            if measured(known, step.rungs, self._settings.ladder_scenarios) is None:
                raise ConfigError(
                    f"HEDGECAST_LADDER allows {step}, which was not measured for {model}"
                    f"{self._with_count(step)}: run hedgecast measure-ladder, or leave the step out",
                    key="ladder",
                    step=str(step),
                )

    @contextlib.contextmanager
    def question(self) -> Iterator[Question]:
        """One question under way; the step follows the load when it begins and when it ends."""
        self._under_way += 1
        question = Question()
        self._follow()
        try:
            yield question
        finally:
            self._under_way -= 1
            if question.waited is not None:
                self._wait += _NEWEST * (question.waited - self._wait)
            self._follow()

    def applied(self, query: DecideQuery, model: ModelDescription, *, refuses: bool) -> DecideQuery:
        """The query as it is answered at the step in use, or at the highest below it that was measured.

        Unchanged where the step would change nothing: no more scenarios are asked for than the step gives, or
        they are the caller's own. Unchanged, too, where no step so low was measured for the model. Otherwise
        it names the model by its version: another one that takes over now has other figures.

        Raises
        ------
        OverloadedError
            The caller refuses anything but a full answer.
        """
        if query.own is not None or query.validate_only:
            return query
        found = self._measured(model)
        if found is None:
            return query
        step, cost = found
        rungs = step.rungs
        if query.scenario_count <= self._settings.ladder_scenarios:
            rungs = rungs - {Rung.FEWER_SCENARIOS}
        if not rungs:
            return query
        if refuses:
            raise OverloadedError(
                f"the service is under load and answers at {step} only, which the request refuses: try again "
                "later",
                step=str(step),
            )
        fewer = Rung.FEWER_SCENARIOS in rungs
        count = self._settings.ladder_scenarios if fewer else query.scenario_count
        return dataclasses.replace(
            query, model=model.full_name, scenario_count=count, rungs=rungs, degradation=cost
        )

    def _measured(self, model: ModelDescription) -> tuple[Step, MeasuredStep] | None:
        """The highest step up to the one in use that was measured for the model, and what it costs."""
        for step in reversed(self._steps[: self._at]):
            cost = measured(model.ladder, step.rungs, self._settings.ladder_scenarios)
            if cost is not None:
                return step, cost
            self._note_unmeasured(model, step)
        return None

    def _note_unmeasured(self, model: ModelDescription, step: Step) -> None:
        """Once for each: a version that came later is answered dearer than its operator may think."""
        key = (model.full_name, model.fingerprint, step.number)
        if key not in self._unmeasured:
            self._unmeasured.add(key)
            log.warning(
                "%s is not answered at %s, which was not measured for it: run hedgecast measure-ladder",
                model.full_name,
                step,
            )

    def _follow(self) -> None:
        reached = max((step.number for step in self._steps if self._over(step.starts, 1.0)), default=0)
        if reached > self._at:
            self._move(reached)
            self._calm_since = None
        else:
            self._descend()

    def _descend(self) -> None:
        """A step down for each time that the load stayed under its share, also where nobody asked."""
        hold, release = self._settings.ladder_hold_seconds, self._settings.ladder_release
        now = self._clock()
        while self._at and not self._over(self._steps[self._at - 1].starts, release):
            if self._calm_since is None:
                self._calm_since = now
            if now - self._calm_since < hold:
                return
            self._calm_since += hold
            self._move(self._at - 1)
        self._calm_since = None

    def _over(self, starts: LadderStep, share: float) -> bool:
        wait = self._wait if self._under_way else 0.0
        waits_too_long = starts.seconds is not None and wait >= share * starts.seconds
        return self._under_way >= share * starts.requests or waits_too_long

    def _move(self, to: int) -> None:
        log.warning("the ladder goes from step %d to step %d", self._at, to)
        self._at = to
        self._told(to)

    def _with_count(self, step: Step) -> str:
        fewer = Rung.FEWER_SCENARIOS in step.rungs
        return f" with {self._settings.ladder_scenarios} scenarios" if fewer else ""


def worked_seconds(answer: Any) -> float:
    """What an answer says of the time that it was worked on; zero where it says nothing."""
    timed = getattr(answer, "solution", answer)
    names = ("scenario_seconds", "solve_seconds", "statistics_seconds")
    return float(sum(getattr(timed, name, 0.0) for name in names))


def _steps(starts: Sequence[LadderStep]) -> tuple[Step, ...]:
    taken = climbed([Rung(start.rung) for start in starts])
    return tuple(
        Step(number=number, rungs=rungs, starts=start)
        for number, (rungs, start) in enumerate(zip(taken, starts, strict=True), 1)
    )
