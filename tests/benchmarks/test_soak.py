"""The soak's parts that decide what is wrong: comparison, schedule, growth, champions, page."""

from __future__ import annotations

import collections
import pathlib
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hedgecast.rpc import codec
from hedgecast.rpc.v1 import decision_service_pb2 as decision_pb

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def soak() -> Iterator[SimpleNamespace]:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import soak.faults
        import soak.load
        import soak.oracle
        import soak.page
        import soak.processes

        yield SimpleNamespace(
            faults=soak.faults, load=soak.load, oracle=soak.oracle, page=soak.page, processes=soak.processes
        )
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def _answer() -> decision_pb.DecideResponse:
    answer = decision_pb.DecideResponse(objective=500.0, scenario_fingerprint="ab", request_id="one", seed=3)
    answer.decision.add(name="schedule").values.CopyFrom(codec.encode_tensor(np.arange(4.0)))
    answer.cost_quantiles.add(level=0.5, value=7.0)
    answer.model.version = "1"
    return answer


def _changed(**changes: Any) -> decision_pb.DecideResponse:
    answer = _answer()
    for name, value in changes.items():
        setattr(answer, name, value)
    return answer


def test_what_differs_is_found_wherever_it_stands(soak: SimpleNamespace) -> None:
    difference = soak.oracle.difference
    assert difference(_answer(), _answer()) == ""
    assert difference(_changed(objective=500.0 + 4e-4), _answer()) == ""
    assert difference(_changed(objective=500.0 + 6e-4), _answer()).startswith("objective is 500.0006")
    assert difference(_changed(scenario_fingerprint="ac"), _answer()).startswith("scenario_fingerprint")
    assert difference(_changed(objective=float("nan")), _answer()).startswith("objective is nan")
    moved = _answer()
    moved.decision[0].values.CopyFrom(codec.encode_tensor(np.array([0.0, 1.0, 2.0, 3.0001])))
    assert difference(moved, _answer()) == "decision.values is off by 0.0001"
    mixed = _answer()
    mixed.model.version = "2"
    assert difference(mixed, _answer()).startswith("model.version is '2'")
    short = _answer()
    del short.cost_quantiles[:]
    assert difference(short, _answer()) == "cost_quantiles has 0 entries instead of 1"


def test_the_oracle_compares_what_the_request_determines(soak: SimpleNamespace) -> None:
    answers = {"right": _changed(request_id="oracle"), "wrong": _changed(objective=1.0)}
    asked = []

    def decide(request: decision_pb.DecideRequest, timeout: float) -> decision_pb.DecideResponse:
        asked.append(request.model)
        return answers["wrong" if request.HasField("risk") else "right"]

    stubs = SimpleNamespace(method=lambda kind: {"Decide": decide}[kind])
    oracle = soak.oracle.Oracle(stubs)
    request = decision_pb.DecideRequest(model="tiny", request_id="one")
    late = _answer()
    late.warnings.add(reason="REALIZED_COVERAGE", message="told by outcomes")
    late.durations.total_duration.FromMilliseconds(5)
    assert oracle.wrong("Decide", request, [_answer()], "1") == ""
    assert oracle.wrong("Decide", decision_pb.DecideRequest(model="tiny"), [late], "1") == ""
    assert asked == ["tiny@1"], "the same question is worked out once"
    request.risk.worst_case.SetInParent()
    assert oracle.wrong("Decide", request, [_answer()], "1").startswith("objective")
    assert (oracle.compared, oracle.identical, oracle.recomputed) == (3, 2, 2)


def test_the_schedule_has_every_fault(soak: SimpleNamespace) -> None:
    faults = soak.faults.schedule(1200.0, 60.0, denoisers=True)
    kinds = collections.Counter(fault.what for fault in faults)
    assert kinds == {"Solver": 8, "Denoiser": 7, "Gateway": 4, "switch": 2, "Controller": 1}
    without = collections.Counter(fault.what for fault in soak.faults.schedule(1200.0, 60.0, denoisers=False))
    assert without == {"Solver": 13, "Gateway": 6, "switch": 2, "Controller": 1}
    assert [fault.at for fault in faults] == sorted(fault.at for fault in faults)
    assert max(fault.at for fault in faults) < 1200.0


def test_growth_is_told_from_noise(soak: SimpleNamespace) -> None:
    seconds = np.arange(0.0, 600.0, 2.0)
    noise = np.random.default_rng(0).normal(0.0, 2.0, len(seconds))
    still = soak.processes.growth(np.stack([seconds, 300.0 + noise], axis=1))
    rising = soak.processes.growth(np.stack([seconds, 300.0 + seconds / 10.0 + noise], axis=1))
    assert still["flat"]
    # 300 looks: the slope's error is 2 / sqrt(300 var(minutes)) = 0.04; five of them.
    assert abs(still["slope_mib_a_minute"]) < 0.2
    assert not rising["flat"]
    assert rising["slope_mib_a_minute"] == pytest.approx(6.0, abs=0.2)


def test_both_versions_may_answer_while_the_champion_is_switched(soak: SimpleNamespace) -> None:
    champion = soak.load.Champion([(0.0, frozenset("1"))])
    champion.spans += [(10.0, frozenset("12")), (20.0, frozenset("2"))]
    assert champion.between(1.0, 2.0) == frozenset("1")
    assert champion.between(9.0, 11.0) == frozenset("12")
    assert champion.between(21.0, 22.0) == frozenset("2")


def test_roles_are_read_from_titles(soak: SimpleNamespace) -> None:
    role = soak.processes._role
    assert role("ray::ServeReplica:hedgecast:Solver") == "Solver"
    assert role("ray::ServeReplica:hedgecast:Denoiser.handle_request") == "Denoiser"
    assert role("ray::ServeController.listen_for_change") == "Controller"
    assert role("ray::IDLE") == ""


def test_the_page_says_what_was_wrong(soak: SimpleNamespace) -> None:
    page: ModuleType = soak.page
    result = {
        "machine": {"date": "2030-01-01", "processor": "x", "cores": 2, "versions": {"ray": "9"},
                    "load_before": 1.0, "load_after": 2.0},
        "seconds": 120.0, "callers": 4, "denoisers": 0,
        "requests_answered": {"Decide": 1200}, "answers_compared": 1200,
        "answers_identical": 1199, "distinct_recomputed": 30, "answered_after_retries": 3,
        "longest_wait_seconds": 12.5, "attempts": {"Decide: OK": 1200}, "outcomes_acknowledged": 7,
        "faults": [{"at": 60.0, "what": "Solver", "pid": 1, "process_back_seconds": 4.0},
                   {"at": 70.0, "what": "switch", "to": "2", "seconds": 9.0}],
        "memory": [{"role": "Solver", "minutes": 3.0, "first_mib": 300.0, "last_mib": 301.0,
                    "slope_mib_a_minute": 0.3, "slope_error": 0.1, "flat": True}],
        "wrong": [],
    }  # fmt: skip
    assert "Nothing was wrong, lost or mixed." in page.page(result)
    assert "1,199 of them identical" in page.page(result)
    assert "which draw for themselves" in page.page(result)
    assert "2 denoisers" in page.page({**result, "denoisers": 2})
    assert "| 70 | switch | to version 2, done in 9.0 s |" in page.page(result)
    assert "- Decide was lost" in page.page({**result, "wrong": ["Decide was lost"]})
