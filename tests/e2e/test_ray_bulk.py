"""``hedgecast generate`` with real processes: killed workers and drivers, an interrupt, a submitted job."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet
import pytest

from hedgecast.registry.session import ScenarioSession
from hedgecast.testing import TinyModel
from hedgecast_workers.bulk_plan import days_of_study, within
from hedgecast_workers.testing import BIN, Head, environment, finish

pytestmark = pytest.mark.slow

# A day takes a good part of a second; the clock skips an hour on the 28th.
DAYS, SPAN, SCENARIOS = 10, "2021-03-22..2021-03-31", 10_000


@dataclasses.dataclass(frozen=True)
class Out:
    """The folder of a run."""

    folder: Path

    def journal(self) -> dict[str, dict[str, Any]]:
        return {file.stem: json.loads(file.read_text()) for file in (self.folder / "_parts").glob("2*.json")}

    def manifest(self) -> dict[str, Any] | None:
        file = self.folder / "_manifest.json"
        return json.loads(file.read_text()) if file.exists() else None

    def check_whole(self) -> None:
        """Every part that a reader sees is whole, one a day, and what its journal says, once it has one."""
        parts = sorted(self.folder.glob("day=*/*.parquet"))
        journal = self.journal()
        assert len({part.parent for part in parts}) == len(parts)
        for part in parts:
            steps = 23 if part.parent.name == "day=2021-03-28" else 24
            assert pyarrow.parquet.read_table(part, partitioning=None).num_rows == steps * SCENARIOS
            record = journal.get(part.parent.name.removeprefix("day="))
            assert record is None or record["sha256"] == hashlib.sha256(part.read_bytes()).hexdigest()

    def left_behind(self) -> list[str]:
        return [file.name for file in self.folder.rglob(".*")]


def command(tiny: TinyModel, out: Path, study: str = "") -> list[str]:
    source = study or str(tiny.bundle.folder.parent / "tiny.toml")
    options = {
        "--bundle": str(tiny.bundle.folder),
        "--days": SPAN,
        "--scenarios": str(SCENARIOS),
        "--out": str(out),
        "--actors": "1",
    }
    flat = [text for option in options.items() for text in option]
    return [str(BIN / "hedgecast"), "generate", source, *flat, "--json"]


def started(tiny: TinyModel, out: Path, env: Mapping[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(tiny, out),
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_parts(process: subprocess.Popen[str], out: Out, count: int) -> None:
    deadline = time.monotonic() + 300
    while len(out.journal()) < count:
        assert process.poll() is None, finish(process)
        assert time.monotonic() < deadline
        time.sleep(0.02)


def makers(head: Head) -> list[psutil.Process]:
    return [process for process in head.processes() if "MapBatches(Maker)" in " ".join(process.cmdline())]


@pytest.fixture(scope="module")
def survivor(tiny: TinyModel, head: Head, tmp_path_factory: pytest.TempPathFactory) -> tuple[Out, str, str]:
    """A run whose worker was killed in the middle, and what it printed."""
    out = Out(tmp_path_factory.mktemp("survivor") / "set")
    process = started(tiny, out.folder, head.connected())
    try:
        wait_for_parts(process, out, 2)
        (victim,) = makers(head)
        victim.send_signal(signal.SIGKILL)
        printed, said = process.communicate(timeout=300)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, said
    return out, printed, said


def test_a_run_survives_the_death_of_a_worker(survivor: tuple[Out, str, str], tiny: TinyModel) -> None:
    out, printed, said = survivor
    manifest = out.manifest()
    assert manifest is not None
    assert [part["day"] for part in manifest["parts"]] == sorted(out.journal())
    assert len(manifest["parts"]) == DAYS
    out.check_whole()
    assert out.left_behind() == []
    summary = json.loads(printed)
    assert summary["days"] == DAYS
    assert summary["rows"] == SCENARIOS * (24 * DAYS - 1)
    assert "parts 10/10" in said
    session = ScenarioSession(tiny.bundle)
    for day, part in zip(
        within(days_of_study(tiny.study.data, tiny.schema), SPAN), manifest["parts"], strict=True
    ):
        if part["day"] in ("2021-03-22", "2021-03-28"):
            (paths,) = session.draw(day.features[None], [day.day_number], SCENARIOS, 0)
            assert part["fingerprint"] == session.reader.scenario_set(day, paths, 0).fingerprint()


def test_a_job_goes_on_after_the_death_of_a_driver(
    survivor: tuple[Out, str, str], tiny: TinyModel, head: Head, tmp_path: Path
) -> None:
    out = Out(tmp_path / "set")
    process = started(tiny, out.folder, head.connected())
    try:
        wait_for_parts(process, out, 2)
        actors = makers(head)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    # The cluster ends the actors of a driver that is gone.
    assert psutil.wait_procs(actors, timeout=60)[1] == []
    out.check_whole()
    assert out.manifest() is None
    before = {day: (out.folder / record["file"]).stat().st_mtime_ns for day, record in out.journal().items()}
    assert 2 <= len(before) < DAYS
    working = str(tiny.bundle.folder.parent)
    job = [str(BIN / "ray"), "job", "submit", "--address", head.dashboard, "--working-dir", working, "--"]
    ran = subprocess.run(
        [*job, *command(tiny, out.folder, "tiny.toml")],
        env=head.environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    summary = json.loads(next(line for line in ran.stdout.splitlines() if line.startswith('{"out"')))
    assert summary["made"] == DAYS - len(before)
    manifest, expected = out.manifest(), survivor[0].manifest()
    assert manifest is not None
    assert expected is not None
    assert manifest["parts"] == expected["parts"]
    after = {day: (out.folder / record["file"]).stat().st_mtime_ns for day, record in out.journal().items()}
    assert {day: after[day] for day in before} == before
    out.check_whole()
    assert out.left_behind() == []


def test_an_interrupt_ends_the_private_ray_and_leaves_nothing_torn(tiny: TinyModel, tmp_path: Path) -> None:
    out = Out(tmp_path / "set")
    process = started(tiny, out.folder, environment())
    try:
        wait_for_parts(process, out, 1)
        family = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, said
    assert "the same command goes on with the run" in said
    assert len(family) > 4, "Ray ran in these processes"
    assert psutil.wait_procs(family, timeout=10)[1] == []
    assert out.manifest() is None
    assert 1 <= len(out.journal()) < DAYS
    assert out.left_behind() == []
    out.check_whole()
