"""Prometheus metrics of one server, and the port that they are read from.

Labels come from what the server itself names (methods, resolved models, status codes), never from what a
caller wrote: nobody can make the number of series grow.
"""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from hedgecast.core.errors import ConfigError
from hedgecast.outcomes import Performance
from hedgecast.service.calls import Answered, Call
from hedgecast.service.draw_queue import DrawFigures
from hedgecast.service.settings import ServiceSettings

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_ITERATIONS = (5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0, 50.0, 75.0, 100.0)
_QUEUED = (0.0, 100.0, 1_000.0, 5_000.0, 10_000.0, 50_000.0, 100_000.0, 200_000.0)
_FILL = (0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0)
_BATCH_SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
_TOTAL = "total"
# What a solve that failed is called: these reasons are verdicts too.
_FAILED_VERDICTS = frozenset({"NOT_CONVERGED", "INFEASIBLE", "UNBOUNDED", "SOLVE_FAILED"})


class ServiceMetrics:
    """Counts calls and what their answers tell; one registry of its own.

    Attributes
    ----------
    registry : CollectorRegistry
        Holds every metric below.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "hedgecast_requests",
            "Calls that ended, by outcome.",
            ("method", "code", "reason"),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "hedgecast_request_seconds",
            "From headers to outcome.",
            ("method",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._under_way = Gauge(
            "hedgecast_requests_under_way",
            "Calls let in or being judged, waiting ones included.",
            registry=self.registry,
        )
        self._stages = Histogram(
            "hedgecast_stage_seconds",
            "Work on one answer by stage; waiting is the time in queues and between processes.",
            ("model", "stage"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._scenarios = Counter(
            "hedgecast_scenarios", "Scenarios drawn for answers.", ("model",), registry=self.registry
        )
        self._iterations = Histogram(
            "hedgecast_solver_iterations",
            "Of one solve.",
            ("backend",),
            buckets=_ITERATIONS,
            registry=self.registry,
        )
        self._batch_sizes = Histogram(
            "hedgecast_batch_size",
            "Requests that an answer's one was solved together with, itself included.",
            ("model",),
            buckets=_BATCH_SIZES,
            registry=self.registry,
        )
        self._verdicts = Counter(
            "hedgecast_solver_verdicts", "How solves ended.", ("verdict",), registry=self.registry
        )
        self._models = Gauge(
            "hedgecast_model_info",
            "1 for a model version that answered.",
            ("model", "fingerprint"),
            registry=self.registry,
        )
        self._regret = Gauge(
            "hedgecast_realized_regret",
            "Rolling mean regret of recorded outcomes, in the currency of the program.",
            ("model",),
            registry=self.registry,
        )
        self._alarm = Gauge(
            "hedgecast_coverage_alarm",
            "1 for a model version whose realized coverage left its band, or whose costs drifted.",
            ("model",),
            registry=self.registry,
        )
        self._left_out = Counter(
            "hedgecast_audit_records_left_out", "Audit records that were not written.", registry=self.registry
        )

        self._ladder_step = Gauge(
            "hedgecast_ladder_step",
            "Step of the ladder of cheaper answers in use; 0: full answers.",
            registry=self.registry,
        )
        self._degraded = Counter(
            "hedgecast_degraded_answers",
            "Answers that load made cheaper, by each rung taken.",
            ("model", "rung"),
            registry=self.registry,
        )
        self._missing_providers = Gauge(
            "hedgecast_missing_execution_providers",
            "1 for a provider that the network should run on and does not.",
            ("provider",),
            registry=self.registry,
        )

        self._queued = Histogram(
            "hedgecast_draw_queued_scenarios",
            "Scenarios that waited in a denoiser when a request came to it.",
            buckets=_QUEUED,
            registry=self.registry,
        )
        self._queue_seconds = Histogram(
            "hedgecast_draw_wait_seconds",
            "From a request's coming to a denoiser to its first run of the network.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._fill = Histogram(
            "hedgecast_draw_batch_fill",
            "Share of draw_batch_scenarios in the runs that a request had a part in.",
            buckets=_FILL,
            registry=self.registry,
        )

    def begun(self, call: Call, metadata: Sequence[tuple[str, str | bytes]]) -> None:  # noqa: ARG002
        """Count a call as under way."""
        self._under_way.inc()

    def answered(self, call: Call, answered: Answered) -> None:  # noqa: ARG002
        """Count what an answer tells."""
        if answered.model:
            self._models.labels(answered.model, answered.model_fingerprint).set(1)
        if answered.fingerprint:
            self._scenarios.labels(answered.model).inc(answered.scenarios)
        for rung in answered.rungs:
            self._degraded.labels(answered.model, rung).inc()
        if answered.verdict:
            self._verdicts.labels(answered.verdict).inc()
            self._iterations.labels(answered.backend).observe(answered.iterations)
        if answered.reason in _FAILED_VERDICTS:
            self._verdicts.labels(answered.reason).inc()
        if answered.batch_size:
            self._batch_sizes.labels(answered.model).observe(answered.batch_size)
        known = {stage: seconds for stage, seconds in answered.stages.items() if stage != _TOTAL}
        if _TOTAL in answered.stages:
            known["waiting"] = max(answered.stages[_TOTAL] - sum(known.values()), 0.0)
        for stage, seconds in known.items():
            self._stages.labels(answered.model, stage).observe(seconds)

    def drawn(self, figures: DrawFigures) -> None:
        """Count what became of a request in a denoiser's queue."""
        self._queued.observe(figures.queued)
        self._queue_seconds.observe(figures.waited_seconds)
        self._fill.observe(figures.fill)

    def ended(self, call: Call) -> None:
        """Count the outcome."""
        self._under_way.dec()
        self._requests.labels(call.method, call.code, call.reason).inc()
        self._seconds.labels(call.method).observe(call.seconds)
        if call.reason in _FAILED_VERDICTS:
            self._verdicts.labels(call.reason).inc()

    def audit_record_left_out(self) -> None:
        """Count an audit record that was not written."""
        self._left_out.inc()

    def set_performance(self, model: str, performance: Performance) -> None:
        """State what recorded outcomes say of a model, NAME@VERSION."""
        self._regret.labels(model).set(performance.regret.mean)
        self._alarm.labels(model).set(1.0 if performance.warning else 0.0)

    def set_ladder_step(self, step: int) -> None:
        """State the step of the ladder in use."""
        self._ladder_step.set(step)

    def set_missing_providers(self, names: Sequence[str]) -> None:
        """State the execution providers that a denoiser does without; the names are the settings'."""
        for name in names:
            self._missing_providers.labels(name).set(1)


class MetricsPort:
    """Answers Prometheus on a port until closed; see `ServiceSettings.metrics_port`.

    Raises
    ------
    ConfigError
        The port is taken or may not be used.
    """

    def __init__(self, metrics: ServiceMetrics, settings: ServiceSettings) -> None:
        assert settings.metrics_port is not None
        host, port = settings.metrics_host, settings.metrics_port
        try:
            self._server, self._thread = start_http_server(port, addr=host, registry=metrics.registry)
        except OSError as error:
            raise ConfigError(
                f"cannot give metrics on {host}:{port}: {error.strerror}; choose another port (0: any)"
            ) from error
        self.address = f"{host}:{self._server.server_port}"

    def close(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
