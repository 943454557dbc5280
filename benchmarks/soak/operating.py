"""The service under the soak as its operator has it: ``hedgecast serve``, and a champion that moves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from soak.load import Champion
from soak.questions import MODEL

from hedgecast.registry.bundle import Bundle
from hedgecast.registry.store import CHAMPION, ModelStore
from hedgecast_workers.processes import end, family

SOLVERS = 2
TAKEOVER_SECONDS = 5.0
# Of the old version's last answer after the alias moved: replicas look every few seconds, load and warm up
# the new one beside the old, on a machine that is busy.
_OLD_MAY_ANSWER_SECONDS = 90.0
_START_SECONDS = 400.0
_STOP_SECONDS = 60.0


class Operator:
    """Serves the champion of a registry, and moves the alias.

    Parameters
    ----------
    process : asyncio.subprocess.Process
        Of ``hedgecast serve``.
    address : str
        HOST:PORT of the gateway.
    store : ModelStore
        Has two versions, 1 and 2; the first is champion.
    """

    def __init__(self, process: asyncio.subprocess.Process, address: str, store: ModelStore) -> None:
        self.pid = process.pid
        self.address = address
        self._store = store
        self._old, self._new = "2", "1"
        self._switches = 0
        self.champion = Champion.first(self._new)

    @classmethod
    @contextlib.asynccontextmanager
    async def started(
        cls,
        folder: Path,
        bundles: Sequence[Bundle],
        settings: Mapping[str, str],
        log: Path,
        *,
        denoisers: int,
    ) -> AsyncIterator[Operator]:
        """Serving the first of two bundles while the block runs; ``settings`` go into the environment."""
        store = ModelStore(folder / "registry")
        for bundle in bundles:
            store.register(bundle, MODEL)
        _move(store, "1")
        command = ["serve", "--model", f"{MODEL}@{CHAMPION}", "--registry", store.location, "--json"]
        replicas = ["--num-solvers", str(SOLVERS), "--num-denoisers", str(denoisers)]
        with Path(log).open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *(str(Path(sys.executable).parent / "hedgecast"), *command, *replicas),
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **settings, "HEDGECAST_TAKEOVER_SECONDS": str(TAKEOVER_SECONDS)},
                # Ctrl-C at the terminal is ours, and ends the service in order.
                start_new_session=True,
            )
        try:
            yield cls(process, await _address(process), store)
        finally:
            started = family(process.pid)
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            # What hangs does not hold up the result.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), _STOP_SECONDS)
            end(started, patience_seconds=1.0)

    async def switch(self) -> dict[str, Any]:
        """Make the other version champion; returns once no answer of the old one may come any more."""
        self._old, self._new = self._new, self._old
        self._switches += 1
        mine, to = self._switches, self._new
        self.champion.allow(self._old, to)
        await asyncio.to_thread(_move, self._store, to)
        await asyncio.sleep(_OLD_MAY_ANSWER_SECONDS)
        # In a short run the next switch may be under way by now.
        if mine == self._switches:
            self.champion.allow(to)
        return {"to": to}


def _move(store: ModelStore, version: str) -> None:
    # The gate of `hedgecast models promote` judges made-up days; the alias is the operator's.
    client = MlflowClient(tracking_uri=store.uri, registry_uri=store.uri)
    client.set_registered_model_alias(MODEL, CHAMPION, version)


async def _address(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    line = await asyncio.wait_for(process.stdout.readline(), _START_SECONDS)
    if not line:
        raise RuntimeError("the service ended: --log FILE keeps what it said")
    return str(json.loads(line)["address"])
