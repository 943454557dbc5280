"""The queue on its threads: nothing is lost, mixed, late or without bound."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor

import numpy as np
import pytest
from numpy.typing import NDArray

from hedgecast.core.errors import ConfigError, DeadlineError, OverloadedError, UnavailableError
from hedgecast.registry.graphs import BASELINE_GRAPH, SCENARIOS_GRAPH
from hedgecast.registry.session import Context
from hedgecast.service.draw_queue import AwaitedDraw, DrawFigures, DrawQueue
from hedgecast.service.packing import DrawRequest

PATIENCE_SECONDS = 60.0


class Numbers:
    """Draws 1000 * seed + the scenario's number; waits where it is told to."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.begun = threading.Semaphore(0)
        self.batches: list[tuple[int, int]] = []
        self.error: Exception | None = None

    def draw_each(
        self,
        contexts: NDArray[np.float64],
        context_numbers: Sequence[int],
        count: int,
        seeds: Sequence[int],
        starts: Sequence[int],
        *,
        graph: str = SCENARIOS_GRAPH,
    ) -> NDArray[np.float32]:
        self.batches.append((len(contexts), count))
        self.begun.release()
        assert self.open.wait(PATIENCE_SECONDS)
        if self.error is not None:
            raise self.error
        firsts = 1000 * np.array(seeds) + np.array(starts)
        return (firsts[:, None] + np.arange(count))[..., None, None].astype(np.float32)

    def hold(self, queue: DrawQueue) -> None:
        """Keep a thread of the queue busy until `open` is set."""
        self.open.clear()
        queue.submit(_request(1, 999), PATIENCE_SECONDS)
        assert self.begun.acquire(timeout=PATIENCE_SECONDS)


def _request(count: int, seed: int, start: int = 0, graph: str = SCENARIOS_GRAPH) -> DrawRequest:
    return DrawRequest(features=np.zeros(1), day_number=0, count=count, seed=seed, start=start, graph=graph)


@pytest.fixture
def numbers() -> Numbers:
    return Numbers()


@pytest.fixture
def queue(numbers: Numbers) -> Iterator[DrawQueue]:
    made = DrawQueue([numbers], batch_scenarios=20, wait_seconds=0.0, most_queued=50)
    yield made
    numbers.open.set()
    made.close()


def test_what_waits_is_packed_and_comes_back_to_its_owner(queue: DrawQueue, numbers: Numbers) -> None:
    numbers.hold(queue)
    asked = [_request(4, 1), _request(4, 2, start=10), _request(30, 3), _request(4, 4)]
    futures = [queue.submit(one, PATIENCE_SECONDS) for one in asked]
    assert queue.queued == 42
    numbers.open.set()
    for request, future in zip(asked, futures, strict=True):
        drawn = future.result(PATIENCE_SECONDS)
        expected = 1000 * request.seed + request.start + np.arange(request.count)
        np.testing.assert_array_equal(drawn.paths[:, 0, 0], expected)
    assert numbers.batches[1] == (4, 4), "one batch for the first four scenarios of all"
    figures = futures[0].result().figures
    assert (figures.queued, figures.batches, figures.fill) == (0, 1, 16 / 20)
    assert futures[3].result().figures.queued == 38
    assert queue.queued == 0


def test_two_threads_share_one_request() -> None:
    first = Numbers()
    queue = DrawQueue([first, first], batch_scenarios=7, wait_seconds=0.0, most_queued=1)
    paths = queue.submit(_request(1000, 2), PATIENCE_SECONDS).result(PATIENCE_SECONDS).paths
    queue.close()
    np.testing.assert_array_equal(paths[:, 0, 0], 2000 + np.arange(1000))


def test_many_callers_get_what_they_asked_for(queue: DrawQueue) -> None:
    wide = DrawQueue([Numbers(), Numbers()], batch_scenarios=16, wait_seconds=0.001, most_queued=10**6)

    def ask(seed: int) -> bool:
        request = _request(
            1 + seed % 37, seed, start=seed % 5, graph=(SCENARIOS_GRAPH, BASELINE_GRAPH)[seed % 3 == 0]
        )
        paths = wide.submit(request, PATIENCE_SECONDS).result(PATIENCE_SECONDS).paths
        return np.array_equal(paths[:, 0, 0], 1000 * seed + seed % 5 + np.arange(request.count))

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(400)))
    wide.close()


