"""What all requests about one decision period have: rows or scenarios, given parameters, seed, risk, id."""

from __future__ import annotations

import re
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray

from hedgecast.core.errors import ConfigError, DataError, InputError, ShapeError
from hedgecast.programs.risk import Risk
from hedgecast.rpc import codec
from hedgecast.rpc.v1 import decision_service_pb2 as decision_pb
from hedgecast.rpc.v1 import risk_pb2
from hedgecast.service.answers import Scenarios
from hedgecast.service.settings import ServiceSettings

DEFAULT_SCENARIO_COUNT = 200
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""Of what goes into logs and answers as it is."""


def question_of(
    message: Any, settings: ServiceSettings, deadline_seconds: float, *, most_scenarios: int | None = None
) -> dict[str, Any]:
    """What every request about one decision period has; ``most_scenarios``: another limit."""
    if not message.model:
        raise InputError("model is empty: name one, for example german_grid@champion", field="model")
    limit = settings.max_input_entries
    may_bring = "own_scenarios" in message.DESCRIPTOR.fields_by_name
    own = _own_scenarios(message, settings) if may_bring and message.HasField("own_scenarios") else None
    return {
        "model": message.model,
        "history": codec.decode_rows(message.history, field="history", most_entries=limit),
        "known": codec.decode_rows(message.known, field="known", most_entries=limit),
        "given": arrays_of(message.given, "given", limit),
        "own": own,
        "scenario_count": _scenario_count(
            message.scenario_count, most_scenarios or settings.max_scenarios, own
        ),
        "seed": _seed(message.seed),
        "risk": risk_of(message.risk),
        "request_id": request_id_of(message.request_id),
        "deadline_seconds": deadline_seconds,
    }


def scenarios_of(given: decision_pb.ScenarioSet, settings: ServiceSettings, name: str) -> Scenarios:
    """The scenarios in a caller's message.

    Raises
    ------
    InputError
        They cannot be used; the fact ``field`` begins with ``name``.
    """
    field = f"{name}.paths"
    paths = codec.decode_tensor(given.paths, field=field, most_entries=settings.max_input_entries)
    if paths.ndim != 3 or paths.shape[2] != len(given.series):
        raise ShapeError(
            f"{field} has shape {list(paths.shape)}: must be (scenarios, steps, {len(given.series)} series)",
            field=f"{field}.shape",
        )
    if len(given.units) != len(given.series):
        raise ShapeError(
            f"{name} has {len(given.units)} units for {len(given.series)} series", field=f"{name}.units"
        )
    times = codec.decode_times(given.step_times, field=f"{name}.step_times")
    if len(times) not in (0, paths.shape[1]):
        raise ShapeError(
            f"{name} has {len(times)} step times for {paths.shape[1]} steps: give all or none",
            field=f"{name}.step_times",
        )
    weighted = given.HasField("probabilities")
    return Scenarios(
        names=tuple(given.series),
        units=tuple(given.units),
        times=times if len(times) else None,
        paths=paths.astype(np.float64),
        probabilities=_probabilities(given, paths.shape[0], name) if weighted else None,
        field=name,
    )


def risk_of(message: risk_pb2.Risk) -> Risk:
    """The risk measure in ``message``; unset means the expectation.

    Raises
    ------
    ConfigError
        A number outside [0, 1], or an unknown basis.
    """
    if message.basis not in risk_pb2.Risk.Basis.values():
        raise ConfigError(f"risk.basis is {message.basis}: must be COST or REGRET", field="risk.basis")
    on_regret = message.basis == risk_pb2.Risk.REGRET
    measure = message.WhichOneof("measure")
    try:
        match measure:
            case "cvar":
                return Risk(beta=1.0, alpha=message.cvar.alpha, on_regret=on_regret)
            case "mixture":
                return Risk(beta=message.mixture.beta, alpha=message.mixture.alpha, on_regret=on_regret)
            case "worst_case":
                return Risk(beta=1.0, alpha=1.0, on_regret=on_regret)
            case _:
                return Risk()
    except ConfigError as error:
        raise ConfigError(str(error), field=f"risk.{measure}", **error.facts) from None


def request_id_of(text: str) -> str:
    """A caller's id, or a new one where it is empty.

    Raises
    ------
    DataError
        Not 1 to 64 letters, digits, dots, dashes or underscores.
    """
    if not text:
        return str(uuid.uuid4())
    # Goes into logs as it is, so nothing that could forge a line.
    if not NAME.fullmatch(text):
        raise DataError(
            f"request_id has {len(text)} characters: must be 1 to 64 letters, digits, dots, dashes or "
            "underscores",
            field="request_id",
        )
    return text


def arrays_of(tensors: Mapping[str, Message], field: str, limit: int) -> dict[str, NDArray[np.float64]]:
    """Arrays by name; see `hedgecast.rpc.codec.decode_tensor`."""
    return {
        name: codec.decode_tensor(tensor, field=f"{field}[{name}]", most_entries=limit).astype(np.float64)  # type: ignore[arg-type]
        for name, tensor in tensors.items()
    }


def _own_scenarios(message: Any, settings: ServiceSettings) -> Scenarios:
    for field in ("history", "known"):
        if message.HasField(field):
            raise InputError(f"{field} is set with own_scenarios: leave one of them out", field=field)
    if message.seed:
        raise InputError(f"seed is {message.seed} with own_scenarios, which are not drawn", field="seed")
    return scenarios_of(message.own_scenarios, settings, "own_scenarios")


def _probabilities(given: decision_pb.ScenarioSet, count: int, name: str) -> NDArray[np.float64]:
    field = f"{name}.probabilities"
    found = codec.decode_tensor(given.probabilities, field=field, most_entries=count).astype(np.float64)
    if found.shape != (count,):
        raise ShapeError(
            f"{field} has shape {list(found.shape)}: there are {count} scenarios", field=f"{field}.shape"
        )
    if found.min() < 0 or abs(found.sum() - 1.0) > 1e-6:
        raise DataError(
            f"{field}: the least is {found.min():g}, the sum {found.sum():.9g}: none may be negative and "
            "they must sum to 1",
            field=field,
        )
    normalized: NDArray[np.float64] = found / found.sum()
    return normalized


def _scenario_count(count: int, limit: int, own: Scenarios | None) -> int:
    if own is not None:
        found = len(own.paths)
        if count not in (0, found) or found > limit:
            raise InputError(
                f"scenario_count is {count} with {found} own_scenarios: must be their number or 0, and at "
                f"most {limit}",
                field="scenario_count",
                limit=limit,
            )
        return found
    if not 0 <= count <= limit:
        raise InputError(
            f"scenario_count is {count}: must be from 1 to {limit}, or 0 for {DEFAULT_SCENARIO_COUNT}",
            field="scenario_count",
            limit=limit,
        )
    return count or min(DEFAULT_SCENARIO_COUNT, limit)


def _seed(seed: int) -> int:
    if seed < 0:
        raise InputError(f"seed is {seed}: must not be negative", field="seed")
    return seed
