"""Scenarios through both clients: whole, batch by batch, over a service that breaks in the middle."""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pytest
import torch

from hedgecast.client import AsyncClient, Client, GeneratedScenarios, ScenarioOptions
from hedgecast.core import errors
from hedgecast.rpc.codec import NamedRows
from hedgecast.scenarios.scenario_set import ScenarioSet
from hedgecast.service.background import background_server
from hedgecast.service.local import LocalBackend
from hedgecast.service.queries import Query, ScenariosQuery
from hedgecast.service.settings import ServiceSettings

BATCHES: ScenarioOptions = {"scenario_count": 250, "seed": 4, "batch_scenario_count": 50}


@pytest.fixture
def address(local_backend: LocalBackend) -> Iterator[str]:
    with background_server(local_backend, ServiceSettings(port=0)) as address:
        yield address


@pytest.fixture
def question(rows: NamedRows) -> ScenarioOptions:
    return {"history": rows.columns, "history_times": rows.times, **BATCHES}


def _blocking(address: str, question: ScenarioOptions, **options: Any) -> GeneratedScenarios:
    with Client(address, **options) as client:
        return client.scenarios("last_day", **question)


def _asynchronous(address: str, question: ScenarioOptions, **options: Any) -> GeneratedScenarios:
    async def run() -> GeneratedScenarios:
        async with AsyncClient(address, **options) as client:
            return await client.scenarios("last_day", **question)

    return asyncio.run(run())


both = pytest.mark.parametrize("ask", [_blocking, _asynchronous])
Ask = Callable[..., GeneratedScenarios]


@both
def test_they_are_those_of_a_decision(address: str, question: ScenarioOptions, ask: Ask) -> None:
    found = ask(address, question)
    with Client(address) as client:
        answer = client.decide(
            "last_day", history=question["history"], history_times=question["history_times"],
            scenario_count=250, seed=4, return_scenarios=True, gap_replications=0,
        )  # fmt: skip
    assert answer.scenarios is not None
    np.testing.assert_array_equal(found.paths, answer.scenarios.paths)
    np.testing.assert_array_equal(found.probabilities, answer.scenarios.probabilities)
    np.testing.assert_array_equal(found.times, answer.scenarios.times)
    assert (found.names, found.units) == (answer.scenarios.series, answer.scenarios.units)
    assert found.fingerprint == answer.scenario_fingerprint
    assert (found.model, found.model_fingerprint) == (answer.model, answer.model_fingerprint)
    assert (found.seed, found.drawn, found.reduction, found.warnings) == (4, 250, None, ())
    assert found.scenario_source == "MODEL"
    np.testing.assert_array_equal(found.indices, np.arange(250))


def test_every_form_has_the_same_numbers(address: str, question: ScenarioOptions) -> None:
    pytest.importorskip("pandas")
    found = _blocking(address, question)
    assert isinstance(found.to_table(), pa.Table)
    assert len(found.to_table().to_batches()) == 5
    assert found.to_torch().dtype == torch.float32
    np.testing.assert_array_equal(found.to_torch().numpy(), found.paths)
    frame = found.to_pandas()
    assert list(frame.columns) == ["load"]
    assert frame.index.names == ["scenario", "time"]
    third = frame.loc[3]
    np.testing.assert_array_equal(third["load"].to_numpy(), found.paths[3, :, 0])
    assert str(third.index.tz) == "UTC"
    np.testing.assert_array_equal(third.index.tz_localize(None).to_numpy(), found.times)


def test_a_reduction_and_a_tree_say_what_they_cost(address: str, question: ScenarioOptions) -> None:
    pytest.importorskip("pandas")
    few = _blocking(address, {**question, "reduce_to": 6, "risk": "cvar:0.5", "given": {"capacity": 41.0}})
    assert few.reduction is not None
    assert (few.reduction.kept, few.reduction.method, few.drawn) == (6, "FORWARD_SELECTION", 250)
    assert few.reduction.cost_error > 0 < few.reduction.distance
    np.testing.assert_array_equal(few.paths, _blocking(address, question).paths[few.indices])
    assert few.probabilities.sum() == pytest.approx(1.0)
    assert sorted(few.to_pandas().index.get_level_values(0).unique()) == sorted(few.indices)
    means = _blocking(address, {**question, "reduce_to": 6, "reduction_method": "k-means"})
    assert means.indices.size == 0
    shape = {"stages": [0, 2], "branching": [3, 2]}
    tree = _blocking(address, {**question, "tree": shape})
    assert tree.reduction is not None
    assert tree.reduction.kept == 6
    assert tree.to_pandas()["name"].tolist()[:2] == ["ROOT", "ROOT_0"]
    assert (tree.names, tree.units, len(tree.times)) == (("load",), ("GW",), 6)
    with pytest.raises(errors.DataError, match="to_table"):
        _ = tree.paths


class Breaking:
    """A backend that is unavailable on some of its calls."""

    def __init__(self, backend: LocalBackend, *breaks: int) -> None:
        self.backend, self.breaks = backend, set(breaks)
        self.starts: list[int] = []

    async def models(self) -> Any:
        return await self.backend.models()

    async def answer(self, query: Query[Any]) -> Any:
        if isinstance(query, ScenariosQuery):
            self.starts.append(query.draw_start)
            if len(self.starts) in self.breaks:
                raise errors.UnavailableError("the replica went away")
        return await self.backend.answer(query)


