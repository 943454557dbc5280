"""GenerateScenarios: one Arrow stream, the same scenarios as Decide's, bounded whatever the reader does."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import grpc
import numpy as np
import pyarrow as pa
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from hedgecast.programs.reduction_error import reduction_error
from hedgecast.programs.risk import Risk
from hedgecast.rpc import codec
from hedgecast.rpc.codec import NamedRows
from hedgecast.rpc.v1 import decision_service_pb2 as decision_pb
from hedgecast.rpc.v1 import decision_service_pb2_grpc as decision_grpc
from hedgecast.rpc.v1 import risk_pb2
from hedgecast.rpc.v1 import scenario_service_pb2 as scenario_pb
from hedgecast.rpc.v1 import scenario_service_pb2_grpc as scenario_grpc
from hedgecast.scenarios.arrow import Description, indices_of, paths_of, scenario_set
from hedgecast.scenarios.reduction import reduce_scenarios
from hedgecast.scenarios.tree import scenario_tree
from hedgecast.service.answers import ScenariosAnswer, ScenarioSource
from hedgecast.service.background import background_server
from hedgecast.service.calls import Asked
from hedgecast.service.local import LocalBackend, LocalModel
from hedgecast.service.models import ModelDescription
from hedgecast.service.queries import Query, ScenariosQuery
from hedgecast.service.settings import ServiceSettings, load_settings

A = TypeVar("A")
Responses = list[scenario_pb.GenerateScenariosResponse]
STEPS = 6


@pytest.fixture
def channel(local_backend: LocalBackend) -> Iterator[grpc.Channel]:
    with (
        background_server(local_backend, ServiceSettings(port=0)) as address,
        grpc.insecure_channel(address) as channel,
    ):
        yield channel


def _request(rows: NamedRows, **fields: object) -> scenario_pb.GenerateScenariosRequest:
    question = {"model": "last_day", "scenario_count": 250, "seed": 4, **fields}
    return scenario_pb.GenerateScenariosRequest(history=codec.encode_rows(rows), **question)  # type: ignore[arg-type]


def _sent(channel: grpc.Channel, request: scenario_pb.GenerateScenariosRequest) -> Responses:
    return list(scenario_grpc.ScenarioServiceStub(channel).GenerateScenarios(request, timeout=60))


def _table(responses: Responses) -> pa.Table:
    """By pyarrow alone."""
    with pa.ipc.open_stream(io.BytesIO(b"".join(part.arrow_ipc for part in responses))) as reader:
        return reader.read_all()


def _paths(table: pa.Table) -> np.ndarray:
    return np.concatenate([paths_of(batch) for batch in table.to_batches()])


def test_they_are_those_that_decide_draws(channel: grpc.Channel, rows: NamedRows) -> None:
    sent = _sent(channel, _request(rows, batch_scenario_count=100))
    decided = decision_grpc.DecisionServiceStub(channel).Decide(
        decision_pb.DecideRequest(
            model="last_day", history=codec.encode_rows(rows), scenario_count=250, seed=4,
            gap_replication_count=0, return_scenarios=True,
        ),
        timeout=60,
    )  # fmt: skip
    paths = codec.decode_tensor(decided.scenarios.paths, field="paths", most_entries=10_000)
    np.testing.assert_array_equal(_paths(_table(sent)), paths)
    end = sent[-1].end
    assert end.scenario_fingerprint == decided.scenario_fingerprint
    assert scenario_set(_table(sent)).fingerprint() == decided.scenario_fingerprint
    assert end.scenario_count == 250
    assert end.scenario_origin == decided.scenario_origin
    assert not end.HasField("reduction")


def test_what_the_stream_says_of_itself(channel: grpc.Channel, rows: NamedRows) -> None:
    sent = _sent(channel, _request(rows, batch_scenario_count=100, request_id="q-1"))
    assert [part.next_batch_index for part in sent] == [1, 2, 3]
    assert {part.batch_count for part in sent} == {3}
    assert [part.HasField("start") for part in sent] == [True, False, False]
    assert [part.HasField("end") for part in sent] == [False, False, True]
    start = sent[0].start
    assert (start.model.name, start.model.version, start.request_id) == ("last_day", "3", "q-1")
    assert (start.batch_scenario_count, start.drawn_count, start.seed) == (100, 250, 4)
    described = Description.of_schema(_table(sent).schema)
    assert (described.names, described.units, described.num_steps) == (("load",), ("GW",), STEPS)
    assert (described.model_version, described.seed, described.source) == ("last_day@3", 4, "last day")
    assert described.times is not None
    np.testing.assert_array_equal(described.times, rows.times[-1] + np.arange(1, 7) * np.timedelta64(1, "h"))


def test_prefixes_are_nested_whatever_the_batches(channel: grpc.Channel, rows: NamedRows) -> None:
    whole = _paths(_table(_sent(channel, _request(rows, batch_scenario_count=64))))
    for count, batch in ((250, 0), (100, 7), (1, 1)):
        part = _sent(channel, _request(rows, scenario_count=count, batch_scenario_count=batch))
        np.testing.assert_array_equal(_paths(_table(part)), whole[:count])


def test_the_rest_from_any_batch_is_the_same_bytes(channel: grpc.Channel, rows: NamedRows) -> None:
    whole = _sent(channel, _request(rows, batch_scenario_count=100))
    for first in (1, 2):
        rest = _sent(channel, _request(rows, batch_scenario_count=100, first_batch_index=first))
        schema = _table(whole).schema.serialize().to_pybytes()
        assert whole[0].arrow_ipc.startswith(schema)
        assert rest[0].arrow_ipc == schema + whole[first].arrow_ipc, "the schema again"
        assert rest[0].next_batch_index == first + 1
        assert [part.arrow_ipc for part in rest[1:]] == [part.arrow_ipc for part in whole[first + 1 :]]
        assert rest[-1].end.scenario_fingerprint == ""
        assert rest[-1].end.scenario_count == 250 - 100 * first
        assert _table(rest).num_rows == 250 - 100 * first


def test_the_fingerprint_can_be_left_out(channel: grpc.Channel, rows: NamedRows) -> None:
    whole = _sent(channel, _request(rows, batch_scenario_count=100))
    sent = _sent(channel, _request(rows, batch_scenario_count=100, leave_out_fingerprint=True))
    assert [part.arrow_ipc for part in sent] == [part.arrow_ipc for part in whole]
    assert (sent[-1].end.scenario_fingerprint, sent[-1].end.scenario_count) == ("", 250)


def test_a_batch_of_the_usual_size_fits_a_mebibyte(channel: grpc.Channel, rows: NamedRows) -> None:
    count = 100_000
    sizes = []
    for part in scenario_grpc.ScenarioServiceStub(channel).GenerateScenarios(
        _request(rows, scenario_count=count), timeout=60
    ):
        sizes.append(part.ByteSize())
    assert len(sizes) == -(-count * STEPS * 4 // 2**20)
    assert 2**20 < max(sizes) < 2**20 + 1024


class Counting:
    """A backend whose scenarios cost nothing, and that counts what it was asked for."""

    def __init__(self, model: ModelDescription, steps: int) -> None:
        self.model, self.steps = model, steps
        self.drawn = 0
        self.cancelled = threading.Event()
        self.hold = False

    async def models(self) -> tuple[ModelDescription, ...]:
        return (self.model,)

    async def answer(self, query: Query[A]) -> A:
        assert isinstance(query, ScenariosQuery)
        self.drawn += 1
        try:
            await asyncio.sleep(60.0 if self.hold else 0.0)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return ScenariosAnswer(  # type: ignore[return-value]
            model=self.model, names=("load",), units=("GW",), times=None,
            paths=np.zeros((query.scenario_count, self.steps, 1), np.float32),
            made_by="nothing", source=ScenarioSource.MODEL, warnings=(),
        )  # fmt: skip


@pytest.fixture
def counting(local_model: LocalModel) -> Counting:
    return Counting(local_model.model.description, STEPS)


def test_a_slow_reader_is_not_drawn_for(counting: Counting, rows: NamedRows) -> None:
    with (
        background_server(counting, ServiceSettings(port=0)) as address,
        grpc.insecure_channel(address, [("grpc.http2.lookahead_bytes", 2**16)]) as channel,
    ):
        request = _request(rows, scenario_count=1_000_000, batch_scenario_count=20_000)
        call = scenario_grpc.ScenarioServiceStub(channel).GenerateScenarios(request, timeout=60)
        next(call)
        settled = _settled(counting)
        # Of 50 batches of half a mebibyte: what lies in the two sockets and windows, and one ahead.
        assert settled < 25
        assert sum(1 for _ in call) == 49, "the others came when they were asked for"
        assert counting.drawn == 50


def _settled(counting: Counting) -> int:
    """Batches drawn once no more are for half a second."""
    before, since = counting.drawn, time.monotonic()
    while time.monotonic() - since < 0.5:
        time.sleep(0.05)
        if counting.drawn != before:
            before, since = counting.drawn, time.monotonic()
    return before


def test_who_cancels_stops_the_work(counting: Counting, rows: NamedRows) -> None:
    with (
        background_server(counting, ServiceSettings(port=0)) as address,
        grpc.insecure_channel(address) as channel,
    ):
        request = _request(rows, scenario_count=1_000, batch_scenario_count=10)
        call = scenario_grpc.ScenarioServiceStub(channel).GenerateScenarios(request, timeout=60)
        next(call)
        counting.hold = True
        while counting.drawn < 2 or not call.is_active():
            time.sleep(0.01)
        _settled(counting)
        call.cancel()
        assert counting.cancelled.wait(10.0)
        assert _settled(counting) < 100


def _violations(error: grpc.RpcError) -> tuple[str, str]:
    status = rpc_status.from_call(error)
    assert status is not None
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        for kind in (info, bad):
            if detail.Is(kind.DESCRIPTOR):
                detail.Unpack(kind)
    fields = [violation.field for violation in bad.field_violations]
    return error.code().name, fields[0] if fields else info.reason


TREE = scenario_pb.TreeShape(stage_starts=[0, 2], branching=[3, 2])


@pytest.mark.parametrize(
    ("fields", "charged"),
    [
        ({}, 250),
        ({"first_batch_index": 2}, 50),
        # Fewer scenarios are made of all, whatever of them is sent.
        ({"first_batch_index": 2, "reduce_to": 250}, 250),
        ({"first_batch_index": 2, "tree": TREE}, 250),
    ],
)
def test_quotas_are_charged_with_what_is_drawn(
    rows: NamedRows, fields: dict[str, object], charged: int
) -> None:
    assert Asked.of(_request(rows, batch_scenario_count=100, **fields), 10_000).scenarios == charged


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"model": ""}, ("INVALID_ARGUMENT", "model")),
        ({"model": "other"}, ("NOT_FOUND", "model")),
        ({"scenario_count": -1}, ("INVALID_ARGUMENT", "scenario_count")),
        ({"scenario_count": 1_000_001}, ("INVALID_ARGUMENT", "scenario_count")),
        ({"scenario_count": 10_001, "reduce_to": 5}, ("INVALID_ARGUMENT", "scenario_count")),
        ({"seed": -1}, ("INVALID_ARGUMENT", "seed")),
        ({"batch_scenario_count": -1}, ("INVALID_ARGUMENT", "batch_scenario_count")),
        ({"batch_scenario_count": 1_000_000}, ("INVALID_ARGUMENT", "batch_scenario_count")),
        ({"first_batch_index": 1}, ("INVALID_ARGUMENT", "first_batch_index")),
        ({"first_batch_index": -1}, ("INVALID_ARGUMENT", "first_batch_index")),
        ({"first_batch_index": 1, "reduce_to": 5}, ("INVALID_ARGUMENT", "first_batch_index")),
        ({"reduce_to": 251}, ("INVALID_ARGUMENT", "reduce_to")),
        ({"reduce_to": -1}, ("INVALID_ARGUMENT", "reduce_to")),
        ({"reduce_to": 5, "tree": TREE}, ("INVALID_ARGUMENT", "reduce_to")),
        ({"reduction_method": 7, "reduce_to": 5}, ("INVALID_ARGUMENT", "reduction_method")),
        ({"reduction_method": 1}, ("INVALID_ARGUMENT", "reduction_method")),
        ({"reduction_method": 3, "tree": TREE}, ("INVALID_ARGUMENT", "reduction_method")),
        ({"risk": risk_pb2.Risk()}, ("INVALID_ARGUMENT", "risk")),
        ({"given": {"capacity": codec.encode_tensor(np.array(3.0))}}, ("INVALID_ARGUMENT", "given")),
        ({"tree": scenario_pb.TreeShape()}, ("INVALID_ARGUMENT", "tree.stage_starts")),
        (
            {"tree": scenario_pb.TreeShape(stage_starts=[0, 6], branching=[2, 2])},
            ("INVALID_ARGUMENT", "tree.stage_starts"),
        ),
        (
            {"tree": scenario_pb.TreeShape(stage_starts=[0, 3], branching=[2, 0])},
            ("INVALID_ARGUMENT", "tree.branching"),
        ),
        ({"request_id": "no spaces"}, ("INVALID_ARGUMENT", "request_id")),
    ],
)
def test_what_cannot_be_used_is_named(
    channel: grpc.Channel, rows: NamedRows, fields: dict[str, object], expected: tuple[str, str]
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        _sent(channel, _request(rows, **fields))
    assert _violations(caught.value) == expected


@pytest.mark.parametrize("method", ["forward-selection", "k-means", "quantiles"])
def test_a_reduction_is_that_of_the_library(
    channel: grpc.Channel, rows: NamedRows, local_model: LocalModel, method: str
) -> None:
    number = {"forward-selection": 1, "k-means": 2, "quantiles": 3}[method]
    risk = risk_pb2.Risk(cvar=risk_pb2.ConditionalValueAtRisk(alpha=0.5))
    capacity = np.array(41.0)
    sent = _sent(
        channel,
        _request(
            rows, reduce_to=7, reduction_method=number, risk=risk, batch_scenario_count=3,
            given={"capacity": codec.encode_tensor(capacity)},
        ),
    )  # fmt: skip
    whole = _sent(channel, _request(rows))
    paths = _paths(_table(whole)).astype(np.float64)
    few = reduce_scenarios(paths, 7, method=method, seed=4)  # type: ignore[arg-type]
    table = _table(sent)
    np.testing.assert_array_equal(_paths(table), few.paths)
    np.testing.assert_array_equal(table.column("probability").to_numpy(), few.probabilities)
    indices = indices_of(table.to_batches())
    np.testing.assert_array_equal(indices, few.indices) if few.indices is not None else None
    assert (indices is None) == (method != "forward-selection")
    assert [part.next_batch_index for part in sent] == [1, 2, 3]
    costs = reduction_error(
        local_model.model.program(STEPS), paths.reshape(1, 250, STEPS), few.paths.reshape(1, 7, STEPS),
        {"capacity": capacity[None]}, reduced_probabilities=few.probabilities[None],
        risk=Risk.parse("cvar:0.5"), tolerance=1e-8,
    )  # fmt: skip
    report = sent[-1].end.reduction
    assert (report.kept_count, report.method) == (7, number)
    assert (report.distance, report.relative_distance) == (few.distance, few.relative_distance)
    assert report.cost_error == pytest.approx(float(costs.error[0]), rel=1e-9)
    assert report.cost_error > 1e-3
    assert report.relative_cost_error == pytest.approx(float(costs.relative_error[0]), rel=1e-9)
    assert report.cost_optimism == pytest.approx(float(costs.optimism[0]), rel=1e-9)
    assert sent[-1].end.scenario_fingerprint == whole[-1].end.scenario_fingerprint
    assert sent[-1].end.scenario_count == 250


def test_a_tree_is_that_of_the_library(channel: grpc.Channel, rows: NamedRows) -> None:
    sent = _sent(channel, _request(rows, tree=TREE))
    paths = _paths(_table(_sent(channel, _request(rows)))).astype(np.float64)
    tree = scenario_tree(paths, stages=[0, 2], branching=[3, 2], seed=4)
    table = _table(sent)
    assert table.column("name").to_pylist() == tree.names
    np.testing.assert_array_equal(table.column("probability").to_numpy(), tree.probabilities)
    assert sum(map(len, table.column("load").to_pylist())) == 3 * 2 + 6 * 4
    report = sent[-1].end.reduction
    assert report.kept_count == 6
    assert report.method == scenario_pb.K_MEANS
    assert report.distance == tree.distance
    assert 0 < report.cost_error < 50


def test_what_is_left_to_draw_is_what_is_charged(
    local_backend: LocalBackend, rows: NamedRows, tmp_path: Path
) -> None:
    table = tmp_path / "access.toml"
    table.write_text('[default]\nmodels = ["last_day"]\nscenarios_per_minute = 300\n')
    with (
        background_server(local_backend, load_settings(port=0, access_file=table)) as address,
        grpc.insecure_channel(address) as channel,
    ):
        _sent(channel, _request(rows, batch_scenario_count=100))
        _sent(channel, _request(rows, batch_scenario_count=100, first_batch_index=2))
        for fields, reason in (
            ({"scenario_count": 200}, "RATE_LIMITED"),
            ({"model": "secret"}, "PERMISSION_DENIED"),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                _sent(channel, _request(rows, **fields))
            status = rpc_status.from_call(caught.value)
            assert status is not None
            info = error_details_pb2.ErrorInfo()
            status.details[0].Unpack(info)
            assert info.reason == reason
