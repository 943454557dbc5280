"""Under load answers get cheaper only as far as the operator allows and as was measured, and they say so."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hedgecast.client import Client, DecisionAnswer, ScenarioArrays
from hedgecast.commands.decide import answer_record
from hedgecast.core import errors
from hedgecast.decisions.surrogate import Surrogate, surrogate_home
from hedgecast.decisions.surrogate_training import SurrogateConfig, train_surrogate
from hedgecast.outcomes import OutcomeStore
from hedgecast.programs.risk import EXPECTATION
from hedgecast.registry.graphs import BASELINE_GRAPH, SCENARIOS_GRAPH
from hedgecast.registry.ladder import Rung
from hedgecast.registry.session import Context
from hedgecast.rpc.codec import NamedRows
from hedgecast.rpc.v1 import decision_service_pb2 as decision_pb
from hedgecast.service.background import background_server
from hedgecast.service.calls import Answered, Call
from hedgecast.service.ladder import Ladder
from hedgecast.service.local import LocalBackend, LocalModel
from hedgecast.service.metrics import ServiceMetrics
from hedgecast.service.settings import load_settings
from hedgecast.testing_last_day import fewer_scenarios_step, newsvendor

FEWER = fewer_scenarios_step()
BOTH = dataclasses.replace(FEWER, rungs=("baseline_scenarios", "fewer_scenarios"), regret_increase=7.0)
TWO_STEPS = "fewer_scenarios:3, baseline_scenarios:6"


class Clock:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _ladder(text: str, clock: Clock, **settings: Any) -> tuple[Ladder, list[int]]:
    told: list[int] = []
    return Ladder(load_settings(ladder=text, ladder_scenarios=20, **settings), told.append, clock), told


def _load(ladder: Ladder, count: int) -> contextlib.ExitStack:
    stack = contextlib.ExitStack()
    for _ in range(count):
        stack.enter_context(ladder.question())
    return stack


def test_steps_are_climbed_at_once_and_left_one_at_a_time_after_a_while() -> None:
    clock = Clock()
    ladder, told = _ladder(TWO_STEPS, clock, ladder_hold_seconds=30.0)
    with _load(ladder, 2):
        assert ladder.step is None
    with _load(ladder, 6):
        assert ladder.step is not None
        assert ladder.step.rungs == {Rung.FEWER_SCENARIOS, Rung.BASELINE_SCENARIOS}
    clock.now = 29.0
    with _load(ladder, 1):
        assert str(ladder.step) == "baseline_scenarios+fewer_scenarios"
    clock.now = 31.0
    with _load(ladder, 1):
        assert str(ladder.step) == "fewer_scenarios"
    clock.now = 61.0
    with _load(ladder, 1):
        assert ladder.step is None
    assert told == [1, 2, 1, 0]


def test_an_idle_service_comes_all_the_way_down() -> None:
    clock = Clock()
    ladder, _ = _ladder(TWO_STEPS, clock)
    with _load(ladder, 6):
        pass
    clock.now = 3600.0
    with _load(ladder, 1):
        assert ladder.step is None


def test_a_load_between_both_bounds_keeps_the_step() -> None:
    clock = Clock()
    ladder, told = _ladder(TWO_STEPS, clock, ladder_release=0.5, ladder_hold_seconds=10.0)
    with _load(ladder, 2):
        # Two of three: over half of the first step's load, so it is kept whatever the time.
        with _load(ladder, 1):
            pass
        for _ in range(5):
            clock.now += 100.0
            with _load(ladder, 1):
                pass
    assert told == [1]


def test_a_long_wait_counts_while_somebody_waits() -> None:
    clock = Clock()
    ladder, told = _ladder("fewer_scenarios:100:2.0", clock, ladder_hold_seconds=0.0)

    def waited(seconds: float) -> None:
        with _load(ladder, 1), ladder.question() as question:
            question.waited = seconds

    for _ in range(3):
        # 1.95 s after three waits of 4 s, an average of a fifth's weight: 4 (1 - 0.8^3).
        waited(4.0)
    assert told == []
    waited(4.0)
    assert told[:1] == [1]
    assert ladder.step is None, "nothing is under way any more"


@pytest.fixture
def backend(local_model: LocalModel) -> Iterator[LocalBackend]:
    """Version 3 with what its steps cost; its baseline lies a tenth higher."""
    model = local_model.model
    alone = dataclasses.replace(FEWER, rungs=("baseline_scenarios",), num_scenarios=200)
    described = dataclasses.replace(model.description, ladder=(FEWER, BOTH, alone))

    def draw(
        context: Context, count: int, seed: int, start: int = 0, *, graph: str = SCENARIOS_GRAPH
    ) -> np.ndarray:
        return local_model.draw(context, count, seed, start) + np.float32(0.1 * (graph == BASELINE_GRAPH))

    backend = LocalBackend([LocalModel(model=dataclasses.replace(model, description=described), draw=draw)])
    yield backend
    backend.close()


@contextlib.contextmanager
def _client(backend: LocalBackend, **settings: Any) -> Iterator[Client]:
    given = load_settings(port=0, ladder_scenarios=20, **settings)
    with background_server(backend, given) as address, Client(address, retries=0) as client:
        yield client


def _decide(client: Client, rows: NamedRows, **options: Any) -> DecisionAnswer:
    asked = {"seed": 4, "scenario_count": 100, "gap_replications": 0, "return_scenarios": True, **options}
    return client.decide("last_day", history=rows.columns, history_times=rows.times, **asked)


def test_a_cheaper_answer_names_its_rung_and_its_cost(backend: LocalBackend, rows: NamedRows) -> None:
    # One question under way is load enough, and the first one finds none.
    with _client(backend, ladder="fewer_scenarios:1") as client:
        full, cheaper = _decide(client, rows), _decide(client, rows)
        again = _decide(client, rows)
        few = _decide(client, rows, scenario_count=20)
    assert full.degradation is None
    assert (full.scenario_count, cheaper.scenario_count) == (100, 20)
    assert full.scenarios is not None
    assert cheaper.scenarios is not None
    np.testing.assert_array_equal(cheaper.scenarios.paths, full.scenarios.paths[:20])
    found = cheaper.degradation
    assert found is not None
    assert found.rungs == ("FEWER_SCENARIOS",)
    assert (found.regret_increase, found.lower_bound, found.upper_bound) == (3.0, 1.0, 5.0)
    assert (found.reference_regret, found.num_days, found.reference_scenarios) == (40.0, 84, 200)
    assert found.measured_at == np.datetime64("2021-10-01T00:00:00", "ns")
    told = json.loads(json.dumps(answer_record(cheaper)))["degradation"]
    assert (told["rungs"], told["measured_at"]) == (["FEWER_SCENARIOS"], "2021-10-01T00:00:00Z")
    (warning,) = [text for text in cheaper.warnings if text.startswith("DEGRADED")]
    assert "84 validation days fewer_scenarios raised the regret by 3 (" in warning
    assert again.scenario_fingerprint == cheaper.scenario_fingerprint
    np.testing.assert_array_equal(again.decision["schedule"], cheaper.decision["schedule"])
    # It asked for no more than the step gives: a full answer, and the same as the cheaper one.
    assert few.degradation is None
    assert few.scenario_fingerprint == cheaper.scenario_fingerprint


def test_the_baseline_draws_where_its_rung_is_reached(backend: LocalBackend, rows: NamedRows) -> None:
    with _client(backend, ladder="baseline_scenarios:1") as client:
        full, cheaper = _decide(client, rows), _decide(client, rows)
    assert (full.scenario_source, cheaper.scenario_source) == ("MODEL", "BASELINE")
    assert cheaper.degradation is not None
    assert cheaper.degradation.rungs == ("BASELINE_SCENARIOS",)
    assert cheaper.scenario_count == 100
    assert full.scenarios is not None
    assert cheaper.scenarios is not None
    np.testing.assert_allclose(cheaper.scenarios.paths, full.scenarios.paths + 0.1, atol=1e-5)


@pytest.fixture(scope="module")
def learned() -> Surrogate:
    """A map for the newsvendor of six steps, hardly trained: its gate is the tests' own."""
    draws = torch.Generator().manual_seed(0)
    pool = 40.0 + 3.0 * torch.randn(200, 6, generator=draws, dtype=torch.float64)
    config = SurrogateConfig(
        num_instances=40, num_calibration=40, num_test=20, num_scenarios=20, num_epochs=5, width=8
    )
    return train_surrogate(newsvendor(6), pool, config=config)


