"""Stages, levels and stops of a certified decision; its bounds against the true gap."""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from hedgecast.client import CertifiedDecision, Client
from hedgecast.core.errors import DeadlineError, InputError
from hedgecast.programs.risk import Risk
from hedgecast.rpc.codec import EMPTY_ROWS, NamedRows
from hedgecast.service.answers import DecideAnswer, Gap
from hedgecast.service.background import background_server
from hedgecast.service.certify import Certificate, StopReason, Terms, certified, stage_level
from hedgecast.service.local import LocalBackend
from hedgecast.service.queries import DecideQuery
from hedgecast.service.settings import ServiceSettings

STEPS = 6
TERMS = Terms(target_gap=1.0, target_relative_gap=0.0, confidence=0.95, draw_limit=10_000, stage_limit=10_000)


@dataclasses.dataclass
class _Statistics:
    objective: float = 10.0


@dataclasses.dataclass
class _Solution:
    gap: Gap
    statistics: _Statistics = dataclasses.field(default_factory=_Statistics)


@dataclasses.dataclass
class _Model:
    full_name: str


class Stages:
    """Answers each stage with the next of given bounds, and takes time by a clock of its own."""

    def __init__(self, *bounds: float, seconds: float = 1.0) -> None:
        self.bounds, self.seconds = list(bounds), seconds
        self.now = 0.0
        self.asked: list[DecideQuery] = []

    def clock(self) -> float:
        return self.now

    async def __call__(self, query: DecideQuery) -> DecideAnswer:
        self.asked.append(query)
        self.now += self.seconds * query.scenario_count / 50
        gap = Gap(
            estimate=0.0, standard_error=0.0, upper_bound=self.bounds.pop(0), confidence=query.gap_confidence,
            replications=query.gap_replications,
        )  # fmt: skip
        # The alias moves after each stage.
        version = len(self.asked) if query.model == "m" else int(query.model.partition("@")[2])
        return DecideAnswer(model=_Model(f"m@{version}"), solution=_Solution(gap))  # type: ignore[arg-type]


def _query(**changes: Any) -> DecideQuery:
    query = DecideQuery(
        model="m", history=EMPTY_ROWS, known=EMPTY_ROWS, given={}, own=None, scenario_count=50, seed=3,
        risk=Risk(), request_id="r", deadline_seconds=60.0, quantile_levels=(0.5,), tail_level=0.9,
        return_scenarios=False, gap_replications=0, gap_confidence=0.95,
    )  # fmt: skip
    return dataclasses.replace(query, **changes)


def _run(stages: Stages, terms: Terms = TERMS, **changes: Any) -> list[Certificate]:
    async def collect() -> list[Certificate]:
        return [found async for found in certified(_query(**changes), terms, stages, stages.clock)]

    return asyncio.run(collect())


def test_it_goes_on_until_the_bound_is_small_and_keeps_the_best() -> None:
    stages = Stages(5.0, 7.0, 0.9)
    found = _run(stages)
    assert [item.upper_bound for item in found] == [5.0, 5.0, 0.9]
    assert [item.stop for item in found] == [None, None, StopReason.CERTIFIED]
    assert [query.scenario_count for query in stages.asked] == [50, 100, 200]
    assert [query.model for query in stages.asked] == ["m", "m@1", "m@1"], "bounds are of one model"
    # Every stage begins where the draws of the one before end: 11 samples each.
    assert [query.draw_start for query in stages.asked] == [0, 550, 1650]
    assert found[-1].draws == 550 + 1100 + 2200
    assert found[1].query.scenario_count == 50


def test_the_levels_of_all_stages_together_are_the_asked_one() -> None:
    doubt = sum(1.0 - stage_level(0.95, stage) for stage in range(200_000))
    assert doubt == pytest.approx(0.05, rel=1e-5)
    stages = Stages(5.0, 0.5)
    _run(stages)
    assert [query.gap_confidence for query in stages.asked] == [
        1 - 0.05 * 6 / math.pi**2,
        1 - 0.05 * 6 / (4 * math.pi**2),
    ]


def test_it_stops_before_the_deadline_and_before_the_draws_are_used_up() -> None:
    late = _run(Stages(5.0, 5.0, 5.0, 5.0), deadline_seconds=7.0)
    # 1 + 2 s, then 4 s that are left are less than 2.5 times the last 2 s.
    assert [item.stop for item in late] == [None, StopReason.DEADLINE_NEAR]
    few = dataclasses.replace(TERMS, draw_limit=2000)
    assert _run(Stages(5.0, 5.0), few)[-1].stop is StopReason.DRAWS_USED_UP
    stage = dataclasses.replace(TERMS, stage_limit=600)
    assert [item.stop for item in _run(Stages(5.0), stage)] == [StopReason.DRAWS_USED_UP]


