"""Who cannot have a student's scenarios takes the network's."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from hedgecast.client.requests import decide_request
from hedgecast.core.errors import BundleError
from hedgecast.registry.graphs import BASELINE_GRAPH, SCENARIOS_GRAPH
from hedgecast.registry.ladder import Student
from hedgecast.registry.session import Context
from hedgecast.service.answers import ScenarioSource
from hedgecast.service.budget import Budget
from hedgecast.service.local import LocalModel, judged_draw
from hedgecast.service.requests import decide_query
from hedgecast.service.safety import Judgement
from hedgecast.service.settings import ServiceSettings
from hedgecast.testing_last_day import last_day_model

STUDENT = Student(
    name="last_day", version="9", fingerprint="e" * 64, digest="d" * 64, calls=1, teacher_calls=8,
    distance=0.1,
)  # fmt: skip


class Denoiser:
    """Has some graphs, and draws each one's place among them."""

    def __init__(self, *graphs: str) -> None:
        self.graphs = graphs
        self.asked: list[str] = []

    def draw(self, *_: object, graph: str) -> NDArray[np.float32]:
        self.asked.append(graph)
        if graph not in self.graphs:
            raise BundleError(f"no {graph}")
        return np.full((1, 6, 1), self.graphs.index(graph), dtype=np.float32)


def _drawn(denoiser: Denoiser, source: ScenarioSource) -> tuple[float, ScenarioSource]:
    plain = last_day_model().model
    model = dataclasses.replace(plain, description=dataclasses.replace(plain.description, student=STUDENT))
    judged = Judgement(source=source, warnings=(("REASON", "kept"),))
    query = decide_query(
        decide_request("last_day", {"scenario_count": 1}), ServiceSettings(), deadline_seconds=60.0
    )
    context = Context(
        features=np.zeros(6), day_number=0, step_times=np.zeros(6, "datetime64[ns]"), step_slots=np.arange(6)
    )
    local = LocalModel(model=model, draw=denoiser.draw)
    paths, found = judged_draw(query, local, context, judged, Budget(60.0))
    assert found.warnings == judged.warnings
    return float(paths[0, 0, 0]), found.source


@pytest.mark.parametrize(
    ("source", "place"),
    [(ScenarioSource.MODEL, 0), (ScenarioSource.BASELINE, 1), (ScenarioSource.STUDENT, 2)],
)
def test_who_is_named_draws(source: ScenarioSource, place: int) -> None:
    denoiser = Denoiser(SCENARIOS_GRAPH, BASELINE_GRAPH, STUDENT.graph)
    assert _drawn(denoiser, source) == (place, source)
    assert len(denoiser.asked) == 1


def test_a_machine_without_the_student_has_the_network_draw(caplog: pytest.LogCaptureFixture) -> None:
    denoiser = Denoiser(SCENARIOS_GRAPH, BASELINE_GRAPH, "student-of-before.onnx")
    assert _drawn(denoiser, ScenarioSource.STUDENT) == (0, ScenarioSource.MODEL)
    assert denoiser.asked == [STUDENT.graph, SCENARIOS_GRAPH]
    assert f"for want of the student: no {STUDENT.graph}" in caplog.text


def test_what_else_is_missing_is_an_error() -> None:
    with pytest.raises(BundleError, match=SCENARIOS_GRAPH):
        _drawn(Denoiser(BASELINE_GRAPH), ScenarioSource.MODEL)