@both
@pytest.mark.parametrize("breaks", [(1,), (2,), (5,), (2, 4, 6, 8)])
def test_it_goes_on_where_it_broke(
    local_backend: LocalBackend, question: ScenarioOptions, address: str, ask: Ask, breaks: tuple[int, ...]
) -> None:
    whole = _blocking(address, question)
    backend = Breaking(local_backend, *breaks)
    with background_server(backend, ServiceSettings(port=0, retry_delay_seconds=0.01)) as broken:
        found = ask(broken, question)
    assert found.to_table().equals(whole.to_table(), check_metadata=True)
    assert found.fingerprint == whole.fingerprint
    assert backend.starts.count(0) == (2 if 1 in breaks else 1), "what came is not drawn again"


@both
def test_it_gives_up_without_progress(
    local_backend: LocalBackend, question: ScenarioOptions, ask: Ask
) -> None:
    backend = Breaking(local_backend, *range(3, 100))
    with (
        background_server(backend, ServiceSettings(port=0, retry_delay_seconds=0.01)) as broken,
        pytest.raises(errors.UnavailableError, match="went away"),
    ):
        ask(broken, question, retries=2)
    assert backend.starts == [0, 50, 100, 100, 100]


def test_a_connection_that_breaks_after_the_last_batch(address: str, question: ScenarioOptions) -> None:
    """Only the status is missing: the last batch comes again and is not taken twice."""
    whole = _blocking(address, question)
    with Client(address) as client:
        real = client._scenarios
        calls = []

        class Broken(grpc.RpcError):  # type: ignore[misc]
            def code(self) -> grpc.StatusCode:
                return grpc.StatusCode.UNAVAILABLE

            def details(self) -> str:
                return "reset"

            def trailing_metadata(self) -> tuple[()]:
                return ()

        class Cut:
            def __init__(self, call: Any) -> None:
                self.call = call

            def __iter__(self) -> Iterator[Any]:
                for piece in self.call:
                    yield piece
                    if piece.rest.HasField("end"):
                        raise Broken

            def cancel(self) -> None:
                self.call.cancel()

        def generate(request: Any, **options: Any) -> Any:
            calls.append(request.first_batch_index)
            call = real(request, **options)
            return Cut(call) if len(calls) == 1 else call

        client._scenarios = generate
        found = client.scenarios("last_day", **question)
    assert calls == [0, 4]
    assert found.to_table().equals(whole.to_table(), check_metadata=True)
    assert found.fingerprint == whole.fingerprint


def test_batches_come_one_by_one_and_leaving_stops(
    local_backend: LocalBackend, question: ScenarioOptions
) -> None:
    backend = Breaking(local_backend)

    async def first_of(address: str) -> pa.RecordBatch:
        async with AsyncClient(address) as client:
            batches: AsyncIterator[Any] = client.scenario_batches("last_day", **question)
            async for batch in batches:
                return batch
        raise AssertionError("no batch")

    with background_server(backend, ServiceSettings(port=0)) as address:
        with Client(address) as client:
            taken = list(client.scenario_batches("last_day", **question))
            one = next(client.scenario_batches("last_day", **question))
        assert [batch.num_rows for batch in taken] == [50] * 5
        assert one.equals(taken[0])
        assert asyncio.run(first_of(address)).equals(taken[0])


def test_another_model_under_the_same_name_is_not_mixed(
    local_backend: LocalBackend, question: ScenarioOptions
) -> None:
    import dataclasses

    class Replaced(Breaking):
        async def answer(self, query: Query[Any]) -> Any:
            found = await super().answer(query)
            if len(self.starts) > 2:
                other = dataclasses.replace(found.model, fingerprint="0" * 64)
                return dataclasses.replace(found, model=other)
            return found

    with (
        background_server(
            Replaced(local_backend), ServiceSettings(port=0, retry_delay_seconds=0.01)
        ) as address,
        pytest.raises(errors.UnavailableError, match="replaced by another model"),
    ):
        _blocking(address, question)


def test_without_pyarrow_it_says_what_is_missing(
    address: str, question: ScenarioOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.import_module

    def absent(name: str, package: str | None = None) -> Any:
        if name.startswith("pyarrow"):
            raise ModuleNotFoundError(name)
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(errors.DependencyError, match=r"hedgecast\[files\]"):
        _blocking(address, question)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"reduction_method": "best"}, errors.ConfigError, "reduction_method is 'best'"),
        ({"tree": {"stages": [0]}}, errors.ConfigError, "'branching'"),
        ({"reduce_to": 251}, errors.InputError, "reduce_to is 251"),
        ({"risk": "cvar:0.5"}, errors.InputError, "risk is set without"),
    ],
)
def test_wrong_use_is_named(
    address: str, question: ScenarioOptions, options: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        _blocking(address, {**question, **options})


def test_the_set_can_be_made_again(address: str, question: ScenarioOptions) -> None:
    found = _blocking(address, question)
    again = ScenarioSet(
        paths=found.to_torch()[None], names=found.names, units=found.units, times=found.times[None]
    )
    assert again.fingerprint() == found.fingerprint
