"""Quality against network calls against time: solvers of the trained model, and students of few steps.

For each study and seed a teacher is trained as the study says (its own sampler: Heun, 4 steps, 8 calls). Then

    student                   distilled, 1, 2 and 4 calls
    euler                     the teacher's network, undistilled, in the same 1, 2 and 4 calls
    euler, adams, dpm, heun   the teacher's network with another solver, at 5, 10, 20 and 50 calls

draw from the same noise and decide the test days; every figure is a change relative to the teacher's own,
paired by the day. Nothing is chosen on test days. Students read contexts of training and validation days.
Time is that of 1,000 scenarios of one context in torch and, for the exported graphs, in ONNX Runtime, one
thread, all in one process and in turn: on a machine that does other work beside, read the ratios alone.

Teachers, students and figures lie in runs/sampler/STUDY-SEED; the same command goes on where it was stopped.

    python benchmarks/bench_sampler.py                              both studies, three seeds
    python benchmarks/bench_sampler.py --studies german_grid --seeds 0
    python benchmarks/bench_sampler.py --tables                     page and picture alone
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import re
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from rich.console import Console

HERE = pathlib.Path(__file__).resolve().parent
RUNS = HERE.parent / "runs" / "sampler"
RESULTS = HERE / "results"
sys.path.insert(0, str(HERE / "sampler"))

import sampler_page  # noqa: E402

from hedgecast.commands.workflow import Prepared, epoch_bars  # noqa: E402
from hedgecast.diffusion.generator import Generator  # noqa: E402
from hedgecast.diffusion.noise import scenario_noise  # noqa: E402
from hedgecast.diffusion.samplers import EVALUATIONS  # noqa: E402
from hedgecast.learning.distillation import DistillConfig, distill  # noqa: E402
from hedgecast.learning.fidelity import COST, changes, score_days  # noqa: E402
from hedgecast.learning.methods import fit_methods  # noqa: E402
from hedgecast.learning.methods.diffusion import Diffusion, drawn  # noqa: E402
from hedgecast.learning.part import Part  # noqa: E402
from hedgecast.learning.study import read_study  # noqa: E402
from hedgecast.registry.export import export_graphs  # noqa: E402
from hedgecast.registry.weights import read_weights, weights_of  # noqa: E402
from hedgecast.regret.backtest import backtest  # noqa: E402
from hedgecast.scenarios.scenario_set import ScenarioSet  # noqa: E402

CONSOLE = Console(stderr=True)
STUDIES = {"german_grid": None, "vic_elec": "vic_elec.parquet"}
"""Shipped studies, and the table beside the checkout that one of them needs."""
TEACHER = "teacher"
STEPS = (1, 2, 4)
CALLS = (5, 10, 20, 50)
SOLVERS = ("euler", "adams", "dpm", "heun")
ROUNDS = 9


def main() -> int:
    options = _options()
    torch.set_num_threads(1)
    skipped = []
    for study in [] if options.tables else options.studies:
        source = _source(study, options.data)
        if source is None:
            skipped.append(study)
            continue
        for seed in options.seeds:
            CONSOLE.rule(f"{study}, seed {seed}")
            _run(study, seed, [*source, *options.set], options)
        _collect(study)
    sampler_page.write(HERE.parent / "docs", RESULTS)
    for study in skipped:
        CONSOLE.print(
            f"[bold red]SKIPPED {study}[/]: {STUDIES[study]} is not beside the checkout: --data FOLDER"
        )
    return 1 if skipped else 0


def _run(study: str, seed: int, changed: list[str], options: argparse.Namespace) -> None:
    """Train, distil, decide and time one teacher's variants, unless it was done before."""
    folder = RUNS / f"{study}-{seed}"
    if (folder / "figures.json").is_file():
        CONSOLE.print("  done before")
        return
    prepared = Prepared.of(read_study(study, [*changed, f"learning.seed={seed}"]))
    teacher, train_seconds = _kept(folder / "teacher.npz", lambda: _teacher(prepared))
    models, seconds = {TEACHER: teacher}, {}
    for steps in options.steps:
        name = f"student {steps}"
        models[name], seconds[name] = _kept(
            folder / f"student-{steps}.npz",
            lambda steps=steps: _student(prepared, teacher, steps, seed, options.epochs),
        )
    sweep = options.sweep or seed == options.seeds[0]
    models |= {name: model for name, model in _solvers(teacher, sweep).items() if name not in models}
    figures = _figures(prepared, models, seed, options.scenarios)
    record = {
        "seed": seed,
        "changed": changed[len(_source(study, options.data) or []) :],
        "training_days": len(prepared.train),
        "test_days": len(prepared.split.test),
        "scenarios": options.scenarios,
        "distill_epochs": options.epochs,
        "train_seconds": train_seconds,
        "distill_seconds": seconds,
        "models": figures,
        "time": _times(prepared, models, graphs=sweep),
    }
    _write(folder / "figures.json", (json.dumps(record, indent=1) + "\n").encode())