@pytest.mark.parametrize("ends", ["in time", "never"])
def test_a_stage_that_takes_longer_than_foretold_costs_nothing_that_was_found(ends: str) -> None:
    stages = Stages(5.0)

    async def answer(query: DecideQuery) -> DecideAnswer:
        if stages.asked and ends == "in time":
            raise DeadlineError("0.3 s were up before the statistics")
        if stages.asked:
            await asyncio.sleep(60.0)
        return await stages(query)

    async def collect() -> list[Certificate]:
        query = _query(deadline_seconds=0.3)
        return [found async for found in certified(query, TERMS, answer, lambda: 0.0)]

    first, last = asyncio.run(collect())
    assert (first.stop, last.stop) == (None, StopReason.DEADLINE_NEAR)
    assert (last.best, last.upper_bound) == (first.best, 5.0)
    assert (last.stages, last.draws) == (1, 550)


def test_a_first_stage_that_is_late_is_an_error() -> None:
    async def answer(query: DecideQuery) -> DecideAnswer:
        raise DeadlineError(f"{query.deadline_seconds} s were up before the solve")

    async def collect() -> list[Certificate]:
        return [found async for found in certified(_query(), TERMS, answer)]

    with pytest.raises(DeadlineError):
        asyncio.run(collect())


def test_a_relative_target_is_of_the_objective() -> None:
    terms = dataclasses.replace(TERMS, target_gap=0.0, target_relative_gap=0.1)
    assert _run(Stages(1.5, 1.0), terms)[-1].stop is StopReason.CERTIFIED


def test_what_cannot_be_asked() -> None:
    for gap, relative in ((0.0, 0.0), (1.0, 0.1)):
        with pytest.raises(InputError, match="exactly one"):
            dataclasses.replace(TERMS, target_gap=gap, target_relative_gap=relative)
    with pytest.raises(InputError, match="550 draws, at most 500"):
        _run(Stages(1.0), dataclasses.replace(TERMS, stage_limit=500))


@pytest.fixture
def client(local_backend: LocalBackend) -> Iterator[Client]:
    with background_server(local_backend, ServiceSettings(port=0)) as address, Client(address) as client:
        yield client


def _true_gap(schedule: np.ndarray, mean: np.ndarray) -> float:
    """Of Gaussian load of deviation 0.1 with prices 50 and 0.5: the expected cost has a closed form."""

    def cost(z: np.ndarray) -> float:
        short = 0.1 * (norm.pdf(z) - z * norm.sf(z))
        over = 0.1 * (norm.pdf(z) + z * norm.cdf(z))
        return float((50 * short + 0.5 * over).sum())

    best = np.full(STEPS, norm.ppf(50 / 50.5))
    return cost((schedule - mean) / 0.1) - cost(best)


def test_the_bound_holds_for_the_true_gap(client: Client, rows: NamedRows) -> None:
    ask = {"history": rows.columns, "history_times": rows.times}
    mean = rows.columns["load"][-STEPS:]
    held = []
    for seed in range(12):
        stages: list[CertifiedDecision] = list(
            client.decide_until_certified("last_day", **ask, seed=seed, target_gap=0.5, draw_limit=4000)
        )
        assert stages[-1].stop_reason in ("CERTIFIED", "DRAWS_USED_UP")
        assert all(not stage.stop_reason for stage in stages[:-1])
        bounds = [stage.model_gap_upper_bound for stage in stages]
        assert bounds == sorted(bounds, reverse=True)
        held.append(_true_gap(stages[-1].best.decision["schedule"], mean) <= bounds[-1])
    # At 0.95, two misses of twelve have a probability of 12 %, three of 2 %.
    assert sum(held) >= 10


def test_the_same_question_has_the_same_answer_and_may_be_left_early(client: Client, rows: NamedRows) -> None:
    ask = {"history": rows.columns, "history_times": rows.times, "target_relative_gap": 0.2}
    first = [stage.best.decision["schedule"] for stage in client.decide_until_certified("last_day", **ask)]
    again = [stage.best.decision["schedule"] for stage in client.decide_until_certified("last_day", **ask)]
    np.testing.assert_array_equal(first, again)
    for stage in client.decide_until_certified("last_day", **{**ask, "target_relative_gap": 1e-9}):
        assert stage.best.gap is not None
        break
    assert client.decide("last_day", history=rows.columns, history_times=rows.times, scenario_count=5)


def test_fields_that_make_no_sense_are_refused(client: Client, rows: NamedRows) -> None:
    ask = {"history": rows.columns, "history_times": rows.times}
    for options, message in (
        ({}, "exactly one must be positive"),
        ({"target_gap": 1.0, "risk": "worst"}, "cannot be bounded"),
        ({"target_gap": -1.0}, "must not be negative"),
        ({"target_gap": 1.0, "draw_limit": 200_000}, "from 1 to 100000"),
        ({"target_gap": 1.0, "scenario_count": 1000}, "11000 draws"),
    ):
        with pytest.raises(InputError, match=message):
            list(client.decide_until_certified("last_day", **ask, **options))
