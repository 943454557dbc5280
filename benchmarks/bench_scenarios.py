"""Scenarios by one graph and over the wire, against peers in the same run with the same network weights.

    diffusers       Hugging Face diffusers' DDIM of 50 steps in torch, at equal energy score
    published       the published loop of 1,000 steps, on fewer scenarios
    neuralforecast  NeuralForecast's simulate() on the same days: scores, regret, seconds
    steps           ONNX Runtime called once per step from Python
    grpc            GenerateScenarios on loopback over the bare session
    flight          a million scenarios against an Arrow Flight stream
    bulk            Ray Data's actors against the bare loop

    python benchmarks/bench_scenarios.py                                all pieces
    python benchmarks/bench_scenarios.py --piece steps,flight           some of them
    python benchmarks/bench_scenarios.py --missing                      those without a result
    python benchmarks/bench_scenarios.py --page                         the page alone

The model is trained and distilled once, in runs/scenarios (minutes). Each piece writes its own file,
benchmarks/results/scenarios_PIECE.json, when it is done; docs/scenarios-benchmark.md and
docs/scaling.md are made of the files that there are. Pieces compare calls in turn; `--effort 0.5` halves
their rounds.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from scenarios_bench import measure, page, scaling

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PIECES = ("diffusers", "published", "neuralforecast", "steps", "grpc", "flight", "bulk")
CONSOLE = Console(stderr=True)


def main() -> None:
    options = _options()
    pieces = [] if options.page else options.piece
    if options.missing:
        pieces = [piece for piece in PIECES if piece not in measure.kept(options.results)]
    torch.set_num_threads(1)
    for piece in pieces:
        CONSOLE.rule(piece)
        machine = measure.where()
        measure.keep(piece, _RUN[piece](options.effort), machine, options.results)
    found = measure.kept(options.results)
    pages = {"scenarios-benchmark.md": page.page(found), "scaling.md": scaling.page(found)}
    for name, text in pages.items():
        if options.results == measure.RESULTS:
            (DOCS / name).write_text(text, encoding="utf-8")
        else:
            CONSOLE.print(text, markup=False)


# Imported when they run: one piece needs neither the packages nor the models of another.
def _diffusers(effort: float) -> dict[str, Any]:
    from scenarios_bench import models, speed

    from hedgecast.registry.session import ScenarioSession

    return speed.measure_diffusers(
        models.teacher(),
        {
            "student 1": ScenarioSession(models.bundle(models.STUDENT)),
            "teacher": ScenarioSession(models.bundle(models.TEACHER)),
        },
        models.held_out_days(every=2),
        scenarios=100,
        rounds=max(round(7 * effort), 3),
    )


def _published(effort: float) -> dict[str, Any]:
    from scenarios_bench import models, speed

    from hedgecast.registry.session import ScenarioSession

    return speed.measure_published(
        models.teacher(),
        ScenarioSession(models.bundle(models.STUDENT)),
        models.held_out_days(every=8),
        scenarios=50,
        rounds=max(round(3 * effort), 3),
    )


def _neuralforecast(_effort: float) -> dict[str, Any]:
    from scenarios_bench import models, neural

    return neural.measure(models)


def _steps(effort: float) -> dict[str, Any]:
    from scenarios_bench import models, speed, steps

    from hedgecast.registry.weights import generator_of

    teacher = models.teacher()
    chosen = {
        "student, 1 step": generator_of(models.bundle(models.STUDENT)).eval().float(),
        "teacher, 4 steps of 2 calls": teacher,
        "no training, 10 steps": speed.with_sampler(teacher, "euler", 10),
    }
    return steps.measure(chosen, models.held_out_days(every=8).torch_context, effort=effort)


def _grpc(effort: float) -> dict[str, Any]:
    from scenarios_bench import latency, models

    return latency.measure(models.bundle(models.STUDENT), models.prepared(), effort=effort)


def _flight(effort: float) -> dict[str, Any]:
    from scenarios_bench import streaming

    return streaming.measure(rounds=max(round(15 * effort), 3))


def _bulk(effort: float) -> dict[str, Any]:
    from scenarios_bench import bulk

    return bulk.measure(rounds=max(round(3 * effort), 1))


_RUN: dict[str, Callable[[float], dict[str, Any]]] = {
    "diffusers": _diffusers,
    "published": _published,
    "neuralforecast": _neuralforecast,
    "steps": _steps,
    "grpc": _grpc,
    "flight": _flight,
    "bulk": _bulk,
}


def _pieces(text: str) -> list[str]:
    found = text.split(",")
    unknown = [piece for piece in found if piece not in PIECES]
    if unknown:
        raise argparse.ArgumentTypeError(f"no piece {unknown[0]!r}: choose from {', '.join(PIECES)}")
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--piece", type=_pieces, default=list(PIECES), help="names, separated by commas")
    parser.add_argument("--missing", action="store_true", help="only pieces that have no result yet")
    parser.add_argument("--effort", type=float, default=1.0, help="share of the usual rounds")
    parser.add_argument("--results", type=pathlib.Path, default=measure.RESULTS)
    parser.add_argument("--page", action="store_true", help="measure nothing")
    return parser.parse_args()


if __name__ == "__main__":
    main()
