"""`hedgecast generate`: scenarios per second with actors, against the bare loop; memory while output grows.

Every measurement is a fresh process. The bare loop is what an actor does, `PartWriter.make` for one day after
another, with no Ray in the process. The framework's cost is taken between the first and the last part, in
time and, since other work on the machine shows in that, in processor time over all processes of the run. What
starting Ray and its actors takes is stated apart: it is paid once.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from hedgecast.registry.bundle import Bundle
from hedgecast.registry.package import package
from hedgecast.registry.session import ScenarioSession
from hedgecast_workers.bulk_files import BulkFiles
from hedgecast_workers.bulk_part import PartWriter
from hedgecast_workers.bulk_plan import BulkSettings, of_table, to_table
from hedgecast_workers.cluster import cluster

RESULTS = pathlib.Path(__file__).parent / "results"
# Few days, each over a million numbers: every day is a task of its own.
ROUNDS, DAYS, SCENARIOS = 3, 12, 42_000
# A small network, so that output grows fast; its days are large.
GROWTH_SCENARIOS, GROWTH_DAYS = 1_000_000, (2, 14)
BAR = 1.25
NAMES = {"bare loop": 0, "1 actor": 1, "2 actors": 2}


@dataclasses.dataclass(frozen=True)
class Run:
    """One measured process."""

    bundle: str
    actors: int
    """0: the bare loop."""
    days: int
    scenarios: int


def measured(run: Run) -> dict[str, Any]:
    """Figures of a run in a process of its own, in a folder that is gone afterwards."""
    command = [sys.executable, __file__, "--run", json.dumps(dataclasses.asdict(run))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def measure(run: Run) -> dict[str, Any]:
    bundle = Bundle.open(pathlib.Path(run.bundle))
    days = of_table(to_table(planned(bundle, run.days)))
    settings = BulkSettings.of(bundle, "bench", days, scenarios=run.scenarios, seed=0)
    with tempfile.TemporaryDirectory(prefix="hedgecast-bench-") as folder:
        files = BulkFiles.at(folder)
        files.begin(settings)
        begun, marks, processors = time.perf_counter(), [], Processors()
        if run.actors:
            with cluster(run.actors):
                from hedgecast_workers.bulk_run import parts

                ready = time.perf_counter()
                for part in parts(bundle, files, settings, days, run.actors):
                    marks.append(mark(part, processors))
        else:
            writer = PartWriter(ScenarioSession(bundle), files, settings)
            ready = time.perf_counter()
            marks += (mark(writer.make(day), processors) for day in days)
        ended = time.perf_counter()
        manifest = files.finish(settings, days, [files.finished(settings, day) or {} for day in days])
    # From where every actor has made a day.
    warm = max(run.actors, 1)
    first, last, later = marks[warm - 1], marks[-1], len(marks) - warm
    return {
        "scenarios_per_second": later * run.scenarios / (last["wall"] - first["wall"]),
        "cpu_seconds_per_million": 1e6 * (last["cpu"] - first["cpu"]) / (later * run.scenarios),
        "start_seconds": marks[0]["wall"] - begun - statistics.median(m["seconds"] for m in marks),
        "ray_seconds": ready - begun,
        "whole_seconds": ended - begun,
        "bytes": manifest["bytes"],
        "worker_peak_first": first["peak"],
        "worker_peak_last": max(m["peak"] for m in marks),
        "driver_peak_first": first["driver"],
        "driver_peak_last": last["driver"],
    }


class Processors:
    """Processor seconds of this process and all that it has started, those that are gone included."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}

    def seconds(self) -> float:
        me = psutil.Process()
        for process in (me, *me.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                self._seconds[process.pid] = times.user + times.system
        return sum(self._seconds.values())


def mark(part: Any, processors: Processors) -> dict[str, float]:
    return {
        "wall": time.perf_counter(),
        "cpu": processors.seconds(),
        "seconds": part.seconds,
        "peak": part.peak_bytes,
        "driver": high_water(),
    }


def high_water() -> int:
    """Bytes of memory that this process held at most; getrusage would count its parent before the start."""
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def planned(bundle: Bundle, count: int) -> list[Any]:
    """Days of the tiny study that lies beside the bundle."""
    from hedgecast.data.schema import FeatureSchema
    from hedgecast.learning.study import read_study
    from hedgecast_workers.bulk_plan import days_of_study

    schema = FeatureSchema.from_dict(bundle.manifest.schema, path="schema")
    return days_of_study(read_study(bundle.folder.parent / "tiny.toml").data, schema)[-count:]


def bundles(folder: pathlib.Path) -> tuple[str, str]:
    """The usual network, 24 hours of one series, and a small one."""
    import torch

    from hedgecast.data.features import features
    from hedgecast.diffusion.denoiser import Denoiser
    from hedgecast.diffusion.generator import Generator
    from hedgecast.testing import made_up_days, make_tiny_model, passing_metrics

    tiny = make_tiny_model(folder)
    context = torch.from_numpy(features(tiny.split.train))
    config = Generator.Config(denoiser=Denoiser.Config(hidden=8, num_blocks=1), sampler_steps=1)
    draws = torch.Generator().manual_seed(0)
    small, _ = Generator.fitted(config, context, torch.from_numpy(tiny.split.train.slots), draws)
    made = package(
        folder / "small",
        study=tiny.study,
        schema=tiny.schema,
        generator=small,
        context=context[:10],
        train=tiny.split.train,
        training={"days": len(context)},
        metrics=passing_metrics(),
        days=made_up_days(),
    )
    return str(tiny.bundle.folder), str(made.folder)


def speed(bundle: str, count: int = ROUNDS) -> dict[str, Any]:
    rounds: list[dict[str, Any]] = []
    for _ in range(count):
        # Side by side in time: other work on the machine comes and goes.
        figures = {name: measured(Run(bundle, actors, DAYS, SCENARIOS)) for name, actors in NAMES.items()}
        rounds.append(figures)
        print(json.dumps(figures), file=sys.stderr, flush=True)

    def median(name: str, key: str) -> float:
        return float(statistics.median(figures[name][key] for figures in rounds))

    def ratio(key: str, *, invert: bool = False) -> float:
        ratios = [figures["1 actor"][key] / figures["bare loop"][key] for figures in rounds]
        return float(statistics.median(1 / r if invert else r for r in ratios))

    keys = ("scenarios_per_second", "cpu_seconds_per_million", "start_seconds", "whole_seconds")
    return {
        "days": DAYS,
        "scenarios_of_a_day": SCENARIOS,
        "median": {name: {key: median(name, key) for key in keys} for name in NAMES},
        "time_over_bare_loop": ratio("scenarios_per_second", invert=True),
        "cpu_over_bare_loop": ratio("cpu_seconds_per_million"),
        "bar": BAR,
        "rounds": rounds,
    }


def growth(bundle: str) -> list[dict[str, Any]]:
    rows = []
    for count in GROWTH_DAYS:
        figures = measured(Run(bundle, 1, count, GROWTH_SCENARIOS))
        kept = {
            key: value for key, value in figures.items() if "peak" in key or key in ("bytes", "whole_seconds")
        }
        rows.append({"days": count, "scenarios_of_a_day": GROWTH_SCENARIOS, **kept})
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return rows


def environment() -> dict[str, Any]:
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    model = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "date": datetime.date.today().isoformat(),
        "machine": model[0] if model else platform.processor(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "versions": {
            name: importlib.metadata.version(name) for name in ("ray", "onnxruntime", "numpy", "pyarrow")
        },
    }


def show(record: dict[str, Any]) -> None:
    table = Table(title=f"load {record['load_before']:.1f} before, {record['load_after']:.1f} after")
    for column in ("", "scenarios/s", "CPU s per million", "start s", "whole s"):
        table.add_column(column)
    for name, row in record["speed"]["median"].items():
        table.add_row(name, *(f"{value:,.1f}" for value in row.values()))
    console = Console(stderr=True)
    console.print(table)
    console.print(
        f"one actor over the bare loop: time {record['speed']['time_over_bare_loop']:.3f}, "
        f"processor time {record['speed']['cpu_over_bare_loop']:.3f} (bar {BAR})"
    )


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--run")
    given = options.parse_args().run
    if given:
        print(json.dumps(measure(Run(**json.loads(given)))))
        return
    RESULTS.mkdir(exist_ok=True)
    record = environment()
    with tempfile.TemporaryDirectory(prefix="hedgecast-bench-") as folder:
        usual, small = bundles(pathlib.Path(folder))
        record["speed"] = speed(usual)
        record["growth"] = growth(small)
    record["load_after"] = os.getloadavg()[0]
    show(record)
    (RESULTS / "bulk.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
