"""What a decision's answer says: prices, sensitivities, gap, own scenarios."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest

from hedgecast.client import Client, ScenarioArrays
from hedgecast.core.errors import DataError, HedgecastError, InputError, ShapeError
from hedgecast.rpc.codec import NamedRows
from hedgecast.service.background import background_server
from hedgecast.service.local import LocalBackend, LocalModel
from hedgecast.service.settings import ServiceSettings

STEPS = 6


@pytest.fixture
def client(local_backend: LocalBackend) -> Iterator[Client]:
    with background_server(local_backend, ServiceSettings(port=0)) as address, Client(address) as client:
        yield client


def test_a_capacity_that_binds_has_its_price(client: Client, rows: NamedRows) -> None:
    ask = {"history": rows.columns, "history_times": rows.times, "scenario_count": 80}
    given = {"capacity": 40.0}
    answer = client.decide("last_day", **ask, given=given, return_scenarios=True)
    (price,) = answer.prices
    assert price.constraint == "schedule <= capacity"
    assert not price.recourse
    assert answer.scenarios is not None
    # At the limit one unit more saves 50 in the scenarios above it and costs 0.5 in those below.
    over = (answer.scenarios.paths[..., 0] > 40.0).mean(axis=0)
    expected = np.maximum(50 * over - 0.5 * (1 - over), 0.0)
    np.testing.assert_allclose(price.values, expected, atol=1e-3)
    assert answer.sensitivities["capacity"] == pytest.approx(-expected.sum(), abs=1e-2)
    loose = client.decide("last_day", **ask)
    assert loose.prices == ()
    assert loose.sensitivities["capacity"] == pytest.approx(0.0, abs=1e-6)


def test_the_gap_is_that_of_fresh_scenarios(client: Client, rows: NamedRows, local_model: LocalModel) -> None:
    answer = client.decide(
        "last_day", history=rows.columns, history_times=rows.times, scenario_count=50, gap_replications=10,
        gap_confidence=0.9,
    )  # fmt: skip
    assert answer.gap is not None
    source = local_model.model.source
    drawn = (
        local_model.draw(source.read(rows, rows), 550, 0)[..., 0].astype(float)[50:].reshape(10, 50, STEPS)
    )

    def cost(schedule: np.ndarray) -> np.ndarray:
        return (
            (50 * np.maximum(drawn - schedule, 0) + 0.5 * np.maximum(schedule - drawn, 0)).sum(axis=2).mean(1)
        )

    # 50 / 50.5 of 50 equal scenarios is passed at the largest.
    best = drawn.max(axis=1)[:, None]
    gaps = cost(answer.decision["schedule"]) - cost(best)
    assert answer.gap.estimate == pytest.approx(gaps.mean(), rel=1e-4)
    assert answer.gap.standard_error == pytest.approx(gaps.std(ddof=1) / np.sqrt(10), rel=1e-4)
    # Student's 0.9 quantile of nine degrees of freedom.
    assert answer.gap.upper_bound == pytest.approx(
        answer.gap.estimate + 1.383029 * answer.gap.standard_error, rel=1e-5
    )
    assert (answer.gap.confidence, answer.gap.replications) == (0.9, 10)


def test_when_there_is_an_interval(client: Client, rows: NamedRows) -> None:
    ask = {"history": rows.columns, "history_times": rows.times}
    assert client.decide("last_day", **ask, scenario_count=20).gap is not None
    for options in ({"gap_replications": 0}, {"risk": "cvar:0.5"}, {"scenario_count": 1001}):
        assert client.decide("last_day", **{**ask, "scenario_count": 20, **options}).gap is None
    tail = client.decide("last_day", **ask, scenario_count=20, risk="cvar:0.5", gap_replications=3)
    assert tail.gap is not None
    for options, message in (
        ({"gap_replications": 1}, "from 2 to 50"),
        ({"gap_replications": 2, "risk": "worst"}, "cannot be bounded"),
        ({"gap_replications": 50, "scenario_count": 200}, "10200 draws"),
        ({"gap_confidence": 1.0}, "must lie in"),
    ):
        with pytest.raises(InputError, match=message):
            client.decide("last_day", **{**ask, "scenario_count": 20, **options})


def _own(**changes: object) -> ScenarioArrays:
    paths = np.full((3, STEPS, 1), 40.0) + np.arange(3.0)[:, None, None]
    own = ScenarioArrays(
        series=("load",), units=("GW",), times=np.empty(0, "datetime64[ns]"), paths=paths,
        probabilities=np.array([0.2, 0.3, 0.5]),
    )  # fmt: skip
    return dataclasses.replace(own, **changes)


def test_own_scenarios_are_decided_on(client: Client) -> None:
    answer = client.decide("last_day", own_scenarios=_own(), return_scenarios=True)
    # Half the weight is on 42, so its quantile 50 / 50.5 is.
    np.testing.assert_allclose(answer.decision["schedule"], 42.0, rtol=1e-6)
    assert answer.expected_cost == pytest.approx(STEPS * 0.5 * (2 * 0.2 + 1 * 0.3), rel=1e-5)
    assert answer.scenario_count == 3
    assert answer.gap is None
    assert answer.scenarios is not None
    np.testing.assert_array_equal(answer.scenarios.probabilities, [0.2, 0.3, 0.5])


def test_own_scenarios_must_fit(client: Client, rows: NamedRows) -> None:
    hours = np.datetime64("2020-01-01T00", "ns") + np.timedelta64(2, "h") * np.arange(STEPS)
    cases: list[tuple[dict[str, object], type[HedgecastError], str]] = [
        ({"own_scenarios": _own(series=("price",))}, ShapeError, "the model has load"),
        ({"own_scenarios": _own(units=("MW",))}, DataError, "load is in 'GW'"),
        ({"own_scenarios": _own(times=hours)}, DataError, "7200 to 7200 s apart"),
        ({"own_scenarios": _own(times=hours[:2])}, ShapeError, "2 step times for 6 steps"),
        ({"own_scenarios": _own(probabilities=np.array([0.5, 0.5, 0.5]))}, DataError, "the sum 1.5"),
        ({"own_scenarios": _own(probabilities=np.array([0.5, 0.5]))}, ShapeError, "there are 3 scenarios"),
        ({"own_scenarios": _own(), "seed": 1}, InputError, "seed is 1 with own_scenarios"),
        ({"own_scenarios": _own(), "scenario_count": 4}, InputError, "4 with 3 own_scenarios"),
        ({"own_scenarios": _own(), "gap_replications": 2}, InputError, "of another law"),
        (
            {"own_scenarios": _own(), "history": rows.columns, "history_times": rows.times},
            InputError,
            "history is set with own_scenarios",
        ),
    ]
    for options, error, message in cases:
        with pytest.raises(error, match=message):
            client.decide("last_day", **options)  # type: ignore[arg-type]
