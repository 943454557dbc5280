"""Messages about what came of decisions, and about what came of one request among many."""

from __future__ import annotations

from google.rpc import error_details_pb2

from hedgecast.outcomes import Coverage, Mean, Performance, Recommendation
from hedgecast.rpc.v1 import decision_service_pb2 as decision_pb
from hedgecast.rpc.v1 import model_service_pb2 as model_pb
from hedgecast.service.models import ModelDescription
from hedgecast.service.outcomes import Settled
from hedgecast.service.status import status_of


def settled_response(settled: Settled, request_id: str) -> decision_pb.RecordOutcomeResponse:
    """The message for an outcome that is kept."""
    decision, outcome = settled.decision, settled.outcome
    message = decision_pb.RecordOutcomeResponse(
        decision_id=decision.decision_id,
        realized_cost=outcome.cost,
        realized_regret=outcome.regret,
        expected_cost=decision.expected_cost,
        expected_regret=decision.expected_regret,
        model=decision_pb.ModelReference(
            name=decision.model, version=decision.model_version.partition("+")[0]
        ),
        request_id=request_id,
        covered=[
            decision_pb.CoveredShare(series=name, level=level, share=share, expected_share=expected)
            for name, found in outcome.covered.items()
            for level, share, expected in zip(
                found.levels.tolist(), found.shares.tolist(), found.expected.tolist(), strict=True
            )
        ],
    )
    message.record_time.FromDatetime(outcome.recorded_at)
    return message


def performance_message(model: ModelDescription, found: Performance) -> model_pb.ModelPerformance:
    """The message for a model version's figures."""
    drift = found.drift
    return model_pb.ModelPerformance(
        name=model.full_name,
        outcome_count=found.total,
        regret=_mean(found.regret),
        cost=_mean(found.cost),
        regret_excess=_mean(found.regret_excess),
        cost_excess=_mean(found.cost_excess),
        coverages=map(_coverage, found.coverage),
        drift=model_pb.Drift(
            location=drift.location, spread=drift.spread, p_value=drift.p_value, drifted=drift.drifted
        ),
        state=_state(found.state),
        warning=found.warning,
    )


def canary_message(second: ModelDescription, found: Recommendation) -> model_pb.Canary:
    """The message for what pairs say of a second version."""
    return model_pb.Canary(
        name=second.full_name,
        action=model_pb.Canary.Action.Value(found.action.upper()),
        regret_difference=found.difference,
        lower_bound=found.low,
        upper_bound=found.high,
        confidence=1.0 - found.alpha,
        outcome_count=found.count,
        reason=found.reason,
    )


def stream_error(error: Exception, incident: str, *, retry_delay_seconds: float) -> decision_pb.StreamError:
    """What the status of a call of its own would have been; see `status_of`."""
    status = status_of(error, incident=incident, retry_delay_seconds=retry_delay_seconds)
    message = decision_pb.StreamError(code=status.code, message=status.message, incident_id=incident)
    info, request, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    for detail in status.details:
        if detail.Unpack(info):
            message.reason = info.reason
        elif detail.Unpack(request):
            message.field = request.field_violations[0].field
        elif detail.Unpack(retry):
            message.retry_delay.CopyFrom(retry.retry_delay)
    return message


def _mean(found: Mean) -> model_pb.SeriesMean:
    return model_pb.SeriesMean(mean=found.mean, standard_error=found.standard_error, count=found.count)


def _coverage(found: Coverage) -> model_pb.Coverage:
    return model_pb.Coverage(
        series=found.name,
        level=found.level,
        expected_share=found.expected,
        covered_share=found.covered,
        lower_bound=found.low,
        upper_bound=found.high,
        state=_state(found.state),
    )


def _state(state: str) -> model_pb.ModelPerformance.State.ValueType:
    return model_pb.ModelPerformance.State.Value(state.upper())
