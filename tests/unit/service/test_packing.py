"""Random packings give every scenario once, to its owner, and keep nobody waiting for long."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgecast.registry.graphs import BASELINE_GRAPH, SCENARIOS_GRAPH
from hedgecast.service.packing import DrawRequest, Progress, Turn, next_batch

FEW = st.integers(1, 40)
GRAPHS = st.sampled_from([SCENARIOS_GRAPH, BASELINE_GRAPH, "another.onnx"])
COUNTS = st.lists(st.tuples(FEW, GRAPHS), min_size=1, max_size=12)


def _request(count: int, number: int = 0, graph: str = SCENARIOS_GRAPH) -> DrawRequest:
    return DrawRequest(
        features=np.zeros(1),
        day_number=number,
        count=count,
        seed=7 * number,
        start=3 * number,
        graph=graph,
    )


@settings(deadline=None, max_examples=200)
@given(asked=COUNTS, limit=st.integers(1, 64))
def test_every_batch_is_within_its_limit_and_every_scenario_in_one(
    asked: list[tuple[int, str]], limit: int
) -> None:
    everyone = [Progress(_request(count, i, graph)) for i, (count, graph) in enumerate(asked)]
    turn, batches = Turn.SHORTEST, 0
    while waiting := [one for one in everyone if one.left]:
        batch = next_batch(waiting, limit, turn)
        assert 1 <= batch.scenarios <= limit
        assert len({one.request.graph for one in batch.members}) == 1
        assert turn is Turn.SHORTEST or waiting[0] in batch.members
        # Numbers of the scenarios themselves stand for their paths.
        begins = [one.request.start + place for one, place in zip(batch.members, batch.places, strict=True)]
        numbers = np.array(begins)[:, None] + np.arange(batch.size)
        batch.put(numbers[..., None, None].astype(np.float32))
        turn, batches = turn.following, batches + 1
        assert batches <= sum(-(-count // limit) for count, _ in asked) + len(asked)
    for one in everyone:
        assert one.whole is not None
        np.testing.assert_array_equal(
            one.whole[:, 0, 0], one.request.start + np.arange(one.request.count, dtype=np.float32)
        )


def test_short_requests_wait_for_pieces_of_a_long_one_only() -> None:
    long, short = Progress(_request(10_000)), [Progress(_request(100, i)) for i in range(1, 41)]
    turn, batches = Turn.SHORTEST, 0
    while any(one.left for one in short):
        batch = next_batch([one for one in (long, *short) if one.left], 1024, turn)
        batches, turn = batches + 1, turn.following
        assert batch.scenarios >= 1000, "no batch is wasted on one request for 100"
    # Ten fit a batch, and every other batch is the long one's.
    assert batches <= 8
    assert 3000 <= 10_000 - long.left <= 5000


def test_a_long_request_is_not_starved_by_short_ones() -> None:
    long, turn, batches = Progress(_request(5000)), Turn.SHORTEST, 0
    while long.left:
        newest = [Progress(_request(1024, i)) for i in range(3)]
        next_batch([long, *newest], 1024, turn)
        batches, turn = batches + 1, turn.following
    assert batches <= 10


def test_equal_requests_are_answered_in_the_order_in_which_they_came() -> None:
    everyone, turn = [Progress(_request(500, i)) for i in range(6)], Turn.SHORTEST
    finished: list[int] = []
    while waiting := [one for one in everyone if one.left]:
        batch = next_batch(waiting, 1000, turn)
        turn = turn.following
        finished += [one.request.day_number for one in batch.members]
    assert finished == list(range(6))
