"""OpenTelemetry spans over gateway, solver and denoiser: one trace for one call.

Only the API is needed here, and it does nothing until a tracer provider is set: by `configure_tracing`, or
by whoever embeds the service. Between processes the context travels as the W3C header ``traceparent``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from hedgecast.core.errors import DependencyError
from hedgecast.service.calls import Answered, Call

_TRACER = "hedgecast"
# Not baggage: what callers put there has no business inside the cluster.
_PROPAGATOR = TraceContextTextMapPropagator()
_EXPORT_DELAY_MS = 1000
_FAULTS = frozenset({"INTERNAL", "UNKNOWN", "UNAVAILABLE", "DEADLINE_EXCEEDED"})


def carrier() -> dict[str, str]:
    """The running span as headers, for a process that goes on with the work; empty where there is none."""
    headers: dict[str, str] = {}
    _PROPAGATOR.inject(headers)
    return headers


@contextlib.contextmanager
def stage(name: str, headers: Mapping[str, str] | None = None) -> Iterator[Span]:
    """A span around the block, below the one that ``headers`` name, else below the running one."""
    parent = _PROPAGATOR.extract(headers) if headers else None
    with trace.get_tracer(_TRACER).start_as_current_span(name, context=parent) as span:
        yield span


class CallSpans:
    """A span of kind server for every call, below the caller's where they send ``traceparent``."""

    def __init__(self) -> None:
        self._spans: dict[str, Span] = {}

    def begun(self, call: Call, metadata: Sequence[tuple[str, str | bytes]]) -> None:
        """Begin the span and make it the running one of this call's task."""
        parent = _PROPAGATOR.extract({key: value for key, value in metadata if isinstance(value, str)})
        tracer = trace.get_tracer(_TRACER)
        attributes = {"rpc.system": "grpc", "rpc.service": call.service, "rpc.method": call.method}
        name = f"{call.service}/{call.method}"
        span = tracer.start_span(name, context=parent, kind=SpanKind.SERVER, attributes=attributes)
        self._spans[call.incident] = span
        # Never detached: the task of a call ends with it, and a stream may be closed from another one.
        otel_context.attach(trace.set_span_in_context(span))

    def answered(self, call: Call, answered: Answered) -> None:
        """Nothing: the call keeps what the span needs."""

    def ended(self, call: Call) -> None:
        """End the span with the outcome."""
        span = self._spans.pop(call.incident)
        span.set_attributes(
            {
                "rpc.grpc.status": call.code,
                "hedgecast.request_id": call.request_id,
                "hedgecast.model": call.model,
                "hedgecast.scenario_count": call.scenarios,
                "hedgecast.scenario_fingerprint": call.fingerprint,
            }
        )
        if call.code in _FAULTS:
            span.set_status(Status(StatusCode.ERROR, call.reason or call.code))
        span.end()


def configure_tracing(endpoint: str | None, component: str) -> None:
    """Send this process's spans to an OTLP/HTTP endpoint; without one, do nothing.

    Parameters
    ----------
    endpoint : str, optional
        See `ServiceSettings.trace_endpoint`.
    component : str
        ``gateway``, ``solver`` or ``denoiser``: the service name of the spans is ``hedgecast-COMPONENT``.

    Raises
    ------
    DependencyError
        The extra ``tracing`` is not installed.
    """
    if endpoint is None:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise DependencyError("trace_endpoint is set: pip install 'hedgecast[tracing]'") from error
    if isinstance(trace.get_tracer_provider(), TracerProvider):
        return
    provider = TracerProvider(resource=Resource.create({"service.name": f"hedgecast-{component}"}))
    exporter = OTLPSpanExporter(endpoint=endpoint)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=_EXPORT_DELAY_MS))
    trace.set_tracer_provider(provider)
