"""Scenarios as pieces of one Arrow IPC stream; the gateway's side, which never has them all."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import math
import time
from collections.abc import AsyncGenerator, Awaitable
from typing import Protocol, TypeVar

import pyarrow as pa

from hedgecast.core.errors import UnavailableError, UntrustedError
from hedgecast.rpc.pieces import Piece
from hedgecast.rpc.v1 import scenario_service_pb2 as scenario_pb
from hedgecast.scenarios.arrow import Description, record_batch
from hedgecast.scenarios.fingerprint import RunningFingerprint
from hedgecast.service.answers import ReduceAnswer, ScenariosAnswer
from hedgecast.service.models import ModelDescription
from hedgecast.service.queries import Query, ReduceQuery, ScenariosQuery
from hedgecast.service.responses import model_reference, origin_message, warning_messages
from hedgecast.service.scenario_requests import Generation, check_first
from hedgecast.service.streams import read_ahead

END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"
"""What ends an Arrow IPC stream."""
_METHODS = {
    "forward-selection": scenario_pb.FORWARD_SELECTION,
    "k-means": scenario_pb.K_MEANS,
    "quantiles": scenario_pb.QUANTILES,
}

A = TypeVar("A")
_Message = scenario_pb.GenerateScenariosResponse


class Ask(Protocol):
    """What answers queries: a backend's ``answer``."""

    def __call__(self, query: Query[A]) -> Awaitable[A]:
        """The answer."""
        ...


async def generated(asked: Generation, answer: Ask) -> AsyncGenerator[Piece, None]:
    """The messages of a stream, in order.

    Ending the iteration cancels the work. One batch is made ahead of whoever takes them, so that two are held
    at most whatever the count.

    Raises
    ------
    HedgecastError
        Whatever ``answer`` raises.
    """
    pieces = _few if isinstance(asked.query, ReduceQuery) else _all
    async with contextlib.aclosing(pieces(asked, answer)) as messages:
        async for message in messages:
            yield message


async def _all(asked: Generation, answer: Ask) -> AsyncGenerator[Piece, None]:
    query, rows = asked.query, asked.batch_rows
    assert isinstance(query, ScenariosQuery)
    total = math.ceil(query.scenario_count / rows)
    stream = _DrawnStream(query, hashed=asked.fingerprint and asked.first_batch == 0)
    end = time.monotonic() + query.deadline_seconds
    pinned: list[str] = []

    async def batch(index: int) -> tuple[int, pa.Buffer]:
        start = index * rows
        part = dataclasses.replace(
            query,
            model=pinned[0] if pinned else query.model,
            draw_start=start,
            scenario_count=min(rows, query.scenario_count - start),
            deadline_seconds=max(end - time.monotonic(), 0.0),
        )
        found = await answer(part)
        # Also when another version takes over during the stream.
        pinned.append(found.model.full_name)
        if stream.hashed:
            # Hashing a batch takes some milliseconds in which other calls go on.
            return index, await asyncio.to_thread(stream.piece, found)
        return index, stream.piece(found)

    async with contextlib.aclosing(read_ahead(range(asked.first_batch, total), batch)) as batches:
        async for index, piece in batches:
            begin = _Begin(stream.first.model, stream.schema) if index == asked.first_batch else None
            last = index == total - 1
            yield _message(asked, index, total, piece, begin, stream.end(asked) if last else None)


async def _few(asked: Generation, answer: Ask) -> AsyncGenerator[Piece, None]:
    assert isinstance(asked.query, ReduceQuery)
    found = await answer(asked.query)
    table = found.table.combine_chunks()
    total = math.ceil(table.num_rows / asked.batch_rows)
    check_first(asked.first_batch, total)
    end = scenario_pb.GenerationEnd(
        scenario_fingerprint=found.scenario_fingerprint,
        scenario_count=asked.query.scenario_count,
        warnings=warning_messages(found.warnings),
        reduction=_report(found),
        scenario_origin=origin_message(found.source),
    )
    for index in range(asked.first_batch, total):
        (part,) = table.slice(index * asked.batch_rows, asked.batch_rows).to_batches()
        begin = _Begin(found.model, table.schema) if index == asked.first_batch else None
        last = index == total - 1
        yield _message(asked, index, total, part.serialize(), begin, end if last else None)


