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
import functools
import importlib.metadata
import json
import os
import pathlib
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
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
from hedgecast.learning.distillation import distill  # noqa: E402
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
            _run(study, seed, source, options)
        _collect(study)
    sampler_page.write(HERE.parent / "docs", RESULTS)
    for study in skipped:
        CONSOLE.print(
            f"[bold red]SKIPPED {study}[/]: {STUDIES[study]} is not beside the checkout: --data FOLDER"
        )
    return 1 if skipped else 0


def _run(study: str, seed: int, source: list[str], options: argparse.Namespace) -> None:
    """Train, distil, decide and time what is missing of one teacher's variants; kept after each of them."""
    folder = RUNS / f"{study}-{seed}"
    prepared = Prepared.of(read_study(study, [*source, *options.set, f"learning.seed={seed}"]))
    record = _begun(folder / "figures.json", prepared, seed, options)
    teacher = _kept(folder, "teacher", record, functools.partial(_teacher, prepared))
    models = {TEACHER: teacher}
    for steps in options.steps:
        make = functools.partial(_student, prepared, teacher, steps, seed)
        models[f"student {steps}"] = _kept(folder, f"student-{steps}", record, make)
    models |= _solvers(teacher, options.sweep or seed == 0, options)
    missing = {name: model for name, model in models.items() if name not in record["models"]}
    if not missing:
        CONSOLE.print("  done before")
        return
    for name, figures in _figures(prepared, {TEACHER: teacher, **missing}, seed, options.scenarios):
        record["models"][name] = figures
        _write_record(folder / "figures.json", record)
    shares = _times(prepared, {TEACHER: teacher, **missing}, graphs=seed == 0 and not options.skip_graphs)
    for kind, values in shares.items():
        record["time"][kind] |= values
    _write_record(folder / "figures.json", record)


def _begun(path: pathlib.Path, prepared: Prepared, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """The record that is there, if it was made with the same settings, or an empty one."""
    settings = {"seed": seed, "changed": options.set, "scenarios": options.scenarios}
    if path.is_file():
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        other = [name for name, value in settings.items() if record[name] != value]
        if other:
            raise SystemExit(
                f"{path} was made with other {', '.join(other)}: delete its folder or change these"
            )
        return record
    return {
        **settings,
        "training_days": len(prepared.train),
        "test_days": len(prepared.split.test),
        "distill": prepared.study.distill.to_dict(),
        "seconds": {},
        "models": {},
        "time": {"torch": {}, "onnx": {}},
    }


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


def _student(prepared: Prepared, teacher: Generator, steps: int, seed: int) -> Generator:
    config = dataclasses.replace(prepared.study.distill, steps=steps, seed=seed)
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


def _solvers(teacher: Generator, sweep: bool, options: argparse.Namespace) -> dict[str, Generator]:
    """The teacher's network under other solvers; without ``sweep`` Euler in the students' calls alone."""
    wanted = [("euler", calls) for calls in options.steps]
    if sweep:
        wanted += [(name, calls) for name in options.solvers for calls in options.calls]
    found = {}
    for name, calls in wanted:
        # Heun's calls are even: 6 stand for 5.
        steps = -(-calls // EVALUATIONS[name])
        found[f"{name} {steps * EVALUATIONS[name]}"] = _with_sampler(teacher, name, steps)
    return found


def _with_sampler(teacher: Generator, sampler: Any, steps: int) -> Generator:
    config = dataclasses.replace(teacher.config, sampler=sampler, sampler_steps=steps)
    model = Generator.from_dict({**teacher.to_dict(), "config": config.to_dict()})
    model.load_state_dict(teacher.state_dict())
    return model


def _figures(
    prepared: Prepared, models: Mapping[str, Generator], seed: int, count: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Calls of each model, and its changes against the first, the teacher, on the test days."""
    part, windows = Part.of(prepared.split.test), prepared.split.test
    own: dict[str, Any] = {}
    teacher_set: ScenarioSet | None = None
    for name, model in models.items():
        scenarios = drawn(model, part, count, seed, name)
        result = backtest(windows, {name: scenarios}, prepared.program, baseline=name)
        days = {**score_days(scenarios, windows.slots), COST: result.methods[0].costs}
        if teacher_set is None:
            own, teacher_set = days, scenarios
        regret = result.methods[0].costs - result.best
        found = {change.figure: _change(change) for change in changes(own, days)}
        text = ", ".join(f"{figure} {value['relative']:+.3%}" for figure, value in found.items())
        CONSOLE.print(f"  {name:<12} {text}")
        yield (
            name,
            {
                "calls": model.config.evaluations,
                "sampler": model.config.sampler,
                "changes": found,
                "regret": float(regret.mean()),
                # How far scenario i lies from the teacher's, in units of the scenarios' spread.
                "distance": _distance(scenarios, teacher_set),
            },
        )


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
    """Median seconds of 1,000 scenarios of one context, all models in turn over `ROUNDS` rounds, as shares of
    the teacher's."""
    context = prepared.validation.context[:1]
    noise = scenario_noise(0, [0], 1000, models[TEACHER].dim)
    runs: dict[str, dict[str, Callable[[], object]]] = {"torch": {}, "onnx": {}}
    for name, model in models.items():
        runs["torch"][name] = functools.partial(model.sample, context, torch.from_numpy(noise))
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
        medians = {name: float(np.median(values)) for name, values in seconds.items()}
        found[kind] = {name: value / medians[TEACHER] for name, value in medians.items()}
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
    _write_record(RESULTS / f"sampler_{study}.json", record)


def _kept(
    folder: pathlib.Path, name: str, record: dict[str, Any], make: Callable[[], Generator]
) -> Generator:
    """A generator from its file, or made and written there, its seconds into ``record``."""
    path = folder / f"{name}.npz"
    if path.is_file():
        return read_weights(path.read_bytes())
    started = time.perf_counter()
    found = make()
    record["seconds"][name] = time.perf_counter() - started
    _write(path, weights_of(found))
    _write_record(folder / "figures.json", record)
    return found


def _write_record(path: pathlib.Path, record: Mapping[str, Any]) -> None:
    _write(path, (json.dumps(record, indent=1) + "\n").encode())


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
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=list(SOLVERS))
    parser.add_argument("--calls", nargs="+", type=int, default=list(CALLS), help="of the solvers")
    parser.add_argument("--sweep", action="store_true", help="solvers for every seed, not 0 alone")
    parser.add_argument("--skip-graphs", action="store_true", help="no times in ONNX Runtime")
    parser.add_argument("--scenarios", type=int, default=200, help="of each test day")
    parser.add_argument("--set", nargs="+", default=[], help="PATH=VALUE: change a key of the studies")
    parser.add_argument("--data", type=pathlib.Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--tables", action="store_true", help="page and picture alone")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
