"""What goes wrong on purpose while the load runs, and when."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from soak.processes import by_role

# Of the whole time; the controller dies between both switches.
_SWITCHES = (0.3, 0.7)
_CONTROLLER = 0.5
# The gateway is one: it dies seldom, and each other kill takes turns.
_ORDER = ("Solver", "Denoiser", "Solver", "Gateway", "Denoiser")
_RECOVERY_SECONDS = 240.0
_LOOK_SECONDS = 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """One of them."""

    at: float
    """Seconds from the start."""
    what: str
    """A role whose youngest replica is killed, ``Controller`` or ``switch``."""


def schedule(seconds: float, every: float, *, denoisers: bool) -> list[Fault]:
    """A replica every ``every`` seconds, two switches and one death of the controller, in order."""
    kills = itertools.cycle(role for role in _ORDER if denoisers or role != "Denoiser")
    times = [every * number for number in range(1, int(seconds // every) + 1) if every * number < seconds]
    faults = [Fault(at, next(kills)) for at in times]
    faults += [Fault(share * seconds, "switch") for share in _SWITCHES]
    faults.append(Fault(_CONTROLLER * seconds, "Controller"))
    return sorted(faults, key=lambda fault: fault.at)


class Chaos:
    """Carries a schedule out.

    Parameters
    ----------
    pid : int
        Of the process above the service's.
    expected : mapping
        Role to the processes that there should be.
    switch : callable
        Makes the other version champion; what comes back is how that is told.
    """

    def __init__(
        self, pid: int, expected: Mapping[str, int], switch: Callable[[], Awaitable[dict[str, Any]]]
    ) -> None:
        self._pid, self._expected, self._switch = pid, dict(expected), switch
        self.events: list[dict[str, Any]] = []
        self._watchers: list[asyncio.Task[None]] = []

    async def run(self, faults: list[Fault]) -> None:
        """All faults at their times; a switch runs beside the kills that come meanwhile."""
        began = time.monotonic()
        for fault in faults:
            await asyncio.sleep(max(began + fault.at - time.monotonic(), 0.0))
            event: dict[str, Any] = {"at": round(time.monotonic() - began, 1), "what": fault.what}
            self.events.append(event)
            if fault.what == "switch":
                self._watchers.append(asyncio.create_task(self._switched(event)))
            else:
                self._kill(fault.what, event)
        await asyncio.gather(*self._watchers)

    async def _switched(self, event: dict[str, Any]) -> None:
        began = time.monotonic()
        event.update(await self._switch())
        event["seconds"] = round(time.monotonic() - began, 1)

    def _kill(self, role: str, event: dict[str, Any]) -> None:
        """SIGKILL the youngest: the eldest live long enough for their memory to say something."""
        members = by_role(self._pid)[role]
        if not members:
            event["skipped"] = "none was there"
            return
        victim = members[-1]
        victim.kill()
        event["pid"] = victim.pid
        self._watchers.append(asyncio.create_task(self._recovered(role, victim.pid, event)))

    async def _recovered(self, role: str, pid: int, event: dict[str, Any]) -> None:
        began = time.monotonic()
        while time.monotonic() - began < _RECOVERY_SECONDS:
            alive = [member.pid for member in by_role(self._pid)[role]]
            if pid not in alive and len(alive) >= self._expected[role]:
                event["process_back_seconds"] = round(time.monotonic() - began, 1)
                return
            await asyncio.sleep(_LOOK_SECONDS)
        event["process_back_seconds"] = None
