"""Between messages and records: requests are checked here, before anything is computed."""

from __future__ import annotations

import re
import uuid

import numpy as np
from numpy.typing import NDArray

from hedgecast.core.errors import ConfigError, DataError, InputError
from hedgecast.programs.risk import Risk
from hedgecast.rpc import codec
from hedgecast.rpc.v1 import decision_service_pb2 as decision_pb
from hedgecast.rpc.v1 import model_service_pb2 as model_pb
from hedgecast.rpc.v1 import risk_pb2
from hedgecast.service.backend import (
    ArraySpec,
    ColumnSpec,
    DecideAnswer,
    DecideQuery,
    DecisionArray,
    ModelDescription,
    ProgramDescription,
    Scenarios,
    Solution,
)
from hedgecast.service.settings import ServiceSettings

DEFAULT_SCENARIO_COUNT = 200
DEFAULT_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
DEFAULT_TAIL_LEVEL = 0.95
_MOST_LEVELS = 101


def query_of(
    message: decision_pb.DecideRequest, settings: ServiceSettings, *, deadline_seconds: float
) -> DecideQuery:
    """The query in ``message``, with the defaults that the protos state.

    Raises
    ------
    InputError
        A field that cannot be used; the fact ``field`` is its path.
    """
    if not message.model:
        raise InputError("model is empty: name one, for example german_grid@champion", field="model")
    limit = settings.max_input_entries
    return DecideQuery(
        model=message.model,
        history=codec.decode_rows(message.history, field="history", most_entries=limit),
        known=codec.decode_rows(message.known, field="known", most_entries=limit),
        given=_given(message, limit),
        scenario_count=_scenario_count(message.scenario_count, settings.max_scenarios),
        seed=_seed(message.seed),
        risk=risk_of(message.risk),
        quantile_levels=_levels(message),
        tail_level=_tail_level(message.tail_level),
        return_scenarios=message.return_scenarios,
        validate_only=message.validate_only,
        request_id=_request_id(message.request_id),
        deadline_seconds=deadline_seconds,
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


def response_of(
    query: DecideQuery, answer: DecideAnswer, *, total_seconds: float
) -> decision_pb.DecideResponse:
    """The message for ``answer``."""
    message = decision_pb.DecideResponse(
        model=_model_reference(answer.model),
        program=_program_reference(answer.model.program),
        scenario_count=query.scenario_count,
        seed=query.seed,
        tail_level=query.tail_level,
        request_id=query.request_id,
        durations=decision_pb.Durations(total_duration=codec.encode_duration(total_seconds)),
    )
    if answer.solution is not None:
        _fill(message, answer.solution)
    return message


def model_of(model: ModelDescription) -> model_pb.Model:
    """The message that describes ``model``."""
    program = model.program
    return model_pb.Model(
        name=model.full_name,
        reference=_model_reference(model),
        aliases=model.aliases,
        program=model_pb.Program(
            reference=_program_reference(program),
            decision=map(_array_spec, program.decision),
            uncertain=map(_array_spec, program.uncertain),
            given=map(_array_spec, program.given),
        ),
        history_columns=map(_column_spec, model.history_columns),
        known_columns=map(_column_spec, model.known_columns),
        history_step_count=model.history_steps,
        horizon_step_count=model.horizon_steps,
        step_duration=codec.encode_duration(model.step_seconds),
        time_zone=model.time_zone,
        series=map(_column_spec, model.series),
    )


def _given(message: decision_pb.DecideRequest, limit: int) -> dict[str, NDArray[np.float64]]:
    return {
        name: codec.decode_tensor(tensor, field=f"given[{name}]", most_entries=limit).astype(np.float64)
        for name, tensor in message.given.items()
    }


def _scenario_count(count: int, limit: int) -> int:
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


def _levels(message: decision_pb.DecideRequest) -> tuple[float, ...]:
    levels = tuple(message.quantile_levels)
    if len(levels) > _MOST_LEVELS:
        raise InputError(
            f"quantile_levels has {len(levels)} entries: at most {_MOST_LEVELS}", field="quantile_levels"
        )
    for index, level in enumerate(levels):
        # NaN fails every comparison, so this refuses it too.
        if not 0.0 <= level <= 1.0:
            raise InputError(
                f"quantile_levels[{index}] is {level}: must lie in [0, 1]", field=f"quantile_levels[{index}]"
            )
    return levels or DEFAULT_LEVELS


def _tail_level(level: float) -> float:
    if not 0.0 <= level < 1.0:
        raise InputError(
            f"tail_level is {level}: must lie in [0, 1), 0 meaning {DEFAULT_TAIL_LEVEL}", field="tail_level"
        )
    return level or DEFAULT_TAIL_LEVEL


def _request_id(text: str) -> str:
    if not text:
        return str(uuid.uuid4())
    # Goes into logs as it is, so nothing that could forge a line.
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", text):
        raise DataError(
            f"request_id has {len(text)} characters: must be 1 to 64 letters, digits, dots, dashes or "
            "underscores",
            field="request_id",
        )
    return text


def _fill(message: decision_pb.DecideResponse, solution: Solution) -> None:
    statistics, report = solution.statistics, solution.report
    message.decision.extend(map(_variable, solution.decision))
    message.objective = statistics.objective
    message.expected_cost = statistics.expected_cost
    message.expected_regret = statistics.expected_regret
    message.expected_regret_standard_error = statistics.expected_regret_standard_error
    message.cost_quantiles.extend(_quantiles(statistics.cost_quantiles))
    message.regret_quantiles.extend(_quantiles(statistics.regret_quantiles))
    message.cost_cvar = statistics.cost_cvar
    message.regret_cvar = statistics.regret_cvar
    message.expected_value_of_perfect_information = statistics.expected_value_of_perfect_information
    message.value_of_stochastic_solution = statistics.value_of_stochastic_solution or 0.0
    message.verdict.CopyFrom(
        decision_pb.Verdict(
            state=decision_pb.Verdict.OPTIMAL,
            primal_residual=report.primal_residual,
            dual_residual=report.dual_residual,
            relative_gap=report.relative_gap,
            iteration_count=report.iterations,
            backend=report.backend,
        )
    )
    message.scenario_fingerprint = solution.scenario_fingerprint
    if solution.scenarios is not None:
        message.scenarios.CopyFrom(_scenarios(solution.scenarios))
    durations = message.durations
    durations.scenario_duration.CopyFrom(codec.encode_duration(solution.scenario_seconds))
    durations.solve_duration.CopyFrom(codec.encode_duration(solution.solve_seconds))
    durations.statistics_duration.CopyFrom(codec.encode_duration(solution.statistics_seconds))
    message.warnings.extend(
        decision_pb.Warning(reason=reason, message=text) for reason, text in solution.warnings
    )


def _variable(array: DecisionArray) -> decision_pb.DecisionVariable:
    return decision_pb.DecisionVariable(
        name=array.name,
        unit=array.unit,
        values=codec.encode_tensor(array.values),
        step_times=[] if array.times is None else codec.encode_times(array.times),
    )


def _quantiles(pairs: tuple[tuple[float, float], ...]) -> list[decision_pb.Quantile]:
    return [decision_pb.Quantile(level=level, value=value) for level, value in pairs]


def _scenarios(scenarios: Scenarios) -> decision_pb.ScenarioSet:
    probabilities = scenarios.probabilities
    return decision_pb.ScenarioSet(
        series=scenarios.names,
        units=scenarios.units,
        step_times=[] if scenarios.times is None else codec.encode_times(scenarios.times),
        paths=codec.encode_tensor(scenarios.paths),
        probabilities=None if probabilities is None else codec.encode_tensor(probabilities),
    )


def _model_reference(model: ModelDescription) -> decision_pb.ModelReference:
    return decision_pb.ModelReference(name=model.name, version=model.version, fingerprint=model.fingerprint)


def _program_reference(program: ProgramDescription) -> decision_pb.ProgramReference:
    return decision_pb.ProgramReference(
        name=program.name, version=program.version, fingerprint=program.fingerprint
    )


def _array_spec(spec: ArraySpec) -> model_pb.ArraySpec:
    return model_pb.ArraySpec(name=spec.name, shape=spec.shape, unit=spec.unit)


def _column_spec(spec: ColumnSpec) -> model_pb.ColumnSpec:
    return model_pb.ColumnSpec(name=spec.name, unit=spec.unit)
