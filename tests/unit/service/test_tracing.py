"""One trace over gateway, solver and denoiser, on a real server with the SDK's exporter in memory."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from hedgecast.rpc import codec
from hedgecast.rpc.codec import NamedRows
from hedgecast.rpc.v1 import decision_service_pb2 as decision_pb
from hedgecast.rpc.v1 import decision_service_pb2_grpc as decision_grpc
from hedgecast.service.background import background_server
from hedgecast.service.local import LocalBackend
from hedgecast.service.settings import load_settings
from hedgecast.service.tracing import carrier, configure_tracing, stage

GATEWAY = "hedgecast.rpc.v1.DecisionService/Decide"


@pytest.fixture(scope="module")
def exporter() -> InMemorySpanExporter:
    """The process has one provider, set once."""
    kept = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    trace.set_tracer_provider(provider)
    return kept


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> Iterator[InMemorySpanExporter]:
    exporter.clear()
    yield exporter
    exporter.clear()


def _decide(
    backend: LocalBackend, rows: NamedRows, *metadata: tuple[str, str], model: str = "last_day"
) -> None:
    request = decision_pb.DecideRequest(
        model=model, history=codec.encode_rows(rows), scenario_count=20, request_id="traced"
    )
    with (
        background_server(backend, load_settings(port=0)) as address,
        grpc.insecure_channel(address) as channel,
    ):
        decision_grpc.DecisionServiceStub(channel).Decide(request, timeout=30, metadata=metadata)


def _by_name(spans: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in spans.get_finished_spans()}


def test_one_trace_over_the_three(
    local_backend: LocalBackend, rows: NamedRows, spans: InMemorySpanExporter
) -> None:
    _decide(local_backend, rows)
    found = _by_name(spans)
    assert set(found) == {GATEWAY, "solver.answer", "denoiser.draw"}
    assert len({span.context.trace_id for span in found.values()}) == 1
    gateway, solver, denoiser = (found[name] for name in (GATEWAY, "solver.answer", "denoiser.draw"))
    assert gateway.parent is None
    assert solver.parent.span_id == gateway.context.span_id
    assert denoiser.parent.span_id == solver.context.span_id
    assert gateway.kind is trace.SpanKind.SERVER
    assert gateway.attributes["hedgecast.request_id"] == "traced"
    assert gateway.attributes["hedgecast.model"] == "last_day@3"
    assert gateway.start_time <= solver.start_time <= denoiser.start_time
    assert denoiser.end_time <= solver.end_time <= gateway.end_time


def test_the_callers_trace_goes_on(
    local_backend: LocalBackend, rows: NamedRows, spans: InMemorySpanExporter
) -> None:
    _decide(local_backend, rows, ("traceparent", f"00-{'a' * 32}-{'b' * 16}-01"))
    found = _by_name(spans)
    assert {f"{span.context.trace_id:x}" for span in found.values()} == {"a" * 32}
    assert f"{found[GATEWAY].parent.span_id:x}" == "b" * 16


def test_a_mangled_traceparent_begins_a_new_trace(
    local_backend: LocalBackend, rows: NamedRows, spans: InMemorySpanExporter
) -> None:
    _decide(local_backend, rows, ("traceparent", '00-zz-"-1'))
    assert _by_name(spans)[GATEWAY].parent is None


def test_two_calls_are_two_traces_and_an_error_is_marked(
    local_backend: LocalBackend, rows: NamedRows, spans: InMemorySpanExporter
) -> None:
    _decide(local_backend, rows)
    with pytest.raises(grpc.RpcError):
        _decide(local_backend, rows, model="none")
    traces = {span.context.trace_id for span in spans.get_finished_spans()}
    assert len(traces) == 2
    failed = spans.get_finished_spans()[-1]
    assert failed.attributes["rpc.grpc.status"] == "NOT_FOUND"


def test_a_stage_elsewhere_goes_below_the_carrier(spans: InMemorySpanExporter) -> None:
    """As between replicas: only the headers travel."""
    with stage("here") as here:
        headers = carrier()
    assert set(headers) == {"traceparent"}
    with stage("there", headers):
        pass
    there = _by_name(spans)["there"]
    assert there.parent.span_id == here.get_span_context().span_id
    assert carrier() == {}


def test_a_provider_that_stands_is_kept(exporter: InMemorySpanExporter) -> None:
    before = trace.get_tracer_provider()
    configure_tracing("http://127.0.0.1:1/v1/traces", "gateway")
    assert trace.get_tracer_provider() is before
