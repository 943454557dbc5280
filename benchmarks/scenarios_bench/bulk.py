"""Ray Data's actors against the bare loop, by way of `bench_bulk.py`, with its network of usual size."""

from __future__ import annotations

import pathlib
import tempfile
from typing import Any

import bench_bulk


def measure(rounds: int) -> dict[str, Any]:
    """What `bench_bulk.speed` says, and whether the framework costs no more than its bar."""
    with tempfile.TemporaryDirectory(prefix="hedgecast-bench-") as folder:
        usual, _ = bench_bulk.bundles(pathlib.Path(folder))
        found = bench_bulk.speed(usual, rounds)
    return summary(found)


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """What the page says; rounds are kept."""
    one, two = (found["median"][name]["scenarios_per_second"] for name in ("1 actor", "2 actors"))
    return {
        **found,
        "two_over_one": two / one,
        "reached": found["time_over_bare_loop"] <= found["bar"],
        "reached_in_processor_time": found["cpu_over_bare_loop"] <= found["bar"],
    }
