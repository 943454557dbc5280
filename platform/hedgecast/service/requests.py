"""From messages to queries: requests are checked here, before anything is computed."""

from __future__ import annotations

import dataclasses
from typing import Any

from hedgecast.core.errors import InputError, ShapeError
from hedgecast.programs.risk import Risk
from hedgecast.rpc.v1 import decision_service_pb2 as decision_pb
from hedgecast.service.answers import Scenarios
from hedgecast.service.certify import Terms
from hedgecast.service.queries import Candidate, DecideQuery, EvaluateQuery, ExplainQuery
from hedgecast.service.question import (
    DEFAULT_SCENARIO_COUNT,
    NAME,
    arrays_of,
    question_of,
    scenarios_of,
)
from hedgecast.service.settings import ServiceSettings

DEFAULT_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
DEFAULT_TAIL_LEVEL = 0.95
DEFAULT_CONFIDENCE = 0.95
DEFAULT_REPLICATIONS = 5
# The replications of more scenarios than this would be most of an answer's time.
_MOST_REPLICATED_BY_DEFAULT = 1_000
_REPLICATIONS = (2, 50)
_DEFAULT_DRAW_LIMIT = 10_000
# Draws of one certification, in largest requests.
_REQUESTS_WORTH = 10
_FIRST_SAMPLE = 50
_MOST_LEVELS = 101
_MOST_CANDIDATES = 100
_MOST_INFLUENCES, _DEFAULT_INFLUENCES = 100, 10


def decide_query(
    message: decision_pb.DecideRequest, settings: ServiceSettings, *, deadline_seconds: float
) -> DecideQuery:
    """The query in ``message``, with the defaults that the protos state.

    Raises
    ------
    InputError
        A field that cannot be used; the fact ``field`` is its path.
    """
    question = question_of(message, settings, deadline_seconds)
    return DecideQuery(
        **question,
        quantile_levels=_levels(message),
        tail_level=_tail_level(message.tail_level),
        return_scenarios=message.return_scenarios,
        validate_only=message.validate_only,
        gap_replications=_replications(message, question["scenario_count"], question["risk"], settings),
        gap_confidence=_confidence(message.gap_confidence, "gap_confidence"),
    )


def evaluate_query(
    message: decision_pb.EvaluateDecisionsRequest, settings: ServiceSettings, *, deadline_seconds: float
) -> EvaluateQuery:
    """The query in ``message``; see `decide_query`."""
    question = question_of(message, settings, deadline_seconds)
    count = question["scenario_count"]
    if question["own"] is None and not 2 <= count <= settings.max_scenarios // 2:
        raise InputError(
            f"scenario_count is {count}: must be from 2 to {settings.max_scenarios // 2}, half the limit, "
            "since the best plan and the comparison take as many each",
            field="scenario_count",
        )
    return EvaluateQuery(
        **question,
        candidates=_candidates(message, settings.max_input_entries),
        confidence=_confidence(message.confidence, "confidence"),
    )


def explain_query(
    message: decision_pb.ExplainDecisionRequest, settings: ServiceSettings, *, deadline_seconds: float
) -> ExplainQuery:
    """The query in ``message``; see `decide_query`."""
    top = message.top_scenario_count
    if not 0 <= top <= _MOST_INFLUENCES:
        raise InputError(
            f"top_scenario_count is {top}: must be from 1 to {_MOST_INFLUENCES}, or 0 for "
            f"{_DEFAULT_INFLUENCES}",
            field="top_scenario_count",
        )
    question = question_of(message, settings, deadline_seconds)
    return ExplainQuery(**question, top_scenarios=top or _DEFAULT_INFLUENCES)


def certify_terms(
    message: decision_pb.DecideUntilCertifiedRequest, settings: ServiceSettings, *, deadline_seconds: float
) -> tuple[DecideQuery, Terms]:
    """The first stage's query in ``message`` and the terms of the stages; see `decide_query`."""
    inner = message.request
    for field in ("own_scenarios", "gap_replication_count"):
        if inner.HasField(field):
            raise InputError(f"request.{field} must be left out here", field=f"request.{field}")
    for field in ("validate_only", "gap_confidence"):
        if getattr(inner, field):
            raise InputError(f"request.{field} must be left out here", field=f"request.{field}")
    if not inner.scenario_count:
        inner.scenario_count = min(_FIRST_SAMPLE, settings.max_scenarios)
    inner.gap_replication_count = 0
    query = decide_query(inner, settings, deadline_seconds=deadline_seconds)
    if not query.risk.neutral and query.risk.alpha == 1.0:
        raise InputError(
            "request.risk is the worst case: what was never drawn cannot be bounded", field="request.risk"
        )
    return query, Terms(
        target_gap=_target(message.target_gap, "target_gap"),
        target_relative_gap=_target(message.target_relative_gap, "target_relative_gap"),
        confidence=_confidence(message.confidence, "confidence"),
        draw_limit=_draw_limit(message.draw_limit, settings.max_scenarios),
        stage_limit=settings.max_scenarios,
    )


def _target(value: float, field: str) -> float:
    # NaN fails this too.
    if not value >= 0.0:
        raise InputError(f"{field} is {value}: must not be negative", field=field)
    return value


def _draw_limit(count: int, most: int) -> int:
    limit, usual = _REQUESTS_WORTH * most, _usual_draw_limit(most)
    if not 0 <= count <= limit:
        raise InputError(
            f"draw_limit is {count}: must be from 1 to {limit}, or 0 for {usual}",
            field="draw_limit",
            limit=limit,
        )
    return count or usual


def _usual_draw_limit(most: int) -> int:
    return min(_DEFAULT_DRAW_LIMIT, _REQUESTS_WORTH * most)


