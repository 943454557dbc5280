"""What the gateway knows of its replicas while versions come and go, and whom it asks."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Generator
from typing import Any

import pytest
from ray.exceptions import ActorUnavailableError

from hedgecast.core.errors import DataError, ModelNotFoundError
from hedgecast.programs.risk import Risk
from hedgecast.rpc.codec import EMPTY_ROWS
from hedgecast.service.draw_queue import DrawFigures
from hedgecast.service.models import ModelDescription
from hedgecast.service.queries import DecideQuery, EvaluateQuery, Query, ScenariosQuery
from hedgecast.service.settings import load_settings
from hedgecast.testing_last_day import last_day_model
from hedgecast_workers.replies import Reply
from hedgecast_workers.serve import HandleBackend, Pair

FIGURES = DrawFigures(queued=1, waited_seconds=0.0, batches=1, fill=0.5)
SETTINGS = load_settings(replica_retries=2)
GONE = ActorUnavailableError("gone", b"0" * 16)


class Replica:
    """A handle whose replica has the versions that it is given, and answers with its name."""

    def __init__(self, name: str, *models: ModelDescription) -> None:
        self.name, self.models = name, models
        self.described = 0
        self.failures: list[Exception] = []
        self.outcome: Any = name
        self.seconds: list[float] = []
        self.replicas = 1
        self.hold: asyncio.Event | None = None

    @property
    def describe(self) -> Any:
        return _Method(self._describe)

    @property
    def answer(self) -> Any:
        return _Method(self._answer, self.failures, self.hold)

    def broadcast(self, method: str) -> Any:
        assert method == "describe"
        return _Broadcast(*[self.models] * self.replicas)

    def _answer(self, query: Query[Any], trace: object) -> Reply:
        self.seconds.append(query.deadline_seconds)
        return Reply(self.outcome, (FIGURES,))

    def _describe(self) -> tuple[ModelDescription, ...]:
        self.described += 1
        return self.models


class _Method:
    def __init__(
        self, answer: Any, failures: list[Exception] | None = None, hold: asyncio.Event | None = None
    ) -> None:
        self._answer, self._failures, self._hold = answer, [] if failures is None else failures, hold

    def remote(self, *arguments: Any) -> Any:
        async def response() -> Any:
            if self._failures:
                raise self._failures.pop()
            answer = self._answer(*arguments)
            if self._hold is not None:
                await self._hold.wait()
            return answer

        return _Response(response())


class _Broadcast:
    def __init__(self, *answers: Any) -> None:
        self._answers = answers

    async def results_async(self, **_: Any) -> list[Any]:
        return list(self._answers)


class _Response:
    def __init__(self, work: Any) -> None:
        self._work = work

    def __await__(self) -> Generator[Any, None, Any]:
        return self._work.__await__()  # type: ignore[no-any-return]


def _model(version: str, *aliases: str, superseded: bool = False) -> ModelDescription:
    plain = last_day_model().model.description
    return dataclasses.replace(plain, version=version, aliases=aliases, superseded=superseded)


def _pair(name: str, *models: ModelDescription) -> Pair:
    """Of a solver that knows the models, and a denoiser that is not asked for them."""
    return Pair(Replica(name, *models), Replica(f"{name}'s denoiser"))  # type: ignore[arg-type]


def _replica(handle: object) -> Replica:
    assert isinstance(handle, Replica)
    return handle


def _query(model: str) -> EvaluateQuery:
    return EvaluateQuery(
        model=model, history=EMPTY_ROWS, known=EMPTY_ROWS, given={}, own=None, scenario_count=5, seed=0,
        risk=Risk(), request_id="r", deadline_seconds=60.0, candidates=(), confidence=0.9,
    )  # fmt: skip


def _decide_query(model: str) -> DecideQuery:
    plain = _query(model)
    return DecideQuery(
        **{field.name: getattr(plain, field.name) for field in dataclasses.fields(Query)},
        quantile_levels=(0.5,), tail_level=0.9, return_scenarios=False, gap_replications=0,
        gap_confidence=0.9,
    )  # fmt: skip


def _scenarios_query(model: str) -> ScenariosQuery:
    plain = _query(model)
    return ScenariosQuery(**{field.name: getattr(plain, field.name) for field in dataclasses.fields(Query)})


def test_a_version_that_has_just_taken_over_is_found() -> None:
    async def main() -> None:
        pair = _pair("solver", _model("1", "champion"))
        backend, solver = HandleBackend(pair, settings=SETTINGS), _replica(pair.solver)
        assert [model.version for model in await backend.models()] == ["1"]
        solver.models = (_model("2", "champion"), _model("1", superseded=True))
        assert await backend.answer(_query("last_day@2")) == "solver"
        assert [model.version for model in await backend.models()] == ["2", "1"]
        assert solver.described == 2, "not for every call"
        with pytest.raises(ModelNotFoundError):
            await backend.answer(_query("last_day@3"))

    asyncio.run(main())


def test_the_version_before_stays_known_where_a_new_replica_answers() -> None:
    async def main() -> None:
        pair = _pair("solver", _model("1", "champion"))
        backend, solver = HandleBackend(pair, settings=SETTINGS), _replica(pair.solver)
        await backend.models()
        solver.models = (_model("2", "champion"),)
        assert await backend.answer(_query("last_day@2")) == "solver"
        assert await backend.answer(_query("last_day@1")) == "solver"
        assert [(one.version, one.aliases, one.superseded) for one in await backend.models()] == [
            ("2", ("champion",), False),
            ("1", (), True),
        ]
        solver.models = (_model("3", "champion"),)
        assert await backend.answer(_query("last_day@3")) == "solver"
        assert [one.version for one in await backend.models()] == ["3", "2"], "one before, not all"

    asyncio.run(main())


def test_a_canary_that_became_the_champion_is_answered_by_the_models_solver() -> None:
    async def main() -> None:
        first = _pair("first", _model("2", "champion"), _model("1", superseded=True))
        shadow = _pair("shadow", _model("2", "candidate", "canary"))
        backend = HandleBackend(first, shadow, settings=SETTINGS)
        assert await backend.answer(_query("last_day")) == "first"
        assert await backend.answer(_query("last_day@2")) == "first"
        _replica(shadow.solver).models = (_model("3", "canary"),)
        assert await backend.answer(_query("last_day@3")) == "shadow"
        assert await backend.answer(_scenarios_query("last_day@3")) == "shadow's denoiser"
        assert await backend.answer(_scenarios_query("last_day@2")) == "first's denoiser"

    asyncio.run(main())


def test_a_bare_name_is_the_version_that_is_not_superseded() -> None:
    async def main() -> None:
        backend = HandleBackend(
            _pair("s", _model("2", "candidate"), _model("1", superseded=True)), settings=SETTINGS
        )
        assert await backend.answer(_query("last_day")) == "s"

    asyncio.run(main())


@pytest.mark.parametrize(("replicas", "calls"), [(1, 2), (3, 6)])
def test_decisions_wait_once_every_solver_has_its_calls(replicas: int, calls: int) -> None:
    async def main() -> None:
        pair = _pair("solver", _model("1"))
        backend, solver = HandleBackend(pair, settings=SETTINGS), _replica(pair.solver)
        solver.replicas, solver.hold = replicas, asyncio.Event()
        tasks = [asyncio.create_task(backend.answer(_decide_query("last_day"))) for _ in range(calls + 1)]
        others = [asyncio.create_task(backend.answer(_query("last_day"))) for _ in range(10)]
        await asyncio.sleep(0.05)
        assert len(solver.seconds) == calls + len(others), "only a decision waits"
        solver.hold.set()
        assert await asyncio.gather(*tasks, *others) == ["solver"] * (calls + 1 + len(others))

    asyncio.run(main())


@pytest.mark.parametrize("ask", [_query, _decide_query, _scenarios_query])
def test_a_replica_that_goes_away_costs_a_retry_and_draws_are_told(ask: Callable[[str], Query[Any]]) -> None:
    async def main() -> None:
        seen: list[DrawFigures] = []
        pair = _pair("solver", _model("1"))
        backend = HandleBackend(pair, settings=SETTINGS, observe=seen.append)
        replica = _replica(pair.denoiser if ask is _scenarios_query else pair.solver)
        replica.failures += [GONE, GONE]
        assert await backend.answer(ask("last_day")) == replica.name
        assert seen == [FIGURES]
        assert 0.0 < replica.seconds[0] < 60.0, "of the time that is left"
        replica.outcome = DataError("a column is missing")
        with pytest.raises(DataError):
            await backend.answer(ask("last_day"))

    asyncio.run(main())
