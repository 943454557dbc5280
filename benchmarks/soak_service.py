"""Mixed load on the real service while replicas die and the champion changes: nothing wrong, lost or mixed.

    python benchmarks/soak_service.py [--minutes 20] [--kill-every 60] [--callers 6] [--denoisers 0]

`hedgecast serve` with two solvers, which draw for themselves unless there are denoisers, and a gateway that
asks for a client's certificate and a token. Callers in closed loops decide (one by one and in streams),
compare plans, explain, generate scenarios and record outcomes. Meanwhile a replica is killed every minute
(SIGKILL), the champion is switched twice and Serve's controller is killed once. Every answer is compared with
one that this process computes from the version and the request alone; acknowledged outcomes are read back
from the disk in the end. Exit status 1 with a list when anything was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from soak.faults import Chaos, schedule
from soak.load import Ledger, Load, secure_stubs
from soak.operating import SOLVERS, Operator
from soak.oracle import Oracle, oracle
from soak.page import page
from soak.processes import Memory, watched
from soak.questions import MODEL, Questions

from hedgecast.learning.study import Study, read_study
from hedgecast.outcomes import OutcomeStore
from hedgecast.registry.bundle import Bundle
from hedgecast.service.models import BundleReference
from hedgecast.testing import Authority, make_tiny_model

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "benchmarks" / "results" / "soak.json"
TOKEN = "sesame"
PLANNER = "planner"
_VERSIONS = ("1", "2")
_TOLD_SECONDS = 30.0


def main() -> int:
    """Soak, write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--kill-every", type=float, default=60.0, help="seconds between killed replicas")
    parser.add_argument("--callers", type=int, default=6)
    parser.add_argument("--denoisers", type=int, default=0, help="replicas that draw; 0: solvers do")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--models", type=Path, help="keep the models there for the next run, or take them")
    parser.add_argument("--log", type=Path, default=os.devnull, help="what the service says")
    arguments = parser.parse_args()
    # The service is ended and the folder goes, whoever ends this.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    with tempfile.TemporaryDirectory(prefix="hedgecast-soak-") as folder:
        result = asyncio.run(_soak(Path(folder), arguments))
    text = json.dumps(result, indent=2) + "\n"
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    temporary = arguments.output.with_name(f"{arguments.output.name}.tmp")
    temporary.write_text(text)
    os.replace(temporary, arguments.output)
    print(text)
    if arguments.output == RESULT:
        (ROOT / "docs" / "soak.md").write_text(page(result))
    return 1 if result["wrong"] else 0


