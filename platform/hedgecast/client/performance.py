"""What a model version's decisions were worth: records, and their reading from the message."""

from __future__ import annotations

import dataclasses

from hedgecast.rpc.v1 import model_service_pb2 as model_pb


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OutcomeMean:
    """A mean over outcomes, in the currency of the program."""

    mean: float
    standard_error: float
    """Of ``mean``, in its units; allows for outcomes that follow each other. NaN: too few."""
    count: int
    """Outcomes."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CoverageFigures:
    """How often what came true lay at or below a quantile; levels and shares are in [0, 1]."""

    series: str
    """Name of the series."""
    level: float
    """Of the quantile."""
    expected_share: float
    """To expect if the scenarios are right."""
    covered_share: float
    """Found."""
    lower_bound: float
    """Of the band in which ``covered_share`` lies if they are right."""
    upper_bound: float
    """Of that band."""
    state: str
    """``TOO_FEW``, ``IN_BAND`` or ``OUT_OF_BAND``."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DriftFigures:
    """Recent outcomes against earlier ones, by the level in [0, 1] of each cost in its law."""

    location: float
    """Mean level of recent costs less that of earlier ones. Positive: costs come out higher than they did."""
    spread: float
    """Mean distance of that level from one half, recent less earlier. Positive: more surprises."""
    p_value: float
    """Of the larger of both. NaN: too few outcomes."""
    drifted: bool
    """It is an alarm."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class CanaryFigures:
    """A second version against this one, by realized regrets on common random numbers."""

    name: str
    """NAME@VERSION of the second version."""
    action: str
    """``PROMOTE``, ``ROLLBACK`` or ``GO_ON``; operators do it."""
    regret_difference: float
    """Mean regret of the second version less that of this one, in the currency of the program. Negative: it
    is better. NaN: no pairs yet."""
    lower_bound: float
    """Of the interval of the difference, in its units; one may look after each outcome. Infinite: too few."""
    upper_bound: float
    """Of that interval."""
    confidence: float
    """Probability, to first order, with which all such intervals hold."""
    outcomes: int
    """Pairs of outcomes that count."""
    reason: str
    """The figures as a sentence."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ModelPerformance:
    """Rolling figures of one model version over its latest outcomes; money in the currency of the program."""

    name: str
    """NAME@VERSION."""
    outcomes: int
    """Recorded in all."""
    regret: OutcomeMean
    """Realized."""
    cost: OutcomeMean
    """Realized."""
    regret_excess: OutcomeMean
    """Realized regret less what had been expected."""
    cost_excess: OutcomeMean
    """Realized cost less what had been expected."""
    coverages: tuple[CoverageFigures, ...]
    """One for each series and level."""
    drift: DriftFigures
    state: str
    """Of all coverages together: ``TOO_FEW``, ``IN_BAND`` or ``OUT_OF_BAND``."""
    warning: str
    """The alarm as a sentence; empty: there is none."""
    canary: CanaryFigures | None
    """Of the version with the alias ``canary``; None: none is served."""


def model_performance(message: model_pb.ModelPerformance) -> ModelPerformance:
    """The record of a version's performance."""
    return ModelPerformance(
        name=message.name,
        outcomes=message.outcome_count,
        regret=_mean(message.regret),
        cost=_mean(message.cost),
        regret_excess=_mean(message.regret_excess),
        cost_excess=_mean(message.cost_excess),
        coverages=tuple(map(_coverage, message.coverages)),
        drift=DriftFigures(
            location=message.drift.location,
            spread=message.drift.spread,
            p_value=message.drift.p_value,
            drifted=message.drift.drifted,
        ),
        state=model_pb.ModelPerformance.State.Name(message.state),
        warning=message.warning,
        canary=_canary(message.canary) if message.HasField("canary") else None,
    )


def _mean(message: model_pb.SeriesMean) -> OutcomeMean:
    return OutcomeMean(mean=message.mean, standard_error=message.standard_error, count=message.count)


def _coverage(message: model_pb.Coverage) -> CoverageFigures:
    return CoverageFigures(
        series=message.series,
        level=message.level,
        expected_share=message.expected_share,
        covered_share=message.covered_share,
        lower_bound=message.lower_bound,
        upper_bound=message.upper_bound,
        state=model_pb.ModelPerformance.State.Name(message.state),
    )


def _canary(message: model_pb.Canary) -> CanaryFigures:
    return CanaryFigures(
        name=message.name,
        action=model_pb.Canary.Action.Name(message.action),
        regret_difference=message.regret_difference,
        lower_bound=message.lower_bound,
        upper_bound=message.upper_bound,
        confidence=message.confidence,
        outcomes=message.outcome_count,
        reason=message.reason,
    )
