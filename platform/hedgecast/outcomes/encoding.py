"""Records as rows of two Arrow tables, and as the bytes of one row; no pickle anywhere."""

from __future__ import annotations

import enum
import hashlib

import numpy as np
import pyarrow as pa

from hedgecast.outcomes.blocks import (
    ARRAYS,
    BANDS,
    COVERED,
    arrays_of,
    arrays_value,
    bands_of,
    bands_value,
    covered_of,
    covered_value,
)
from hedgecast.outcomes.records import Arrays, DecisionRecord, OutcomeRecord

_TIME = pa.timestamp("us", tz="UTC")


class Kind(enum.IntEnum):
    """Which of the two tables a row belongs to; the number stands in the log."""

    DECISION = 1
    OUTCOME = 2

    @property
    def schema(self) -> pa.Schema:
        """The table's columns."""
        return _SCHEMAS[self]


_SCHEMAS = {
    Kind.DECISION: pa.schema(
        [
            pa.field("decision_id", pa.string(), nullable=False),
            pa.field("request_id", pa.string(), nullable=False),
            pa.field("principal", pa.string(), nullable=False),
            pa.field("shadow_of", pa.string(), nullable=False),
            pa.field("model", pa.string(), nullable=False),
            pa.field("model_version", pa.string(), nullable=False),
            pa.field("program", pa.string(), nullable=False),
            pa.field("program_version", pa.string(), nullable=False),
            pa.field("fingerprint", pa.string(), nullable=False),
            pa.field("seed", pa.int64(), nullable=False),
            pa.field("risk", pa.string(), nullable=False),
            pa.field("issued_at", _TIME, nullable=False),
            pa.field("expected_cost", pa.float64(), nullable=False),
            pa.field("expected_regret", pa.float64(), nullable=False),
            pa.field("given", ARRAYS, nullable=False),
            pa.field("decision", ARRAYS, nullable=False),
            pa.field("cost", BANDS, nullable=False),
            pa.field("bands", BANDS, nullable=False),
        ]
    ),
    # The decision's own columns are repeated: figures by version need no join, and outlive the decision.
    Kind.OUTCOME: pa.schema(
        [
            pa.field("decision_id", pa.string(), nullable=False),
            pa.field("request_id", pa.string(), nullable=False),
            pa.field("principal", pa.string(), nullable=False),
            pa.field("shadow_of", pa.string(), nullable=False),
            pa.field("model", pa.string(), nullable=False),
            pa.field("model_version", pa.string(), nullable=False),
            pa.field("issued_at", _TIME, nullable=False),
            pa.field("recorded_at", _TIME, nullable=False),
            pa.field("cost", pa.float64(), nullable=False),
            pa.field("regret", pa.float64(), nullable=False),
            pa.field("expected_cost", pa.float64(), nullable=False),
            pa.field("expected_regret", pa.float64(), nullable=False),
            pa.field("cost_level", pa.float64(), nullable=False),
            pa.field("covered", COVERED, nullable=False),
            pa.field("realized", ARRAYS, nullable=False),
        ]
    ),
}

_COST = "cost"
# Of a variable's largest entry; the service solves to 1e-8.
_DECISION_TOLERANCE = 1e-6


def decision_row(record: DecisionRecord) -> pa.RecordBatch:
    """``record`` as a table of one row."""
    values = {
        name: getattr(record, name)
        for name in Kind.DECISION.schema.names
        if name not in ("given", "decision", "cost", "bands")
    }
    values["given"] = arrays_value(record.given)
    values["decision"] = arrays_value(record.decision)
    values["cost"] = [] if record.cost is None else bands_value({_COST: record.cost})
    values["bands"] = bands_value(record.bands)
    return pa.RecordBatch.from_pylist([values], schema=Kind.DECISION.schema)


