"""Decisions and their outcomes, kept so that nothing acknowledged is lost or doubled."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa

from hedgecast.core.errors import DataError, DecisionNotFoundError, OutcomeConflictError, OverloadedError
from hedgecast.outcomes.admission import Limits, admit_decision, admit_outcome
from hedgecast.outcomes.canary import PairedRegrets, pairs_of
from hedgecast.outcomes.encoding import (
    Kind,
    decision_of,
    decision_row,
    outcome_of,
    outcome_row,
    same_decision,
    same_outcome,
    same_question,
    to_bytes,
)
from hedgecast.outcomes.figures import COLUMNS, Figures, Recent, figures_of
from hedgecast.outcomes.index import Index, Place, request_key
from hedgecast.outcomes.journal import Journal, Retention
from hedgecast.outcomes.records import DecisionRecord, OutcomeRecord

_INDEXED = ("decision_id", "principal", "request_id", "shadow_of")


def _utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class OutcomeStore:
    """A folder of decisions and outcomes. Any number of threads of one process may use it.

    Parameters
    ----------
    folder : Path
        Made if it is not there; no other store may have it open.
    limits : Limits
        Bounds of one record.
    retention : Retention
        How much is kept, and for how long.
    latest : int
        Outcomes of each version that figures are made of, at most; about 1 kB of memory each.
    now : callable
        The time, with a zone; for tests.

    Raises
    ------
    OutcomeError
        Another writer has the folder, or a file is damaged.
    """

    def __init__(
        self,
        folder: Path,
        *,
        limits: Limits | None = None,
        retention: Retention | None = None,
        latest: int = 1000,
        now: Callable[[], datetime.datetime] = _utc_now,
    ) -> None:
        self._limits = Limits() if limits is None else limits
        self._index = Index()
        self._latest = latest
        self._recent = Recent(latest)
        self._journal = Journal(
            Path(folder),
            Retention() if retention is None else retention,
            now=now,
            on_drop=self._dropped,
        )
        try:
            self._fill_index()
            self._fill_recent()
            self._journal.catch_up()
        except BaseException:
            self._journal.close()
            raise

    def keep(self, decision: DecisionRecord, *, durable: bool = True) -> DecisionRecord:
        """Keep a decision that is about to be answered; what comes back is the record that is kept.

        Again with the same request id (or, without one, the same decision id) and the same content: the
        record kept the first time, whose decision id is the one to answer with.

        Parameters
        ----------
        decision : DecisionRecord
        durable : bool
            Return when the record is on the disk. Without this it survives the death of the process, and
            the death of the machine from the next durable call on.

        Raises
        ------
        DataError, ShapeError
            The record is out of bounds.
        OutcomeConflictError
            Another decision is kept under its id or request id.
        OverloadedError
            The most decisions are kept and none can go yet.
        UnavailableError
            The disk refused.
        """
        decision = admit_decision(decision, self._limits)
        payload = to_bytes(decision_row(decision))
        request = request_key(Kind.DECISION, decision.principal, decision.request_id)
        with self._journal.lock:
            place = self._index.requested(request) or self._index.decision(decision.decision_id)
            if place is None:
                self._make_room()
                place = self._journal.append(Kind.DECISION, payload)
                self._index.add_decision(
                    place, decision.decision_id, request=request, shadow_of=decision.shadow_of
                )
                kept = decision
                self._journal.roll_if_due()
            else:
                kept = self._decision_at(place)
                _require_same_decision(kept, decision)
        if durable:
            self._journal.sync()
        return kept

    def record(self, decision_id: str, outcome: OutcomeRecord) -> OutcomeRecord:
        """Keep what really happened after a decision; what comes back is the record that is kept.

        The record is on the disk when this returns. A decision has one outcome: the same content again gives
        the record kept the first time.

        Raises
        ------
        DecisionNotFoundError
            No decision of that id is kept.
        DataError, ShapeError
            The record is out of bounds or does not fit the decision.
        OutcomeConflictError
            The decision has another outcome, or the request id recorded that of another decision.
        UnavailableError
            The disk refused; nothing was acknowledged, and a retry is safe.
        """
        return self.record_all({decision_id: outcome})[decision_id]

    def record_all(self, outcomes: Mapping[str, OutcomeRecord]) -> dict[str, OutcomeRecord]:
        """``record`` for several decisions, a planner's and its shadows say, with one wait for the disk.

        All are checked before the first is written. Two of them may not carry the same request id: it belongs
        to the planner's, those of shadows are empty.
        """
        requests = [outcome.request_id for outcome in outcomes.values() if outcome.request_id]
        if len(set(requests)) < len(requests):
            raise DataError("two outcomes carry one request id: only one of them may", field="request_id")
        # The long part first: decisions do not change, and nobody need wait while they are read.
        prepared = {}
        for decision_id, outcome in outcomes.items():
            decision = self.decision(decision_id)
            admitted = admit_outcome(outcome, decision, self._limits)
            prepared[decision_id] = (decision, admitted, to_bytes(outcome_row(admitted, decision)))
        with self._journal.lock:
            known = {
                decision_id: self._known(decision_id, outcome)
                for decision_id, (_, outcome, _) in prepared.items()
            }
            kept = {}
            for decision_id, (decision, outcome, payload) in prepared.items():
                kept[decision_id] = known[decision_id] or self._write(decision, outcome, payload)
            self._journal.roll_if_due()
        self._journal.sync()
        return kept

    def decision(self, decision_id: str, *, principal: str | None = None) -> DecisionRecord:
        """The decision of that id; another caller's than ``principal``'s counts as not kept.

        Raises
        ------
        DecisionNotFoundError
            None is kept: never answered here, or older than the retention.
        """
        with self._journal.lock:
            place = self._index.decision(decision_id)
        found = None if place is None else self._decision_at(place)
        if found is None or principal not in (None, found.principal):
            raise DecisionNotFoundError(
                f"no decision {decision_id[:64]!r} is kept: it was not answered here, or it is older "
                "than the retention",
                field="decision_id",
            )
        return found

    def outcome(self, decision_id: str) -> OutcomeRecord | None:
        """The outcome of the decision of that id; None as long as none was recorded, or none is kept."""
        with self._journal.lock:
            place = self._index.outcome(decision_id)
        return None if place is None else outcome_of(*self._journal.row(Kind.OUTCOME, place))

    def shadows(self, decision_id: str) -> tuple[DecisionRecord, ...]:
        """The decisions that were made beside the one of that id for a canary."""
        with self._journal.lock:
            places = self._index.shadows(decision_id)
        return tuple(self._decision_at(place) for place in places)

    def table(self, kind: Kind, columns: list[str] | None = None) -> pa.Table:
        """All decisions or outcomes that are kept, in the order in which they were written."""
        return pa.concat_tables([table for _, table in self._journal.tables(kind, columns)])

    def figures(self) -> dict[tuple[str, str], Figures]:
        """The latest outcomes of each (model, version), for ``performance_of``."""
        with self._journal.lock:
            if self._recent.short:
                self._fill_recent()
            now = self._recent.now()
        return {key: figures_of(key, *found) for key, found in now.items()}

    def pairs(self, model: str, *, champion: str, challenger: str) -> PairedRegrets:
        """Regrets of two versions for the same decisions, for ``recommend``; it reads files: keep it."""
        columns = ["decision_id", "shadow_of", "model", "model_version", "regret"]
        table = self.table(Kind.OUTCOME, columns)
        return pairs_of(table, model=model, champion=champion, challenger=challenger)

    def roll(self) -> None:
        """Turn what is in the log into a Parquet segment now, and return when it is there."""
        with self._journal.lock:
            self._journal.roll()
        self._journal.wait()

    def close(self) -> None:
        """Bring all to the disk and let the next writer in."""
        self._journal.close()

    def __len__(self) -> int:
        """Number of decisions kept."""
        return len(self._index)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _known(self, decision_id: str, outcome: OutcomeRecord) -> OutcomeRecord | None:
        asked = self._index.requested(request_key(Kind.OUTCOME, outcome.principal, outcome.request_id))
        if asked is not None and asked != self._index.decision(decision_id):
            raise OutcomeConflictError(
                f"request id {outcome.request_id!r} recorded the outcome of another decision: use a new "
                "request id for each outcome",
                field="request_id",
            )
        kept = self.outcome(decision_id)
        if kept is not None and not same_outcome(kept, outcome):
            raise OutcomeConflictError(
                f"decision {decision_id!r} has another outcome, recorded {kept.recorded_at.isoformat()}: an "
                "outcome is final, record one when it is settled",
                field="realized",
            )
        return kept

    def _write(self, decision: DecisionRecord, outcome: OutcomeRecord, payload: bytes) -> OutcomeRecord:
        place = self._journal.append(Kind.OUTCOME, payload)
        request = request_key(Kind.OUTCOME, outcome.principal, outcome.request_id)
        self._index.add_outcome(place, decision.decision_id, request=request)
        self._recent.add(place.number, decision, outcome)
        return outcome

    def _dropped(self, number: int) -> None:
        self._index.drop(number)
        self._recent.drop(number)

    def _decision_at(self, place: Place) -> DecisionRecord:
        return decision_of(*self._journal.row(Kind.DECISION, place))

    def _make_room(self) -> None:
        if not self._journal.make_room(self._index.__len__):
            raise OverloadedError(
                f"{len(self._index)} decisions are kept, the most there may be, and no segment can go yet"
            )

    def _fill_index(self) -> None:
        # An outcome belongs to a decision that is known.
        for kind in (Kind.DECISION, Kind.OUTCOME):
            for number, table in self._journal.tables(kind, list(_INDEXED)):
                rows = zip(*(table.column(name).to_pylist() for name in _INDEXED), strict=True)
                for row, (decision_id, principal, request_id, shadow_of) in enumerate(rows):
                    request = request_key(kind, principal, request_id)
                    place = Place(number, row)
                    if kind is Kind.DECISION:
                        self._index.add_decision(place, decision_id, request=request, shadow_of=shadow_of)
                    else:
                        self._index.add_outcome(place, decision_id, request=request)

    def _fill_recent(self) -> None:
        self._recent = Recent(self._latest)
        for number, table in self._journal.tables(Kind.OUTCOME, COLUMNS, newest_first=True):
            self._recent.fill(number, table)


def _require_same_decision(kept: DecisionRecord, decision: DecisionRecord) -> None:
    if not same_decision(kept, decision):
        name = "request id" if decision.request_id == kept.request_id != "" else "decision id"
        value = decision.request_id if name == "request id" else decision.decision_id
        raise OutcomeConflictError(
            f"another decision is kept under {name} {value!r}: use a new one for each request",
            field=name.replace(" ", "_"),
            kept_version=kept.model_version,
            same_question=same_question(kept, decision),
        )
