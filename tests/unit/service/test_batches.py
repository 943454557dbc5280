"""The queue in front of a solver: what goes together, who fails, who is taken out."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future

import pytest

from hedgecast.service.batches import Batches, Limits

WAIT_SECONDS = 60.0
NAME: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="nobody")
Queue = Batches[str, str]


class Desk:
    """Works on words; a first job holds it until it is let go, so that the others wait."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.names: list[str] = []
        self.begun, self.open = threading.Event(), threading.Event()

    def work(self, jobs: Sequence[str]) -> Sequence[str | Exception]:
        self.batches.append(list(jobs))
        self.names.append(NAME.get())
        if jobs[0] == "hold":
            self.begun.set()
            assert self.open.wait(WAIT_SECONDS)
        if "crash" in jobs:
            raise RuntimeError(f"crash in {len(jobs)}")
        return [ValueError(word) if word == "bad" else word.upper() for word in jobs]


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def queue_of(desk: Desk) -> Iterator[Callable[..., Queue]]:
    made: list[Queue] = []

    def make(**limits: float) -> Queue:
        queue: Queue = Batches(desk.work, kind=lambda word: word[:1], weight=len, limits=Limits(**limits))  # type: ignore[arg-type]
        made.append(queue)
        return queue

    yield make
    desk.open.set()
    for queue in made:
        queue.close()


def behind(desk: Desk, queue: Queue, *words: str) -> list[Future[str]]:
    """Results of words that all waited behind a first job."""
    queue.submit("hold")
    assert desk.begun.wait(WAIT_SECONDS)
    futures = [queue.submit(word) for word in words]
    desk.open.set()
    return futures


def results(futures: list[Future[str]]) -> list[str]:
    return [future.result(WAIT_SECONDS) for future in futures]


def test_an_idle_queue_waits_for_nobody(desk: Desk, queue_of: Callable[..., Queue]) -> None:
    queue = queue_of()
    assert queue.submit("one").result(WAIT_SECONDS) == "ONE"
    assert queue.submit("other").result(WAIT_SECONDS) == "OTHER"
    assert desk.batches == [["one"], ["other"]]


def test_what_waits_goes_together_by_kind(desk: Desk, queue_of: Callable[..., Queue]) -> None:
    found = results(behind(desk, queue_of(), "ant", "bee", "ape", "bear", "asp"))
    assert found == ["ANT", "BEE", "APE", "BEAR", "ASP"]
    assert desk.batches == [["hold"], ["ant", "ape", "asp"], ["bee", "bear"]]


def test_jobs_and_weight_are_limited(desk: Desk, queue_of: Callable[..., Queue]) -> None:
    results(behind(desk, queue_of(jobs=2), "a", "a", "a"))
    assert desk.batches[1:] == [["a", "a"], ["a"]]
    desk.batches.clear()
    desk.begun.clear()
    desk.open.clear()
    results(behind(desk, queue_of(weight=5), "abc", "abcd", "ab", "abcdefgh"))
    # What weighs more than a batch may goes by itself.
    assert desk.batches[1:] == [["abc", "ab"], ["abcd"], ["abcdefgh"]]


def test_a_wait_is_ended_by_a_full_batch(desk: Desk, queue_of: Callable[..., Queue]) -> None:
    queue = queue_of(jobs=3, wait_seconds=WAIT_SECONDS)
    assert results([queue.submit(word) for word in ("a", "ab", "abc")]) == ["A", "AB", "ABC"]
    assert desk.batches == [["a", "ab", "abc"]]


def test_a_wait_is_ended_by_closing(desk: Desk, queue_of: Callable[..., Queue]) -> None:
    queue = queue_of(wait_seconds=10 * WAIT_SECONDS)
    future = queue.submit("a")
    queue.close()
    assert future.result(0.0) == "A"
    with pytest.raises(RuntimeError):
        queue.submit("late")


def test_a_bad_job_fails_alone(desk: Desk, queue_of: Callable[..., Queue]) -> None:
    good, bad, best = behind(desk, queue_of(), "bee", "bad", "bear")
    assert results([good, best]) == ["BEE", "BEAR"]
    with pytest.raises(ValueError, match="bad"):
        bad.result(WAIT_SECONDS)
    assert desk.batches[1:] == [["bee", "bad", "bear"]]


