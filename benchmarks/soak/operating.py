"""The process of the service under the soak, told when to switch."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from soak.load import Champion

from hedgecast.service.models import BundleReference
from hedgecast.service.settings import ServiceSettings
from hedgecast_workers.local_service import SERVE_ENVIRONMENT
from hedgecast_workers.plan import ServePlan
from hedgecast_workers.processes import end, family

SOLVERS = DENOISERS = 2
_START_SECONDS = 400.0
_STOP_SECONDS = 60.0


class Operator:
    """Deploys a version, later another one.

    Parameters
    ----------
    process : asyncio.subprocess.Process
        Of ``service.py``.
    address : str
        HOST:PORT of the gateway.
    versions : sequence of str
        Two; the first is served.
    """

    def __init__(self, process: asyncio.subprocess.Process, address: str, versions: Sequence[str]) -> None:
        self._process = process
        self.pid = process.pid
        self.address = address
        self._old, self._new = versions[1], versions[0]
        self.champion = Champion.first(self._new)

    @classmethod
    @contextlib.asynccontextmanager
    async def started(
        cls, folder: Path, references: Sequence[BundleReference], settings: ServiceSettings, log: Path
    ) -> AsyncIterator[Operator]:
        """Serving the first of two versions while the block runs."""
        plan = ServePlan(
            bundle=references[0], settings=settings, num_denoisers=DENOISERS, num_solvers=SOLVERS
        )
        (folder / "plan.json").write_text(plan.model_dump_json())
        records = {
            found.version: {**dataclasses.asdict(found), "folder": str(found.folder)} for found in references
        }
        (folder / "versions.json").write_text(json.dumps(records))
        with Path(log).open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, str(Path(__file__).parent / "service.py"), str(folder)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **SERVE_ENVIRONMENT},
                # Ctrl-C at the terminal is ours: the service ends with its standard input.
                start_new_session=True,
            )
        try:
            said = await _said(process)
            yield cls(process, said["address"], [found.version for found in references])
        finally:
            started = family(process.pid)
            assert process.stdin is not None
            process.stdin.close()
            # A deployment that hangs does not read that its input has ended.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _STOP_SECONDS)
            end(started, patience_seconds=1.0)

    async def switch(self) -> dict[str, Any]:
        """Make the other version champion; returns once that is done."""
        self._old, self._new = self._new, self._old
        self.champion.allow(self._old, self._new)
        assert self._process.stdin is not None
        self._process.stdin.write(f"switch {self._new}\n".encode())
        await self._process.stdin.drain()
        await _said(self._process)
        self.champion.allow(self._new)
        return {"to": self._new}


async def _said(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), _START_SECONDS)
    if not line:
        raise RuntimeError("the service ended: --log FILE keeps what it said")
    said: dict[str, Any] = json.loads(line)
    return said
