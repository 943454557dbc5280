"""A student draws under load where it was measured; what its scenarios fail, the network draws."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedgecast.client import Client, DecisionAnswer, ScenarioArrays
from hedgecast.core import errors
from hedgecast.outcomes import OutcomeStore
from hedgecast.programs.risk import Risk
from hedgecast.registry.graphs import BASELINE_GRAPH, SCENARIOS_GRAPH
from hedgecast.registry.ladder import MeasuredStep, Student
from hedgecast.registry.session import Context
from hedgecast.rpc.codec import EMPTY_ROWS, NamedRows
from hedgecast.scenarios.envelope import SafetyConfig
from hedgecast.service.background import background_server
from hedgecast.service.local import LocalBackend, LocalModel
from hedgecast.service.queries import DecideQuery
from hedgecast.service.safety import Safety
from hedgecast.service.settings import load_settings
from hedgecast.testing_last_day import last_day_envelope

STUDENT = Student(
    name="last_day", version="9", fingerprint="e" * 64, digest="d" * 64, calls=1, teacher_calls=8,
    distance=0.1,
)  # fmt: skip
TAUGHT = MeasuredStep(
    rungs=("student_sampler",), regret_increase=2.0, lower_bound=1.0, upper_bound=3.0, confidence=0.95,
    reference_regret=40.0, num_days=84, first_day="2021-07-01", last_day="2021-09-22", num_scenarios=200,
    reference_scenarios=200, measured_time="2021-10-01T00:00:00Z",
)  # fmt: skip
FEWER = dataclasses.replace(
    TAUGHT, rungs=("fewer_scenarios", "student_sampler"), num_scenarios=20, regret_increase=5.0
)
STEPS = 6

Served = Callable[..., contextlib.AbstractContextManager[Client]]


def _backend(local_model: LocalModel, safety: Safety | None = None, width: float = 1.0) -> LocalBackend:
    """Version 3, whose student's scenarios lie a tenth higher and are ``width`` times as wide."""

    def draw(
        context: Context, count: int, seed: int, start: int = 0, *, graph: str = SCENARIOS_GRAPH
    ) -> np.ndarray:
        paths = local_model.draw(context, count, seed, start)
        if graph != STUDENT.graph:
            return paths + np.float32(0.2 * (graph == BASELINE_GRAPH))
        center = context.features[None, :, None].astype(np.float32)
        return center + np.float32(width) * (paths - center) + np.float32(0.1)

    model = local_model.model
    described = dataclasses.replace(model.description, ladder=(TAUGHT, FEWER), student=STUDENT)
    changed = dataclasses.replace(model, description=described, safety=safety)
    return LocalBackend([LocalModel(model=changed, draw=draw)])


@pytest.fixture
def served(local_model: LocalModel) -> Served:
    """Serves it with its student for the first step, which one question under way is load enough for."""

    @contextlib.contextmanager
    def start(*, safety: Safety | None = None, width: float = 1.0, **settings: Any) -> Iterator[Client]:
        backend = _backend(local_model, safety, width)
        given = load_settings(port=0, ladder="student_sampler:1", ladder_scenarios=20, **settings)
        with background_server(backend, given) as address, Client(address, retries=0) as client:
            yield client
        backend.close()

    return start


def _decide(client: Client, rows: NamedRows, **options: Any) -> DecisionAnswer:
    asked = {"seed": 4, "scenario_count": 100, "gap_replications": 0, "return_scenarios": True, **options}
    return client.decide("last_day", history=rows.columns, history_times=rows.times, **asked)


def _paths(answer: DecisionAnswer) -> np.ndarray:
    assert answer.scenarios is not None
    return answer.scenarios.paths


