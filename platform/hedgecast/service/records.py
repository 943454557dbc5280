"""What keeps records of calls: a protocol, and the log's implementation of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from hedgecast.service.calls import Answered, Call
from hedgecast.service.logs import REQUEST_ID

_Metadata = Sequence[tuple[str, str | bytes]]

log = logging.getLogger("hedgecast.service.calls")


class Recorder(Protocol):
    """Told of every call; must not wait, raise or keep the messages."""

    def begun(self, call: Call, metadata: _Metadata) -> None:
        """Headers have come."""
        ...

    def answered(self, call: Call, answered: Answered) -> None:
        """One message is about to be sent."""
        ...

    def ended(self, call: Call) -> None:
        """The outcome is known; nothing about the call changes any more."""
        ...


class CallLog:
    """One line for every call that has ended; lines in between carry its request id."""

    def begun(self, call: Call, metadata: _Metadata) -> None:  # noqa: ARG002 - the protocol's form
        """Give what is logged from here on, in this call's task, its request id."""
        # Never reset: the task of a call ends with it, and a stream may be closed from another one.
        REQUEST_ID.set(call.request_id)

    def answered(self, call: Call, answered: Answered) -> None:
        """Nothing: one line a call is enough."""

    def ended(self, call: Call) -> None:
        """Log the outcome."""
        log.info(
            "%s %s in %.1f ms",
            call.method,
            call.code,
            1e3 * call.seconds,
            extra={
                "request_id": call.request_id,
                "method": call.method,
                "principal": call.principal,
                "model": call.model,
                "code": call.code,
                "reason": call.reason,
                "duration_seconds": round(call.seconds, 6),
            },
        )
