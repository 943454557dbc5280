"""What is known of the outcomes of each model version, as plain arrays in the order of the decisions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hedgecast.outcomes.blocks import covered_of

COLUMNS = (
    "decision_id", "shadow_of", "model", "model_version", "issued_at", "recorded_at", "cost", "regret",
    "expected_cost", "expected_regret", "cost_level", "covered",
)  # fmt: skip
"""Of the table of outcomes: all that figures need."""


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


def figures_of(table: pa.Table, *, last: int) -> dict[tuple[str, str], Figures]:
    """The latest outcomes of each (model, version) in a table of outcomes.

    Parameters
    ----------
    table : Table
        With at least ``COLUMNS``.
    last : int
        Outcomes of each version at most, by the time of issue.
    """
    keys = table.select(["model", "model_version"]).group_by(["model", "model_version"]).aggregate([])
    return {
        (row["model"], row["model_version"]): _of_version(table, row["model"], row["model_version"], last)
        for row in sorted(keys.to_pylist(), key=lambda row: (row["model"], row["model_version"]))
    }


def _of_version(table: pa.Table, model: str, version: str, last: int) -> Figures:
    mine = pc.and_(pc.equal(table["model"], model), pc.equal(table["model_version"], version))
    rows = table.filter(mine).sort_by([("issued_at", "ascending"), ("decision_id", "ascending")])
    total = rows.num_rows
    rows = rows.slice(max(0, total - last)).combine_chunks()
    return Figures(
        model=model,
        version=version,
        total=total,
        issued_at=rows["issued_at"].cast(pa.timestamp("us")).to_numpy(),
        coverage=_coverage(rows["covered"]),
        **{
            name: rows[name].to_numpy()
            for name in ("cost", "regret", "expected_cost", "expected_regret", "cost_level")
        },
    )


def _coverage(column: pa.ChunkedArray) -> dict[tuple[str, float], CoverageSeries]:
    found: dict[tuple[str, float], list[tuple[float, float, int]]] = {}
    for scalar in column:
        for name, covered in covered_of(scalar).items():
            for level, share, expected in zip(covered.levels, covered.shares, covered.expected, strict=True):
                found.setdefault((name, float(level)), []).append((share, expected, covered.num_points))
    series = {}
    for key in sorted(found):
        shares, expected, points = (
            np.array(values, dtype=np.float64) for values in zip(*found[key], strict=True)
        )
        series[key] = CoverageSeries(shares=shares, expected=expected, num_points=points)
    return series
