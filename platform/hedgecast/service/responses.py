"""From answers to messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hedgecast.registry.ladder import MeasuredStep, Rung, Student
from hedgecast.rpc import codec
from hedgecast.rpc.v1 import decision_service_pb2 as decision_pb
from hedgecast.rpc.v1 import model_service_pb2 as model_pb
from hedgecast.service.answers import (
    ConstraintPrice,
    DecideAnswer,
    DecisionArray,
    Difference,
    EvaluateAnswer,
    Evaluation,
    ExplainAnswer,
    Gap,
    Influence,
    Scenarios,
    ScenarioSource,
    Solution,
)
from hedgecast.service.certify import Certificate
from hedgecast.service.models import ArraySpec, ColumnSpec, ModelDescription, ProgramDescription
from hedgecast.service.queries import DecideQuery, EvaluateQuery, ExplainQuery, Query
from hedgecast.service.safety import BASELINE


def decide_response(
    query: DecideQuery, answer: DecideAnswer, *, total_seconds: float
) -> decision_pb.DecideResponse:
    """The message for ``answer``."""
    message = decision_pb.DecideResponse(
        **_frame(query, answer.model),
        tail_level=query.tail_level,
        durations=decision_pb.Durations(total_duration=codec.encode_duration(total_seconds)),
    )
    if answer.solution is not None:
        _fill(message, answer.solution)
        message.scenario_origin.CopyFrom(origin_message(answer.solution.source, answer.model.student))
        if query.degradation is not None and answer.solution.rungs:
            _degrade(message, answer.solution.rungs, query.degradation)
    return message


def evaluate_response(
    query: EvaluateQuery, answer: EvaluateAnswer, *, total_seconds: float
) -> decision_pb.EvaluateDecisionsResponse:
    """The message for ``answer``."""
    return decision_pb.EvaluateDecisionsResponse(
        **_frame(query, answer.model),
        evaluations=map(_evaluation, answer.evaluations),
        best=_evaluation(answer.best),
        best_decision=map(_variable, answer.best_decision),
        confidence=answer.confidence,
        scenario_fingerprint=answer.scenario_fingerprint,
        scenario_origin=origin_message(answer.source),
        warnings=warning_messages(answer.warnings),
        durations=_durations(answer, total_seconds),
    )


def explain_response(
    query: ExplainQuery, answer: ExplainAnswer, *, total_seconds: float
) -> decision_pb.ExplainDecisionResponse:
    """The message for ``answer``."""
    return decision_pb.ExplainDecisionResponse(
        **_frame(query, answer.model),
        decision=map(_variable, answer.decision),
        objective=answer.objective,
        expected_cost=answer.expected_cost,
        influences=map(_influence, answer.influences),
        unhedged_decision=map(_variable, answer.unhedged),
        unhedged_planned_cost=answer.unhedged_planned_cost,
        unhedged_expected_cost=answer.unhedged_expected_cost,
        scenario_fingerprint=answer.scenario_fingerprint,
        scenario_origin=origin_message(answer.source),
        warnings=warning_messages(answer.warnings),
        durations=_durations(answer, total_seconds),
    )


def certificate_response(
    found: Certificate, confidence: float, *, total_seconds: float
) -> decision_pb.DecideUntilCertifiedResponse:
    """The message for the best decision so far."""
    reason = decision_pb.DecideUntilCertifiedResponse.STOP_REASON_UNSPECIFIED
    if found.stop is not None:
        reason = decision_pb.DecideUntilCertifiedResponse.StopReason.Value(found.stop.name)
    return decision_pb.DecideUntilCertifiedResponse(
        best=decide_response(found.query, found.best, total_seconds=total_seconds),
        model_gap_upper_bound=found.upper_bound,
        confidence=confidence,
        stage_count=found.stages,
        draw_count=found.draws,
        stop_reason=reason,
    )


def model_of(model: ModelDescription) -> model_pb.Model:
    """The message that describes ``model``."""
    program = model.program
    return model_pb.Model(
        name=model.full_name,
        reference=model_reference(model),
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


def _frame(query: Query[Any], model: ModelDescription) -> dict[str, Any]:
    """What every answer about one decision period repeats."""
    return {
        "model": model_reference(model),
        "program": _program_reference(model.program),
        "scenario_count": query.scenario_count,
        "seed": query.seed,
        "request_id": query.request_id,
    }


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
            batch_size=solution.batch_size,
            backend=report.backend,
        )
    )
    message.scenario_fingerprint = solution.scenario_fingerprint
    if solution.scenarios is not None:
        message.scenarios.CopyFrom(scenario_message(solution.scenarios))
    if solution.gap is not None:
        message.model_gap.CopyFrom(gap_message(solution.gap))
    message.constraint_prices.extend(map(_price, solution.prices))
    message.sensitivities.extend(
        decision_pb.Sensitivity(name=item.name, unit=item.unit, slopes=codec.encode_tensor(item.values))
        for item in solution.sensitivities
    )
    total = codec.decode_duration(message.durations.total_duration)
    message.durations.CopyFrom(_durations(solution, total))
    message.warnings.extend(warning_messages(solution.warnings))


def _degrade(message: decision_pb.DecideResponse, rungs: frozenset[Rung], cost: MeasuredStep) -> None:
    """Say which cheaper ways were taken and what they cost."""
    names = sorted(rung.value for rung in rungs)
    message.degradation.CopyFrom(
        decision_pb.Degradation(
            rungs=[decision_pb.Degradation.Rung.Value(name.upper()) for name in names],
            regret_increase=cost.regret_increase,
            regret_increase_lower_bound=cost.lower_bound,
            regret_increase_upper_bound=cost.upper_bound,
            confidence=cost.confidence,
            reference_regret=cost.reference_regret,
            day_count=cost.num_days,
            reference_scenario_count=cost.reference_scenarios,
        )
    )
    message.degradation.measure_time.FromJsonString(cost.measured_time)
    message.warnings.add(
        reason="DEGRADED",
        message=f"under load the service answered with {' and '.join(names)}: on {cost.num_days} validation "
        f"days {' and '.join(cost.rungs)} raised the regret by {cost.regret_increase:.4g} "
        f"({cost.confidence:.0%} interval {cost.lower_bound:.4g} to {cost.upper_bound:.4g}) over "
        f"{cost.reference_regret:.4g} with {cost.reference_scenarios} scenarios",
    )


def origin_message(source: ScenarioSource, student: Student | None = None) -> decision_pb.ScenarioOrigin:
    """The message that says who made scenarios; ``student`` is the one that drew, if one did."""
    message = decision_pb.ScenarioOrigin(
        source=decision_pb.ScenarioOrigin.Source.Value(source.name),
        baseline=BASELINE if source is ScenarioSource.BASELINE else "",
    )
    if source is ScenarioSource.STUDENT:
        assert student is not None
        message.student.CopyFrom(model_reference(student))
    return message


def warning_messages(warnings: Sequence[tuple[str, str]]) -> list[decision_pb.Warning]:
    """The messages for (reason, message) pairs."""
    return [decision_pb.Warning(reason=reason, message=text) for reason, text in warnings]


def gap_message(gap: Gap) -> decision_pb.ModelGap:
    """The message for an optimality gap's interval."""
    return decision_pb.ModelGap(
        estimate=gap.estimate,
        standard_error=gap.standard_error,
        upper_bound=gap.upper_bound,
        confidence=gap.confidence,
        replication_count=gap.replications,
    )


