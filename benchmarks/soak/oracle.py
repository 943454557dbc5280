"""Each answer once more, computed in this process from the model version and the request, and compared.

The oracle is the library without Ray: both versions' bundles behind a plain server in a thread. An answer is
right when it has every field of the recomputed one, to a relative 1e-6 (the solver's tolerance is 1e-8) and
its scenarios bit by bit: their fingerprint is compared as text.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import Message
from soak.questions import MODEL, Stubs

from hedgecast.rpc import codec
from hedgecast.rpc.v1 import decision_service_pb2 as decision_pb
from hedgecast.service.background import background_server
from hedgecast.service.bundles import local_model, warm_up, warm_up_context
from hedgecast.service.local import LocalBackend
from hedgecast.service.models import BundleReference
from hedgecast.service.settings import load_settings

TOLERANCE = 1e-6
_SECONDS = 600.0
# Different in every run, or told of the past: not what the request determines.
_LEFT_OUT = frozenset({"durations", "request_id", "decision_id", "correlation_id"})
_OF_THE_PAST = frozenset({"REALIZED_COVERAGE"})


class Oracle:
    """Recomputes answers and keeps what it has computed.

    Parameters
    ----------
    stubs : Stubs
        Of a server in this process that has all versions.
    """

    def __init__(self, stubs: Stubs) -> None:
        self._stubs = stubs
        self._known: dict[bytes, list[Message]] = {}
        self._costs: dict[bytes, tuple[float, float]] = {}
        self._lock = threading.Lock()
        self.compared = 0
        self.identical = 0

    @property
    def recomputed(self) -> int:
        """Distinct answers that were worked out here."""
        return len(self._known)

    def wrong(self, kind: str, request: Message, answers: Sequence[Message], version: str) -> str:
        """What is wrong with the answer of a version; empty: nothing."""
        expected = self._expected(kind, request, version)
        self.compared += 1
        got, wanted = [_bare(answer) for answer in answers], [_bare(answer) for answer in expected]
        if got == wanted:
            self.identical += 1
            return ""
        if len(got) != len(wanted):
            return f"{len(got)} messages instead of {len(wanted)}"
        found = [text for one, other in zip(got, wanted, strict=True) if (text := difference(one, other))]
        return found[0] if found else ""

    def realized(
        self, plan: Message, given: decision_pb.DecideRequest, realized: decision_pb.ScenarioSet, version: str
    ) -> tuple[float, float]:
        """Cost and regret of a plan under what came true, by another way: as a candidate on one scenario."""
        request = decision_pb.EvaluateDecisionsRequest(
            model=f"{MODEL}@{version}", own_scenarios=realized, given=given.given
        )
        candidate = request.candidates.add(label="plan")
        for variable in plan.decision:  # type: ignore[attr-defined]
            candidate.values[variable.name].CopyFrom(variable.values)
        key = _digest("realized", version, request)
        if key not in self._costs:
            (found,) = self._stubs.decisions.EvaluateDecisions(request, timeout=_SECONDS).evaluations
            self._costs[key] = (found.expected_cost, found.expected_regret)
        return self._costs[key]

    def _expected(self, kind: str, request: Message, version: str) -> list[Message]:
        asked = type(request)()
        asked.CopyFrom(request)
        asked.model, asked.request_id = f"{MODEL}@{version}", "oracle"  # type: ignore[attr-defined]
        key = _digest(kind, version, asked)
        with self._lock:
            if key not in self._known:
                answer = self._stubs.method(kind)(asked, timeout=_SECONDS)
                self._known[key] = [answer] if isinstance(answer, Message) else list(answer)
            return self._known[key]


@contextlib.contextmanager
def oracle(references: Sequence[BundleReference]) -> Iterator[Oracle]:
    """The oracle of several versions' bundles while the block runs."""
    models = [
        # One champion is enough: the oracle is asked for versions.
        local_model(dataclasses.replace(reference, aliases=()))
        for reference in references
    ]
    for one in models:
        # Compiled kernels may take minutes on a machine that has none: not in an answer's time.
        context = warm_up_context(one.model)
        warm_up(one.model, context, one.draw(context, 16, 0))
    backend = LocalBackend(models)
    settings = load_settings(port=0, default_deadline_seconds=_SECONDS)
    with background_server(backend, settings) as address, grpc.insecure_channel(address) as channel:
        yield Oracle(Stubs.on(channel))
    backend.close()