@pytest.mark.parametrize("trusted", [True, False])
def test_a_learned_map_decides_where_its_gate_trusts_it(
    local_model: LocalModel, learned: Surrogate, rows: NamedRows, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, trusted: bool,
) -> None:  # fmt: skip
    limit = 1e9 if trusted else -1.0
    gate = dataclasses.replace(learned.gate, max_doubt=limit, max_feature=limit)
    monkeypatch.setenv("HEDGECAST_SURROGATES", str(tmp_path))
    dataclasses.replace(learned, gate=gate).save(surrogate_home(newsvendor(6), EXPECTATION, tmp_path))
    step = dataclasses.replace(FEWER, rungs=("surrogate_solver",), num_scenarios=200)
    described = dataclasses.replace(local_model.model.description, ladder=(step,))
    model = dataclasses.replace(local_model.model, description=described)
    local = LocalBackend([dataclasses.replace(local_model, model=model)])
    with _client(local, ladder="surrogate_solver:1") as client:
        full, cheaper = _decide(client, rows), _decide(client, rows)
    local.close()
    assert full.degradation is None
    assert cheaper.scenario_fingerprint == full.scenario_fingerprint
    assert cheaper.verdict.backend == "surrogate"
    if not trusted:
        # Solved, so it is a full answer.
        assert cheaper.degradation is None
        np.testing.assert_allclose(cheaper.decision["schedule"], full.decision["schedule"], atol=1e-5)
        return
    assert cheaper.degradation is not None
    assert cheaper.degradation.rungs == ("SURROGATE_SOLVER",)
    assert cheaper.verdict.iterations == 0
    # A plan for these very scenarios that was not optimized costs more, and its regret says so.
    assert cheaper.expected_cost > full.expected_cost
    assert cheaper.expected_regret - full.expected_regret == pytest.approx(
        cheaper.expected_cost - full.expected_cost, rel=1e-6
    )