def test_beyond_its_bound_it_refuses_with_a_time(queue: DrawQueue, numbers: Numbers) -> None:
    queue.submit(_request(20, 1), PATIENCE_SECONDS).result(PATIENCE_SECONDS)
    numbers.begun.acquire(timeout=PATIENCE_SECONDS)
    numbers.hold(queue)
    kept = queue.submit(_request(45, 1), PATIENCE_SECONDS)
    with pytest.raises(OverloadedError, match="45 scenarios wait to be drawn, 6 more") as caught:
        queue.submit(_request(6, 2), PATIENCE_SECONDS)
    seconds = caught.value.facts["retry_seconds"]
    assert isinstance(seconds, float)
    assert seconds > 0.0
    fits = queue.submit(_request(5, 3), PATIENCE_SECONDS)
    numbers.open.set()
    assert len(kept.result(PATIENCE_SECONDS).paths) == 45
    assert len(fits.result(PATIENCE_SECONDS).paths) == 5
    # Larger than the bound and alone: otherwise nobody could ever ask for it.
    assert len(queue.submit(_request(60, 4), PATIENCE_SECONDS).result(PATIENCE_SECONDS).paths) == 60


def test_what_is_cancelled_leaves_the_queue_undrawn(queue: DrawQueue, numbers: Numbers) -> None:
    numbers.hold(queue)
    cancelled = queue.submit(_request(40, 1), PATIENCE_SECONDS)
    assert cancelled.cancel()
    # It takes no room any more.
    kept = queue.submit(_request(50, 2), PATIENCE_SECONDS)
    numbers.open.set()
    assert len(kept.result(PATIENCE_SECONDS).paths) == 50
    with pytest.raises(CancelledError):
        cancelled.result()
    assert sum(members * size for members, size in numbers.batches) == 1 + 50


def test_whose_time_is_up_is_told_and_left_out(queue: DrawQueue, numbers: Numbers) -> None:
    numbers.hold(queue)
    late = queue.submit(_request(10, 1), 0.0)
    kept = queue.submit(_request(10, 2), PATIENCE_SECONDS)
    numbers.open.set()
    assert len(kept.result(PATIENCE_SECONDS).paths) == 10
    with pytest.raises(DeadlineError, match="were up before all scenarios were drawn"):
        late.result(PATIENCE_SECONDS)
    assert sum(members * size for members, size in numbers.batches) == 1 + 10


def test_an_error_is_everyones_in_the_batch_and_of_nobody_else(queue: DrawQueue, numbers: Numbers) -> None:
    numbers.error = ValueError("no memory")
    numbers.hold(queue)
    failing = [queue.submit(_request(10, seed), PATIENCE_SECONDS) for seed in (1, 2)]
    numbers.open.set()
    for future in failing:
        with pytest.raises(ValueError, match="no memory"):
            future.result(PATIENCE_SECONDS)
    numbers.error = None
    assert len(queue.submit(_request(3, 3), PATIENCE_SECONDS).result(PATIENCE_SECONDS).paths) == 3


def test_a_batch_waits_for_more_as_long_as_it_is_told(numbers: Numbers) -> None:
    queue = DrawQueue([numbers], batch_scenarios=8, wait_seconds=PATIENCE_SECONDS, most_queued=50)
    first = queue.submit(_request(4, 1), PATIENCE_SECONDS)
    assert not numbers.batches, "half a batch waits"
    second = queue.submit(_request(4, 2), PATIENCE_SECONDS)
    assert len(first.result(PATIENCE_SECONDS).paths) == len(second.result(PATIENCE_SECONDS).paths) == 4
    assert numbers.batches == [(2, 4)]
    queue.close()


def test_closing_draws_what_waits_and_takes_no_more(queue: DrawQueue, numbers: Numbers) -> None:
    numbers.hold(queue)
    waiting = queue.submit(_request(10, 1), PATIENCE_SECONDS)
    numbers.open.set()
    queue.close()
    assert len(waiting.result(0).paths) == 10
    with pytest.raises(UnavailableError):
        queue.submit(_request(1, 1), PATIENCE_SECONDS)


def test_sizes_that_make_no_queue_are_refused(numbers: Numbers) -> None:
    with pytest.raises(ConfigError, match="batches of 0"):
        DrawQueue([numbers], batch_scenarios=0, wait_seconds=0.0, most_queued=1)
    with pytest.raises(ConfigError, match="0 sessions"):
        DrawQueue([], batch_scenarios=1, wait_seconds=0.0, most_queued=1)


CONTEXT = Context(
    features=np.zeros(1),
    day_number=0,
    step_times=np.array(["2024-01-01"], "datetime64[ns]"),
    step_slots=np.zeros(1, np.int64),
)


def test_a_query_draws_through_the_queue_and_says_how(queue: DrawQueue) -> None:
    figures: list[DrawFigures] = []
    submit = functools.partial(queue.submit, seconds=PATIENCE_SECONDS)
    draw = AwaitedDraw(submit, figures)
    assert draw(CONTEXT, 3, 7, 5).ravel().tolist() == [7005, 7006, 7007]
    assert [one.batches for one in figures] == [1]


