"""Records come back from a row as they went in, and nothing is pickled."""

import dataclasses
import pickle

import numpy as np
import pyarrow as pa
import pytest

from hedgecast.outcomes.encoding import (
    Kind,
    decision_of,
    decision_row,
    from_bytes,
    outcome_of,
    outcome_row,
    same_decision,
    same_outcome,
    to_bytes,
)


def _same(one: object, other: object) -> bool:
    if dataclasses.is_dataclass(one):
        return type(one) is type(other) and all(
            _same(getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(one)
        )
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, np.ndarray):
        return one.shape == other.shape and one.dtype == other.dtype and np.array_equal(one, other)
    return one == other


def test_a_decision_comes_back_as_it_went_in(decided) -> None:
    decision = decided()
    row = from_bytes(to_bytes(decision_row(decision)), Kind.DECISION)
    assert _same(decision_of(row, 0), decision)


def test_a_decision_without_anything_optional_comes_back(decided) -> None:
    decision = decided(given={}, decision={"x": np.zeros((0, 3))}, cost=None, bands={}, request_id="")
    row = from_bytes(to_bytes(decision_row(decision)), Kind.DECISION)
    assert _same(decision_of(row, 0), decision)


def test_an_outcome_comes_back_as_it_went_in(decided, happened) -> None:
    outcome = happened(decided(), value=51.0)
    row = from_bytes(to_bytes(outcome_row(outcome, decided())), Kind.OUTCOME)
    assert _same(outcome_of(row, 0), outcome)
    assert row.column("model_version")[0].as_py() == "3"
    assert row.column("expected_cost")[0].as_py() == 101.0


def test_a_row_among_others_is_the_right_one(decided) -> None:
    table = pa.Table.from_batches([decision_row(decided(number)) for number in range(5)])
    assert _same(decision_of(table, 3), decided(3))
    assert _same(decision_of(table.combine_chunks().slice(2), 1), decided(3))


def test_text_of_any_alphabet_comes_back(decided) -> None:
    decision = decided(principal="Zo\u00eb \u5c71 \U0001f600", decision={"h\u00f6he": np.ones(2)})
    row = from_bytes(to_bytes(decision_row(decision)), Kind.DECISION)
    assert _same(decision_of(row, 0), decision)


def test_the_bytes_are_arrow_and_no_pickle(decided) -> None:
    payload = to_bytes(decision_row(decided()))
    with pytest.raises(pickle.UnpicklingError):
        pickle.loads(payload)
    assert pa.ipc.read_message(payload).type == "record batch"


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"decision_id": "other", "request_id": "other"}, True),
        ({"expected_cost": 0.0, "bands": {}}, True),
        ({"seed": 2}, False),
        ({"model_version": "4"}, False),
        ({"fingerprint": "other"}, False),
        ({"risk": ""}, False),
        ({"given": {"price": np.array([1.0, 2.0])}}, False),
        ({"given": {"price": np.array([[1.0, 2.0]]), "cap": np.array(3.0)}}, False),
        ({"decision": {"order": np.arange(4.0), "on": np.zeros((2, 2))}}, False),
    ],
)
def test_content_is_what_was_asked_and_decided(decided, changes, same) -> None:
    assert same_decision(decided(), decided(**changes)) is same


def test_content_of_an_outcome_is_what_came_true(decided, happened) -> None:
    assert same_outcome(happened(decided()), happened(decided(), cost=1.0, request_id="other"))
    assert not same_outcome(happened(decided()), happened(decided(), value=50.1))