def outcome_row(record: OutcomeRecord, decision: DecisionRecord) -> pa.RecordBatch:
    """``record`` and what its figures need of its decision as a table of one row."""
    values: dict[str, object] = {
        name: getattr(decision, name)
        for name in (
            "decision_id", "shadow_of", "model", "model_version", "issued_at", "expected_cost",
            "expected_regret",
        )
    }  # fmt: skip
    for name in ("request_id", "principal", "recorded_at", "cost", "regret", "cost_level"):
        values[name] = getattr(record, name)
    values["covered"] = covered_value(record.covered)
    values["realized"] = arrays_value(record.realized)
    return pa.RecordBatch.from_pylist([values], schema=Kind.OUTCOME.schema)


def decision_of(table: pa.RecordBatch | pa.Table, row: int) -> DecisionRecord:
    """The decision in a row of the table of decisions."""
    values = {
        name: table.column(name)[row].as_py()
        for name in table.schema.names
        if name not in ("given", "decision", "cost", "bands")
    }
    return DecisionRecord(
        **values,
        given=arrays_of(table.column("given")[row]),
        decision=arrays_of(table.column("decision")[row]),
        cost=bands_of(table.column("cost")[row]).get(_COST),
        bands=bands_of(table.column("bands")[row]),
    )


def outcome_of(table: pa.RecordBatch | pa.Table, row: int) -> OutcomeRecord:
    """The outcome in a row of the table of outcomes."""
    values = {
        name: table.column(name)[row].as_py()
        for name in ("request_id", "principal", "recorded_at", "cost", "regret", "cost_level")
    }
    return OutcomeRecord(
        **values,
        covered=covered_of(table.column("covered")[row]),
        realized=arrays_of(table.column("realized")[row]),
    )


def to_bytes(row: pa.RecordBatch) -> bytes:
    """The row as an Arrow IPC message without its schema, which the kind gives."""
    return bytes(row.serialize())


def from_bytes(payload: bytes, kind: Kind) -> pa.RecordBatch:
    """The row of such a message."""
    return pa.ipc.read_record_batch(pa.py_buffer(payload), kind.schema)


def same_question(one: DecisionRecord, other: DecisionRecord) -> bool:
    """Whether two records answer the same: caller, versions, scenarios, seed, risk and given parameters."""
    return _question_digest(one) == _question_digest(other)


def same_decision(one: DecisionRecord, other: DecisionRecord) -> bool:
    """Whether two records say the same apart from their ids and times: what was asked and decided.

    Decisions are compared to a millionth of a variable's largest entry: solved in other company, the same
    question ends on other last digits. Costs, quantiles and bands follow from these and are not compared.
    """
    names = one.decision.keys()
    return (
        same_question(one, other)
        and names == other.decision.keys()
        and all(_close(one.decision[name], other.decision[name]) for name in names)
    )


def _close(one: np.ndarray, other: np.ndarray) -> bool:
    largest = np.abs(one).max(initial=0.0)
    return one.shape == other.shape and np.allclose(other, one, rtol=0.0, atol=_DECISION_TOLERANCE * largest)


def same_outcome(one: OutcomeRecord, other: OutcomeRecord) -> bool:
    """Whether two records say that the same came true; costs follow from this and are not compared."""
    return _digest({}, one.realized) == _digest({}, other.realized)


def _question_digest(record: DecisionRecord) -> bytes:
    texts = {
        name: str(getattr(record, name))
        for name in (
            "principal", "model", "model_version", "program", "program_version", "fingerprint", "seed",
            "risk", "shadow_of",
        )
    }  # fmt: skip
    return _digest(texts, record.given)


def _digest(texts: dict[str, str], arrays: Arrays) -> bytes:
    # Of names, shapes and float64 bytes, not of Arrow's own layout, which may change with its version.
    digest = hashlib.blake2b(digest_size=32)
    for name, text in texts.items():
        digest.update(repr((name, text)).encode("ascii", "backslashreplace"))
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name], dtype="<f8")
        digest.update(repr((name, array.shape)).encode("ascii", "backslashreplace"))
        digest.update(array.tobytes())
    return digest.digest()