def test_draws_that_are_begun_ahead_go_together(numbers: Numbers, queue: DrawQueue) -> None:
    numbers.hold(queue)
    figures: list[DrawFigures] = []
    submit = functools.partial(queue.submit, seconds=PATIENCE_SECONDS)
    draws = [AwaitedDraw(submit, figures) for _ in range(2)]
    for seed, draw in enumerate(draws):
        draw.ahead(CONTEXT, 3, seed, 5, SCENARIOS_GRAPH)
    numbers.open.set()
    for seed, draw in enumerate(draws):
        assert draw(CONTEXT, 3, seed, 5).ravel().tolist() == [1000 * seed + place for place in (5, 6, 7)]
    assert numbers.batches == [(1, 1), (2, 3)]
    # What is asked for next was not begun.
    assert draws[0](CONTEXT, 1, 4, 2).ravel().tolist() == [4002]
    assert len(figures) == 3


def test_a_query_that_nobody_waits_for_leaves_the_queue(numbers: Numbers, queue: DrawQueue) -> None:
    numbers.hold(queue)
    figures: list[DrawFigures] = []
    submit = functools.partial(queue.submit, seconds=PATIENCE_SECONDS)
    waiting, late = (AwaitedDraw(submit, figures) for _ in range(2))
    with ThreadPoolExecutor(1) as pool:
        drawing = pool.submit(waiting, CONTEXT, 3, 7)
        while not queue.queued:
            assert not drawing.done()
        waiting.cancel()
        with pytest.raises(CancelledError):
            drawing.result(PATIENCE_SECONDS)
    late.cancel()
    with pytest.raises(CancelledError):
        late(CONTEXT, 3, 7)
    numbers.open.set()
    queue.close()
    assert (numbers.batches, figures) == ([(1, 1)], [])


def test_who_finds_a_session_that_waits_draws_itself(queue: DrawQueue, numbers: Numbers) -> None:
    threads: list[int] = []
    draw = numbers.draw_each
    numbers.draw_each = lambda *a, **k: (threads.append(threading.get_ident()), draw(*a, **k))[1]  # type: ignore[method-assign, assignment, misc]
    found = queue.here(_request(4, 2, start=10), PATIENCE_SECONDS)
    assert found.done()
    np.testing.assert_array_equal(found.result().paths.ravel(), 2010 + np.arange(4))
    assert found.result().figures == DrawFigures(
        queued=0, waited_seconds=pytest.approx(0.0, abs=1.0), batches=1, fill=0.2
    )
    assert threads == [threading.get_ident()]


def test_who_finds_the_session_busy_is_packed_with_the_others(queue: DrawQueue, numbers: Numbers) -> None:
    numbers.open.clear()
    one = threading.Thread(target=queue.here, args=(_request(1, 9), PATIENCE_SECONDS))
    one.start()
    assert numbers.begun.acquire(timeout=PATIENCE_SECONDS)
    later = [
        queue.here(_request(4, 1), PATIENCE_SECONDS),
        queue.submit(_request(4, 2), PATIENCE_SECONDS),
        # More than a run takes: piece by piece, on the queue's thread.
        queue.here(_request(30, 3), PATIENCE_SECONDS),
    ]
    assert not any(future.done() for future in later)
    numbers.open.set()
    for seed, future in enumerate(later, start=1):
        paths = future.result(PATIENCE_SECONDS).paths.ravel()
        np.testing.assert_array_equal(paths, 1000 * seed + np.arange(len(paths)))
    one.join()
    assert numbers.batches[:2] == [(1, 1), (3, 4)]


def test_who_draws_itself_gets_the_error_and_leaves_the_session(queue: DrawQueue, numbers: Numbers) -> None:
    numbers.error = ValueError("no such thing")
    with pytest.raises(ValueError, match="no such thing"):
        queue.here(_request(4, 1), PATIENCE_SECONDS).result(0)
    numbers.error = None
    assert queue.here(_request(4, 1), PATIENCE_SECONDS).result(0).paths.size == 4
    assert queue.submit(_request(4, 1), PATIENCE_SECONDS).result(PATIENCE_SECONDS).paths.size == 4
    queue.close()
    with pytest.raises(UnavailableError):
        queue.here(_request(4, 1), PATIENCE_SECONDS)


def test_two_sessions_serve_two_who_draw_themselves() -> None:
    both = [Numbers(), Numbers()]
    queue = DrawQueue(both, batch_scenarios=20, wait_seconds=0.0, most_queued=50)
    for numbers in both:
        numbers.open.clear()
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(queue.here, _request(3, seed), PATIENCE_SECONDS) for seed in (1, 2)]
        for numbers in both:
            assert numbers.begun.acquire(timeout=PATIENCE_SECONDS)
        third = queue.submit(_request(3, 3), PATIENCE_SECONDS)
        assert not third.done()
        for numbers in both:
            numbers.open.set()
        for seed, future in enumerate(asked, start=1):
            assert future.result().result(PATIENCE_SECONDS).paths.ravel()[0] == 1000 * seed
    assert third.result(PATIENCE_SECONDS).paths.ravel()[0] == 3000
    queue.close()
