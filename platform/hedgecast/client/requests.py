"""Requests from what a caller has: mappings of arrays, or pandas tables."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hedgecast.client.answers import ScenarioArrays
from hedgecast.core.errors import ConfigError, DataError
from hedgecast.programs.risk import Risk
from hedgecast.rpc import codec
from hedgecast.rpc.v1 import decision_service_pb2 as decision_pb
from hedgecast.rpc.v1 import risk_pb2
from hedgecast.rpc.v1 import scenario_service_pb2 as scenario_pb

_METHODS: dict[str, scenario_pb.ReductionMethod.ValueType] = {
    "auto": scenario_pb.REDUCTION_METHOD_UNSPECIFIED,
    "forward-selection": scenario_pb.FORWARD_SELECTION,
    "k-means": scenario_pb.K_MEANS,
    "quantiles": scenario_pb.QUANTILES,
}


class Question(TypedDict, total=False):
    """What every question about one decision period may have."""

    history: Mapping[str, ArrayLike]
    """Column name to raw values before the decision period, in the model's units; or a pandas DataFrame
    with a DatetimeIndex."""
    history_times: ArrayLike
    """Start of each row's step, datetime64, UTC; not with a DataFrame."""
    known: Mapping[str, ArrayLike] | None
    """The same for what is known ahead, one row per step of the decision period."""
    known_times: ArrayLike | None
    """As ``history_times``."""
    given: Mapping[str, ArrayLike]
    """Values of given parameters by name; what is left out keeps the model's default."""
    own_scenarios: ScenarioArrays
    """Scenarios in place of the model's; then no rows and no seed."""
    scenario_count: int
    """Scenarios to draw; 200 where left out."""
    seed: int
    """Seed of the draw; 0 where left out."""
    risk: str | Risk
    """What to minimize, for example ``cvar:0.9``; the forms are those of `Risk.parse`."""
    request_id: str | None
    """Identifies the request; a new UUID where left out."""
    deadline_seconds: float | None
    """Time for this call; the client's where left out."""


class DecideOptions(Question, total=False):
    """What a decision may be asked with."""

    quantile_levels: Sequence[float]
    """Levels of the returned quantiles."""
    tail_level: float
    """Level of the returned conditional values at risk, in (0, 1); 0.95 where left out."""
    return_scenarios: bool
    """Also return the scenarios."""
    validate_only: bool
    """Only check the request."""
    gap_replications: int | None
    """Fresh samples for the interval of the optimality gap; 0: none; the service's default where left out."""
    gap_confidence: float
    """Of that interval; 0.95 where left out."""
    refuse_degradation: bool
    """Raise `OverloadedError` where load would make the answer a cheaper one; False where left out."""


class EvaluateOptions(Question, total=False):
    """What an evaluation may be asked with."""

    confidence: float
    """Of the intervals of differences; 0.95 where left out."""


class ExplainOptions(Question, total=False):
    """What an explanation may be asked with."""

    top_scenarios: int
    """Most influential scenarios to return; 10 where left out."""


class CertifyOptions(Question, total=False):
    """What a decision with a bound may be asked with; ``scenario_count`` is the size of its first sample."""

    target_gap: float
    """Bound of the optimality gap to reach, in the currency of the program; or the next."""
    target_relative_gap: float
    """The same relative to the objective's size."""
    confidence: float
    """Of all bounds together; 0.95 where left out."""
    draw_limit: int
    """Scenarios to draw in all; 10,000 where left out."""


class ScenarioOptions(TypedDict, total=False):
    """What scenarios may be asked with."""

    history: Mapping[str, ArrayLike]
    """As in `Question`."""
    history_times: ArrayLike
    """As in `Question`."""
    known: Mapping[str, ArrayLike] | None
    """As in `Question`."""
    known_times: ArrayLike | None
    """As in `Question`."""
    scenario_count: int
    """Scenarios to draw; 200 where left out."""
    seed: int
    """Seed of the draw; 0 where left out."""
    batch_scenario_count: int
    """Rows of a record batch; about 1 MiB of them where left out."""
    reduce_to: int | None
    """Send at most so many with probabilities in place of all."""
    reduction_method: Literal["auto", "forward-selection", "k-means", "quantiles"]
    """How; by the number of scenarios where left out."""
    tree: Mapping[str, Sequence[int]] | None
    """Send a scenario tree: ``{"stages": [0, 6, 12], "branching": [4, 3, 2]}``."""
    given: Mapping[str, ArrayLike]
    """Given parameters under which the error of a reduction or a tree is told."""
    risk: str | Risk
    """What the program minimizes then; as in `Question`."""
    request_id: str | None
    """Identifies the request; a new UUID where left out."""
    deadline_seconds: float | None
    """Time for all, retries included; the client's where left out."""


def decide_request(model: str, options: DecideOptions) -> decision_pb.DecideRequest:
    """The message that asks for a decision."""
    return decision_pb.DecideRequest(
        **_question(model, options),
        quantile_levels=options.get("quantile_levels", ()),
        tail_level=options.get("tail_level", 0.0),
        return_scenarios=options.get("return_scenarios", False),
        validate_only=options.get("validate_only", False),
        gap_replication_count=options.get("gap_replications"),
        gap_confidence=options.get("gap_confidence", 0.0),
        refuse_degradation=options.get("refuse_degradation", False),
    )


def evaluate_request(
    model: str, plans: Mapping[str, Mapping[str, ArrayLike]], options: EvaluateOptions
) -> decision_pb.EvaluateDecisionsRequest:
    """The message that asks for a comparison of plans, label to variable to values."""
    return decision_pb.EvaluateDecisionsRequest(
        **_question(model, options),
        candidates=[
            decision_pb.Candidate(label=label, values=_tensors(values)) for label, values in plans.items()
        ],
        confidence=options.get("confidence", 0.0),
    )


