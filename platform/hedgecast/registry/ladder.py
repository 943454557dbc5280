"""What cheaper ways of answering cost a model, measured on its validation days.

Under load a service may answer with fewer scenarios, by a student or from the baseline where its operator
allows it. Each way is called a rung; what is allowed is a step, one or more rungs at once. No step is used
that has not been measured: the record, ``ladder.json`` beside the bundle's files, says by how much the regret
of the decisions rises, against the same model's full answer on the same days. It is bound to the bundle by
its fingerprint and stands outside the bundle's checksums: it is measured after the bundle was written.

Where a student was measured, its graph lies beside the record, which has its checksum. So a version and its
student come to a machine together, load together and go together, and the bundle stays what it was.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import logging
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

from hedgecast.core.config import Config
from hedgecast.core.errors import BundleError, ConfigError
from hedgecast.registry.graphs import student_graph

LADDER_FILE = "ladder.json"
FORMAT = 1

log = logging.getLogger(__name__)


class Rung(enum.Enum):
    """One cheaper way of answering."""

    FEWER_SCENARIOS = "fewer_scenarios"
    """A smaller sample of the same model."""
    BASELINE_SCENARIOS = "baseline_scenarios"
    """Scenarios of the model's baseline, without its network."""
    SURROGATE_SOLVER = "surrogate_solver"
    """The decision of a learned map where its gate trusts it; solved where it does not."""
    STUDENT_SAMPLER = "student_sampler"
    """Scenarios of a student: the model's noise, in fewer calls of a network."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredStep(Config):
    """What one step costs."""

    rungs: tuple[str, ...]
    """Names of the rungs that are used at once, sorted."""
    regret_increase: float
    """Mean over the days of the step's regret less that of the full answer, in the program's currency."""
    lower_bound: float
    """Of the interval of that mean, paired by day, over blocks of days."""
    upper_bound: float
    confidence: float
    """Of the interval."""
    reference_regret: float
    """Mean regret of the full answer on the same days."""
    num_days: int
    first_day: str
    """ISO date."""
    last_day: str
    num_scenarios: int
    """Of each of the step's decisions."""
    reference_scenarios: int
    """Of each of the full answer's decisions."""
    measured_time: str
    """UTC, ISO 8601."""

    def __post_init__(self) -> None:
        known = {rung.value for rung in Rung}
        unknown = [name for name in self.rungs if name not in known]
        if unknown or not self.rungs or list(self.rungs) != sorted(set(self.rungs)):
            raise ConfigError(
                f"rungs {', '.join(self.rungs) or 'none'}: one or more of {', '.join(sorted(known))}, "
                "sorted, each once",
                key="rungs",
            )
        numbers = (self.regret_increase, self.lower_bound, self.upper_bound, self.reference_regret)
        if not all(map(math.isfinite, numbers)) or not self.lower_bound <= self.upper_bound:
            raise ConfigError(f"step {'+'.join(self.rungs)} has figures that are none: measure it again")

    @property
    def kinds(self) -> frozenset[Rung]:
        """The rungs."""
        return frozenset(map(Rung, self.rungs))


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Student(Config):
    """A registered student of the model, whose graph lies beside the bundle."""

    name: str
    """As registered."""
    version: str
    fingerprint: str
    """Of its own bundle."""
    digest: str
    """Hexadecimal SHA-256 of its scenario graph."""
    calls: int
    """Network calls of one scenario."""
    teacher_calls: int
    """The model's."""
    distance: float
    """From the model's scenarios of the same noise, in shares of what its network does; see `Descent`."""

    @property
    def full_name(self) -> str:
        """NAME@VERSION."""
        return f"{self.name}@{self.version}"

    @property
    def graph(self) -> str:
        """Name of the file with its scenario graph."""
        return student_graph(self.digest)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredLadder(Config):
    """All that was measured of one bundle."""

    format: int
    """Version of this layout."""
    fingerprint: str
    """Of the bundle."""
    steps: tuple[MeasuredStep, ...]
    """Each set of rungs and each count once."""
    student: Student | None = None
    """Whose scenarios the steps with `STUDENT_SAMPLER` have; None: there are none."""

    def __post_init__(self) -> None:
        if self.student is None and any(Rung.STUDENT_SAMPLER in step.kinds for step in self.steps):
            raise ConfigError("a step has student_sampler and there is no student", key="student")

    @classmethod
    def read(cls, folder: Path, fingerprint: str) -> Self | None:
        """The record beside the bundle in ``folder``; None: nothing was measured of this bundle.

        Figures of another bundle are none, and a line in the log says so: the version is served all the same.

        Raises
        ------
        BundleError
            It cannot be read, or is of another layout.
        """
        path = folder / LADDER_FILE
        try:
            found = cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, ConfigError) as error:
            raise BundleError(
                f"{path} cannot be read: {error}; measure it again", file=LADDER_FILE
            ) from error
        if found.format != FORMAT:
            raise BundleError(
                f"{path} has format {found.format}, this version reads {FORMAT}: measure it again",
                file=LADDER_FILE,
            )
        if found.fingerprint != fingerprint:
            log.warning(
                "%s is of bundle %s, this is %s: measure it again",
                path,
                found.fingerprint[:12],
                fingerprint[:12],
            )
            return None
        return found

    def write(self, folder: Path) -> Path:
        """The record's file in ``folder``, which appears whole."""
        path = folder / LADDER_FILE
        temporary = folder / f".{LADDER_FILE}.{os.getpid()}"
        try:
            temporary.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        return path


def climbed(rungs: Sequence[Rung]) -> tuple[frozenset[Rung], ...]:
    """What each step of a ladder takes: its rung and those before it.

    Both the baseline and a student say who draws: the baseline takes the student's place.

    Parameters
    ----------
    rungs : sequence of Rung
        In order, each once.

    Raises
    ------
    ConfigError
        The student comes after the baseline, where it would change nothing.
    """
    steps: list[frozenset[Rung]] = []
    for rung in rungs:
        before = steps[-1] if steps else frozenset[Rung]()
        if rung is Rung.STUDENT_SAMPLER and Rung.BASELINE_SCENARIOS in before:
            raise ConfigError(
                f"{rung.value} after {Rung.BASELINE_SCENARIOS.value} would change nothing: put it before",
                key="rungs",
            )
        replaced = {Rung.STUDENT_SAMPLER} if rung is Rung.BASELINE_SCENARIOS else set()
        steps.append((before | {rung}) - replaced)
    return tuple(steps)


def measured(
    steps: Iterable[MeasuredStep], rungs: frozenset[Rung], num_scenarios: int
) -> MeasuredStep | None:
    """The measurement of a step; None: it was not measured.

    Parameters
    ----------
    steps : iterable of MeasuredStep
        Those there are.
    rungs : frozenset of Rung
        Used at once.
    num_scenarios : int
        What the step brings the count down to, where fewer scenarios are among the rungs; otherwise not read.
    """
    fewer = Rung.FEWER_SCENARIOS in rungs
    for step in steps:
        if step.kinds == rungs and (not fewer or step.num_scenarios == num_scenarios):
            return step
    return None