def test_a_student_draws_and_the_answer_names_it(served: Served, rows: NamedRows) -> None:
    # The first question finds no load.
    with served() as client:
        full, cheaper, again = (_decide(client, rows) for _ in range(3))
        explained = client.explain("last_day", history=rows.columns, history_times=rows.times)
    assert (full.scenario_source, full.student, full.degradation) == ("MODEL", "", None)
    assert (cheaper.scenario_source, cheaper.student) == ("STUDENT", "last_day@9")
    assert (cheaper.model, cheaper.student_fingerprint) == ("last_day@3", STUDENT.fingerprint)
    assert cheaper.degradation is not None
    assert cheaper.degradation.rungs == ("STUDENT_SAMPLER",)
    assert cheaper.degradation.regret_increase == 2.0
    assert any("under load the service answered with student_sampler" in text for text in cheaper.warnings)
    # The same noise: scenario i is near the model's.
    np.testing.assert_allclose(_paths(cheaper), _paths(full) + 0.1, atol=1e-5)
    assert cheaper.scenario_fingerprint != full.scenario_fingerprint
    assert again.scenario_fingerprint == cheaper.scenario_fingerprint
    np.testing.assert_array_equal(again.decision["schedule"], cheaper.decision["schedule"])
    # Decisions alone are answered cheaper.
    assert explained.scenario_source == "MODEL"


def _safety(rows: NamedRows, **policy: str) -> Safety:
    """All that the model draws is within its bounds, and what spreads ten times wider is not."""
    return Safety(last_day_envelope(rows), SafetyConfig(max_age_hours=1e6, **policy))  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", ["warn", "baseline", "refuse"])
def test_what_a_students_scenarios_fail_the_network_draws(
    served: Served, rows: NamedRows, policy: str
) -> None:
    with served(safety=_safety(rows, scenarios=policy), width=10.0) as client:
        full, asked = _decide(client, rows), _decide(client, rows)
    # A full answer, and nothing is held against the network.
    assert (asked.scenario_source, asked.student, asked.degradation) == ("MODEL", "", None)
    assert asked.scenario_fingerprint == full.scenario_fingerprint
    assert asked.warnings == full.warnings == ()


@pytest.mark.parametrize(
    ("width", "taken"), [(1.0, {"fewer_scenarios", "student_sampler"}), (10.0, {"fewer_scenarios"})]
)
def test_only_rungs_that_were_taken_are_told(
    local_model: LocalModel, rows: NamedRows, width: float, taken: set[str]
) -> None:
    backend = _backend(local_model, _safety(rows), width)
    query = DecideQuery(
        model="last_day@3", history=rows, known=EMPTY_ROWS, given={}, own=None, scenario_count=20, seed=4,
        risk=Risk(), request_id="r", deadline_seconds=60.0, quantile_levels=(0.5,), tail_level=0.95,
        return_scenarios=False, gap_replications=0, gap_confidence=0.95, rungs=FEWER.kinds, degradation=FEWER,
    )  # fmt: skip
    solution = asyncio.run(backend.answer(query)).solution
    backend.close()
    assert solution is not None
    assert {rung.value for rung in solution.rungs} == taken


def test_a_context_outside_training_is_the_baselines_by_policy(served: Served, rows: NamedRows) -> None:
    far = NamedRows(times=rows.times, columns={"load": rows.columns["load"] + 3.0})
    with served(safety=_safety(rows, context="baseline")) as client:
        _decide(client, far)
        asked = _decide(client, far)
    assert (asked.scenario_source, asked.degradation) == ("BASELINE", None)


def test_a_request_may_refuse_a_student(served: Served, rows: NamedRows) -> None:
    with served() as client:
        _decide(client, rows)
        with pytest.raises(errors.OverloadedError, match="answers at student_sampler only"):
            _decide(client, rows, refuse_degradation=True)


def test_outcomes_of_a_students_decisions_are_kept_apart(
    served: Served, rows: NamedRows, tmp_path: Path
) -> None:
    with served(outcomes_folder=tmp_path / "kept") as client:
        for answer in [_decide(client, rows) for _ in range(2)]:
            truth = ScenarioArrays(
                series=("load",), units=("GW",), times=np.empty(0, "datetime64[ns]"),
                paths=np.full((1, STEPS, 1), 40.0), probabilities=np.ones(1),
            )  # fmt: skip
            client.record_outcome(answer.decision_id, truth)
    with OutcomeStore(tmp_path / "kept") as store:
        counts = {key[1]: len(found.regret) for key, found in store.figures().items()}
    assert counts == {"3": 1, "3+student_sampler": 1}


def test_a_student_after_the_baseline_is_refused() -> None:
    with pytest.raises(errors.ConfigError, match="put it before"):
        load_settings(ladder="baseline_scenarios:3,student_sampler:6")
