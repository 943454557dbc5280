"""Decisions that were answered and what came of them, as the servicers need it.

The store waits for the disk, so its calls go to a thread of their own: one, since it takes one writer at a
time anyway.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import math
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self, TypeVar

import numpy as np

from hedgecast.core.errors import (
    DecisionNotFoundError,
    InfeasibleError,
    ModelNotFoundError,
    NotOfferedError,
    OutcomeConflictError,
)
from hedgecast.outcomes import (
    DecisionRecord,
    OutcomeRecord,
    OutcomeStore,
    Performance,
    Recommendation,
    performance_of,
    recommend,
)
from hedgecast.programs.risk import EXPECTATION
from hedgecast.rpc.codec import EMPTY_ROWS
from hedgecast.service.answers import DecideAnswer, Evaluation, Scenarios, Solution
from hedgecast.service.backend import DecisionBackend
from hedgecast.service.models import ModelDescription
from hedgecast.service.queries import Candidate, DecideQuery, EvaluateQuery
from hedgecast.service.settings import ServiceSettings

_T = TypeVar("_T")
_CONFIDENCE = 0.95
# Any constant: ids of shadows are made from it and from what they shadow.
_SHADOWS = uuid.UUID("5f1d2c8e-4b0a-4d0e-9a3c-7e6b1f2a9c44")
# Alarms are worked out anew at most once in this many times what that takes.
_PAUSE = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Settled:
    """An outcome as it is kept, and its decision."""

    decision: DecisionRecord
    outcome: OutcomeRecord


class OutcomeBook:
    """Keeps decisions and their outcomes, where the settings name a folder.

    Parameters
    ----------
    store : OutcomeStore, optional
        None: nothing is kept, and asking is refused.
    told : callable
        Told of a model version's performance, NAME@VERSION first, whenever it changes.
    """

    def __init__(
        self, store: OutcomeStore | None, told: Callable[[str, Performance], None] = lambda *_: None
    ) -> None:
        self._store = store
        self._told = told
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="outcomes")
        self._warnings: dict[str, str] = {}
        self._refresh_after = 0.0
        if store is not None:
            for key, figures in store.figures().items():
                self._note("@".join(key), performance_of(figures))

    @classmethod
    def of(cls, settings: ServiceSettings, told: Callable[[str, Performance], None]) -> Self:
        """The book of the folder that the settings name.

        Raises
        ------
        HedgecastError
            Another server has the folder, or it is damaged.
        """
        folder = settings.outcomes_folder
        return cls(None if folder is None else OutcomeStore(folder), told)

    @property
    def keeping(self) -> bool:
        """Whether decisions are kept."""
        return self._store is not None

    def close(self) -> None:
        """Finish what is under way and let the folder go."""
        self._pool.shutdown()
        if self._store is not None:
            self._store.close()

    def warn(self, model: str, warnings: Any) -> None:
        """Add the alarm of a model version, NAME@VERSION, to an answer's warnings, if there is one."""
        alarm = self._warnings.get(model, "")
        if alarm:
            warnings.add(reason="REALIZED_COVERAGE", message=alarm)

    async def keep(
        self, query: DecideQuery, answer: DecideAnswer, principal: str, *, shadow_of: str = ""
    ) -> str:
        """Keep an answered decision; its id comes back, empty where it is not one that can be kept.

        Raises
        ------
        OutcomeConflictError
            The request id belongs to another decision.
        HedgecastError
            As `OutcomeStore.keep`.
        """
        if self._store is None or answer.solution is None or answer.solution.bands is None:
            return ""
        record = _record(query, answer, principal)
        if shadow_of:
            # The request id belongs to the planner's decision. A version has one shadow of each, however
            # often it was asked for: a day must not count twice.
            own = str(uuid.uuid5(_SHADOWS, f"{shadow_of} {record.model_version}"))
            record = dataclasses.replace(record, decision_id=own, request_id="", shadow_of=shadow_of)
        try:
            kept = await self._run(lambda store: store.keep(record))
        except OutcomeConflictError as error:
            # A retry that another version or a cheaper step answered, or with another plan of the same cost:
            # the planner holds this answer, not the lost one, and must be able to settle it. The request id
            # stays with the first.
            other_version = error.facts.get("kept_version") not in (None, record.model_version)
            if not (other_version or error.facts.get("same_question")):
                raise
            again = dataclasses.replace(record, request_id="")
            kept = await self._run(lambda store: store.keep(again))
        return kept.decision_id

    async def settle(
        self,
        decision_id: str,
        realized: Scenarios,
        *,
        principal: str,
        request_id: str,
        deadline_seconds: float,
        backend: DecisionBackend,
    ) -> Settled:
        """Work out what a decision was worth under what came true, and keep it.

        Raises
        ------
        NotOfferedError
            No folder is set.
        DecisionNotFoundError
            The principal has no such decision.
        HedgecastError
            What came true does not fit, or as `OutcomeStore.record`.
        """
        decision = await self._run(lambda store: store.decision(decision_id, principal=principal))
        shadows = await self._run(lambda store: store.shadows(decision_id))
        model = served_for(decision, await backend.models())
        query = _realized_query(model, (decision, *shadows), realized, request_id, deadline_seconds)
        plans = {plan.label: plan for plan in (await backend.answer(query)).evaluations}
        # A shadow that had no recourse is left out; the planner's decision is refused.
        settled = [
            record
            for record in (decision, *shadows)
            if record is decision or math.isfinite(plans[record.decision_id].expected_cost)
        ]
        outcomes = {
            record.decision_id: _outcome(
                record,
                plans[record.decision_id],
                realized,
                principal,
                request_id if record is decision else "",
            )
            for record in settled
        }
        kept = await self._run(lambda store: store.record_all(outcomes))
        await self._refresh(settled)
        return Settled(decision=decision, outcome=kept[decision_id])

    async def recommendation(self, first: ModelDescription, second: ModelDescription) -> Recommendation:
        """What the pairs of two versions say of the second; see `hedgecast.outcomes.canary`.

        Raises
        ------
        NotOfferedError
            No folder is set.
        """
        pairs = await self._run(
            lambda store: store.pairs(first.name, champion=first.version, challenger=second.version)
        )
        return recommend(pairs)

    async def performance(self, model: ModelDescription) -> Performance:
        """The figures of one model version.

        Raises
        ------
        NotOfferedError
            No folder is set.
        DecisionNotFoundError
            It has no outcomes.
        """
        figures = await self._run(lambda store: store.figures())
        found = figures.get((model.name, model.version))
        if found is None:
            raise DecisionNotFoundError(
                f"no outcome of {model.full_name} is recorded: RecordOutcome does that", field="name"
            )
        return performance_of(found)

    async def _refresh(self, decisions: Sequence[DecisionRecord]) -> None:
        began = time.monotonic()
        if began < self._refresh_after:
            return
        # Of many versions it takes its time: it must not follow each outcome that comes.
        figures = await self._run(lambda store: store.figures())
        now = time.monotonic()
        self._refresh_after = now + _PAUSE * (now - began)
        for key in {(decision.model, decision.model_version) for decision in decisions}:
            self._note("@".join(key), performance_of(figures[key]))

    def _note(self, model: str, performance: Performance) -> None:
        self._warnings[model] = performance.warning
        self._told(model, performance)

    async def _run(self, work: Callable[[OutcomeStore], _T]) -> _T:
        store = self._store
        if store is None:
            raise NotOfferedError(
                "this server keeps no outcomes: its operator sets HEDGECAST_OUTCOMES_FOLDER",
                setting="outcomes_folder",
            )
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, store)


