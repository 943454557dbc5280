"""Working arrays: one thread at a time, kept for the next, and no more of them than was said."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import cvxpy as cp
import pytest
import torch

from hedgecast.decisions import compiled
from hedgecast.decisions.working_arrays import WorkingArrays
from hedgecast.programs.program import TwoStageProgram

SMALL, LARGE = ((1, 4, 8),), ((25, 4, 8),)
SMALL_BYTES, LARGE_BYTES = 8 * 32, 8 * 800


def test_two_shapes_in_turn_are_made_once_each() -> None:
    arrays = WorkingArrays(most_bytes=10 * LARGE_BYTES)
    seen = []
    for _ in range(3):
        for shapes in (SMALL, LARGE):
            with arrays.lent(shapes) as work:
                assert work[0].shape == shapes[0]
                seen.append(work[0].ctypes.data)
    assert len(set(seen)) == 2
    assert arrays.kept_bytes == SMALL_BYTES + LARGE_BYTES


def test_no_two_threads_have_the_same() -> None:
    arrays = WorkingArrays(most_bytes=10 * LARGE_BYTES)
    met = threading.Barrier(4)

    def work() -> int:
        with arrays.lent(LARGE) as found:
            met.wait(60.0)
            return int(found[0].ctypes.data)

    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            assert len({future.result() for future in [pool.submit(work) for _ in range(4)]}) == 4
    assert arrays.kept_bytes == 4 * LARGE_BYTES


def test_the_oldest_go_where_there_are_too_many_and_what_is_too_large_is_not_kept() -> None:
    arrays = WorkingArrays(most_bytes=2 * LARGE_BYTES)
    for shapes in (SMALL, LARGE, ((25, 4, 8), (1, 1, 8))):
        with arrays.lent(shapes):
            pass
    # Two large ones are over it with the small one, and with each other.
    assert arrays.kept_bytes == LARGE_BYTES + 64
    with arrays.lent(((75, 4, 8),)):
        pass
    assert arrays.kept_bytes == LARGE_BYTES + 64


def test_what_failed_gives_its_arrays_back() -> None:
    arrays = WorkingArrays(most_bytes=LARGE_BYTES)
    with pytest.raises(ZeroDivisionError), arrays.lent(LARGE):
        _ = 1 / 0
    assert arrays.kept_bytes == LARGE_BYTES


def test_many_threads_that_solve_by_turns_keep_what_one_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, demand = cp.Variable(3, name="plan"), cp.Parameter(3, name="demand")
    program = TwoStageProgram(
        name="plain",
        decision=plan,
        uncertain=demand,
        constraints=[plan >= 0, cp.abs(cp.diff(plan)) <= 1.0],
        recourse_cost=5 * cp.sum(cp.pos(demand - plan)) + cp.sum_squares(plan - demand),
    )
    scenarios = torch.rand(1, 50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kept = []
    arrays = WorkingArrays(most_bytes=2**26)
    monkeypatch.setattr(compiled, "_WORKING_ARRAYS", arrays)
    for _ in range(3):
        thread = threading.Thread(target=program.solve, args=(scenarios,))
        thread.start()
        thread.join()
        kept.append(arrays.kept_bytes)
    assert kept[0] > 0
    assert kept == [kept[0]] * 3