def test_a_request_may_refuse(backend: LocalBackend, rows: NamedRows) -> None:
    with _client(backend, ladder="fewer_scenarios:1") as client:
        assert _decide(client, rows, refuse_degradation=True).degradation is None
        with pytest.raises(errors.OverloadedError, match="answers at fewer_scenarios only") as refused:
            _decide(client, rows, refuse_degradation=True)
        assert refused.value.facts["grpc_status"] == "RESOURCE_EXHAUSTED"
        assert _decide(client, rows, refuse_degradation=True, scenario_count=20).scenario_count == 20


def test_what_was_not_measured_is_refused_at_the_start(backend: LocalBackend, local_backend: Any) -> None:
    with (
        pytest.raises(errors.ConfigError, match="not measured for last_day@3 with 20 scenarios"),
        _client(local_backend, ladder="fewer_scenarios:1"),
    ):
        pass
    wrong = load_settings(port=0, ladder="fewer_scenarios:1", ladder_scenarios=21)
    with pytest.raises(errors.ConfigError, match="with 21 scenarios"), background_server(backend, wrong):
        pass


def test_outcomes_of_cheaper_answers_are_not_the_models(
    backend: LocalBackend, rows: NamedRows, tmp_path: Path
) -> None:
    with _client(backend, ladder="fewer_scenarios:1", outcomes_folder=tmp_path / "kept") as client:
        answers = [_decide(client, rows, request_id=name) for name in ("one", "two")]
        # The same question as the first, whose answer may have been lost: now it is a cheaper one.
        retried = _decide(client, rows, request_id="one")
        assert retried.degradation is not None
        assert len({answer.decision_id for answer in [*answers, retried]}) == 3
        for answer in [*answers, retried]:
            truth = ScenarioArrays(
                series=("load",), units=("GW",), times=np.empty(0, "datetime64[ns]"),
                paths=np.full((1, 6, 1), 40.0), probabilities=np.ones(1),
            )  # fmt: skip
            assert client.record_outcome(answer.decision_id, truth).model == "last_day@3"
    with OutcomeStore(tmp_path / "kept") as store:
        counts = {key[1]: len(found.regret) for key, found in store.figures().items()}
    assert counts == {"3": 1, "3+fewer_scenarios": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("magic:3", "one of fewer_scenarios, baseline_scenarios, surrogate_solver"),
        ("fewer_scenarios", "must be RUNG:REQUESTS"),
        ("fewer_scenarios:0", "both numbers positive"),
        ("fewer_scenarios:3:nan", "both numbers positive"),
        ("fewer_scenarios:3,fewer_scenarios:9", "names a rung twice"),
        ("fewer_scenarios:3,baseline_scenarios:3", "must start at more requests"),
    ],
)
def test_a_ladder_that_makes_no_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises(errors.ConfigError, match=message):
        load_settings(ladder=text)


def test_a_rung_is_counted() -> None:
    metrics = ServiceMetrics()
    metrics.set_ladder_step(2)
    answer = decision_pb.DecideResponse()
    answer.degradation.rungs.extend(decision_pb.Degradation.Rung.values()[1:])
    answer.model.name, answer.model.version = "last_day", "3"
    metrics.answered(Call(method="Decide", service="", request_id="", incident=""), Answered.of(answer))
    assert metrics.registry.get_sample_value("hedgecast_ladder_step") == 2.0
    for rung in ("FEWER_SCENARIOS", "BASELINE_SCENARIOS"):
        labels = {"model": "last_day@3", "rung": rung}
        assert metrics.registry.get_sample_value("hedgecast_degraded_answers_total", labels) == 1.0
