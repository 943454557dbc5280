"""A part of `make fuzz`: hostile inputs of every kind against a real server in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

FUZZ = Path(__file__).parents[2] / "benchmarks" / "fuzz_service.py"
KINDS = {
    "random",
    "mutated",
    "spoiled",
    "extreme",
    "token",
    "method",
    "health",
    "bomb",
    "wire",
    "half open",
    "slow connection",
    "certificate",
}


def test_hostile_inputs_get_a_clear_status_and_the_server_lives(tmp_path: Path) -> None:
    result = tmp_path / "fuzz.json"
    run = subprocess.run(
        [sys.executable, str(FUZZ), "--seed", "1", "--share", "0.1", "--output", str(result)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.exists(), run.stderr
    found = json.loads(result.read_text())
    assert found["wrong"] == []
    assert run.returncode == 0
    assert found["inputs"] >= 2000
    assert {outcome.partition(":")[0].partition(",")[0] for outcome in found["outcomes"]} >= KINDS
    assert found["outcomes"]["token: UNAUTHENTICATED"] == 200
