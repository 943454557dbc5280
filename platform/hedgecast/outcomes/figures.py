"""What is known of the outcomes of each model version, as plain arrays in the order of the decisions."""

from __future__ import annotations

import bisect
import dataclasses
import datetime
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hedgecast.outcomes.blocks import covered_of
from hedgecast.outcomes.records import Covered, DecisionRecord, OutcomeRecord

_ISSUED_AT = "issued_at"
_NUMBERS = ("cost", "regret", "expected_cost", "expected_regret", "cost_level")
COLUMNS = (_ISSUED_AT, "decision_id", "model", "model_version", *_NUMBERS, "covered")
"""Of the table of outcomes: all that figures need."""

_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CoverageSeries:
    """Shares at or below one quantile, one a decision that had an uncertain point."""

    shares: np.ndarray
    """(n,) observed."""
    expected: np.ndarray
    """(n,) expected if the scenarios are right."""
    num_points: np.ndarray
    """(n,) points a share was taken over."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Figures:
    """Outcomes of one version, those of shadows among them, in the order in which decisions were issued."""

    model: str
    version: str
    total: int
    """Outcomes kept; the arrays hold the latest of them."""
    issued_at: np.ndarray
    """(n,) datetime64[us], UTC."""
    cost: np.ndarray
    regret: np.ndarray
    expected_cost: np.ndarray
    expected_regret: np.ndarray
    cost_level: np.ndarray
    """(n,) NaN where the decision had no quantiles of its cost."""
    coverage: Mapping[tuple[str, float], CoverageSeries]
    """By name of the uncertain parameter and level."""


class Outcome(NamedTuple):
    """What figures need of one; in the order in which decisions were issued."""

    issued_at: int
    """Microseconds since 1970, UTC."""
    decision_id: str
    number: int
    """Of the log that it is in."""
    cost: float
    regret: float
    expected_cost: float
    expected_regret: float
    cost_level: float
    covered: Mapping[str, Covered]


class Recent:
    """The latest outcomes of each (model, version), in memory: figures after each outcome read no file.

    Parameters
    ----------
    last : int
        Outcomes of each version at most, by the time of issue.
    """

    def __init__(self, last: int) -> None:
        self._last = last
        self._outcomes: dict[tuple[str, str], list[Outcome]] = {}
        # By the number of the log: what goes when that segment goes.
        self._counts: dict[tuple[str, str], Counter[int]] = {}

    @property
    def short(self) -> bool:
        """Whether a version has fewer than it should: those that went had kept out others that stay."""
        return any(
            len(self._outcomes[key]) < min(count.total(), self._last) for key, count in self._counts.items()
        )

    def add(self, number: int, decision: DecisionRecord, outcome: OutcomeRecord) -> None:
        """An outcome was written to log ``number``."""
        key = (decision.model, decision.model_version)
        self._count(key, number, 1)
        self._insert(
            key,
            Outcome(
                issued_at=(decision.issued_at - _EPOCH) // _MICROSECOND,
                decision_id=decision.decision_id,
                number=number,
                cost=outcome.cost,
                regret=outcome.regret,
                expected_cost=decision.expected_cost,
                expected_regret=decision.expected_regret,
                cost_level=outcome.cost_level,
                covered=outcome.covered,
            ),
        )

    def fill(self, number: int, table: pa.Table) -> None:
        """Take all outcomes of log ``number``, a table with ``COLUMNS``; fastest newest log first."""
        counts = table.group_by(["model", "model_version"]).aggregate([([], "count_all")])
        for row in counts.to_pylist():
            key = (row["model"], row["model_version"])
            self._count(key, number, row["count_all"])
            for outcome in self._latest_in(table, key, number):
                self._insert(key, outcome)

    def drop(self, number: int) -> None:
        """Forget the outcomes of log ``number``."""
        for key, count in list(self._counts.items()):
            if count.pop(number, 0):
                self._outcomes[key] = [item for item in self._outcomes[key] if item.number != number]
            if not count:
                del self._counts[key], self._outcomes[key]

    def now(self) -> dict[tuple[str, str], tuple[int, list[Outcome]]]:
        """Of each version, how many outcomes are kept and the latest of them, in order of issue."""
        return {key: (self._counts[key].total(), list(self._outcomes[key])) for key in sorted(self._counts)}

    def _count(self, key: tuple[str, str], number: int, more: int) -> None:
        self._outcomes.setdefault(key, [])
        self._counts.setdefault(key, Counter())[number] += more

    def _insert(self, key: tuple[str, str], outcome: Outcome) -> None:
        outcomes = self._outcomes[key]
        bisect.insort(outcomes, outcome, key=lambda item: item[:2])
        del outcomes[: -self._last]

    def _latest_in(self, table: pa.Table, key: tuple[str, str], number: int) -> Iterator[Outcome]:
        mine = pc.and_(pc.equal(table["model"], key[0]), pc.equal(table["model_version"], key[1]))
        rows = table.filter(mine).select(COLUMNS)
        rows = rows.set_column(0, _ISSUED_AT, rows[_ISSUED_AT].cast(pa.int64()))
        kept = self._outcomes[key]
        if len(kept) == self._last:
            rows = rows.filter(pc.greater_equal(rows[_ISSUED_AT], kept[0].issued_at))
        rows = rows.sort_by([(_ISSUED_AT, "ascending"), ("decision_id", "ascending")])
        rows = rows.slice(max(0, rows.num_rows - self._last))
        numbers = [rows[name].to_pylist() for name in _NUMBERS]
        plain = zip(rows[_ISSUED_AT].to_pylist(), rows["decision_id"].to_pylist(), *numbers, strict=True)
        for (issued_at, decision_id, *values), covered in zip(plain, rows["covered"], strict=True):
            yield Outcome._make((issued_at, decision_id, number, *values, covered_of(covered)))


def figures_of(key: tuple[str, str], total: int, outcomes: Sequence[Outcome]) -> Figures:
    """The figures of a (model, version) that has ``total`` outcomes, these the latest of them."""
    return Figures(
        model=key[0],
        version=key[1],
        total=total,
        issued_at=np.array([item.issued_at for item in outcomes], dtype="datetime64[us]"),
        coverage=_coverage(outcomes),
        **{name: np.array([getattr(item, name) for item in outcomes], dtype=np.float64) for name in _NUMBERS},
    )


def _coverage(outcomes: Sequence[Outcome]) -> dict[tuple[str, float], CoverageSeries]:
    found: dict[tuple[str, float], list[tuple[float, float, int]]] = {}
    for outcome in outcomes:
        for name, covered in outcome.covered.items():
            for level, share, expected in zip(covered.levels, covered.shares, covered.expected, strict=True):
                found.setdefault((name, float(level)), []).append((share, expected, covered.num_points))
    series = {}
    for key in sorted(found):
        shares, expected, points = (
            np.array(values, dtype=np.float64) for values in zip(*found[key], strict=True)
        )
        series[key] = CoverageSeries(shares=shares, expected=expected, num_points=points)
    return series
