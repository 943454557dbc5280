"""Influence against finite differences in the weights; the plan without hedge."""

from __future__ import annotations

from collections.abc import Iterator

import cvxpy as cp
import numpy as np
import pytest
import torch

from hedgecast.client import Client
from hedgecast.core.errors import InputError
from hedgecast.programs.program import TwoStageProgram
from hedgecast.programs.risk import Risk
from hedgecast.rpc.codec import EMPTY_ROWS, NamedRows
from hedgecast.scenarios.scenario_set import ScenarioSet
from hedgecast.service.background import background_server
from hedgecast.service.explain import decision_moves
from hedgecast.service.local import LocalBackend, LocalModel
from hedgecast.service.queries import ExplainQuery
from hedgecast.service.safety import MODEL
from hedgecast.service.sample import Sample
from hedgecast.service.settings import ServiceSettings


@pytest.fixture
def client(local_backend: LocalBackend) -> Iterator[Client]:
    with background_server(local_backend, ServiceSettings(port=0)) as address, Client(address) as client:
        yield client


def test_the_influence_is_the_shift_of_a_smooth_decision(local_model: LocalModel) -> None:
    plan, demand = cp.Variable(2, name="schedule"), cp.Parameter(2, name="load")
    program = TwoStageProgram(
        name="smooth", decision=plan, uncertain=demand, cost=cp.sum(plan),
        recourse_cost=cp.sum_squares(plan - demand) + 2 * cp.square(cp.sum(plan - demand)),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    paths = torch.randn(1, 9, 2, 1, generator=generator, dtype=torch.float64)
    sample = Sample(
        scenarios=ScenarioSet(paths=paths, names=("load",), units=("GW",)), fresh=None, program=program,
        description=local_model.model.description.program, given={}, judgement=MODEL, seconds=0.0,
    )  # fmt: skip
    query = ExplainQuery(
        model="m", history=EMPTY_ROWS, known=EMPTY_ROWS, given={}, own=None, scenario_count=9, seed=0,
        risk=Risk(), request_id="r", deadline_seconds=60.0, top_scenarios=3,
    )  # fmt: skip
    moves = decision_moves(query, sample, 1.0)
    values, weights, step = sample.values, sample.weights, 1e-4
    for scenario in (0, 4):
        ends = []
        for sign in (1.0, -1.0):
            moved = weights * (1.0 - sign * step)
            moved[0, scenario] += sign * step
            ends.append(program.solve(values, moved, backend="reference", tolerance=1e-10).flat[0])
        expected = weights[0, scenario] * (ends[0] - ends[1]) / (2 * step)
        torch.testing.assert_close(moves[scenario], expected, atol=1e-5, rtol=1e-4)
    # Weight that goes to all alike moves nothing.
    torch.testing.assert_close(moves.sum(dim=0), torch.zeros(2, dtype=torch.float64), atol=1e-9, rtol=0.0)


def test_scenarios_near_the_plan_drive_it(client: Client, rows: NamedRows) -> None:
    ask = {"history": rows.columns, "history_times": rows.times, "scenario_count": 100, "seed": 3}
    found = client.explain("last_day", **ask, top_scenarios=5)
    decided = client.decide("last_day", **ask, return_scenarios=True)
    np.testing.assert_allclose(found.decision["schedule"], decided.decision["schedule"], rtol=1e-6)
    assert found.scenario_fingerprint == decided.scenario_fingerprint
    magnitudes = [influence.magnitude for influence in found.influences]
    assert len(magnitudes) == 5
    assert magnitudes == sorted(magnitudes, reverse=True)
    assert magnitudes[0] > 0
    assert decided.scenarios is not None
    # The quantile 50 / 50.5 moves with the scenarios about it: those with the highest load of some hour.
    margin = decided.decision["schedule"] - decided.scenarios.paths[..., 0]
    order = np.argsort(margin.min(axis=1))
    assert set(order[:20]) >= {influence.scenario for influence in found.influences[:2]}


def test_the_plan_without_hedge_is_the_mean_scenarios(client: Client, rows: NamedRows) -> None:
    ask = {"history": rows.columns, "history_times": rows.times, "scenario_count": 100, "seed": 3}
    found = client.explain("last_day", **ask)
    decided = client.decide("last_day", **ask, return_scenarios=True)
    assert decided.scenarios is not None
    mean = decided.scenarios.paths[..., 0].mean(axis=0)
    np.testing.assert_allclose(found.unhedged_decision["schedule"], mean, rtol=1e-6)
    assert found.unhedged_planned_cost == pytest.approx(0.0, abs=1e-4)
    hedge = found.unhedged_expected_cost - found.expected_cost
    assert hedge == pytest.approx(decided.value_of_stochastic_solution, rel=1e-5)
    assert len(found.influences) == 10


def test_how_many_is_limited(client: Client, rows: NamedRows) -> None:
    with pytest.raises(InputError, match="from 1 to 100"):
        client.explain("last_day", history=rows.columns, history_times=rows.times, top_scenarios=101)
