"""What is refused says what, where and what the bound is; what passes is normalized."""

import dataclasses
import datetime

import numpy as np
import pytest

from hedgecast.core.errors import ConfigError, DataError, InputError
from hedgecast.outcomes.admission import Limits, admit_decision, admit_outcome
from hedgecast.outcomes.records import Band, Covered

LIMITS = Limits(max_text=20, max_arrays=3, max_numbers=100, max_levels=4)
NAN = float("nan")


def _band(levels=(0.1, 0.9), quantiles=(1.0, 2.0), expected=(0.1, 0.9)) -> Band:
    return Band(levels=np.array(levels), quantiles=np.array(quantiles), expected=np.array(expected))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"decision_id": ""}, "decision_id"),
        ({"model": ""}, "model"),
        ({"request_id": "x" * 21}, "request_id"),
        ({"risk": "\ud800"}, "risk"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"expected_cost": NAN}, "expected_cost"),
        ({"expected_regret": float("inf")}, "expected_regret"),
        ({"issued_at": datetime.datetime(2030, 1, 1)}, "issued_at"),
        ({"given": {"p": np.array([1.0, NAN])}}, "given['p']"),
        ({"given": {"p": np.array(["1"])}}, "given['p']"),
        ({"given": {"p": np.array([1j])}}, "given['p']"),
        ({"given": {"p": np.array([None])}}, "given['p']"),
        ({"given": {"": np.ones(1)}}, "given: a name"),
        ({"decision": {"x": np.array([[1.0, -np.inf]])}}, "decision['x']"),
        ({"decision": {"x": np.ones((1,) * 9)}}, "decision['x']"),
        ({"decision": {str(i): np.ones(1) for i in range(4)}}, "decision"),
        ({"decision": {"x": np.ones(101)}}, "decision"),
        ({"decision": {"x": np.ones(60)}, "given": {"p": np.ones(41)}}, "decision"),
        ({"bands": {"y": _band(levels=(0.9, 0.1))}}, "bands['y'].levels"),
        ({"bands": {"y": _band(levels=(0.0, 0.1))}}, "bands['y'].levels"),
        ({"bands": {"y": _band(quantiles=(2.0, 1.0))}}, "bands['y'].quantiles"),
        ({"bands": {"y": _band(quantiles=(2.0,))}}, "bands['y'].quantiles"),
        ({"bands": {"y": _band(quantiles=(NAN, 1.0))}}, "bands['y'].quantiles"),
        ({"bands": {"y": _band(expected=(0.1, 1.1))}}, "bands['y'].expected"),
        ({"bands": {"y": _band(expected=(0.1,))}}, "bands['y'].expected"),
        ({"bands": {"y": _band(levels=np.linspace(0.1, 0.9, 5), quantiles=np.ones(5))}}, "bands['y'].levels"),
        ({"cost": _band(quantiles=[[1.0], [2.0]])}, "cost.quantiles"),
    ],
)
def test_a_decision_out_of_bounds_is_refused_by_field(decided, changes, field) -> None:
    with pytest.raises(InputError) as caught:
        admit_decision(decided(**changes), LIMITS)
    assert caught.value.facts["field"] == field


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"cost": NAN}, "cost"),
        ({"regret": 1e200}, "regret"),
        ({"cost_level": 1.5}, "cost_level"),
        ({"request_id": "x" * 21}, "request_id"),
        ({"recorded_at": datetime.datetime(2030, 1, 1)}, "recorded_at"),
        ({"realized": {}}, "realized"),
        ({"realized": {"load": np.ones((4, 2)), "wind": np.ones(2)}}, "realized['wind']"),
        ({"realized": {"load": np.ones((2, 4))}}, "realized['load']"),
        ({"realized": {"load": np.full((4, 2), NAN)}}, "realized['load']"),
        (
            {"covered": {"load": Covered(levels=np.array([0.1, 0.9]), shares=np.array([0.1, 2.0]),
                                         expected=np.array([0.1, 0.9]), num_points=8)}},
            "covered['load'].shares",
        ),
        (
            {"covered": {"load": Covered(levels=np.array([0.1, 0.9]), shares=np.array([0.1, 0.2]),
                                         expected=np.array([0.1, 0.9]), num_points=0)}},
            "covered['load']",
        ),
    ],
)  # fmt: skip
def test_an_outcome_out_of_bounds_is_refused_by_field(decided, happened, changes, field) -> None:
    outcome = dataclasses.replace(happened(decided()), **changes)
    with pytest.raises(InputError) as caught:
        admit_outcome(outcome, decided(), LIMITS)
    assert caught.value.facts["field"] == field


def test_the_message_names_the_number_at_fault(decided) -> None:
    values = np.ones((4, 5))
    values[2, 3] = np.nan
    values[3, 0] = np.inf
    with pytest.raises(DataError, match=r"given\['p'\]\[2, 3\] is nan.*2 of 20 numbers"):
        admit_decision(decided(given={"p": values}), LIMITS)


def test_what_passes_is_an_own_copy_in_one_form(decided, happened) -> None:
    mine = np.asfortranarray(np.ones((2, 3), dtype=np.float32))
    zone = datetime.timezone(datetime.timedelta(hours=2))
    issued = datetime.datetime(2030, 1, 1, 2, tzinfo=zone)
    admitted = admit_decision(decided(given={"p": mine}, issued_at=issued), LIMITS)
    mine[:] = 7.0
    kept = admitted.given["p"]
    assert kept.dtype == np.float64
    assert kept.flags.c_contiguous
    assert np.all(kept == 1.0)
    assert admitted.issued_at == datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
    outcome = admit_outcome(happened(decided(), value=2), decided(), LIMITS)
    assert outcome.realized["load"].dtype == np.float64


def test_a_decision_without_bands_takes_any_outcome(decided, happened) -> None:
    decision = decided(bands={})
    outcome = happened(decision, realized={"anything": np.ones(3)})
    assert list(admit_outcome(outcome, decision, LIMITS).realized) == ["anything"]


def test_limits_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="max_arrays = 0"):
        Limits(max_arrays=0)