def stream_question(message: decision_pb.DecideStreamRequest) -> decision_pb.DecideRequest:
    """The question of one message of a stream.

    Raises
    ------
    InputError
        It has no usable correlation id, or no question.
    """
    if not NAME.fullmatch(message.correlation_id):
        raise InputError(
            f"correlation_id has {len(message.correlation_id)} characters: must be 1 to 64 letters, digits, "
            "dots, dashes or underscores",
            field="correlation_id",
        )
    if not message.HasField("request"):
        raise InputError("request is not set: what is to be decided?", field="request")
    return message.request


def realized_of(message: decision_pb.RecordOutcomeRequest, settings: ServiceSettings) -> Scenarios:
    """What came true, as one scenario; see `decide_query`."""
    if not message.decision_id:
        raise InputError("decision_id is empty: an answer of Decide has one", field="decision_id")
    if not message.HasField("realized"):
        raise InputError("realized is not set: what came true?", field="realized")
    scenarios = scenarios_of(message.realized, settings, "realized")
    if len(scenarios.paths) != 1:
        raise ShapeError(
            f"realized.paths has {len(scenarios.paths)} scenarios: what came true is one",
            field="realized.paths.shape",
        )
    return dataclasses.replace(scenarios, probabilities=None)


def draws_asked_for(message: Any, limit: int) -> int:
    """Scenarios that a request makes the service draw or work on, for quotas.

    Parameters
    ----------
    message : Message
        With a ``scenario_count``, or with a ``draw_limit``, which covers all stages.
    limit : int
        Most scenarios of one request: what is left open is never more.
    """
    fields = message.DESCRIPTOR.fields_by_name
    if "draw_limit" in fields:
        return int(max(message.draw_limit, 0) or _usual_draw_limit(limit))
    streamed = "first_batch_index" in fields
    # A stream's limit is another one, far above the default.
    usual = DEFAULT_SCENARIO_COUNT if streamed else min(DEFAULT_SCENARIO_COUNT, limit)
    count = max(message.scenario_count, 0) or usual
    if "own_scenarios" in fields and message.HasField("own_scenarios"):
        shape = message.own_scenarios.paths.shape
        return max(int(shape[0]), 0) if shape else 0
    if "candidates" in fields:
        return 2 * int(count)
    if streamed and not message.reduce_to and not message.HasField("tree"):
        # Only of scenarios as they are drawn: fewer of them, or a tree, are made of all whatever is sent.
        left_out = max(message.first_batch_index, 0) * max(message.batch_scenario_count, 0)
        return max(int(count - left_out), 0)
    if "gap_replication_count" in fields:
        asked = message.HasField("gap_replication_count")
        replications = message.gap_replication_count if asked else _usual_replications(message, count, limit)
        return int(count * (1 + max(replications, 0)))
    return int(count)


def _candidates(message: decision_pb.EvaluateDecisionsRequest, limit: int) -> tuple[Candidate, ...]:
    count = len(message.candidates)
    if not 1 <= count <= _MOST_CANDIDATES:
        raise InputError(
            f"candidates has {count} plans: from 1 to {_MOST_CANDIDATES} are compared", field="candidates"
        )
    labels = [candidate.label for candidate in message.candidates]
    for index, label in enumerate(labels):
        if not 1 <= len(label) <= 64 or label in labels[:index]:
            raise InputError(
                f"candidates[{index}].label is {label[:64]!r}: must have 1 to 64 characters and be unique",
                field=f"candidates[{index}].label",
            )
    return tuple(
        Candidate(label=item.label, values=arrays_of(item.values, f"candidates[{index}].values", limit))
        for index, item in enumerate(message.candidates)
    )


def _replications(
    message: decision_pb.DecideRequest, scenarios: int, risk: Risk, settings: ServiceSettings
) -> int:
    limit = settings.max_scenarios
    if not message.HasField("gap_replication_count"):
        return _usual_replications(message, scenarios, limit)
    count, field = message.gap_replication_count, "gap_replication_count"
    if count == 0:
        return 0
    least, most = _REPLICATIONS
    if not least <= count <= most:
        raise InputError(f"{field} is {count}: must be from {least} to {most}, or 0 for none", field=field)
    if message.HasField("own_scenarios"):
        raise InputError(
            f"{field} is {count} with own_scenarios: fresh ones are the model's, of another law; set 0",
            field=field,
        )
    if not risk.neutral and risk.alpha == 1.0:
        raise InputError(
            f"{field} is {count} with the worst case: what was never drawn cannot be bounded; set 0",
            field=field,
        )
    if scenarios * (1 + count) > limit:
        raise InputError(
            f"{field} is {count}: with {scenarios} scenarios that makes {scenarios * (1 + count)} draws, at "
            f"most {limit} are allowed; ask for fewer of either",
            field=field,
            limit=limit,
        )
    return count


def _usual_replications(message: decision_pb.DecideRequest, scenarios: int, limit: int) -> int:
    plain = not message.HasField("own_scenarios") and not message.validate_only
    neutral = message.risk.WhichOneof("measure") in (None, "expectation")
    few = scenarios <= _MOST_REPLICATED_BY_DEFAULT and scenarios * (1 + DEFAULT_REPLICATIONS) <= limit
    return DEFAULT_REPLICATIONS if plain and neutral and few else 0


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


def _confidence(value: float, field: str) -> float:
    if not 0.0 <= value < 1.0:
        raise InputError(
            f"{field} is {value}: must lie in (0, 1), or be 0 for {DEFAULT_CONFIDENCE}", field=field
        )
    return value or DEFAULT_CONFIDENCE