def explain_request(model: str, options: ExplainOptions) -> decision_pb.ExplainDecisionRequest:
    """The message that asks for an explanation."""
    return decision_pb.ExplainDecisionRequest(
        **_question(model, options), top_scenario_count=options.get("top_scenarios", 0)
    )


def certify_request(model: str, options: CertifyOptions) -> decision_pb.DecideUntilCertifiedRequest:
    """The message that asks for a decision with a bound."""
    return decision_pb.DecideUntilCertifiedRequest(
        request=decision_pb.DecideRequest(**_question(model, options)),
        target_gap=options.get("target_gap", 0.0),
        target_relative_gap=options.get("target_relative_gap", 0.0),
        confidence=options.get("confidence", 0.0),
        draw_limit=options.get("draw_limit", 0),
    )


def generate_request(model: str, options: ScenarioOptions) -> scenario_pb.GenerateScenariosRequest:
    """The message that asks for scenarios."""
    asked = _question(model, cast("Question", options))
    del asked["own_scenarios"]
    if "risk" not in options:
        del asked["risk"]
    method = options.get("reduction_method", "auto")
    if method not in _METHODS:
        raise ConfigError(f"reduction_method is {method!r}: must be one of {', '.join(_METHODS)}")
    tree = options.get("tree")
    return scenario_pb.GenerateScenariosRequest(
        **asked,
        batch_scenario_count=options.get("batch_scenario_count", 0),
        reduce_to=options.get("reduce_to") or 0,
        reduction_method=_METHODS[method],
        tree=None if tree is None else _tree(tree),
    )


def batches_request(model: str, options: ScenarioOptions) -> scenario_pb.GenerateScenariosRequest:
    """The same where only the batches are wanted."""
    message = generate_request(model, options)
    message.leave_out_fingerprint = True
    return message


def _tree(shape: Mapping[str, Sequence[int]]) -> scenario_pb.TreeShape:
    if set(shape) != {"stages", "branching"}:
        raise ConfigError(f"tree has the keys {sorted(shape)}: must have 'stages' and 'branching'")
    return scenario_pb.TreeShape(stage_starts=shape["stages"], branching=shape["branching"])


def outcome_request(
    decision_id: str, realized: ScenarioArrays, request_id: str | None
) -> decision_pb.RecordOutcomeRequest:
    """The message that records what came true."""
    message = _scenario_set(realized)
    message.ClearField("probabilities")
    return decision_pb.RecordOutcomeRequest(
        decision_id=decision_id, realized=message, request_id=request_id or str(uuid.uuid4())
    )


def _question(model: str, options: Question) -> dict[str, Any]:
    risk = options.get("risk", "expectation")
    own = options.get("own_scenarios")
    return {
        "model": model,
        "history": _rows(options.get("history"), options.get("history_times"), "history"),
        "known": _rows(options.get("known"), options.get("known_times"), "known"),
        "given": _tensors(options.get("given", {})),
        "scenario_count": options.get("scenario_count", 0),
        "seed": options.get("seed", 0),
        "risk": _risk_message(Risk.parse(risk) if isinstance(risk, str) else risk),
        "request_id": options.get("request_id") or str(uuid.uuid4()),
        "own_scenarios": None if own is None else _scenario_set(own),
    }


def _tensors(arrays: Mapping[str, ArrayLike]) -> dict[str, Any]:
    return {name: codec.encode_tensor(np.asarray(value, np.float64)) for name, value in arrays.items()}


def _rows(columns: Any, times: ArrayLike | None, name: str) -> Any:
    if columns is None:
        return None
    if hasattr(columns, "index") and hasattr(columns, "columns"):
        if times is not None:
            raise DataError(f"{name}_times with a DataFrame, whose index has the times: leave it out")
        times = _instants(columns.index, name)
        columns = {str(column): columns[column].to_numpy() for column in columns.columns}
    arrays = {key: np.asarray(values, np.float64).reshape(-1) for key, values in columns.items()}
    instants = np.asarray([] if times is None else times, "datetime64[ns]").reshape(-1)
    return codec.encode_rows(codec.NamedRows(times=instants, columns=arrays))


def _instants(index: Any, name: str) -> NDArray[np.datetime64]:
    if not hasattr(index, "tz"):
        raise DataError(f"{name} is a DataFrame indexed by {type(index).__name__}: it needs a DatetimeIndex")
    utc = index if index.tz is None else index.tz_convert("UTC").tz_localize(None)
    times: NDArray[np.datetime64] = utc.to_numpy().astype("datetime64[ns]")
    return times


def _scenario_set(own: ScenarioArrays) -> decision_pb.ScenarioSet:
    return decision_pb.ScenarioSet(
        series=own.series,
        units=own.units,
        step_times=codec.encode_times(own.times),
        paths=codec.encode_tensor(np.asarray(own.paths, np.float64)),
        probabilities=codec.encode_tensor(np.asarray(own.probabilities, np.float64)),
    )


def _risk_message(risk: Risk) -> risk_pb2.Risk:
    basis = risk_pb2.Risk.REGRET if risk.on_regret else risk_pb2.Risk.COST
    if risk.beta == 0.0:
        return risk_pb2.Risk(expectation=risk_pb2.Expectation())
    if risk.beta < 1.0:
        return risk_pb2.Risk(mixture=risk_pb2.Mixture(beta=risk.beta, alpha=risk.alpha), basis=basis)
    if risk.alpha == 1.0:
        return risk_pb2.Risk(worst_case=risk_pb2.WorstCase(), basis=basis)
    return risk_pb2.Risk(cvar=risk_pb2.ConditionalValueAtRisk(alpha=risk.alpha), basis=basis)