def difference(got: Message, expected: Message, path: str = "") -> str:
    """The first field in which a message is not what was expected; empty: none is.

    Numbers and tensors may differ by `TOLERANCE` times one and their size, all else not at all.
    """
    for field in expected.DESCRIPTOR.fields:
        name = f"{path}.{field.name}".lstrip(".")
        one, other = getattr(got, field.name), getattr(expected, field.name)
        if field.message_type is not None and field.message_type.name == "Tensor" and not field.is_repeated:
            found = _tensors(one, other, name)
        elif field.is_repeated and field.message_type is not None and not _is_map(field):
            found = f"{name} has {len(one)} entries instead of {len(other)}" if len(one) != len(other) else ""
            pairs = zip(one, other, strict=False)
            found = found or next((text for a, b in pairs if (text := difference(a, b, name))), "")
        elif field.message_type is not None and not field.is_repeated:
            found = difference(one, other, name)
        elif isinstance(other, float):
            found = "" if _close(one, other) else f"{name} is {one!r} instead of {other!r}"
        else:
            found = "" if one == other else f"{name} is {str(one)[:80]!r} instead of {str(other)[:80]!r}"
        if found:
            return found
    return ""


def _tensors(got: Any, expected: Any, name: str) -> str:
    if list(got.shape) != list(expected.shape):
        return f"{name} has shape {list(got.shape)} instead of {list(expected.shape)}"
    if got == expected:
        return ""
    one, other = (codec.decode_tensor(t, field=name, most_entries=2**24) for t in (got, expected))
    worst = float(np.max(np.abs(one.astype(float) - other.astype(float))))
    scale = TOLERANCE * (1.0 + float(np.max(np.abs(other.astype(float)))))
    return "" if worst <= scale else f"{name} is off by {worst:.3g}"


def _close(one: float, other: float) -> bool:
    return one == other or abs(one - other) <= TOLERANCE * (1.0 + abs(other))


def _is_map(field: Any) -> bool:
    return bool(field.message_type.GetOptions().map_entry)


def _bare(message: Message) -> Message:
    """Without what the request does not determine."""
    bare = type(message)()
    bare.CopyFrom(message)
    for name in _LEFT_OUT & set(bare.DESCRIPTOR.fields_by_name):
        bare.ClearField(name)
    # A stream of scenarios has its warnings in its last message.
    ended = "end" in bare.DESCRIPTOR.fields_by_name and bare.HasField("end")
    warned: Any = bare.end if ended else bare  # type: ignore[attr-defined]
    if "warnings" in warned.DESCRIPTOR.fields_by_name:
        kept = [warning for warning in warned.warnings if warning.reason not in _OF_THE_PAST]
        del warned.warnings[:]
        warned.warnings.extend(kept)
    if "verdict" in bare.DESCRIPTOR.fields_by_name and bare.HasField("verdict"):
        # Who shared the solve is chance.
        bare.verdict.ClearField("batch_size")  # type: ignore[attr-defined]
    if "start" in bare.DESCRIPTOR.fields_by_name and bare.HasField("start"):
        bare.start.ClearField("request_id")  # type: ignore[attr-defined]
    return bare


def _digest(kind: str, version: str, request: Message) -> bytes:
    content = request.SerializeToString(deterministic=True)
    return hashlib.sha256(f"{kind} {version} ".encode() + content).digest()
