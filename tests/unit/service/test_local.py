"""The backend of this process: many at once get what each gets alone."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from hedgecast.client.requests import decide_request
from hedgecast.core.errors import DeadlineError, InfeasibleError, UnavailableError
from hedgecast.rpc.codec import NamedRows
from hedgecast.service.answers import DecideAnswer, Solution
from hedgecast.service.batches import Limits
from hedgecast.service.local import LocalBackend, LocalModel
from hedgecast.service.queries import DecideQuery
from hedgecast.service.requests import decide_query
from hedgecast.service.settings import ServiceSettings

# A full batch ends it.
WAIT_SECONDS = 300.0


@pytest.fixture
def query_of(rows: NamedRows) -> Callable[..., DecideQuery]:
    def make(seed: int, deadline_seconds: float = 600.0, **options: object) -> DecideQuery:
        message = decide_request(
            "last_day",
            {"history": rows.columns, "history_times": rows.times, "scenario_count": 30} | options,  # type: ignore[arg-type]
        )
        query = decide_query(message, ServiceSettings(), deadline_seconds=deadline_seconds)
        return dataclasses.replace(query, seed=seed)

    return make


def answered(
    local_model: LocalModel, queries: list[DecideQuery], limits: Limits
) -> list[DecideAnswer | BaseException]:
    async def all_at_once() -> list[DecideAnswer | BaseException]:
        return await asyncio.gather(*map(backend.answer, queries), return_exceptions=True)

    backend = LocalBackend([local_model], batches=limits)
    try:
        return asyncio.run(all_at_once())
    finally:
        backend.close()


def solution(answer: DecideAnswer | BaseException) -> Solution:
    assert isinstance(answer, DecideAnswer)
    assert answer.solution is not None
    return answer.solution


def test_who_waits_together_gets_what_each_gets_alone(
    local_model: LocalModel, query_of: Callable[..., DecideQuery]
) -> None:
    queries = [query_of(seed, quantile_levels=[0.1 * (seed + 1)]) for seed in range(3)]
    queries += [query_of(7, given={"capacity": 45.0}), query_of(8, given={"capacity": -1.0})]
    together = answered(local_model, queries[:3], Limits(jobs=3, wait_seconds=WAIT_SECONDS))
    # Other given names are another batch, and the second of that has no decision.
    mixed = answered(local_model, queries[3:], Limits(jobs=2, wait_seconds=WAIT_SECONDS))
    alone = answered(local_model, queries, Limits(jobs=1))
    assert [solution(one).batch_size for one in together] == [3, 3, 3]
    for found, wanted in zip([*together, mixed[0]], alone[:4], strict=True):
        one, other = solution(found), solution(wanted)
        assert one.scenario_fingerprint == other.scenario_fingerprint
        np.testing.assert_allclose(one.decision[0].values, other.decision[0].values, rtol=1e-6)
        assert one.statistics.expected_regret == pytest.approx(other.statistics.expected_regret, rel=1e-6)
        assert one.statistics.cost_quantiles[0] == pytest.approx(other.statistics.cost_quantiles[0], rel=1e-6)
    for error in (mixed[1], alone[4]):
        assert isinstance(error, InfeasibleError)
    assert str(mixed[1]) == str(alone[4])


def test_a_late_one_holds_nobody_up(local_model: LocalModel, query_of: Callable[..., DecideQuery]) -> None:
    queries = [query_of(0), query_of(1, deadline_seconds=0.0)]
    found = answered(local_model, queries, Limits(jobs=2))
    assert solution(found[0]).statistics.expected_cost > 0.0
    assert isinstance(found[1], DeadlineError)


def test_a_closed_backend_says_so(local_model: LocalModel, query_of: Callable[..., DecideQuery]) -> None:
    backend = LocalBackend([local_model])
    backend.close()
    with pytest.raises(UnavailableError, match="going away"):
        asyncio.run(backend.answer(query_of(0)))
