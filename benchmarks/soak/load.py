"""Callers in closed loops over mutual TLS, with a ledger of everything that came back."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
from google.protobuf.message import Message
from soak.oracle import Oracle
from soak.questions import KINDS, Questions, Stubs

from hedgecast.rpc.v1 import decision_service_pb2 as decision_pb

# What the protos let a right request be answered with instead; all of them are worth another try.
DOCUMENTED = frozenset({"UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"})
_DEADLINE_SECONDS = 60.0
# A request without an answer for so long, tried again and again, is lost.
_PATIENCE_SECONDS = 240.0
_PAUSE_SECONDS = 0.5
_MOST_UNCHECKED = 200
_MOST_SETTLEABLE = 50
_MOST_TOLD = 50
# Of the outcomes, sent a second time after they were acknowledged.
_REPEATED = 0.3


@dataclasses.dataclass
class Champion:
    """Which versions may answer when: the old and the new one while a switch is under way."""

    spans: list[tuple[float, frozenset[str]]]

    @classmethod
    def first(cls, version: str) -> Champion:
        """From now on."""
        return cls([(time.monotonic(), frozenset({version}))])

    def allow(self, *versions: str) -> None:
        """From now on these may answer."""
        self.spans.append((time.monotonic(), frozenset(versions)))

    def between(self, begin: float, end: float) -> frozenset[str]:
        """Versions that may have answered a call of that time."""
        ends = [start for start, _ in self.spans[1:]] + [float("inf")]
        spans = zip(self.spans, ends, strict=True)
        return frozenset().union(*(who for (start, who), stop in spans if start <= end and stop >= begin))


@dataclasses.dataclass
class Ledger:
    """What came back."""

    attempts: collections.Counter[tuple[str, str]] = dataclasses.field(default_factory=collections.Counter)
    """(method, status) of each try."""
    answered: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    retried: int = 0
    """Requests that were answered after other tries."""
    longest_wait: float = 0.0
    """Of a request from its first try to its answer, in seconds."""
    versions: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    outcomes: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    """Decision id to acknowledged cost and regret."""
    wrong: list[str] = dataclasses.field(default_factory=list)

    def summary(self) -> str:
        """One line."""
        failed = sum(count for (_, code), count in self.attempts.items() if code != "OK")
        wrong = f"{len(self.wrong)} wrong {self.wrong[-1:]}"
        return f"{self.answered.total()} answered, {failed} other tries, {wrong}"

    def tell(self, text: str) -> None:
        """Note something that should not be."""
        if len(self.wrong) < _MOST_TOLD:
            self.wrong.append(text)


@dataclasses.dataclass(frozen=True, slots=True)
class _Settleable:
    """A decision whose outcome may be recorded."""

    request: decision_pb.DecideRequest
    answer: decision_pb.DecideResponse


class Load:
    """Mixed calls until stopped; each answer goes to the oracle.

    Parameters
    ----------
    stubs : Stubs
        Of the service, on a channel of grpc.aio.
    metadata
        Of each call: the token.
    questions : Questions
    oracle : Oracle
    champion : Champion
    """

    def __init__(
        self,
        stubs: Stubs,
        metadata: Sequence[tuple[str, str]],
        questions: Questions,
        oracle: Oracle,
        champion: Champion,
    ) -> None:
        self._stubs, self._metadata = stubs, tuple(metadata)
        self._questions, self._oracle, self._champion = questions, oracle, champion
        self._unchecked: asyncio.Queue[tuple[str, Message, list[Message]]] = asyncio.Queue(_MOST_UNCHECKED)
        self._settleable: collections.deque[_Settleable] = collections.deque(maxlen=_MOST_SETTLEABLE)
        self.ledger = Ledger()

    async def run(self, callers: int, seed: int, stop: asyncio.Event) -> None:
        """Ask until ``stop`` is set, then wait until every answer has been compared."""
        checker = asyncio.create_task(self._check())
        streams = np.random.SeedSequence(seed).spawn(callers)
        loops = [self._caller(np.random.default_rng(stream), stop) for stream in streams]
        await asyncio.gather(*loops)
        await self._unchecked.join()
        checker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await checker

    async def _caller(self, draws: np.random.Generator, stop: asyncio.Event) -> None:
        names, weights = list(KINDS), np.array(list(KINDS.values()))
        while not stop.is_set():
            kind = str(draws.choice(names, p=weights / weights.sum()))
            if kind == "RecordOutcome":
                await self._settle(draws)
            elif kind == "DecideStream":
                await self._stream(draws)
            else:
                (request,) = self._questions.ask(kind, draws)
                answers = await self._insist(kind, request)
                if answers:
                    await self._unchecked.put((kind, request, answers))
                    self._note(kind, request, answers)

    def _note(self, kind: str, request: Message, answers: list[Message]) -> None:
        if kind != "Decide":
            return
        answer = answers[0]
        assert isinstance(request, decision_pb.DecideRequest)
        assert isinstance(answer, decision_pb.DecideResponse)
        if answer.request_id != request.request_id:
            self.ledger.tell(f"request {request.request_id} got the answer to {answer.request_id}")
        if not answer.decision_id:
            self.ledger.tell(f"request {request.request_id} got no decision id")
        self._settleable.append(_Settleable(request, answer))

    async def _insist(self, kind: str, request: Message) -> list[Message]:
        """The answer, tried for as long as a patient planner would; none: told in the ledger."""
        began = time.monotonic()
        tries = 0
        while True:
            tried = time.monotonic()
            tries += 1
            try:
                answers = await self._call(kind, [request])
            except grpc.aio.AioRpcError as error:
                if not self._may_retry(kind, error):
                    return []
            else:
                self._count(kind, tried, tries, began, answers)
                return answers
            if time.monotonic() - began > _PATIENCE_SECONDS:
                self.ledger.tell(f"{kind} was lost: no answer in {tries} tries")
                return []
            await asyncio.sleep(_PAUSE_SECONDS)

    def _may_retry(self, kind: str, error: grpc.aio.AioRpcError) -> bool:
        code = error.code().name
        self.ledger.attempts[kind, code] += 1
        if code in DOCUMENTED:
            return True
        self.ledger.tell(f"{kind} got {code}: {str(error.details())[:200]}")
        return False

    def _count(self, kind: str, tried: float, tries: int, began: float, answers: list[Message]) -> None:
        now = time.monotonic()
        ledger = self.ledger
        ledger.attempts[kind, "OK"] += 1
        ledger.answered[kind] += 1
        ledger.retried += tries > 1
        ledger.longest_wait = max(ledger.longest_wait, now - began)
        for version in {version_of(answer) for answer in answers} - {""}:
            ledger.versions[version] += 1
            # A decision keeps its version when its outcome comes later.
            if kind != "RecordOutcome" and version not in self._champion.between(tried, now):
                ledger.tell(f"{kind} was answered by version {version}, not the champion")

    async def _call(self, kind: str, requests: Sequence[Message]) -> list[Message]:
        method = self._stubs.method(kind)
        options: dict[str, Any] = {"timeout": _DEADLINE_SECONDS, "metadata": self._metadata}
        if kind == "DecideStream":
            call = method(_sent(requests), **options)
        else:
            call = method(requests[0], **options)
        if isinstance(call, Awaitable):
            return [await call]
        return [message async for message in call]

    async def _stream(self, draws: np.random.Generator) -> None:
        """Many questions on one call; those that fail in a documented way are asked again, each alone."""
        requests = self._questions.ask("DecideStream", draws)
        asked = {request.correlation_id: request.request for request in requests}  # type: ignore[attr-defined]
        tried = time.monotonic()
        got: dict[str, Message] = {}
        try:
            answers = await self._call("DecideStream", requests)
        except grpc.aio.AioRpcError as error:
            if not self._may_retry("DecideStream", error):
                return
        else:
            got = self._sorted(asked, answers)
            if got:
                self._count("DecideStream", tried, 1, tried, list(got.values()))
        for name, request in asked.items():
            answered = [got[name]] if name in got else await self._insist("Decide", request)
            if answered:
                await self._unchecked.put(("Decide", request, answered))
                self._note("Decide", request, answered)

    def _sorted(self, asked: dict[str, Any], answers: Sequence[Any]) -> dict[str, Message]:
        names = [answer.correlation_id for answer in answers]
        if sorted(names) != sorted(asked):
            self.ledger.tell(f"a stream of {sorted(asked)} was answered with {sorted(names)}")
        got = {}
        for answer in answers:
            if answer.WhichOneof("outcome") == "response":
                got[answer.correlation_id] = answer.response
                continue
            code = next(known.name for known in grpc.StatusCode if known.value[0] == answer.error.code)
            self.ledger.attempts["DecideStream", code] += 1
            if code not in DOCUMENTED:
                self.ledger.tell(f"a request of a stream got {code}: {answer.error.message[:200]}")
        return got

    async def _settle(self, draws: np.random.Generator) -> None:
        """Record the outcome of an earlier decision, sometimes twice."""
        if not self._settleable:
            await asyncio.sleep(_PAUSE_SECONDS)
            return
        decision = self._settleable.popleft()
        day = self._questions.day_of(decision.request)
        request = self._questions.outcome(decision.answer.decision_id, day, int(draws.integers(3)))
        acknowledged = []
        for _ in range(1 + (draws.random() < _REPEATED)):
            answers = await self._insist("RecordOutcome", request)
            acknowledged += [(answer.realized_cost, answer.realized_regret) for answer in answers]  # type: ignore[attr-defined]
        if not acknowledged:
            return
        self.ledger.outcomes[request.decision_id] = acknowledged[0]
        if len(set(acknowledged)) > 1:
            self.ledger.tell(f"one outcome was acknowledged as {acknowledged}")
        expected = await asyncio.to_thread(
            self._oracle.realized,
            decision.answer,
            decision.request,
            request.realized,
            decision.answer.model.version,
        )
        if not np.allclose(acknowledged[0], expected, rtol=1e-6, atol=1e-6):
            self.ledger.tell(f"an outcome was worth {acknowledged[0]}, in process {expected}")

    async def _check(self) -> None:
        while True:
            kind, request, answers = await self._unchecked.get()
            try:
                version = next(filter(None, map(version_of, answers)), "")
                found = await asyncio.to_thread(self._oracle.wrong, kind, request, answers, version)
            except grpc.RpcError as error:
                found = f"the oracle has no answer: {error}"
            if found:
                self.ledger.tell(f"{kind} of version {version}: {found}")
            self._unchecked.task_done()


def version_of(answer: Any) -> str:
    """The version that an answer names; empty: it names none."""
    if "start" in answer.DESCRIPTOR.fields_by_name:
        return str(answer.start.model.version)
    return str(answer.model.version)


@contextlib.asynccontextmanager
async def secure_stubs(address: str, folder: Path, who: str) -> AsyncIterator[Stubs]:
    """The service's stubs over mutual TLS with the certificate of ``who`` in ``folder``."""
    names = ("ca.pem", f"{who}.key", f"{who}.pem")
    credentials = grpc.ssl_channel_credentials(*((folder / name).read_bytes() for name in names))
    options = [("grpc.enable_retries", 0), ("grpc.max_reconnect_backoff_ms", 1000)]
    async with grpc.aio.secure_channel(address, credentials, options) as channel:
        yield Stubs.on(channel)


async def _sent(requests: Sequence[Message]) -> AsyncIterator[Message]:
    for request in requests:
        yield request