def _teacher(prepared: Prepared) -> Generator:
    learning = prepared.study.learning
    with epoch_bars(CONSOLE) as progress:
        found = fit_methods(
            (learning.method,),
            prepared.train,
            prepared.validation,
            learning,
            prepared.program(prepared.schema.horizon),
            progress,
        )[learning.method]
    assert isinstance(found, Diffusion)
    return found.generator


def _student(prepared: Prepared, teacher: Generator, steps: int, seed: int, epochs: int) -> Generator:
    config = dataclasses.replace(prepared.study.distill, steps=steps, seed=seed, epochs=epochs)
    with epoch_bars(CONSOLE) as progress:
        found = distill(
            teacher,
            prepared.train.context,
            prepared.validation.context,
            config,
            prepared.study.learning,
            progress,
        )
    return found.generator


def _solvers(teacher: Generator, sweep: bool) -> dict[str, Generator]:
    """The teacher's network under other solvers, by name and calls; without ``sweep`` the few-call ones."""
    found = {}
    for name in SOLVERS:
        for calls in (*STEPS, *CALLS):
            steps, left = divmod(calls, EVALUATIONS[name])
            few = name == "euler" and calls in STEPS
            if left or not (few or (sweep and calls in CALLS)):
                continue
            found[f"{name} {calls}"] = _with_sampler(teacher, name, steps)
    if sweep:
        # 5 is odd: Heun's next are 4 and 6 calls.
        found |= {f"heun {calls}": _with_sampler(teacher, "heun", calls // 2) for calls in (4, 6)}
    return found


def _with_sampler(teacher: Generator, sampler: Any, steps: int) -> Generator:
    config = dataclasses.replace(teacher.config, sampler=sampler, sampler_steps=steps)
    model = Generator.from_dict({**teacher.to_dict(), "config": config.to_dict()})
    model.load_state_dict(teacher.state_dict())
    return model


def _figures(
    prepared: Prepared, models: Mapping[str, Generator], seed: int, count: int
) -> dict[str, dict[str, Any]]:
    """Calls of each model, and its changes against the teacher on the test days."""
    part, windows = Part.of(prepared.split.test), prepared.split.test
    own: dict[str, Any] = {}
    teacher_set: ScenarioSet | None = None
    found = {}
    for name, model in models.items():
        scenarios = drawn(model, part, count, seed, name)
        result = backtest(windows, {name: scenarios}, prepared.program, baseline=name)
        days = {**score_days(scenarios, windows.slots), COST: result.methods[0].costs}
        if teacher_set is None:
            own, teacher_set = days, scenarios
        regret = result.methods[0].costs - result.best
        found[name] = {
            "calls": model.config.evaluations,
            "sampler": model.config.sampler,
            "changes": {change.figure: _change(change) for change in changes(own, days)},
            "regret": float(regret.mean()),
            # How far scenario i lies from the teacher's, in units of the scenarios' spread.
            "distance": _distance(scenarios, teacher_set),
        }
        CONSOLE.print(
            f"  {name:<12}",
            ", ".join(
                f"{figure} {value['relative']:+.3%}" for figure, value in found[name]["changes"].items()
            ),
        )
    return found


def _change(change: Any) -> dict[str, float]:
    return {
        "teacher": change.before,
        "value": change.after,
        "relative": change.relative.mean,
        "low": change.relative.low,
        "high": change.relative.high,
    }


def _distance(scenarios: ScenarioSet, teacher: ScenarioSet) -> float:
    off = (scenarios.paths - teacher.paths).square().mean().sqrt()
    return float(off / teacher.paths.std(dim=1).square().mean().sqrt())


def _times(prepared: Prepared, models: Mapping[str, Generator], *, graphs: bool) -> dict[str, Any]:
    """Median seconds of 1,000 scenarios of one context, all models in turn, over `ROUNDS` rounds."""
    context = prepared.validation.context[:1]
    noise = scenario_noise(0, [0], 1000, models[TEACHER].dim)
    runs: dict[str, dict[str, Callable[[], object]]] = {"torch": {}, "onnx": {}}
    for name, model in models.items():
        runs["torch"][name] = lambda model=model: model.sample(context, torch.from_numpy(noise))
        if graphs and (name == TEACHER or name.startswith("student")):
            runs["onnx"][name] = _session(model, prepared.validation.context[:10], context.numpy(), noise)
    found: dict[str, Any] = {}
    for kind, calls in runs.items():
        seconds: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(ROUNDS):
            for name, call in calls.items():
                started = time.perf_counter()
                with torch.no_grad():
                    call()
                seconds[name].append(time.perf_counter() - started)
        found[kind] = {name: float(np.median(values)) for name, values in seconds.items()}
    return found


def _session(model: Generator, days: Any, context: Any, noise: Any) -> Callable[[], object]:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    graph = export_graphs(model, days).scenarios
    session = onnxruntime.InferenceSession(graph, settings, providers=["CPUExecutionProvider"])
    inputs = {"context": context.astype(np.float32), "noise": noise}
    return lambda: session.run(None, inputs)


def _collect(study: str) -> None:
    """One result file of all seeds that are done, whichever command did them."""
    paths = sorted(RUNS.glob(f"{study}-*/figures.json"))
    record = {
        "study": study,
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["python", *sys.argv]),
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "load": os.getloadavg()},
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "numpy", "onnxruntime")},
        "threads": 1,
        "seeds": [json.loads(path.read_text(encoding="utf-8")) for path in paths],
    }
    _write(RESULTS / f"sampler_{study}.json", (json.dumps(record, indent=1) + "\n").encode())


