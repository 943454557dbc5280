"""From messages to records."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedgecast.client.answers import (
    CertifiedDecision,
    ConstraintPrice,
    DecisionAnswer,
    Degradation,
    Difference,
    EvaluationAnswer,
    ExplanationAnswer,
    GapBound,
    ModelInfo,
    PlanEvaluation,
    RecordedOutcome,
    ScenarioArrays,
    ScenarioInfluence,
    SolverVerdict,
    Violation,
)
from hedgecast.rpc import codec
from hedgecast.rpc.v1 import decision_service_pb2 as decision_pb
from hedgecast.rpc.v1 import model_service_pb2 as model_pb

_MOST_ENTRIES = 2**31


def decision_answer(message: decision_pb.DecideResponse) -> DecisionAnswer:
    """The record of a decision."""
    timed = [variable.step_times for variable in message.decision if variable.step_times]
    return DecisionAnswer(
        decision=_plan(message.decision),
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
        gap=_gap(message.model_gap) if message.HasField("model_gap") else None,
        prices=tuple(map(_price, message.constraint_prices)),
        sensitivities={item.name: _array(item.slopes, item.name) for item in message.sensitivities},
        verdict=_verdict(message.verdict),
        model=f"{message.model.name}@{message.model.version}",
        model_fingerprint=message.model.fingerprint,
        program=f"{message.program.name}@{message.program.version}",
        program_fingerprint=message.program.fingerprint,
        scenario_fingerprint=message.scenario_fingerprint,
        scenario_count=message.scenario_count,
        seed=message.seed,
        scenarios=_scenarios(message.scenarios) if message.HasField("scenarios") else None,
        durations=_durations(message.durations),
        warnings=tuple(f"{warning.reason}: {warning.message}" for warning in message.warnings),
        request_id=message.request_id,
        decision_id=message.decision_id,
        scenario_source=_source(message),
        student=_reference(message.scenario_origin.student),
        student_fingerprint=message.scenario_origin.student.fingerprint,
        degradation=_degradation(message.degradation) if message.HasField("degradation") else None,
    )


def _degradation(message: decision_pb.Degradation) -> Degradation:
    return Degradation(
        rungs=tuple(decision_pb.Degradation.Rung.Name(rung) for rung in message.rungs),
        regret_increase=message.regret_increase,
        lower_bound=message.regret_increase_lower_bound,
        upper_bound=message.regret_increase_upper_bound,
        confidence=message.confidence,
        reference_regret=message.reference_regret,
        num_days=message.day_count,
        reference_scenarios=message.reference_scenario_count,
        measured_at=codec.decode_times([message.measure_time], field="degradation.measure_time")[0],
    )


def _reference(message: decision_pb.ModelReference) -> str:
    return f"{message.name}@{message.version}" if message.name else ""


def _source(message: Any) -> str:
    if not message.HasField("scenario_origin"):
        return ""
    return decision_pb.ScenarioOrigin.Source.Name(message.scenario_origin.source)


def certified_decision(message: decision_pb.DecideUntilCertifiedResponse) -> CertifiedDecision:
    """The record of a stage."""
    name = decision_pb.DecideUntilCertifiedResponse.StopReason.Name(message.stop_reason)
    return CertifiedDecision(
        best=decision_answer(message.best),
        model_gap_upper_bound=message.model_gap_upper_bound,
        confidence=message.confidence,
        stages=message.stage_count,
        draws=message.draw_count,
        stop_reason="" if name == "STOP_REASON_UNSPECIFIED" else name,
    )


def recorded_outcome(message: decision_pb.RecordOutcomeResponse) -> RecordedOutcome:
    """The record of an outcome."""
    covered: dict[str, dict[float, float]] = {}
    for item in message.covered:
        covered.setdefault(item.series, {})[item.level] = item.share
    return RecordedOutcome(
        decision_id=message.decision_id,
        realized_cost=message.realized_cost,
        realized_regret=message.realized_regret,
        expected_cost=message.expected_cost,
        expected_regret=message.expected_regret,
        model=f"{message.model.name}@{message.model.version}",
        covered=covered,
    )


def _verdict(message: decision_pb.Verdict) -> SolverVerdict:
    return SolverVerdict(
        state=decision_pb.Verdict.State.Name(message.state),
        primal_residual=message.primal_residual,
        dual_residual=message.dual_residual,
        relative_gap=message.relative_gap,
        iterations=message.iteration_count,
        backend=message.backend,
        batch_size=message.batch_size,
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


def model_info(message: model_pb.Model) -> ModelInfo:
    """The record of a model."""
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
        series={column.name: column.unit for column in message.series},
        history_steps=message.history_step_count,
        horizon_steps=message.horizon_step_count,
        step_seconds=codec.decode_duration(message.step_duration),
        time_zone=message.time_zone,
    )


def evaluation_answer(message: decision_pb.EvaluateDecisionsResponse) -> EvaluationAnswer:
    """The record of a comparison."""
    return EvaluationAnswer(
        **_frame(message),
        plans=tuple(map(_evaluation, message.evaluations)),
        best=_evaluation(message.best),
        best_decision=_plan(message.best_decision),
        confidence=message.confidence,
    )


def explanation_answer(message: decision_pb.ExplainDecisionResponse) -> ExplanationAnswer:
    """The record of an explanation."""
    return ExplanationAnswer(
        **_frame(message),
        decision=_plan(message.decision),
        objective=message.objective,
        expected_cost=message.expected_cost,
        influences=tuple(map(_influence, message.influences)),
        unhedged_decision=_plan(message.unhedged_decision),
        unhedged_planned_cost=message.unhedged_planned_cost,
        unhedged_expected_cost=message.unhedged_expected_cost,
    )


def _frame(message: Any) -> dict[str, Any]:
    return {
        "model": f"{message.model.name}@{message.model.version}",
        "program": f"{message.program.name}@{message.program.version}",
        "scenario_fingerprint": message.scenario_fingerprint,
        "scenario_count": message.scenario_count,
        "seed": message.seed,
        "durations": _durations(message.durations),
        "scenario_source": _source(message),
        "warnings": tuple(f"{warning.reason}: {warning.message}" for warning in message.warnings),
        "request_id": message.request_id,
    }


def _plan(variables: Iterable[decision_pb.DecisionVariable]) -> dict[str, NDArray[np.float64]]:
    return {variable.name: _array(variable.values, variable.name) for variable in variables}


def _durations(message: decision_pb.Durations) -> dict[str, float]:
    return {
        "scenario": codec.decode_duration(message.scenario_duration),
        "solve": codec.decode_duration(message.solve_duration),
        "statistics": codec.decode_duration(message.statistics_duration),
        "total": codec.decode_duration(message.total_duration),
    }


def _gap(message: decision_pb.ModelGap) -> GapBound:
    return GapBound(
        estimate=message.estimate,
        standard_error=message.standard_error,
        upper_bound=message.upper_bound,
        confidence=message.confidence,
        replications=message.replication_count,
    )


def _price(message: decision_pb.ConstraintPrice) -> ConstraintPrice:
    return ConstraintPrice(
        constraint=message.constraint,
        recourse=message.recourse,
        values=_array(message.shadow_prices, message.constraint),
    )


def _evaluation(message: decision_pb.Evaluation) -> PlanEvaluation:
    return PlanEvaluation(
        label=message.label,
        feasible=message.feasible,
        violations=tuple(
            Violation(constraint=item.constraint, amount=item.amount, scenarios=item.scenario_count)
            for item in message.violations
        ),
        objective=message.objective,
        expected_cost=message.expected_cost,
        expected_regret=message.expected_regret,
        expected_regret_standard_error=message.expected_regret_standard_error,
        above_best=_difference(message, "above_best"),
        above_leader=_difference(message, "above_leader"),
    )


def _difference(message: decision_pb.Evaluation, field: str) -> Difference | None:
    if not message.HasField(field):  # type: ignore[arg-type]
        return None
    found: decision_pb.Difference = getattr(message, field)
    return Difference(
        mean=found.mean,
        standard_error=found.standard_error,
        lower_bound=found.lower_bound,
        upper_bound=found.upper_bound,
    )


def _influence(message: decision_pb.Influence) -> ScenarioInfluence:
    return ScenarioInfluence(
        scenario=message.scenario_index,
        probability=message.probability,
        magnitude=message.magnitude,
        shift=_plan(message.shift),
        cost=message.cost,
    )
