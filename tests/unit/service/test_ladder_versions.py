"""A version climbs the ladder by its own figures alone, also when it takes over while the service runs."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import TypeVar

import pytest

from hedgecast.client import Client, DecisionAnswer
from hedgecast.programs.risk import Risk
from hedgecast.registry.ladder import MeasuredStep
from hedgecast.rpc.codec import EMPTY_ROWS, NamedRows
from hedgecast.service.background import background_server
from hedgecast.service.ladder import Ladder
from hedgecast.service.local import LocalBackend, LocalModel
from hedgecast.service.models import ModelDescription, resolve
from hedgecast.service.queries import DecideQuery, Query
from hedgecast.service.settings import load_settings
from hedgecast.testing_last_day import fewer_scenarios_step

A = TypeVar("A")

FEWER = fewer_scenarios_step()
BOTH = dataclasses.replace(FEWER, rungs=("baseline_scenarios", "fewer_scenarios"), regret_increase=7.0)


class Moving:
    """Versions 3 and 4 of a model behind an alias that moves.

    As on a cluster, who lists the models may not have heard of the move that the one who answers has.
    """

    def __init__(self, local_model: LocalModel, *figures: Sequence[MeasuredStep]) -> None:
        self._local_model, self._figures = local_model, figures
        self.listed = self.meant = "3"
        plain = [self._described(version, "") for version in ("3", "4")]
        self._backend = LocalBackend(
            [
                dataclasses.replace(
                    local_model, model=dataclasses.replace(local_model.model, description=one)
                )
                for one in plain
            ]
        )
        self.close = self._backend.close

    def _described(self, version: str, champion: str) -> ModelDescription:
        return dataclasses.replace(
            self._local_model.model.description,
            version=version,
            fingerprint=version * 64,
            aliases=("champion",) if version == champion else (),
            ladder=tuple(self._figures[int(version) - 3]),
        )

    async def models(self) -> tuple[ModelDescription, ...]:
        # Those that were taken over are not known before.
        known = ("3", "4") if self.listed == "4" else ("3",)
        return tuple(self._described(version, self.listed) for version in known)

    async def answer(self, query: Query[A]) -> A:
        known = [self._described(version, self.meant) for version in ("3", "4")]
        meant = resolve(known, query.model).full_name
        return await self._backend.answer(dataclasses.replace(query, model=meant))


@contextlib.contextmanager
def _client(backend: Moving, ladder: str) -> Iterator[Client]:
    settings = load_settings(port=0, ladder=ladder, ladder_scenarios=20, ladder_hold_seconds=3600.0)
    with background_server(backend, settings) as address, Client(address, retries=0) as client:
        yield client
    backend.close()


def _decide(client: Client, rows: NamedRows) -> DecisionAnswer:
    return client.decide(
        "last_day@champion", history=rows.columns, history_times=rows.times, seed=4, scenario_count=100
    )


def test_a_version_without_figures_that_takes_over_is_answered_in_full(
    local_model: LocalModel, rows: NamedRows, caplog: pytest.LogCaptureFixture
) -> None:
    backend = Moving(local_model, [FEWER], [])
    with _client(backend, "fewer_scenarios:1") as client:
        _decide(client, rows)
        cheaper = _decide(client, rows)
        backend.listed = backend.meant = "4"
        after = [_decide(client, rows) for _ in range(3)]
    assert (cheaper.model, cheaper.scenario_count) == ("last_day@3", 20)
    assert [(one.model, one.scenario_count, one.degradation) for one in after] == [
        ("last_day@4", 100, None)
    ] * 3
    told = [record for record in caplog.records if "not measured for it" in record.getMessage()]
    assert len(told) == 1, "once, not for every request"
    assert "last_day@4 is not answered at fewer_scenarios" in told[0].getMessage()


def test_a_takeover_between_the_figures_and_the_answer_does_not_mix_them(
    local_model: LocalModel, rows: NamedRows
) -> None:
    dearer = dataclasses.replace(FEWER, regret_increase=99.0)
    backend = Moving(local_model, [FEWER], [dearer])
    with _client(backend, "fewer_scenarios:1") as client:
        _decide(client, rows)
        # Whoever answers knows of the new version, whoever looked up the figures does not yet.
        backend.meant = "4"
        between = _decide(client, rows)
        backend.listed = "4"
        after = _decide(client, rows)
    assert between.degradation is not None
    assert (between.model, between.degradation.regret_increase) == ("last_day@3", 3.0)
    assert after.degradation is not None
    assert (after.model, after.degradation.regret_increase) == ("last_day@4", 99.0)


def test_a_version_climbs_as_high_as_it_was_measured(local_model: LocalModel, rows: NamedRows) -> None:
    settings = load_settings(
        ladder="fewer_scenarios:1, baseline_scenarios:2, surrogate_solver:3", ladder_scenarios=20
    )
    ladder = Ladder(settings)
    query = DecideQuery(
        model="last_day", history=rows, known=EMPTY_ROWS, given={}, own=None, scenario_count=100, seed=4,
        risk=Risk(), request_id="r", deadline_seconds=60.0, quantile_levels=(0.5,), tail_level=0.95,
        return_scenarios=False, gap_replications=0, gap_confidence=0.95,
    )  # fmt: skip
    plain = local_model.model.description
    with contextlib.ExitStack() as load:
        for _ in range(3):
            load.enter_context(ladder.question())
        for figures, expected in (([FEWER, BOTH], BOTH), ([FEWER], FEWER), ([BOTH], BOTH), ([], None)):
            model = dataclasses.replace(plain, ladder=tuple(figures))
            asked = ladder.applied(query, model, refuses=False)
            assert asked.degradation is expected
            assert asked.rungs == (frozenset() if expected is None else expected.kinds)
            assert asked.model == ("last_day" if expected is None else "last_day@3")
