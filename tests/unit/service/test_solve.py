"""What a decision's answer says: prices, sensitivities, gap, own scenarios."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from hedgecast.client import Client, ScenarioArrays
from hedgecast.client.requests import decide_request
from hedgecast.core.errors import (
    DataError,
    DeadlineError,
    HedgecastError,
    InputError,
    ProgramError,
    ShapeError,
)
from hedgecast.rpc.codec import NamedRows
from hedgecast.service.answers import Solution
from hedgecast.service.background import background_server
from hedgecast.service.budget import Budget
from hedgecast.service.local import LocalBackend, LocalModel
from hedgecast.service.requests import decide_query
from hedgecast.service.safety import MODEL
from hedgecast.service.sample import sample_of
from hedgecast.service.settings import ServiceSettings
from hedgecast.service.solve import Asked, solve_queries

STEPS = 6
# Of a solver with a tolerance of 1e-8: what an answer may owe to its company.
COMPANY = 1e-6


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


@pytest.fixture
def asked(rows: NamedRows, local_model: LocalModel) -> Callable[..., Asked]:
    def make(seed: int, budget: Budget | None = None, **options: Any) -> Asked:
        request = decide_request("last_day", {"history": rows.columns, "history_times": rows.times} | options)
        query = dataclasses.replace(
            decide_query(request, ServiceSettings(), deadline_seconds=60.0), seed=seed
        )
        context = local_model.model.prepare(query)
        assert context is not None
        paths = local_model.draw(context, query.draw_count, seed)
        sample = sample_of(query, local_model.model, context, paths, MODEL, drawn_seconds=0.0)
        return Asked(query=query, sample=sample, budget=budget or Budget(60.0))

    return make


def figures(solution: Solution | HedgecastError) -> np.ndarray:
    """Every number of a solution, in order."""
    assert isinstance(solution, Solution)
    told = solution.statistics
    numbers = [
        *(array.values for array in solution.decision),
        *(price.values for price in solution.prices),
        *(slope.values for slope in solution.sensitivities),
        [told.objective, told.expected_cost, told.expected_regret, told.expected_regret_standard_error],
        [told.cost_cvar, told.regret_cvar, told.expected_value_of_perfect_information],
        [told.value_of_stochastic_solution, *(value for _, value in told.cost_quantiles)],
        [value for _, value in told.regret_quantiles],
    ]
    if solution.gap is not None:
        numbers.append([solution.gap.estimate, solution.gap.standard_error, solution.gap.upper_bound])
    return np.concatenate([np.ravel(np.asarray(part, dtype=float)) for part in numbers])


@pytest.mark.parametrize("risk", ["expectation", "cvar:0.8", "regret-mixture:0.5:0.8"])
@pytest.mark.parametrize("same_given", [True, False])
def test_company_changes_no_number(asked: Callable[..., Asked], risk: str, same_given: bool) -> None:
    members = [
        asked(
            seed, scenario_count=40, gap_replications=3, risk=risk,
            given={"capacity": 45.0 if same_given else 41.0 + seed},
        )
        for seed in range(4)
    ]  # fmt: skip
    together = solve_queries(members)
    for member, found in zip(members, together, strict=True):
        (alone,) = solve_queries([member])
        assert isinstance(found, Solution)
        assert isinstance(alone, Solution)
        np.testing.assert_allclose(figures(found), figures(alone), rtol=COMPANY, atol=COMPANY)
        assert found.scenario_fingerprint == alone.scenario_fingerprint
        assert (found.batch_size, alone.batch_size) == (4, 1)


def test_what_may_be_solved_together(asked: Callable[..., Asked]) -> None:
    plain = asked(0, scenario_count=20)
    assert plain.kind == asked(1, scenario_count=20, quantile_levels=[0.3], return_scenarios=True).kind
    for options in (
        {"scenario_count": 21},
        {"risk": "cvar:0.5"},
        {"gap_replications": 3},
        {"given": {"capacity": 9}},
    ):
        assert plain.kind != asked(0, **({"scenario_count": 20} | options)).kind


def test_a_member_without_a_decision_fails_alone(asked: Callable[..., Asked]) -> None:
    members = [asked(seed, scenario_count=20, given={"capacity": 45.0}) for seed in range(3)]
    broken = torch.full_like(members[1].sample.scenarios.paths, torch.nan)
    scenarios = dataclasses.replace(members[1].sample.scenarios, paths=broken)
    members[1] = dataclasses.replace(
        members[1], sample=dataclasses.replace(members[1].sample, scenarios=scenarios)
    )
    found = solve_queries(members)
    (alone,) = solve_queries([members[1]])
    assert isinstance(found[1], ProgramError)
    assert str(found[1]) == str(alone)
    for place in (0, 2):
        np.testing.assert_allclose(
            figures(found[place]), figures(solve_queries([members[place]])[0]), rtol=COMPANY, atol=COMPANY
        )


def test_who_is_late_is_left_behind(asked: Callable[..., Asked]) -> None:
    cancelled = Budget(60.0)
    cancelled.cancel()
    found = solve_queries([asked(0, scenario_count=20), asked(1, cancelled, scenario_count=20)])
    assert isinstance(found[0], Solution)
    assert isinstance(found[1], DeadlineError)
    late = [asked(seed, Budget(0.0), scenario_count=20) for seed in range(2)]
    assert [type(one) for one in solve_queries(late)] == [DeadlineError, DeadlineError]
