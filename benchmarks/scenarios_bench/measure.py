"""What all pieces share: calls in turn, their times, where they were taken, and results kept whole."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import pathlib
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

RESULTS = pathlib.Path(__file__).resolve().parent.parent / "results"
_PACKAGES = (
    "torch",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "pyarrow",
    "grpcio",
    "ray",
    "diffusers",
    "neuralforecast",
)

Call = Callable[[], object]


def in_turn(
    calls: Mapping[str, Call], rounds: int, *, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each call in each round: all of them once a round, backwards in every other one.

    Other work on the machine then meets all of them, and whoever runs first does not always. What one thread
    of this process does alone and without waiting is timed best with ``clock=time.process_time``, which other
    work disturbs least.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for number in range(rounds):
        for name in names if number % 2 == 0 else names[::-1]:
            started = clock()
            calls[name]()
            seconds[name].append(clock() - started)
    return seconds


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> dict[str, float]:
    """Median of the ratios round by round, with the least and the largest of them."""
    if len(numerator) != len(denominator) or not numerator:
        raise ValueError(f"{len(numerator)} and {len(denominator)} rounds: both need the same, at least one")
    ratios = [one / other for one, other in zip(numerator, denominator, strict=True)]
    return {"median": statistics.median(ratios), "least": min(ratios), "largest": max(ratios)}


def where() -> dict[str, Any]:
    """The machine, its load now, and versions."""
    text = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
    processor = re.search(r"model name\s*:\s*(.+)", text)
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor[1] if processor else "unknown",
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 1),
        "versions": dict(_versions()),
    }


def keep(piece: str, record: Mapping[str, Any], machine: Mapping[str, Any], folder: pathlib.Path) -> None:
    """Write one piece's result whole; ``machine`` is what `where` said before."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"piece": piece, **machine, "load_after": round(os.getloadavg()[0], 1), **record}
    path = folder / f"scenarios_{piece}.json"
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    partial.rename(path)


def kept(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Results that there are, by piece."""
    paths = sorted(folder.glob("scenarios_*.json"))
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return {record["piece"]: record for record in records}


def high_water() -> int:
    """Bytes of memory that this process held at most; getrusage would count its parent before the start."""
    return _status("VmHWM")


def resident() -> int:
    """Bytes of memory that this process holds."""
    return _status("VmRSS")


def _status(key: str) -> int:
    text = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(text.split(f"{key}:")[1].split()[0])


def _versions() -> list[tuple[str, str]]:
    found = []
    for name in _PACKAGES:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
