"""``hedgecast solve``: one decision program, a file of scenarios, the decision and what it is worth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from hedgecast.commands.scenario_files import read_given, read_scenarios
from hedgecast.core.errors import InputError
from hedgecast.programs.appraisal import Appraisal, appraise
from hedgecast.programs.catalog import load_file
from hedgecast.programs.risk import Risk
from hedgecast.programs.smps import SmpsInstance, read_smps

_ROWS = (
    ("expected_cost", "expected cost"),
    ("wait_and_see", "expected cost had the scenario been known"),
    ("expected_value_of_perfect_information", "value of perfect information"),
    ("expected_value_problem_cost", "cost of the mean scenario's decision"),
    ("value_of_stochastic_solution", "value of the stochastic solution"),
    ("cvar", "CVaR of cost"),
    ("expected_regret", "expected regret"),
)
_SHOWN_ENTRIES = 12


def solve(
    program_file: Annotated[
        Path | None,
        typer.Argument(
            metavar="PROGRAM.py", help="Python file that defines `program`, a TwoStageProgram, or `build()`."
        ),
    ] = None,
    scenarios: Annotated[
        Path | None,
        typer.Option(
            help="Parquet file: a row per scenario, a column per entry of the uncertain parameters in "
            "declaration and C order; optionally a column `probability`."
        ),
    ] = None,
    given: Annotated[
        Path | None, typer.Option(help="JSON file: an object of given parameters by name.")
    ] = None,
    smps: Annotated[
        Path | None,
        typer.Option(help="Base name of SMPS files (.cor, .tim, .sto), instead of a program and scenarios."),
    ] = None,
    risk: Annotated[
        str,
        typer.Option(
            help="What is minimized: expectation, worst, cvar:ALPHA, mixture:BETA:ALPHA, or the last three "
            "on regret: regret-worst, regret-cvar:ALPHA, regret-mixture:BETA:ALPHA."
        ),
    ] = "expectation",
    backend: Annotated[
        str | None, typer.Option(help="Solver: structured, cvxpylayers, reference, surrogate.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Solve a decision program under scenarios, and say what information is worth.

    For example:

    hedgecast solve newsvendor.py --scenarios demand.parquet --risk cvar:0.95

    hedgecast solve schedule.py --scenarios load.parquet --given limits.json --json

    hedgecast solve --smps instances/LandS
    """
    measure = Risk.parse(risk)
    columns: tuple[str, ...] | None = None
    notes: list[str] = []
    probabilities: Tensor | None
    if smps is not None:
        if program_file is not None or scenarios is not None or given is not None:
            raise InputError(
                "--smps brings program and scenarios: leave PROGRAM.py, --scenarios, --given out"
            )
        instance = read_smps(smps)
        program, columns, notes = instance.program, instance.columns, _notes(instance)
        values, probabilities = instance.scenarios, instance.probabilities
        known: dict[str, Any] = {}
    else:
        if program_file is None or scenarios is None:
            raise InputError("give PROGRAM.py and --scenarios FILE.parquet, or --smps BASE")
        program = load_file(program_file)
        values, probabilities = read_scenarios(scenarios, program)
        known = read_given(given, program) if given is not None else {}
    appraisal = appraise(program, values, probabilities, known, risk=measure, backend=backend)
    record = _record(appraisal, columns)
    if as_json:
        print(json.dumps(record, allow_nan=False))
    appraisal.decision.require_optimal()
    if not as_json:
        _show(program.name, appraisal, record, notes)


def _notes(instance: SmpsInstance) -> list[str]:
    notes = []
    if instance.sampled:
        notes.append(
            f"{instance.num_outcomes} outcomes are too many to list: solved on a random sample of "
            f"{instance.scenarios.shape[1]} of equal weight"
        )
    if instance.maximize:
        notes.append("the files ask for a maximum: costs are the negative of their objective")
    return notes


def _record(appraisal: Appraisal, columns: tuple[str, ...] | None) -> dict[str, Any]:
    """Plain values; a number that does not exist (no recourse, not solved) is None."""
    decision = appraisal.decision
    solved = decision.verdict(0) == 0
    values = {name: value[0].tolist() if solved else None for name, value in decision.values.items()}
    if columns is not None and solved:
        values = dict(zip(columns, decision.flat[0].tolist(), strict=True))
    return {
        "decision": values,
        **{key: getattr(appraisal, key) for key, _ in _ROWS},
        "objective": appraisal.objective,
        "cvar_level": appraisal.cvar_level,
        "num_scenarios": int(decision.scenario_costs.shape[1]),
        "status": decision.verdict(0).name.lower(),
        "iterations": int(decision.iterations[0]),
        "solve_seconds": decision.seconds,
        "backend": decision.backend,
    }


def _show(name: str, appraisal: Appraisal, record: dict[str, Any], notes: list[str]) -> None:
    console = Console()
    decision = appraisal.decision
    table = Table(
        title=f"{name}: {record['num_scenarios']} scenarios, {appraisal.risk}", title_justify="left"
    )
    table.add_column("quantity")
    table.add_column("value", justify="right")
    for key, label in _ROWS:
        level = f" (level {appraisal.cvar_level:g})" if key == "cvar" else ""
        value = record[key]
        table.add_row(label + level, "infinite: no recourse" if value is None else f"{value:,.6g}")
    table.add_row(f"objective ({appraisal.risk})", f"{appraisal.objective:,.6g}")
    console.print(table)
    plan = Table(title="decision", title_justify="left")
    plan.add_column("variable")
    plan.add_column("value")
    for variable, value in record["decision"].items():
        plan.add_row(variable, _shorten(value))
    console.print(plan)
    console.print(
        f"{record['status']} after {record['iterations']} iterations in {record['solve_seconds']:.3f} s by "
        f"{decision.backend}"
    )
    for note in notes:
        console.print(f"note: {note}")


def _shorten(value: Any) -> str:
    if not isinstance(value, list):
        return f"{value:.6g}"
    shown = ", ".join(_shorten(entry) for entry in value[:_SHOWN_ENTRIES])
    rest = len(value) - _SHOWN_ENTRIES
    return f"[{shown}{f', ... {rest} more (use --json)' if rest > 0 else ''}]"
