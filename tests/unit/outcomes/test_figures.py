"""Which outcomes count for which version, and what their coverage is made of."""

import numpy as np
import pyarrow as pa
import pytest

from hedgecast.outcomes import band_of
from hedgecast.outcomes.encoding import Kind, outcome_row
from hedgecast.outcomes.figures import COLUMNS, figures_of


def _table(pairs) -> pa.Table:
    rows = [outcome_row(outcome, decision) for decision, outcome in pairs]
    return pa.Table.from_batches(rows, schema=Kind.OUTCOME.schema).select(list(COLUMNS))


def test_the_latest_by_issue_count_whatever_the_order_of_recording(decided, happened) -> None:
    numbers = [5, 2, 9, 1, 7]
    pairs = [(decided(number), happened(decided(number), cost=float(number))) for number in numbers]
    figures = figures_of(_table(pairs), last=3)["power", "3"]
    assert figures.cost.tolist() == [5.0, 7.0, 9.0]
    assert figures.expected_cost.tolist() == [105.0, 107.0, 109.0]
    assert np.all(np.diff(figures.issued_at) > np.timedelta64(0))
    assert figures.total == 5


def test_models_and_versions_are_apart_and_shadows_count(decided, happened) -> None:
    decisions = [
        decided(1),
        decided(2, model_version="4", shadow_of="d-1"),
        decided(3, model="shop"),
        decided(4, model="shop", model_version="4"),
    ]
    figures = figures_of(_table([(decision, happened(decision)) for decision in decisions]), last=10)
    assert list(figures) == [("power", "3"), ("power", "4"), ("shop", "3"), ("shop", "4")]
    assert all(version.total == 1 for version in figures.values())
    assert figures_of(_table([]), last=10) == {}


def test_coverage_is_by_name_and_level_over_the_decisions_that_have_it(decided, happened) -> None:
    paths = np.random.default_rng(1).normal(size=(49, 3))
    wind = band_of(paths, np.array([0.1, 0.9]))
    first = decided(1)
    second = decided(2, bands={"wind": wind, "load": first.bands["load"]})
    third = decided(3, bands={}, cost=None)
    realized = {"wind": np.full(3, 99.0), "load": np.full((4, 2), -99.0)}
    pairs = [
        (first, happened(first)),
        (second, happened(second, realized=realized)),
        (third, happened(third)),
    ]
    figures = figures_of(_table(pairs), last=10)["power", "3"]
    assert list(figures.coverage) == [
        ("load", 0.05), ("load", 0.5), ("load", 0.95), ("wind", 0.1), ("wind", 0.9),
    ]  # fmt: skip
    assert figures.coverage["load", 0.05].shares.size == 2
    assert figures.coverage["load", 0.05].shares[1] == 1.0
    assert figures.coverage["load", 0.05].num_points.tolist() == [8.0, 8.0]
    # 5 of 49 scenarios lie at or below the quantile: 5 / 50.
    assert figures.coverage["wind", 0.1].expected.tolist() == pytest.approx([0.1])
    assert figures.coverage["wind", 0.9].shares.tolist() == [0.0]
    assert np.isnan(figures.cost_level).tolist() == [False, False, True]
