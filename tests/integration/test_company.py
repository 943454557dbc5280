"""Queries that share a call: who goes with whom and when, who fails, who leaves, a replica that is lost."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import numpy as np
import pytest
from ray.exceptions import ActorUnavailableError

from hedgecast.core.errors import DataError, UnavailableError
from hedgecast.programs.risk import Risk
from hedgecast.rpc.codec import EMPTY_ROWS
from hedgecast.service.answers import Scenarios
from hedgecast.service.batches import Limits
from hedgecast.service.budget import Budget
from hedgecast.service.queries import DecideQuery, ScenariosQuery
from hedgecast_workers.company import Company, kind_of
from hedgecast_workers.replies import Reply

GONE = ActorUnavailableError("gone", b"0" * 16)
QUERY = DecideQuery(
    model="m", history=EMPTY_ROWS, known=EMPTY_ROWS, given={}, own=None, scenario_count=5, seed=0,
    risk=Risk(), request_id="r", deadline_seconds=60.0, quantile_levels=(0.5,), tail_level=0.9,
    return_scenarios=False, gap_replications=0, gap_confidence=0.9,
)  # fmt: skip


class Solver:
    """A handle; each call to it waits until the test answers it."""

    def __init__(self) -> None:
        self.calls: list[_Response] = []
        self.withdrawn: list[dict[str, list[int]]] = []

    @property
    def answer(self) -> Any:
        return _Method(lambda query, _: self._called(None, [query]))

    @property
    def answer_all(self) -> Any:
        return _Method(lambda key, asked: self._called(key, [query for query, _ in asked]))

    def _called(self, key: str | None, queries: list[DecideQuery]) -> _Response:
        self.calls.append(_Response(key, queries))
        return self.calls[-1]

    def broadcast(self, method: str, withdrawn: dict[str, list[int]]) -> Any:
        assert method == "withdraw"
        self.withdrawn.append(withdrawn)
        return self

    async def results_async(self, **_: Any) -> list[None]:
        return []

    @property
    def seeds(self) -> list[list[int]]:
        return [[query.seed for query in call.queries] for call in self.calls]


class _Method:
    def __init__(self, call: Callable[..., Any]) -> None:
        self.remote = call


class _Response:
    def __init__(self, key: str | None, queries: list[DecideQuery]) -> None:
        self.key, self.queries = key, queries
        self.cancelled = False
        self._reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    def __await__(self) -> Generator[Any, None, Any]:
        return self._reply.__await__()

    def cancel(self) -> None:
        self.cancelled = True

    def fail(self, error: Exception) -> None:
        self._reply.set_exception(error)

    def reply(self, *outcomes: Any) -> None:
        """Own outcomes, else each query's seed; None: not told."""
        found = outcomes or tuple(query.seed for query in self.queries)
        replies = [None if one is None else Reply(one) for one in found]
        self._reply.set_result(replies[0] if self.key is None else replies)


class Asked:
    """A company and who asks it, by the seed of the query."""

    def __init__(self, *, calls: int = 2, most: int = 16, retries: int = 2) -> None:
        self.solver = Solver()
        self.company = Company(self.solver, most=most, retries=retries, name="gateway")  # type: ignore[arg-type]
        self.calls = calls
        self.tasks: dict[int, asyncio.Task[Reply]] = {}

    async def by(self, *seeds: int) -> None:
        for seed in seeds:
            query = dataclasses.replace(QUERY, seed=seed)
            answer = self.company.answer(query, Budget(60.0), self.calls)
            self.tasks[seed] = asyncio.create_task(answer)
            await settled()

    async def outcome(self, seed: int) -> Any:
        return (await self.tasks[seed]).outcome


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60.0))  # type: ignore[arg-type]


def test_nobody_waits_while_a_call_is_free_and_those_who_wait_go_together() -> None:
    async def main() -> None:
        asked = Asked()
        await asked.by(*range(10))
        assert asked.solver.seeds == [[0], [1]], "nobody waits for company"
        asked.solver.calls[0].reply()
        await settled()
        assert asked.solver.seeds[2:] == [[2, 3, 4, 5, 6]], "as many as its share of the nine in hand"
        await asked.by(10)
        asked.solver.calls[1].reply()
        await settled()
        assert asked.solver.seeds[3:] == [[7, 8, 9, 10]], "when the other ends, however few"
        for call in asked.solver.calls[2:]:
            call.reply()
        assert [await asked.outcome(seed) for seed in range(11)] == list(range(11))
        await settled()
        assert asked.company.idle

    run(main)


def test_a_second_call_waits_for_its_share_of_what_was_in_hand() -> None:
    async def main() -> None:
        asked = Asked()
        await asked.by(*range(8))
        for call in asked.solver.calls[:2]:
            call.reply()
        await settled()
        assert asked.solver.seeds[2:] == [[2, 3, 4, 5]], "two are fewer than three, half of seven"
        await asked.by(8)
        assert asked.solver.seeds[3:] == [[6, 7, 8]]
        asked.solver.calls[2].reply()
        await asked.by(9, 10)
        assert len(asked.solver.calls) == 4
        asked.solver.calls[3].reply()
        await settled()
        assert asked.solver.seeds[4:] == [[9], [10]], "nothing is under way: each call takes a half"

    run(main)


