"""The client against a real server in this process."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import numpy as np
import pytest

from hedgecast.client import Client, DecisionAnswer
from hedgecast.core import errors
from hedgecast.programs.risk import Risk
from hedgecast.rpc.codec import NamedRows
from hedgecast.service.background import background_server
from hedgecast.service.local import LocalBackend, LocalModel
from hedgecast.service.settings import ServiceSettings


@pytest.fixture
def client(local_backend: LocalBackend) -> Iterator[Client]:
    with background_server(local_backend, ServiceSettings(port=0)) as address, Client(address) as client:
        yield client


def _decide(client: Client, rows: NamedRows, model: str = "last_day", **options: object) -> DecisionAnswer:
    return client.decide(model, history=rows.columns, history_times=rows.times, **options)  # type: ignore[arg-type]


def test_the_answer_is_the_closed_form(client: Client, rows: NamedRows, local_model: LocalModel) -> None:
    answer = _decide(client, rows, seed=7, scenario_count=150, return_scenarios=True)
    assert answer.scenarios is not None
    paths = answer.scenarios.paths[..., 0]
    source = local_model.model.source
    expected = local_model.draw(source.read(rows, rows), 150, 7)[..., 0]
    np.testing.assert_array_equal(paths, expected)

    # 50 / 50.5 of 150 equal scenarios is passed at the 149th smallest.
    schedule = np.sort(paths, axis=0)[148]
    np.testing.assert_allclose(answer.decision["schedule"], schedule, rtol=1e-6)
    costs = (50 * np.maximum(paths - schedule, 0) + 0.5 * np.maximum(schedule - paths, 0)).sum(axis=1)
    assert answer.expected_cost == pytest.approx(costs.mean(), rel=1e-6)
    # With the load known the cost is zero, so regret is cost and information is worth all of it.
    assert answer.expected_regret == pytest.approx(costs.mean(), rel=1e-6)
    assert answer.expected_value_of_perfect_information == pytest.approx(costs.mean(), rel=1e-6)
    error = costs.std(ddof=1) / np.sqrt(150)
    assert answer.expected_regret_standard_error == pytest.approx(error, rel=1e-5)
    assert answer.regret_quantiles[0.5] == pytest.approx(np.sort(costs)[74], rel=1e-5)
    middle = paths.mean(axis=0)
    flat = (50 * np.maximum(paths - middle, 0) + 0.5 * np.maximum(middle - paths, 0)).sum(axis=1).mean()
    assert answer.value_of_stochastic_solution == pytest.approx(flat - costs.mean(), rel=1e-5)

    assert answer.units == {"schedule": "GW"}
    np.testing.assert_array_equal(answer.times, rows.times[-1] + np.timedelta64(1, "h") * np.arange(1, 7))
    assert answer.model == "last_day@3"
    assert answer.program == "newsvendor@1"
    assert len(answer.scenario_fingerprint) == 64
    assert answer.verdict.state == "OPTIMAL"
    assert answer.verdict.primal_residual < 1e-6
    assert set(answer.durations) == {"scenario", "solve", "statistics", "total"}
    assert answer.durations["total"] >= answer.durations["solve"] > 0


def test_the_same_request_has_the_same_answer(client: Client, rows: NamedRows) -> None:
    first, second = (_decide(client, rows, seed=3, request_id="a-1") for _ in range(2))
    other = _decide(client, rows, seed=4)
    assert first.request_id == "a-1"
    assert first.scenario_fingerprint == second.scenario_fingerprint != other.scenario_fingerprint
    np.testing.assert_array_equal(first.decision["schedule"], second.decision["schedule"])


@pytest.mark.parametrize("risk", ["expectation", "cvar:0.9", "regret-cvar:0.9", "worst", "mixture:0.5:0.8"])
def test_every_risk_measure_comes_through(client: Client, rows: NamedRows, risk: str) -> None:
    answer = _decide(client, rows, risk=risk, scenario_count=60, tail_level=0.9)
    neutral = _decide(client, rows, scenario_count=60, tail_level=0.9)
    assert answer.expected_cost >= neutral.expected_cost * (1 - 1e-6)
    if risk != "worst":
        assert answer.cost_cvar <= neutral.cost_cvar * (1 + 1e-5)
    information = neutral.expected_value_of_perfect_information
    assert answer.expected_value_of_perfect_information == pytest.approx(information, rel=1e-4)
    if risk in ("cvar:0.9", "regret-cvar:0.9"):
        assert answer.objective == pytest.approx(answer.cost_cvar, rel=1e-5)


def test_given_parameters_bind(client: Client, rows: NamedRows) -> None:
    answer = _decide(client, rows, given={"capacity": 38.0})
    assert answer.decision["schedule"].max() == pytest.approx(38.0, abs=1e-4)


def test_validation_solves_nothing(client: Client, rows: NamedRows) -> None:
    answer = _decide(client, rows, validate_only=True)
    assert answer.decision == {}
    assert answer.model == "last_day@3"
    with pytest.raises(errors.DataError):
        _decide(client, NamedRows(rows.times[:2], {"load": rows.columns["load"][:2]}), validate_only=True)


def test_models_are_described(client: Client) -> None:
    assert [model.name for model in client.models()] == ["last_day@2", "last_day@3"]
    model = client.model("last_day@champion")
    assert model.name == "last_day@3"
    assert model.history_columns == {"load": "GW"}
    assert model.given == {"capacity": ()}
    assert model.decision == {"schedule": (6,)}
    with pytest.raises(errors.ModelNotFoundError, match="last_day@2, last_day@3"):
        client.model("last_day@9")


def test_errors_come_back_typed(client: Client, rows: NamedRows) -> None:
    load = rows.columns["load"]
    cases: list[tuple[type[errors.HedgecastError], dict[str, object]]] = [
        (errors.ModelNotFoundError, {"model": "unknown"}),
        (errors.DataError, {"history": {"lod": load}}),
        (errors.DataError, {"history": {}}),
        (errors.DataError, {"history": {"load": load[:3]}}),
        (errors.DataError, {"history": {"load": load * np.nan}}),
        (errors.DataError, {"known": {"wind": [1.0]}, "known_times": rows.times[:1]}),
        (errors.ShapeError, {"given": {"capacty": 1.0}}),
        (errors.ShapeError, {"given": {"capacity": [1.0, 2.0]}}),
        (errors.InputError, {"scenario_count": 10_001}),
        (errors.InputError, {"scenario_count": -1}),
        (errors.InputError, {"seed": -1}),
        (errors.InputError, {"tail_level": 1.0}),
        (errors.InputError, {"quantile_levels": [0.5, 1.5]}),
        (errors.DataError, {"request_id": "a\nb"}),
        (errors.InfeasibleError, {"given": {"capacity": -1.0}}),
    ]
    for cls, change in cases:
        arguments = {"model": "last_day", "history": {"load": load}, "history_times": rows.times, **change}
        with pytest.raises(cls) as caught:
            client.decide(**arguments)  # type: ignore[arg-type]
        assert type(caught.value) is cls, change
        assert caught.value.facts["grpc_status"]
    with pytest.raises(errors.DataError, match=r"history.*'lod'.*did you mean 'load'") as caught:
        client.decide("last_day", history={"lod": load}, history_times=rows.times)
    assert caught.value.facts["grpc_status"] == "INVALID_ARGUMENT"


def test_risk_outside_its_range_is_refused_before_it_is_sent(client: Client, rows: NamedRows) -> None:
    with pytest.raises(errors.ConfigError, match=r"alpha = 1\.5"):
        _decide(client, rows, risk="cvar:1.5")
    assert _decide(client, rows, risk=Risk()).objective > 0


def test_nobody_there_is_an_unavailable_error_after_the_retries() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with Client(address, retries=2) as client, pytest.raises(errors.UnavailableError, match=address):
            client.models()


def test_a_deadline_ends_the_wait(client: Client, rows: NamedRows) -> None:
    started = time.monotonic()
    with pytest.raises(errors.DeadlineError):
        _decide(client, rows, scenario_count=1000, deadline_seconds=0.01)
    assert time.monotonic() - started < 5.0


def test_a_token_is_not_sent_in_the_clear() -> None:
    with pytest.raises(errors.ConfigError, match="in the clear"):
        Client("10.0.0.1:50051", token="secret")
    with pytest.raises(errors.ConfigError, match="must be positive"):
        Client("127.0.0.1:1", deadline_seconds=0)