async def _soak(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    models = arguments.models or folder / "models"
    versions = [_version(models / version, index) for index, version in enumerate(_VERSIONS)]
    references = [
        BundleReference(folder=bundle.folder, name=MODEL, version=version)
        for version, (_, bundle) in zip(_VERSIONS, versions, strict=True)
    ]
    questions = Questions(versions[0][0].data)
    bundles = [bundle for _, bundle in versions]
    async with contextlib.AsyncExitStack() as stack:
        # Both take their time to get warm.
        started = Operator.started(
            folder, bundles, _settings(folder), arguments.log, denoisers=arguments.denoisers
        )
        warm = asyncio.to_thread(stack.enter_context, oracle(references))
        operator, known = await asyncio.gather(stack.enter_async_context(started), warm)
        result = await _loaded(folder, operator, questions, known, arguments)
    _read_back(folder / "outcomes", result.pop("ledger"), result["wrong"])
    return result


def _version(folder: Path, index: int) -> tuple[Study, Bundle]:
    """The study and the bundle of a version, made unless an earlier run left them there."""
    if not (folder / "bundle").is_dir():
        folder.mkdir(parents=True)
        # The exporter prints; standard output has the result alone.
        with contextlib.redirect_stdout(sys.stderr):
            make_tiny_model(folder, network_seed=index)
    return read_study(folder / "tiny.toml"), Bundle.open(folder / "bundle")


def _settings(folder: Path) -> dict[str, str]:
    """Mutual TLS and a token; a port of its own, which a gateway that comes after another takes again."""
    authority = Authority(folder)
    certificate, key = authority.issue("server")
    authority.issue(PLANNER)
    tokens = folder / "tokens"
    tokens.write_text(f"{PLANNER} {hashlib.sha256(TOKEN.encode()).hexdigest()}\n")
    given = {
        "port": _free_port(),
        "tls_certificate": certificate,
        "tls_key": key,
        "tls_client_ca": authority.certificates,
        "token_file": tokens,
        "audit_file": folder / "audit.jsonl",
        "outcomes_folder": folder / "outcomes",
    }
    return {f"HEDGECAST_{name.upper()}": str(value) for name, value in given.items()}


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


async def _loaded(
    folder: Path, operator: Operator, questions: Questions, known: Oracle, arguments: argparse.Namespace
) -> dict[str, Any]:
    seconds = 60.0 * arguments.minutes
    machine = _machine()
    expected = {"Gateway": 1, "Solver": SOLVERS, "Denoiser": arguments.denoisers, "Controller": 1}
    chaos = Chaos(operator.pid, expected, operator.switch)
    stop = asyncio.Event()
    metadata = (("authorization", f"Bearer {TOKEN}"),)
    with watched(operator.pid) as memory:
        async with secure_stubs(operator.address, folder, PLANNER) as stubs:
            load = Load(stubs, metadata, questions, known, operator.champion)
            began = time.monotonic()
            callers = asyncio.create_task(load.run(arguments.callers, arguments.seed, stop))
            planned = schedule(seconds, arguments.kill_every, denoisers=arguments.denoisers > 0)
            faults = asyncio.create_task(chaos.run(planned))
            while time.monotonic() < began + seconds and not callers.done():
                await asyncio.wait([callers], timeout=min(_TOLD_SECONDS, began + seconds - time.monotonic()))
                print(
                    f"{time.monotonic() - began:.0f} s: {load.ledger.summary()}", file=sys.stderr, flush=True
                )
            stop.set()
            # What broke is told in the result, beside all that was found until then.
            ended = await asyncio.gather(callers, faults, return_exceptions=True)
            for error in filter(None, ended):
                load.ledger.tell(f"the soak itself failed: {error!r}")
            took = time.monotonic() - began
    return _result(arguments, machine, took, load.ledger, known, chaos, memory)


def _result(
    arguments: argparse.Namespace,
    machine: dict[str, Any],
    took: float,
    ledger: Ledger,
    known: Oracle,
    chaos: Chaos,
    memory: Memory,
) -> dict[str, Any]:
    rows = memory.report()
    wrong = list(ledger.wrong)
    wrong += [f"memory of {row['role']} {row['pid']} grew: {row}" for row in rows if not row["flat"]]
    wrong += [
        f"{event['what']} was not back after it was killed at {event['at']} s"
        for event in chaos.events
        if event.get("process_back_seconds", 0.0) is None
    ]
    return {
        "machine": {**machine, "load_after": round(os.getloadavg()[0], 1)},
        "minutes_asked": arguments.minutes,
        "seconds": round(took, 1),
        "callers": arguments.callers,
        "denoisers": arguments.denoisers,
        "seed": arguments.seed,
        "requests_answered": dict(sorted(ledger.answered.items())),
        "answers_compared": known.compared,
        "answers_identical": known.identical,
        "distinct_recomputed": known.recomputed,
        "answered_after_retries": ledger.retried,
        "longest_wait_seconds": round(ledger.longest_wait, 1),
        "attempts": {f"{kind}: {code}": count for (kind, code), count in sorted(ledger.attempts.items())},
        "answers_by_version": dict(sorted(ledger.versions.items())),
        "outcomes_acknowledged": len(ledger.outcomes),
        "faults": chaos.events,
        "memory": rows,
        "wrong": wrong,
        "ledger": ledger,
    }


def _read_back(folder: Path, ledger: Ledger, wrong: list[str]) -> None:
    """Each acknowledged outcome must be on the disk, once and as acknowledged."""
    with OutcomeStore(folder) as store:
        for decision_id, (cost, regret) in ledger.outcomes.items():
            kept = store.outcome(decision_id)
            if kept is None or (kept.cost, kept.regret) != (cost, regret):
                wrong.append(f"outcome {decision_id} was acknowledged as {cost}, {regret}, kept is {kept}")


def _machine() -> dict[str, Any]:
    return {
        "date": datetime.date.today().isoformat(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 1),
        "versions": {
            name: importlib.metadata.version(name) for name in ("grpcio", "onnxruntime", "ray", "torch")
        },
    }


if __name__ == "__main__":
    sys.exit(main())