def _record(query: DecideQuery, answer: DecideAnswer, principal: str) -> DecisionRecord:
    solution, model = answer.solution, answer.model
    assert solution is not None
    assert solution.bands is not None
    return DecisionRecord(
        decision_id=str(uuid.uuid4()),
        request_id=query.request_id,
        principal=principal,
        model=model.name,
        model_version=kept_version(model.version, solution),
        program=model.program.name,
        program_version=model.program.version,
        issued_at=datetime.datetime.now(datetime.UTC),
        fingerprint=solution.scenario_fingerprint,
        seed=query.seed,
        given=_arrays(query.given),
        decision={array.name: array.values for array in solution.decision},
        expected_cost=solution.statistics.expected_cost,
        expected_regret=solution.statistics.expected_regret,
        risk="" if query.risk.neutral else str(query.risk),
        cost=solution.bands.cost,
        bands=solution.bands.series,
    )


def kept_version(version: str, solution: Solution) -> str:
    """The version that a decision is kept under: figures of cheaper answers are not the model's."""
    return "+".join((version, *sorted(rung.value for rung in solution.rungs)))


def served_for(decision: DecisionRecord, models: Sequence[ModelDescription]) -> ModelDescription:
    """A served model with the decision's program: its own version, or another of its name.

    Costs are the program's alone, so that outcomes can be recorded after a new version took over.

    Raises
    ------
    ModelNotFoundError
        There is none.
    """
    alike = [
        model for model in models if (model.name, model.program.name) == (decision.model, decision.program)
    ]
    exact = [model for model in alike if model.version == decision.model_version.partition("+")[0]]
    if not alike:
        raise ModelNotFoundError(
            f"no version of {decision.model} with program {decision.program} is served any more: its costs "
            "cannot be worked out",
            model=decision.model,
        )
    return (exact or alike)[0]


def _outcome(
    decision: DecisionRecord, plan: Evaluation, realized: Scenarios, principal: str, request_id: str
) -> OutcomeRecord:
    if not math.isfinite(plan.expected_cost):
        broken = "; ".join(violation.constraint for violation in plan.violations)
        raise InfeasibleError(
            f"decision {decision.decision_id} had no recourse under what came true: {broken}; its cost "
            "cannot be stated",
            field="realized",
        )
    return OutcomeRecord.of(
        decision,
        realized={name: realized.paths[0, :, index] for index, name in enumerate(realized.names)},
        cost=plan.expected_cost,
        regret=plan.expected_regret,
        recorded_at=datetime.datetime.now(datetime.UTC),
        request_id=request_id,
        principal=principal,
    )


def _realized_query(
    model: ModelDescription,
    decisions: Sequence[DecisionRecord],
    realized: Scenarios,
    request_id: str,
    deadline_seconds: float,
) -> EvaluateQuery:
    return EvaluateQuery(
        model=model.full_name,
        history=EMPTY_ROWS,
        known=EMPTY_ROWS,
        given=_arrays(decisions[0].given),
        own=realized,
        scenario_count=1,
        seed=0,
        risk=EXPECTATION,
        request_id=request_id,
        deadline_seconds=deadline_seconds,
        candidates=tuple(
            Candidate(label=decision.decision_id, values=_arrays(decision.decision)) for decision in decisions
        ),
        confidence=_CONFIDENCE,
    )


def _arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.asarray(values, np.float64) for name, values in arrays.items()}