def test_a_crash_takes_nobody_along(desk: Desk, queue_of: Callable[..., Queue]) -> None:
    good, crash, other = behind(desk, queue_of(), "cat", "crash", "cow")
    assert results([good, other]) == ["CAT", "COW"]
    with pytest.raises(RuntimeError, match="crash in 1"):
        crash.result(WAIT_SECONDS)


def test_who_gave_up_is_not_worked_on(desk: Desk, queue_of: Callable[..., Queue]) -> None:
    queue = queue_of()
    queue.submit("hold")
    assert desk.begun.wait(WAIT_SECONDS)
    stays, goes = queue.submit("a"), queue.submit("ab")
    assert goes.cancel()
    desk.open.set()
    assert stays.result(WAIT_SECONDS) == "A"
    with pytest.raises(CancelledError):
        goes.result(0.0)
    assert desk.batches[1:] == [["a"]]


def test_work_goes_on_in_the_context_of_its_caller(desk: Desk, queue_of: Callable[..., Queue]) -> None:
    queue = queue_of()

    def call(name: str) -> str:
        NAME.set(name)
        return queue.submit("word").result(WAIT_SECONDS)

    for name in ("ada", "bob"):
        contextvars.copy_context().run(call, name)
    assert desk.names == ["ada", "bob"]


def test_who_finds_nobody_works_itself_in_its_own_context(
    desk: Desk, queue_of: Callable[..., Queue], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    work = desk.work
    monkeypatch.setattr(desk, "work", lambda jobs: (threads.append(threading.get_ident()), work(jobs))[1])
    queue = queue_of()
    token = NAME.set("me")
    try:
        (found,) = queue.here(["one"])
    finally:
        NAME.reset(token)
    assert found.done()
    assert found.result() == "ONE"
    assert (threads, desk.names) == ([threading.get_ident()], ["me"])


def test_who_finds_nobody_works_on_all_that_it_has_by_kind_and_limit(
    desk: Desk, queue_of: Callable[..., Queue]
) -> None:
    found = queue_of(jobs=2).here(["apple", "bean", "avocado", "bad", "acorn"])
    assert desk.batches == [["apple", "avocado"], ["bean", "bad"], ["acorn"]]
    assert [one.exception() is None for one in found] == [True, True, True, False, True]
    assert [found[index].result(0) for index in (0, 1, 2, 4)] == ["APPLE", "BEAN", "AVOCADO", "ACORN"]


def test_who_finds_somebody_at_work_waits_with_the_others(desk: Desk, queue_of: Callable[..., Queue]) -> None:
    queue = queue_of()
    one = threading.Thread(target=queue.here, args=(["hold"],))
    one.start()
    assert desk.begun.wait(WAIT_SECONDS)
    later = [*queue.here(["apple"]), queue.submit("avocado")]
    assert not any(future.done() for future in later)
    desk.open.set()
    assert [future.result(WAIT_SECONDS) for future in later] == ["APPLE", "AVOCADO"]
    one.join()
    assert desk.batches == [["hold"], ["apple", "avocado"]]


@pytest.mark.parametrize(
    ("word", "error"), [("bad", ValueError), ("crash", RuntimeError)], ids=["its own", "a crash"]
)
def test_who_works_itself_gets_its_error_and_lets_the_next_in(
    desk: Desk, queue_of: Callable[..., Queue], word: str, error: type[Exception]
) -> None:
    queue = queue_of()
    with pytest.raises(error):
        queue.here([word])[0].result(0)
    assert queue.here(["next"])[0].result(0) == "NEXT"
    assert queue.submit("last").result(WAIT_SECONDS) == "LAST"


def test_nobody_works_itself_where_company_is_waited_for_or_the_end_has_come(
    queue_of: Callable[..., Queue],
) -> None:
    waits = queue_of(wait_seconds=0.2)
    assert [one.result(WAIT_SECONDS) for one in (*waits.here(["a"]), *waits.here(["ab"]))] == ["A", "AB"]
    closed = queue_of()
    closed.close()
    with pytest.raises(RuntimeError):
        closed.here(["late"])
