"""Which outcomes count for which version, and what their coverage is made of."""

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from hedgecast.outcomes import band_of
from hedgecast.outcomes.encoding import Kind, outcome_row
from hedgecast.outcomes.figures import COLUMNS, Figures, Recent, figures_of


def _table(pairs) -> pa.Table:
    rows = [outcome_row(outcome, decision) for decision, outcome in pairs]
    return pa.Table.from_batches(rows, schema=Kind.OUTCOME.schema).select(list(COLUMNS))


def _figures(recent) -> dict[tuple[str, str], Figures]:
    return {key: figures_of(key, *found) for key, found in recent.now().items()}


def _added(pairs, *, last: int = 10) -> dict[tuple[str, str], Figures]:
    """Of outcomes as they come, which must be those of the same outcomes read from a table."""
    recent, read = Recent(last), Recent(last)
    for decision, outcome in pairs:
        recent.add(1, decision, outcome)
    read.fill(1, _table(pairs))
    assert read.now().keys() == recent.now().keys()
    for key, (total, outcomes) in recent.now().items():
        assert read.now()[key][0] == total
        for one, other in zip(read.now()[key][1], outcomes, strict=True):
            np.testing.assert_equal(one[:-1], other[:-1])
            np.testing.assert_equal(
                *({name: dataclasses.asdict(c) for name, c in item.covered.items()} for item in (one, other))
            )
    return _figures(recent)


def test_the_latest_by_issue_count_whatever_the_order_of_recording(decided, happened) -> None:
    numbers = [5, 2, 9, 1, 7]
    pairs = [(decided(number), happened(decided(number), cost=float(number))) for number in numbers]
    figures = _added(pairs, last=3)["power", "3"]
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
    figures = _added([(decision, happened(decision)) for decision in decisions])
    assert list(figures) == [("power", "3"), ("power", "4"), ("shop", "3"), ("shop", "4")]
    assert all(version.total == 1 for version in figures.values())
    assert _added([]) == {}


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
    figures = _added(pairs)["power", "3"]
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


def test_logs_may_be_read_in_any_order_and_a_removed_one_is_forgotten(decided, happened) -> None:
    numbers = [4, 1, 6, 3, 5, 2]
    pairs = [(decided(number), happened(decided(number), cost=float(number))) for number in numbers]
    orders = ((1, 2), (2, 1))
    for order in orders:
        recent = Recent(4)
        for number in order:
            recent.fill(number, _table(pairs[:3] if number == 1 else pairs[3:]))
        figures = _figures(recent)["power", "3"]
        assert figures.cost.tolist() == [3.0, 4.0, 5.0, 6.0]
        assert figures.total == 6
        assert not recent.short
        recent.drop(1)
        # The decision issued second, in the log that stays, had been kept out by those that went.
        assert recent.short
        assert _figures(recent)["power", "3"].cost.tolist() == [3.0, 5.0]
        assert _figures(recent)["power", "3"].total == 3
        recent.drop(2)
        assert _figures(recent) == {}
        assert not recent.short