class _DrawnStream:
    """Batches of one draw while they pass by, in order."""

    hashed: bool
    """Whether a fingerprint is taken."""
    schema: pa.Schema
    first: ScenariosAnswer
    """With the first batch's own paths left out."""

    def __init__(self, query: ScenariosQuery, *, hashed: bool) -> None:
        self._query = query
        self.hashed = hashed
        self._digest: RunningFingerprint | None = None
        self._begun = False
        self._warnings: dict[tuple[str, str], None] = {}

    def piece(self, found: ScenariosAnswer) -> pa.Buffer:
        """The IPC message of the next batch.

        Raises
        ------
        UnavailableError, UntrustedError
            It is of another model or maker than the first, and would be mixed with it.
        """
        if not self._begun:
            self._begin(found)
        self._check(found)
        self._warnings.update(dict.fromkeys(found.warnings))
        if self._digest is not None:
            self._digest.update(found.paths)
        return record_batch(self.schema, found.paths).serialize()

    @property
    def fingerprint(self) -> str:
        """Of all scenarios; empty where it is not taken."""
        return "" if self._digest is None else self._digest.hexdigest()

    def end(self, asked: Generation) -> scenario_pb.GenerationEnd:
        """What the last message says."""
        return scenario_pb.GenerationEnd(
            scenario_fingerprint=self.fingerprint,
            scenario_count=self._query.scenario_count - asked.first_batch * asked.batch_rows,
            warnings=warning_messages(tuple(self._warnings)),
            scenario_origin=origin_message(self.first.source),
        )

    def _begin(self, found: ScenariosAnswer) -> None:
        self._begun = True
        self.first = dataclasses.replace(found, paths=found.paths[:0])
        described = Description(
            names=found.names,
            units=found.units,
            num_steps=found.paths.shape[1],
            times=found.times,
            source=found.made_by,
            model_version=found.model.full_name,
            seed=self._query.seed,
        )
        self.schema = described.schema()
        if self.hashed:
            shape = (1, self._query.scenario_count, *found.paths.shape[1:])
            times = None if found.times is None else found.times[None]
            self._digest = RunningFingerprint(shape, found.names, found.units, times)

    def _check(self, found: ScenariosAnswer) -> None:
        if found.model.fingerprint != self.first.model.fingerprint:
            raise UnavailableError(
                f"{found.model.full_name} was replaced by another model of this version during the stream: "
                "begin again"
            )
        if found.source is not self.first.source:
            raise UntrustedError(
                f"scenarios so far are the {self.first.source.value}'s, by policy the next would be "
                f"the {found.source.value}'s, and they are not mixed: ask for fewer, or for another seed",
                finding="MIXED_SOURCES",
            )


@dataclasses.dataclass(frozen=True, slots=True)
class _Begin:
    """What the first message says beside its batch."""

    model: ModelDescription
    schema: pa.Schema


def _message(
    asked: Generation,
    index: int,
    total: int,
    batch: pa.Buffer,
    begin: _Begin | None,
    end: scenario_pb.GenerationEnd | None,
) -> Piece:
    """One batch, the first with the schema and the last with the end: one more message takes half a ms."""
    message = _Message(next_batch_index=index + 1, batch_count=total, end=end)
    blocks = [batch]
    if begin is not None:
        message.start.CopyFrom(_start(asked, begin.model))
        blocks.insert(0, begin.schema.serialize())
    if end is not None:
        blocks.append(END_OF_STREAM)
    return Piece(message, blocks)


def _start(asked: Generation, model: ModelDescription) -> scenario_pb.GenerationStart:
    return scenario_pb.GenerationStart(
        model=model_reference(model),
        batch_scenario_count=asked.batch_rows,
        drawn_count=asked.query.scenario_count,
        seed=asked.query.seed,
        request_id=asked.query.request_id,
    )


def _report(found: ReduceAnswer) -> scenario_pb.ReductionReport:
    return scenario_pb.ReductionReport(
        kept_count=found.kept,
        method=_METHODS[found.method],
        distance=found.distance,
        relative_distance=found.relative_distance,
        cost_error=found.cost_error,
        relative_cost_error=found.relative_cost_error,
        cost_optimism=found.cost_optimism,
    )
