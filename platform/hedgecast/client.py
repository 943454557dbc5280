"""The planner's client: numpy and grpc only.

with Client("127.0.0.1:50051") as client:
    answer = client.decide("german_grid@champion", history=columns, history_times=times)
    print(answer.decision["schedule"], answer.expected_regret)
"""

from __future__ import annotations

import dataclasses
import ipaddress
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import grpc
import numpy as np
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from numpy.typing import ArrayLike, NDArray

from hedgecast.core import errors
from hedgecast.core.errors import ConfigError, HedgecastError
from hedgecast.programs.risk import Risk
from hedgecast.rpc import codec
from hedgecast.rpc.v1 import decision_service_pb2 as decision_pb
from hedgecast.rpc.v1 import decision_service_pb2_grpc as decision_grpc
from hedgecast.rpc.v1 import model_service_pb2 as model_pb
from hedgecast.rpc.v1 import model_service_pb2_grpc as model_grpc
from hedgecast.rpc.v1 import risk_pb2

_MOST_ENTRIES = 2**31
_FIRST_BACKOFF_SECONDS = 0.1
_RETRIED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TlsFiles:
    """PEM files of a secure channel."""

    authorities: Path | None = None
    """Certificate authorities that vouch for the server; None: those of the system."""
    certificate: Path | None = None
    """This client's certificate chain, for mutual TLS."""
    key: Path | None = None
    """This client's private key, for mutual TLS."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ScenarioArrays:
    """The scenarios behind a decision."""

    series: tuple[str, ...]
    """F names."""
    units: tuple[str, ...]
    """F units."""
    times: NDArray[np.datetime64]
    """(T,) start of each step, UTC; empty where the model names no times."""
    paths: NDArray[np.float64]
    """(S, T, F) in the units of the series."""
    probabilities: NDArray[np.float64]
    """(S,) summing to 1."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SolverVerdict:
    """How the solve ended, with its relative residuals."""

    state: str
    """``OPTIMAL``: an answer has no other; failures are raised."""
    primal_residual: float
    dual_residual: float
    relative_gap: float
    iterations: int
    backend: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DecisionAnswer:
    """A decision and what it is expected to cost, in the currency of the program."""

    decision: Mapping[str, NDArray[np.float64]]
    """Variable name to values; empty when the request was only validated."""
    units: Mapping[str, str]
    """Variable name to unit."""
    times: NDArray[np.datetime64]
    """(T,) start of each step, UTC, along the first axis of the variables that have one entry a step."""
    objective: float
    """The asked risk measure at the decision."""
    expected_cost: float
    expected_regret: float
    expected_regret_standard_error: float
    """Of the Monte Carlo estimate of `expected_regret`."""
    cost_quantiles: Mapping[float, float]
    """Level to value."""
    regret_quantiles: Mapping[float, float]
    """Level to value."""
    cost_cvar: float
    """Mean cost of the worst ``1 - tail_level`` of the scenarios."""
    regret_cvar: float
    """Mean regret of the worst ``1 - tail_level`` of the scenarios."""
    tail_level: float
    expected_value_of_perfect_information: float
    value_of_stochastic_solution: float
    verdict: SolverVerdict
    model: str
    """NAME@VERSION."""
    model_fingerprint: str
    program: str
    """NAME@VERSION."""
    program_fingerprint: str
    scenario_fingerprint: str
    scenario_count: int
    seed: int
    scenarios: ScenarioArrays | None
    """Only where asked for."""
    durations: Mapping[str, float]
    """Stage to seconds on the server: ``scenario``, ``solve``, ``statistics``, ``total``."""
    warnings: tuple[str, ...]
    request_id: str


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """A served model and what it wants to be asked."""

    name: str
    """NAME@VERSION."""
    aliases: tuple[str, ...]
    fingerprint: str
    program: str
    """NAME@VERSION."""
    decision: Mapping[str, tuple[int, ...]]
    """Decision variable to shape, for an ordinary period."""
    given: Mapping[str, tuple[int, ...]]
    """Parameter that a request may give to shape, for an ordinary period."""
    history_columns: Mapping[str, str]
    """Column that ``history`` must have to its unit."""
    known_columns: Mapping[str, str]
    """Column that ``known`` must have to its unit."""
    history_steps: int
    """Rows that ``history`` must have at least."""
    horizon_steps: int
    """Steps of an ordinary decision period."""
    step_seconds: float
    time_zone: str