def scenario_message(scenarios: Scenarios) -> decision_pb.ScenarioSet:
    """The message for scenarios."""
    probabilities = scenarios.probabilities
    return decision_pb.ScenarioSet(
        series=scenarios.names,
        units=scenarios.units,
        step_times=[] if scenarios.times is None else codec.encode_times(scenarios.times),
        paths=codec.encode_tensor(scenarios.paths),
        probabilities=None if probabilities is None else codec.encode_tensor(probabilities),
    )


def _durations(
    answer: Solution | EvaluateAnswer | ExplainAnswer, total_seconds: float
) -> decision_pb.Durations:
    return decision_pb.Durations(
        scenario_duration=codec.encode_duration(answer.scenario_seconds),
        solve_duration=codec.encode_duration(answer.solve_seconds),
        statistics_duration=codec.encode_duration(answer.statistics_seconds),
        total_duration=codec.encode_duration(total_seconds),
    )


def _price(price: ConstraintPrice) -> decision_pb.ConstraintPrice:
    return decision_pb.ConstraintPrice(
        constraint=price.constraint,
        recourse=price.recourse,
        shadow_prices=codec.encode_tensor(price.values),
    )


def _evaluation(found: Evaluation) -> decision_pb.Evaluation:
    return decision_pb.Evaluation(
        label=found.label,
        feasible=found.feasible,
        violations=[
            decision_pb.Violation(
                constraint=item.constraint, amount=item.amount, scenario_count=item.scenarios
            )
            for item in found.violations
        ],
        objective=found.objective,
        expected_cost=found.expected_cost,
        expected_regret=found.expected_regret,
        expected_regret_standard_error=found.expected_regret_standard_error,
        above_best=_difference(found.above_best),
        above_leader=_difference(found.above_leader),
    )


def _difference(found: Difference | None) -> decision_pb.Difference | None:
    if found is None:
        return None
    return decision_pb.Difference(
        mean=found.mean,
        standard_error=found.standard_error,
        lower_bound=found.lower_bound,
        upper_bound=found.upper_bound,
    )


def _influence(found: Influence) -> decision_pb.Influence:
    return decision_pb.Influence(
        scenario_index=found.scenario,
        probability=found.probability,
        magnitude=found.shift,
        shift=map(_variable, found.direction),
        cost=found.cost,
    )


def _variable(array: DecisionArray) -> decision_pb.DecisionVariable:
    return decision_pb.DecisionVariable(
        name=array.name,
        unit=array.unit,
        values=codec.encode_tensor(array.values),
        step_times=[] if array.times is None else codec.encode_times(array.times),
    )


def _quantiles(pairs: Sequence[tuple[float, float]]) -> list[decision_pb.Quantile]:
    return [decision_pb.Quantile(level=level, value=value) for level, value in pairs]


def model_reference(model: ModelDescription | Student) -> decision_pb.ModelReference:
    """The message that names ``model``."""
    return decision_pb.ModelReference(name=model.name, version=model.version, fingerprint=model.fingerprint)


def _program_reference(program: ProgramDescription) -> decision_pb.ProgramReference:
    return decision_pb.ProgramReference(
        name=program.name, version=program.version, fingerprint=program.fingerprint
    )


def _array_spec(spec: ArraySpec) -> model_pb.ArraySpec:
    return model_pb.ArraySpec(name=spec.name, shape=spec.shape, unit=spec.unit)


def _column_spec(spec: ColumnSpec) -> model_pb.ColumnSpec:
    return model_pb.ColumnSpec(name=spec.name, unit=spec.unit)
