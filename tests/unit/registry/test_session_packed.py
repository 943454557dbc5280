"""Scenarios of many requests in one run are those of each request alone, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgecast.registry.graphs import BASELINE_GRAPH, SCENARIOS_GRAPH
from hedgecast.registry.session import ScenarioSession
from hedgecast.service.draw_queue import run_batch
from hedgecast.service.packing import DrawRequest, Progress, Turn, next_batch
from hedgecast.testing import TinyModel

GRAPHS = st.sampled_from([SCENARIOS_GRAPH, BASELINE_GRAPH])
COUNTS = st.lists(st.tuples(st.integers(1, 40), GRAPHS), min_size=1, max_size=12)


@pytest.fixture(scope="module")
def session(trained: TinyModel) -> ScenarioSession:
    return ScenarioSession(trained.bundle)


@pytest.fixture(scope="module")
def threaded(trained: TinyModel) -> ScenarioSession:
    return ScenarioSession(trained.bundle, threads=2)


def _request(count: int, number: int, width: int, graph: str) -> DrawRequest:
    return DrawRequest(
        features=np.random.default_rng(number).normal(size=width),
        day_number=number,
        count=count,
        seed=7 * number,
        start=3 * number,
        graph=graph,
    )


@settings(deadline=None, max_examples=25)
@given(asked=COUNTS, limit=st.integers(1, 128), data=st.data())
def test_packed_scenarios_are_bit_for_bit_those_drawn_alone(
    session: ScenarioSession,
    threaded: ScenarioSession,
    asked: list[tuple[int, str]],
    limit: int,
    data: st.DataObject,
) -> None:
    width = session.bundle.manifest.generator.num_features
    requests = [_request(count, i, width, graph) for i, (count, graph) in enumerate(asked)]
    everyone = [Progress(request) for request in requests]
    while waiting := [one for one in everyone if one.left]:
        order = data.draw(st.permutations(waiting))
        batch = next_batch(order, limit, data.draw(st.sampled_from(Turn)))
        batch.put(run_batch(data.draw(st.sampled_from([session, threaded])), batch))
    for one, request in zip(everyone, requests, strict=True):
        (alone,) = session.draw(
            request.features[None],
            [request.day_number],
            request.count,
            request.seed,
            start=request.start,
            graph=request.graph,
        )
        np.testing.assert_array_equal(one.whole, alone)