class Client:
    """A connection to a hedgecast service; a context manager, safe to share between threads.

    Parameters
    ----------
    address : str
        ``HOST:PORT``.
    token : str, optional
        Bearer token. Refused without TLS unless the host is loopback: it would travel in the clear.
    tls : TlsFiles, optional
        Makes the channel secure.
    deadline_seconds : float
        Time for one call, retries included.
    retries : int
        Further tries where the service is unreachable or busy, with growing random pauses. Safe: the
        same request and seed give the same answer, and all tries carry one request id.
    max_message_bytes : int
        Largest message taken or sent.

    Raises
    ------
    ConfigError
        A token without TLS to another machine, a deadline not positive, negative retries.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        tls: TlsFiles | None = None,
        deadline_seconds: float = 60.0,
        retries: int = 2,
        max_message_bytes: int = 64 * 2**20,
    ) -> None:
        if deadline_seconds <= 0 or retries < 0:
            raise ConfigError(
                f"deadline_seconds = {deadline_seconds}, retries = {retries}: the deadline must be positive, "
                "the retries not negative"
            )
        if token is not None and tls is None and not _is_loopback(address):
            raise ConfigError(f"a token for {address} would travel in the clear: pass tls=TlsFiles(...)")
        self._address = address
        self._deadline_seconds = deadline_seconds
        self._retries = retries
        self._metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        self._channel = _open_channel(address, tls, max_message_bytes)
        self._decisions = decision_grpc.DecisionServiceStub(self._channel)
        self._models = model_grpc.ModelServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        self._channel.close()

    def decide(
        self,
        model: str,
        *,
        history: Mapping[str, ArrayLike],
        history_times: ArrayLike,
        known: Mapping[str, ArrayLike] | None = None,
        known_times: ArrayLike | None = None,
        given: Mapping[str, ArrayLike] | None = None,
        scenario_count: int = 200,
        seed: int = 0,
        risk: str | Risk = "expectation",
        quantile_levels: Sequence[float] = (),
        tail_level: float = 0.95,
        return_scenarios: bool = False,
        validate_only: bool = False,
        request_id: str | None = None,
        deadline_seconds: float | None = None,
    ) -> DecisionAnswer:
        """The decision of least risk over scenarios that the model draws for this context.

        Parameters
        ----------
        model : str
            NAME, NAME@ALIAS or NAME@VERSION.
        history : mapping
            Column name to raw values before the decision period, in the model's units.
        history_times : array_like of datetime64
            Start of each row's step, UTC.
        known, known_times : mapping and array_like of datetime64, optional
            The same for what is known ahead, one row per step of the decision period.
        given : mapping, optional
            Values of given parameters by name; what is left out keeps the model's default.
        scenario_count : int
            Scenarios to draw.
        seed : int
            Seed of the draw.
        risk : str or Risk
            What to minimize, for example ``cvar:0.9``; the forms are those of `Risk.parse`.
        quantile_levels : sequence of float
            Levels of the returned quantiles; empty: the service's default.
        tail_level : float
            Level of the returned conditional values at risk, in (0, 1).
        return_scenarios : bool
            Also return the scenarios.
        validate_only : bool
            Only check the request.
        request_id : str, optional
            Identifies the request; None: a new UUID.
        deadline_seconds : float, optional
            Time for this call; None: the client's.

        Raises
        ------
        HedgecastError
            The service's error, of the same class as where it was raised.
        """
        request = decision_pb.DecideRequest(
            model=model,
            history=_rows(history, history_times),
            known=None if known is None else _rows(known, known_times),
            given={
                name: codec.encode_tensor(np.asarray(value, np.float64))
                for name, value in (given or {}).items()
            },
            scenario_count=scenario_count,
            seed=seed,
            risk=_risk_message(Risk.parse(risk) if isinstance(risk, str) else risk),
            quantile_levels=quantile_levels,
            tail_level=tail_level,
            return_scenarios=return_scenarios,
            validate_only=validate_only,
            request_id=request_id or str(uuid.uuid4()),
        )
        return _answer(self._call(self._decisions.Decide, request, deadline_seconds))

    def models(self) -> tuple[ModelInfo, ...]:
        """All served models, sorted by name and version."""
        found: list[ModelInfo] = []
        token = ""
        while True:
            request = model_pb.ListModelsRequest(page_token=token)
            page: model_pb.ListModelsResponse = self._call(self._models.ListModels, request, None)
            found.extend(map(_model_info, page.models))
            token = page.next_page_token
            if not token:
                return tuple(found)

    def model(self, name: str) -> ModelInfo:
        """The model that NAME, NAME@ALIAS or NAME@VERSION means."""
        return _model_info(self._call(self._models.GetModel, model_pb.GetModelRequest(name=name), None))

    def _call(self, method: Callable[..., Any], request: Any, deadline_seconds: float | None) -> Any:
        end = time.monotonic() + (self._deadline_seconds if deadline_seconds is None else deadline_seconds)
        for attempt in range(self._retries + 1):
            try:
                return method(request, timeout=max(end - time.monotonic(), 0.0), metadata=self._metadata)
            except grpc.RpcError as error:
                pause = _FIRST_BACKOFF_SECONDS * 2**attempt * random.uniform(0.5, 1.5)
                pause = max(pause, _retry_delay(error))
                last = attempt == self._retries or time.monotonic() + pause >= end
                if last or error.code() not in _RETRIED:
                    raise _typed(error, self._address) from error
                time.sleep(pause)
        raise AssertionError("the last attempt returns or raises")


def _open_channel(address: str, tls: TlsFiles | None, max_message_bytes: int) -> grpc.Channel:
    options = [
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        # Retries are ours: grpc's own would multiply them.
        ("grpc.enable_retries", 0),
    ]
    if tls is None:
        return grpc.insecure_channel(address, options)
    authorities, certificate, key = (
        None if path is None else path.read_bytes() for path in (tls.authorities, tls.certificate, tls.key)
    )
    credentials = grpc.ssl_channel_credentials(authorities, key, certificate)
    return grpc.secure_channel(address, credentials, options)


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _rows(columns: Mapping[str, ArrayLike], times: ArrayLike | None) -> Any:
    arrays = {name: np.asarray(values, np.float64).reshape(-1) for name, values in columns.items()}
    instants = np.asarray([] if times is None else times, "datetime64[ns]").reshape(-1)
    return codec.encode_rows(codec.NamedRows(times=instants, columns=arrays))


def _risk_message(risk: Risk) -> risk_pb2.Risk:
    basis = risk_pb2.Risk.REGRET if risk.on_regret else risk_pb2.Risk.COST
    if risk.beta == 0.0:
        return risk_pb2.Risk(expectation=risk_pb2.Expectation())
    if risk.beta < 1.0:
        return risk_pb2.Risk(mixture=risk_pb2.Mixture(beta=risk.beta, alpha=risk.alpha), basis=basis)
    if risk.alpha == 1.0:
        return risk_pb2.Risk(worst_case=risk_pb2.WorstCase(), basis=basis)
    return risk_pb2.Risk(cvar=risk_pb2.ConditionalValueAtRisk(alpha=risk.alpha), basis=basis)


def _answer(message: decision_pb.DecideResponse) -> DecisionAnswer:
    timed = [variable.step_times for variable in message.decision if variable.step_times]
    durations = message.durations
    return DecisionAnswer(
        decision={variable.name: _array(variable.values, variable.name) for variable in message.decision},
        units={variable.name: variable.unit for variable in message.decision},
        times=codec.decode_times(timed[0] if timed else [], field="decision.step_times"),
        objective=message.objective,
        expected_cost=message.expected_cost,
        expected_regret=message.expected_regret,
        expected_regret_standard_error=message.expected_regret_standard_error,
        cost_quantiles={quantile.level: quantile.value for quantile in message.cost_quantiles},
        regret_quantiles={quantile.level: quantile.value for quantile in message.regret_quantiles},
        cost_cvar=message.cost_cvar,
        regret_cvar=message.regret_cvar,
        tail_level=message.tail_level,
        expected_value_of_perfect_information=message.expected_value_of_perfect_information,
        value_of_stochastic_solution=message.value_of_stochastic_solution,
        verdict=_verdict(message.verdict),
        model=f"{message.model.name}@{message.model.version}",
        model_fingerprint=message.model.fingerprint,
        program=f"{message.program.name}@{message.program.version}",
        program_fingerprint=message.program.fingerprint,
        scenario_fingerprint=message.scenario_fingerprint,
        scenario_count=message.scenario_count,
        seed=message.seed,
        scenarios=_scenarios(message.scenarios) if message.HasField("scenarios") else None,
        durations={
            "scenario": codec.decode_duration(durations.scenario_duration),
            "solve": codec.decode_duration(durations.solve_duration),
            "statistics": codec.decode_duration(durations.statistics_duration),
            "total": codec.decode_duration(durations.total_duration),
        },
        warnings=tuple(f"{warning.reason}: {warning.message}" for warning in message.warnings),
        request_id=message.request_id,
    )


def _verdict(message: decision_pb.Verdict) -> SolverVerdict:
    return SolverVerdict(
        state=decision_pb.Verdict.State.Name(message.state),
        primal_residual=message.primal_residual,
        dual_residual=message.dual_residual,
        relative_gap=message.relative_gap,
        iterations=message.iteration_count,
        backend=message.backend,
    )


def _scenarios(message: decision_pb.ScenarioSet) -> ScenarioArrays:
    paths = _array(message.paths, "scenarios.paths")
    if message.HasField("probabilities"):
        probabilities = _array(message.probabilities, "scenarios.probabilities")
    else:
        probabilities = np.full(paths.shape[0], 1.0 / paths.shape[0])
    return ScenarioArrays(
        series=tuple(message.series),
        units=tuple(message.units),
        times=codec.decode_times(message.step_times, field="scenarios.step_times"),
        paths=paths,
        probabilities=probabilities,
    )


def _array(message: Any, name: str) -> NDArray[np.float64]:
    return codec.decode_tensor(message, field=name, most_entries=_MOST_ENTRIES).astype(np.float64)


def _model_info(message: model_pb.Model) -> ModelInfo:
    program = message.program
    return ModelInfo(
        name=message.name,
        aliases=tuple(message.aliases),
        fingerprint=message.reference.fingerprint,
        program=f"{program.reference.name}@{program.reference.version}",
        decision={spec.name: tuple(spec.shape) for spec in program.decision},
        given={spec.name: tuple(spec.shape) for spec in program.given},
        history_columns={column.name: column.unit for column in message.history_columns},
        known_columns={column.name: column.unit for column in message.known_columns},
        history_steps=message.history_step_count,
        horizon_steps=message.horizon_step_count,
        step_seconds=codec.decode_duration(message.step_duration),
        time_zone=message.time_zone,
    )


def _details(error: grpc.RpcError, kind: type[Any]) -> Any:
    """The first detail of that kind, or an empty one."""
    found = kind()
    try:
        status = rpc_status.from_call(error)
    except ValueError:
        # The status in the trailer contradicts the call's: a proxy changed it, so it is not trusted.
        return found
    for detail in status.details if status is not None else ():
        if detail.Is(kind.DESCRIPTOR):
            detail.Unpack(found)
            break
    return found


def _retry_delay(error: grpc.RpcError) -> float:
    return codec.decode_duration(_details(error, error_details_pb2.RetryInfo).retry_delay)


def _typed(error: grpc.RpcError, address: str) -> HedgecastError:
    """The service's error again, of the class where it was raised."""
    info = _details(error, error_details_pb2.ErrorInfo)
    facts: dict[str, object] = {**info.metadata, "grpc_status": error.code().name}
    for cls in _tree(HedgecastError):
        if info.domain == "hedgecast" and cls.reason == info.reason:
            typed = cls(error.details())
            typed.facts.update(facts)
            return typed
    message = f"{address}: {error.details()} ({error.code().name})"
    match error.code():
        case grpc.StatusCode.UNAVAILABLE:
            return errors.UnavailableError(f"{message}; is the service running there?", **facts)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return errors.DeadlineError(f"{message}; allow more time with deadline_seconds", **facts)
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return errors.OverloadedError(message, **facts)
        case grpc.StatusCode.UNAUTHENTICATED:
            return errors.UnauthenticatedError(message, **facts)
        case _:
            return errors.ServiceError(message, **facts)


def _tree(cls: type[HedgecastError]) -> Iterator[type[HedgecastError]]:
    yield cls
    for child in cls.__subclasses__():
        yield from _tree(child)
