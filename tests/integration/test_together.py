"""Queries that reach a solver at once get what each gets alone, errors of their own, and may leave."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from hedgecast.core.errors import DataError, DeadlineError
from hedgecast.programs.risk import Risk
from hedgecast.rpc.codec import NamedRows
from hedgecast.service.answers import DecideAnswer, Solution
from hedgecast.service.budget import Budget
from hedgecast.service.draw_queue import DrawFigures, Drawn
from hedgecast.service.local import LocalModel
from hedgecast.service.packing import DrawRequest
from hedgecast.service.queries import DecideQuery
from hedgecast.service.settings import load_settings
from hedgecast.testing_last_day import last_day_model, last_day_rows
from hedgecast_workers.together import Submits, Together

FIGURES = DrawFigures(queued=0, waited_seconds=0.0, batches=1, fill=0.5)
SECONDS = 600.0


class Drawing:
    """Draws for queries as a replica would; says how each was asked for."""

    def __init__(self, local: LocalModel) -> None:
        self.local = local
        self.asked: list[tuple[str, int]] = []
        self.held: set[int] = set()
        """Seeds that are never drawn."""
        self.pool = ThreadPoolExecutor(1)

    def submits(self) -> Submits:
        def by(how: str) -> Callable[[DrawRequest], Future[Drawn]]:
            def submit(request: DrawRequest) -> Future[Drawn]:
                self.asked.append((how, request.seed))
                return Future() if request.seed in self.held else self.pool.submit(self._drawn, request)

            return submit

        return Submits(by("alone"), by("together"))

    def _drawn(self, request: DrawRequest) -> Drawn:
        context = dataclasses.replace(_context(self.local), features=request.features)
        paths = self.local.draw(context, request.count, request.seed, request.start, graph=request.graph)
        return Drawn(paths=paths, figures=FIGURES)


def _context(local: LocalModel) -> Any:
    rows = last_day_rows()
    return local.model.source.read(rows, rows)


@pytest.fixture(scope="module")
def local() -> LocalModel:
    return last_day_model()


@pytest.fixture
def drawing(local: LocalModel) -> Iterator[Drawing]:
    made = Drawing(local)
    yield made
    made.pool.shutdown()


def query(seed: int, **changes: Any) -> DecideQuery:
    rows = last_day_rows()
    values = {
        "model": "last_day", "history": rows, "known": NamedRows(times=rows.times[:0], columns={}),
        "given": {}, "own": None, "scenario_count": 30, "seed": seed, "risk": Risk(), "request_id": "r",
        "deadline_seconds": SECONDS, "quantile_levels": (0.5,), "tail_level": 0.9, "return_scenarios": False,
        "gap_replications": 0, "gap_confidence": 0.9,
    }  # fmt: skip
    return DecideQuery(**{**values, **changes})  # type: ignore[arg-type]


async def answered(
    drawing: Drawing, *queries: DecideQuery, budgets: dict[int, Budget] | None = None
) -> list[Any]:
    together = Together(load_settings())

    async def one(asked: DecideQuery) -> Any:
        figures: list[DrawFigures] = []
        budget = (budgets or {}).get(asked.seed, Budget(SECONDS))
        found = await together.answer(asked, budget, drawing.local.model, drawing.submits(), figures)
        assert len(figures) == (0 if asked.validate_only else 1)
        return found

    return await asyncio.gather(*map(one, queries), return_exceptions=True)


def solution(answer: DecideAnswer | BaseException) -> Solution:
    assert isinstance(answer, DecideAnswer), answer
    assert answer.solution is not None
    return answer.solution


def test_who_comes_with_others_gets_to_the_bit_what_each_gets_alone(drawing: Drawing) -> None:
    queries = [query(seed) for seed in range(5)]
    found = [solution(one) for one in asyncio.run(answered(drawing, *queries))]
    assert [one.batch_size for one in found] == [5] * 5
    assert [how for how, _ in drawing.asked] == ["together"] * 5
    for asked, one in zip(queries, found, strict=True):
        (alone,) = asyncio.run(answered(drawing, asked))
        assert np.array_equal(one.decision[0].values, solution(alone).decision[0].values)
        assert one.statistics == solution(alone).statistics
        assert one.scenario_fingerprint == solution(alone).scenario_fingerprint
    assert [how for how, _ in drawing.asked[5:]] == ["alone"] * 5


def test_each_has_an_error_of_its_own(drawing: Drawing) -> None:
    rows = last_day_rows()
    short = NamedRows(times=rows.times[:2], columns={"load": rows.columns["load"][:2]})
    late = Budget(0.0)
    first, second, third, fourth = asyncio.run(
        answered(drawing, query(0), query(1, history=short), query(2), query(3), budgets={2: late})
    )
    assert [solution(one).batch_size for one in (first, fourth)] == [2, 2]
    assert isinstance(second, DataError)
    assert isinstance(third, DeadlineError)
    assert sorted(seed for _, seed in drawing.asked) == [0, 3]


def test_other_kinds_and_what_is_only_checked_go_apart(drawing: Drawing) -> None:
    found = asyncio.run(
        answered(drawing, query(0), query(1, scenario_count=40), query(2), query(3, validate_only=True))
    )
    assert [solution(one).batch_size for one in found[:3]] == [2, 1, 2]
    assert found[3].solution is None
    assert sorted(drawing.asked) == [("alone", 1), ("together", 0), ("together", 2)]


def test_who_is_cancelled_leaves_and_the_others_go_on(drawing: Drawing) -> None:
    drawing.held.add(1)

    async def main() -> list[Any]:
        together, budget = Together(load_settings()), Budget(SECONDS)
        tasks = [
            asyncio.create_task(
                together.answer(query(seed), budget, drawing.local.model, drawing.submits(), [])
            )
            for seed in range(3)
        ]
        while len(drawing.asked) < len(tasks):
            await asyncio.sleep(0.01)
        tasks[1].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    first, second, third = asyncio.run(asyncio.wait_for(main(), SECONDS))
    assert isinstance(second, asyncio.CancelledError)
    assert [solution(one).batch_size for one in (first, third)] == [2, 2]