def _kept(path: pathlib.Path, make: Callable[[], Generator]) -> tuple[Generator, float | None]:
    """A generator from its file, or made and written there; seconds, None where they are not known."""
    if path.is_file():
        return read_weights(path.read_bytes()), None
    started = time.perf_counter()
    found = make()
    _write(path, weights_of(found))
    return found, time.perf_counter() - started


def _write(path: pathlib.Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(content)
    partial.rename(path)


def _source(study: str, data: pathlib.Path) -> list[str] | None:
    """What names the study's table; None: it is not on this machine."""
    file = STUDIES[study]
    if file is None:
        return []
    return [f"data.path={data / file}"] if (data / file).is_file() else None


def _processor() -> str:
    found = re.search(r"model name\s*:\s*(.+)", pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return found[1] if found else "unknown"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", nargs="+", choices=list(STUDIES), default=list(STUDIES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", nargs="+", type=int, default=list(STEPS), help="of the students")
    parser.add_argument(
        "--sweep", action="store_true", help="all solvers for every seed, not the first alone"
    )
    parser.add_argument("--epochs", type=int, default=DistillConfig().epochs, help="of a student, at most")
    parser.add_argument("--scenarios", type=int, default=200, help="of each test day")
    parser.add_argument("--set", nargs="+", default=[], help="PATH=VALUE: change a key of the studies")
    parser.add_argument("--data", type=pathlib.Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--tables", action="store_true", help="page and picture alone")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
