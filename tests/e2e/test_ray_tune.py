"""``hedgecast tune`` with a real Ray Tune; what lies in the test part cannot move it."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import psutil
import pytest

from hedgecast.testing import write_tiny_study
from hedgecast_workers.testing import BIN, Head, environment

pytestmark = pytest.mark.slow

SEARCH = """
[tune]
trials = 3
grace_epochs = 2
[tune.space]
learning_rate = { low = 1e-4, high = 1e-2, log = true }
"generator.denoiser.hidden" = [16, 32]
"""
SETTINGS = (
    "learning.method=diffusion-dfl",
    "learning.epochs=5",
    "learning.joint_epochs=1",
    "learning.batch_days=48",
    "learning.samples_per_day=8",
    "learning.scenarios=10",
    "learning.generator.denoiser.hidden=16",
)


def tuned(study: Path, folder: Path, env: dict[str, str], *options: str) -> dict[str, Any]:
    command = [str(BIN / "hedgecast"), "tune", str(study), "--json", *options]
    command += [argument for change in SETTINGS for argument in ("--set", change)]
    command += ["--output", str(folder / "tuning.json"), "--storage", str(folder / "ray")]
    ran = subprocess.run(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    assert found == json.loads((folder / "tuning.json").read_text())
    return found


def ray_folders() -> set[str]:
    """Temporary folders of the Rays that run below this process."""
    found = set()
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            found |= set(re.findall(r"/hc-\w+", " ".join(child.cmdline())))
    return found


def test_a_search_is_bounded_reproducible_and_blind_to_the_test_days(tmp_path: Path, head: Head) -> None:
    before = ray_folders()
    study = write_tiny_study(tmp_path, num_days=200)
    study.write_text(study.read_text() + SEARCH)
    found = tuned(study, tmp_path / "first", environment())
    assert len(found["trials"]) == 3
    costs = [trial["cost"] for trial in found["trials"]]
    assert costs == sorted(costs)
    assert found["best"] == found["trials"][0]
    assert [trial["own"] for trial in found["trials"]].count(True) == 1
    assert found["own"]["values"] == {"learning_rate": 2e-3, "generator.denoiser.hidden": 16}
    assert found["own"]["epochs"] == 6
    for trial in found["trials"]:
        assert trial["error"] is None
        assert 2 <= trial["epochs"] <= 6
        assert 1e-4 <= trial["values"]["learning_rate"] <= 1e-2
        assert trial["values"]["generator.denoiser.hidden"] in (16, 32)
    # Other test days, and a cluster that is there: the study's own settings come to the same cost.
    first = tomllib.loads(study.read_text())["split"]["test"]
    rows = (tmp_path / "tiny.csv").read_text().splitlines()
    changed = [
        f"{time},{float(load) * 3},{off}" if time > f"{first} 23" else row
        for row in rows[1:]
        for time, load, off in [row.split(",")]
    ]
    assert changed != rows[1:]
    (tmp_path / "tiny.csv").write_text("\n".join([rows[0], *changed]) + "\n")
    again = tuned(study, tmp_path / "second", head.connected(), "--trials", "1")
    assert again["own"]["cost"] == pytest.approx(found["own"]["cost"], rel=1e-9)
    # The cluster that tests share is there; the search's own is gone.
    assert ray_folders() - before == set()
