"""Answers that would rest on what the model has not seen: warned of, based elsewhere or refused by policy."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hedgecast.core.errors import UntrustedError
from hedgecast.scenarios.envelope import (
    Envelope,
    Finding,
    Policy,
    SafetyConfig,
    context_findings,
    history_findings,
    scenario_findings,
)
from hedgecast.service.answers import ScenarioSource
from hedgecast.service.queries import Query

if TYPE_CHECKING:
    # Brings torch; the gateway needs this module's names alone.
    from hedgecast.registry.session import Context

BASELINE = "gaussian"
"""Scenarios of the same mean, size, covariance and marginals, without the network."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What an answer rests on, and what a reader must know of it."""

    source: ScenarioSource
    warnings: tuple[tuple[str, str], ...] = ()
    """(reason, message)."""

    @property
    def baseline(self) -> bool:
        """Whether the baseline draws."""
        return self.source is ScenarioSource.BASELINE

    def by_network(self) -> Judgement:
        """The same of scenarios of the model's own network."""
        return dataclasses.replace(self, source=ScenarioSource.MODEL)


OWN = Judgement(source=ScenarioSource.CALLER)
MODEL = Judgement(source=ScenarioSource.MODEL)


def _utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class Safety:
    """The policy of one model.

    Parameters
    ----------
    envelope : Envelope
        What it has seen.
    config : SafetyConfig
        What follows.
    now : callable
        The clock that ages are measured by.
    """

    def __init__(
        self,
        envelope: Envelope,
        config: SafetyConfig,
        now: Callable[[], datetime.datetime] = _utc_now,
    ) -> None:
        self._envelope, self._config, self._now = envelope, config, now

    def before(self, query: Query[Any], context: Context) -> Judgement:
        """What follows from the context and its history, before anything is drawn.

        Raises
        ------
        UntrustedError
            The policy refuses it.
        """
        config = self._config
        judged = _judged(
            MODEL, context_findings(self._envelope, context.features, config.margin), config.context
        )
        if not query.history.num_rows:
            return judged
        stale = history_findings(
            self._envelope,
            query.history.columns,
            query.history.times[-1],
            now=self._now(),
            max_age_hours=config.max_age_hours,
        )
        return _judged(judged, stale, config.history)

    def after(self, judged: Judgement, paths: NDArray[np.float32]) -> Judgement:
        """What follows from the scenarios; where another source is named now, it has to be drawn.

        What the network itself might pass is never held against it: a student's scenarios that fail give way
        to the network's.

        Raises
        ------
        UntrustedError
            The policy refuses them, or the baseline's own are no better.
        """
        findings = tuple(scenario_findings(self._envelope, paths))
        if findings and judged.source is ScenarioSource.STUDENT:
            return judged.by_network()
        # There is nothing to fall back to from the baseline.
        policy = "refuse" if judged.baseline and self._config.scenarios != "warn" else self._config.scenarios
        return _judged(judged, findings, policy)


def _judged(before: Judgement, findings: Iterable[Finding], policy: Policy) -> Judgement:
    found = tuple(findings)
    if not found:
        return before
    if policy == "refuse":
        first = found[0]
        raise UntrustedError(
            f"{first.message}; the model's policy refuses to answer on that", finding=first.reason
        )
    warnings = before.warnings + tuple((item.reason, item.message) for item in found)
    if policy == "warn" or before.baseline:
        return dataclasses.replace(before, warnings=warnings)
    fallback = (
        "BASELINE_SCENARIOS",
        f"the model's policy draws from its {BASELINE} baseline instead of the network",
    )
    return Judgement(source=ScenarioSource.BASELINE, warnings=(*warnings, fallback))
