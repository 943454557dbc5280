"""Hostile inputs against a real server: a clear status each, the server alive, its memory bounded.

    python benchmarks/fuzz_service.py [--seed 0] [--share 1.0] [--output FILE]

At share 1 there are over 20,000 inputs: bytes that are no message, mutated and spoiled requests, extreme
numbers, bombs (allocation and decompression), tokens, methods that are not there, HTTP/2 by hand,
half-open and slow connections, wrong certificates. Exit status 1 with a list when anything was wrong:
an input that was let through, a status outside the documented ones, a path or a trace in an answer, a
server that no longer answers as before, memory that grew. Every draw comes from the seed.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import psutil
from hostile import assaults
from hostile.assaults import Findings, Target
from hostile.serve import TOKEN

from hedgecast.rpc.v1.decision_service_pb2 import DecideRequest, DecideResponse
from hedgecast.testing import Authority

# 32 requests of 4 MiB, each unpacked to 20 times its size: what docs/security.md tells operators to count on.
_MOST_GROWTH_MIB = 32 * 4 * 20
_COUNTS: dict[Callable[[Target, np.random.Generator, int, Findings], None], int] = {
    assaults.random_messages: 5000,
    assaults.mutated_messages: 6000,
    assaults.spoiled_messages: 6000,
    assaults.extreme_numbers: 150,
    assaults.tokens: 2000,
    assaults.methods: 600,
    assaults.bombs: 60,
    assaults.conversations: 1000,
    assaults.half_open_calls: 60,
    assaults.slow_connections: 100,
    assaults.certificates: 100,
}


def main() -> int:
    """Attack, then write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--share", type=float, default=1.0, help="of the inputs of each kind")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hedgecast-fuzz-") as folder, _server(Path(folder)) as target:
        result = _attack(target, arguments.seed, arguments.share)
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(text + "\n")
    return 1 if result["wrong"] else 0


def _attack(target: Target, seed: int, share: float) -> dict[str, object]:
    findings = Findings()
    before = _answer(target)
    started = time.monotonic()
    with _watched(target.process) as memory:
        for number, (assault, count) in enumerate(_COUNTS.items()):
            begun = time.monotonic()
            size = max(round(share * count), 1)
            assault(target, np.random.default_rng([seed, number]), size, findings)
            now = target.process.memory_info().rss / 2**20
            spent = time.monotonic() - begun
            print(f"{assault.__name__}: {size} in {spent:.1f} s, {now:.0f} MiB", file=sys.stderr)
            _alive(target, assault.__name__, before, findings)
    left = target.process.memory_info().rss / 2**20
    if memory["peak"] - memory["start"] > _MOST_GROWTH_MIB:
        findings.wrong.append(
            f"memory rose from {memory['start']:.0f} to {memory['peak']:.0f} MiB, over the bound"
        )
    return {
        "seed": seed,
        "inputs": sum(findings.outcomes.values()),
        "seconds": round(time.monotonic() - started, 1),
        "outcomes": {f"{kind}: {code}": n for (kind, code), n in sorted(findings.outcomes.items())},
        "memory_mib": {"warm": round(memory["start"]), "peak": round(memory["peak"]), "after": round(left)},
        "wrong": findings.wrong[:50],
    }


def _alive(target: Target, after: str, before: DecideResponse, findings: Findings) -> None:
    """The same request must still have the same answer."""
    try:
        now = _answer(target)
    except grpc.RpcError as error:
        findings.wrong.append(f"after {after} a right request got {error.code().name}: {error.details()}")
        return
    if now.decision != before.decision or now.scenario_fingerprint != before.scenario_fingerprint:
        findings.wrong.append(f"after {after} a right request got another answer")


def _answer(target: Target) -> DecideResponse:
    with grpc.insecure_channel(target.plain) as channel:
        call = channel.unary_unary(
            assaults.DECIDE,
            request_serializer=DecideRequest.SerializeToString,
            response_deserializer=DecideResponse.FromString,
        )
        metadata = (("authorization", f"Bearer {TOKEN}"),)
        # Half-open calls hold their places until the deadline: a client waits and tries again.
        for _ in range(20):
            try:
                return call(target.valid, timeout=30, metadata=metadata)
            except grpc.RpcError as error:
                if error.code() not in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE):
                    raise
                time.sleep(0.5)
        return call(target.valid, timeout=30, metadata=metadata)


@contextlib.contextmanager
def _server(folder: Path) -> Iterator[Target]:
    authority = Authority(folder)
    authority.issue("server")
    command = [sys.executable, str(Path(__file__).parent / "hostile" / "serve.py"), str(folder)]
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise RuntimeError((folder / "server.log").read_text())
        said = json.loads(line)
        valid = DecideRequest.FromString((folder / "valid.bin").read_bytes())
        yield Target(
            plain=said["plain"],
            secure=said["secure"],
            process=psutil.Process(process.pid),
            valid=valid,
            authority=authority,
            others=Authority(folder / "others"),
        )
    finally:
        process.stdin.close()
        process.wait(timeout=60)
        process.stdout.close()


@contextlib.contextmanager
def _watched(process: psutil.Process) -> Iterator[collections.abc.Mapping[str, float]]:
    """Resident memory at the start and at its highest, in MiB, looked at every 20 ms."""
    import threading

    start = process.memory_info().rss / 2**20
    memory = {"start": start, "peak": start}
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            with contextlib.suppress(psutil.NoSuchProcess):
                memory["peak"] = max(memory["peak"], process.memory_info().rss / 2**20)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        stop.set()
        thread.join()


if __name__ == "__main__":
    sys.exit(main())
