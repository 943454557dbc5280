"""``hedgecast train-surrogate``: learn the map from scenario sets to a program's decisions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from hedgecast.commands.scenario_files import read_given, read_scenarios
from hedgecast.decisions.surrogate import Surrogate, surrogate_home
from hedgecast.decisions.surrogate_training import SurrogateConfig, train_surrogate
from hedgecast.programs.catalog import load_file
from hedgecast.programs.risk import Risk

_LABELS = {
    "num_test": "scenario sets in the test",
    "trusted_share": "trusted",
    "trusted_mean_regret": "mean relative regret where trusted",
    "trusted_largest_regret": "largest relative regret where trusted",
    "trusted_over_budget_share": "over budget where trusted",
    "mean_regret": "mean relative regret without the gate",
    "surrogate_seconds_per_set": "seconds per set, surrogate",
    "exact_seconds_per_set": "seconds per set, exact",
}


def train_surrogate_command(
    program_file: Annotated[
        Path,
        typer.Argument(metavar="PROGRAM.py", help="Python file that defines `program` or `build()`."),
    ],
    scenarios: Annotated[
        Path,
        typer.Option(
            help="Parquet file of scenarios, as for `hedgecast solve`: the pool that sets are drawn from."
        ),
    ],
    given: Annotated[
        Path | None, typer.Option(help="JSON file: an object of given parameters by name.")
    ] = None,
    risk: Annotated[
        str, typer.Option(help="expectation, worst, cvar:ALPHA or mixture:BETA:ALPHA.")
    ] = "expectation",
    num_instances: Annotated[int, typer.Option(help="Scenario sets to train on.")] = 2000,
    num_calibration: Annotated[int, typer.Option(help="Scenario sets that set the gate.")] = 500,
    num_test: Annotated[int, typer.Option(help="Scenario sets that the report is measured on.")] = 500,
    num_scenarios: Annotated[int, typer.Option(help="Scenarios in each set.")] = 100,
    num_epochs: Annotated[int, typer.Option(help="Passes over the training sets.")] = 60,
    budget: Annotated[
        float, typer.Option(help="Relative regret that a trusted decision should keep.")
    ] = 0.01,
    max_share: Annotated[
        float, typer.Option(help="Largest share of trusted decisions that may exceed the budget.")
    ] = 0.05,
    seed: Annotated[int, typer.Option(help="Seed of every draw.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of surrogates; default $HEDGECAST_SURROGATES, or in the cache."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train the surrogate backend for one program: it then answers `--backend surrogate`.

    Scenario sets are drawn from the pool and solved exactly; an ensemble learns their decisions; a gate is
    calibrated on sets apart, and the report is measured on a third kind. What the gate does not trust is
    always solved exactly.

    For example:

    hedgecast train-surrogate schedule.py --scenarios load.parquet --budget 0.01
    """
    measure = Risk.parse(risk)
    config = SurrogateConfig(
        num_instances=num_instances,
        num_calibration=num_calibration,
        num_test=num_test,
        num_scenarios=num_scenarios,
        num_epochs=num_epochs,
        budget=budget,
        risk=max_share,
        seed=seed,
    )
    program = load_file(program_file)
    pool, weights = read_scenarios(scenarios, program)
    known = read_given(given, program) if given is not None else {}
    with Progress(console=Console(stderr=True), transient=True) as bars:
        surrogate = train_surrogate(
            program,
            pool[0],
            None if weights is None else weights[0],
            known,
            risk=measure,
            config=config,
            progress=_Bars(bars),
        )
    folder = surrogate_home(program, measure, out)
    surrogate.save(folder)
    if as_json:
        print(json.dumps({"folder": str(folder), **surrogate.report}, allow_nan=False))
        return
    _show(surrogate, folder)


class _Bars:
    """Progress of training as one bar for each stretch of work."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        key = f"{what} ({total})"
        if key not in self._tasks:
            self._tasks[key] = self._progress.add_task(what, total=total)
        self._progress.update(self._tasks[key], completed=done)


def _show(surrogate: Surrogate, folder: Path) -> None:
    console = Console()
    table = Table(title=f"surrogate of {surrogate.program}, {surrogate.risk}", title_justify="left")
    table.add_column("on sets that training did not see")
    table.add_column("value", justify="right")
    for key, label in _LABELS.items():
        table.add_row(label, _shown(surrogate.report[key]))
    console.print(table)
    if surrogate.gate.max_doubt < 0:
        console.print(
            "the gate trusts nothing: every decision will be exact; raise --budget, --num-instances or "
            "--num-calibration"
        )
    console.print(f"written to {folder}")


def _shown(value: Any) -> str:
    return "none trusted" if value is None else f"{value:.4g}"