def test_solvers_have_calls_each_and_a_call_has_a_most() -> None:
    async def main() -> None:
        many = Asked(calls=6)
        await many.by(*range(6))
        assert many.solver.seeds == [[seed] for seed in range(6)], "three solvers, two calls each"
        few = Asked(calls=1, most=3)
        await few.by(*range(8))
        assert few.solver.seeds == [[0]]
        few.solver.calls[0].reply()
        await settled()
        assert few.solver.seeds[1:] == [[1, 2, 3]]

    run(main)


def test_each_has_an_error_of_its_own_and_what_is_none_of_ours_is_asked_again_alone() -> None:
    async def main() -> None:
        asked = Asked(calls=1)
        await asked.by(0, 1, 2, 3)
        asked.solver.calls[0].reply()
        await settled()
        error = DataError("a column is missing")
        asked.solver.calls[1].reply(1, error, None)
        await settled()
        assert await asked.outcome(1) == 1
        assert await asked.outcome(2) is error
        assert asked.solver.seeds[2:] == [[3]]
        assert asked.solver.calls[2].key is None
        asked.solver.calls[2].fail(ValueError("a mistake of ours"))
        with pytest.raises(ValueError, match="mistake"):
            await asked.tasks[3]

    run(main)


def test_who_is_cancelled_is_not_sent_or_withdrawn_and_the_others_go_on() -> None:
    async def main() -> None:
        asked = Asked(calls=1)
        await asked.by(*range(6))
        asked.tasks[2].cancel()
        await settled()
        asked.solver.calls[0].reply()
        await settled()
        call = asked.solver.calls[1]
        assert asked.solver.seeds[1:] == [[1, 3, 4, 5]]
        asked.tasks[3].cancel()
        asked.tasks[5].cancel()
        await settled()
        assert asked.solver.withdrawn == [{call.key: [1, 3]}]
        assert not call.cancelled
        call.reply(1, None, 4, None)
        assert [await asked.outcome(seed) for seed in (1, 4)] == [1, 4]
        assert len(asked.solver.calls) == 2, "nobody asks again for those who went"

    run(main)


def test_a_call_that_nobody_waits_for_is_cancelled_and_makes_room() -> None:
    async def main() -> None:
        asked = Asked(calls=1)
        await asked.by(0, 1, 2)
        asked.tasks[0].cancel()
        await settled()
        assert asked.solver.calls[0].cancelled
        assert asked.solver.seeds[1:] == [[1, 2]]
        asked.tasks[1].cancel()
        asked.tasks[2].cancel()
        await settled()
        assert asked.solver.calls[1].cancelled
        assert asked.company.idle

    run(main)


def test_a_lost_replica_costs_all_of_its_call_a_retry_with_the_time_that_is_left() -> None:
    async def main() -> None:
        asked = Asked(calls=1)
        await asked.by(*range(5))
        asked.solver.calls[0].reply()
        await settled()
        asked.tasks[2].cancel()
        await settled()
        asked.solver.calls[1].fail(GONE)
        await settled()
        assert asked.solver.seeds[1:] == [[1, 2, 3, 4], [1, 3, 4]]
        keys = [call.key for call in asked.solver.calls[1:]]
        assert len(set(keys)) == 2, "a replica may still have the first try in hand"
        before, after = (call.queries[0].deadline_seconds for call in asked.solver.calls[1:])
        assert 0.0 < after < before < 60.0
        asked.solver.calls[2].reply()
        assert [await asked.outcome(seed) for seed in (1, 3, 4)] == [1, 3, 4]

    run(main)


def test_retries_end_and_everybody_in_the_call_is_told() -> None:
    async def main() -> None:
        asked = Asked(calls=1, retries=1)
        await asked.by(0, 1, 2)
        asked.solver.calls[0].reply()
        await settled()
        for number in (1, 2):
            asked.solver.calls[number].fail(GONE)
            await settled()
        for seed in (1, 2):
            with pytest.raises(UnavailableError, match="went away"):
                await asked.tasks[seed]

    run(main)


@pytest.mark.parametrize(
    "change",
    [
        {"model": "other"},
        {"scenario_count": 6},
        {"risk": Risk(beta=1.0, alpha=0.9)},
        {"prices": False},
        {"gap_replications": 2},
        {"given": {"capacity": np.ones(1)}},
    ],
    ids=str,
)
def test_others_than_of_a_kind_go_apart(change: dict[str, Any]) -> None:
    kind = kind_of(QUERY, Limits())
    assert kind is not None
    assert kind == kind_of(dataclasses.replace(QUERY, seed=1, return_scenarios=True), Limits())
    assert kind != kind_of(dataclasses.replace(QUERY, **change), Limits())


def test_what_is_large_or_no_decision_goes_by_itself() -> None:
    own = Scenarios(names=("load",), units=("GW",), times=None, paths=np.zeros((5, 2, 1)), probabilities=None)
    other = ScenariosQuery(
        **{field.name: getattr(QUERY, field.name) for field in dataclasses.fields(ScenariosQuery)}
    )
    assert kind_of(other, Limits()) is None
    assert kind_of(dataclasses.replace(QUERY, own=own), Limits()) is None
    assert kind_of(dataclasses.replace(QUERY, validate_only=True), Limits()) is None
    assert kind_of(QUERY, Limits(weight=10)) is not None
    assert kind_of(QUERY, Limits(weight=9)) is None, "no two fit into a batch"
    assert kind_of(QUERY, Limits(jobs=1)) is None
