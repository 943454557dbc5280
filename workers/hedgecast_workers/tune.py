"""``hedgecast tune``: Ray Tune over the keys of ``[learning]``, judged on validation days alone."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from hedgecast.commands.steps import Steps
from hedgecast.commands.workflow import Prepared
from hedgecast.core.errors import ConfigError
from hedgecast.learning.study import read_study
from hedgecast.registry.store import default_home
from hedgecast_workers.cluster import cluster
from hedgecast_workers.signals import signals_as_interrupts


def tune(
    study: Annotated[str, typer.Argument(help="A study file, or the name of a shipped study.")],
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="PATH=VALUE: change one key; repeatable.")
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Settings tried; default: tune.trials.")] = None,
    concurrent: Annotated[
        int | None, typer.Option(min=1, help="Trials at once, a CPU each; default: the CPUs there are.")
    ] = None,
    output: Annotated[Path, typer.Option(help="File of all trials.")] = Path("runs/tuning.json"),
    storage: Annotated[
        str | None, typer.Option(help="Directory of Ray Tune's own files. Default: $HEDGECAST_HOME/tuning.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Search better settings of [learning] for a study; the test days are never read.

    The first trial has the study's own settings. Trials that are worse than others at the same age are
    stopped early (ASHA). What is searched stands in the study's [tune] table; without one, rates, decay,
    noise levels and width are.

    For example:

        hedgecast tune my_study.toml --trials 20

        hedgecast tune german_grid --set learning.epochs=60 --set tune.grace_epochs=20
    """
    console = Console(stderr=as_json)
    steps = Steps(console)
    config = read_study(study, changes or [])
    if not config.learning.method.startswith("diffusion"):
        raise ConfigError(
            f"learning.method = {config.learning.method!r}: tune searches diffusion and diffusion-dfl",
            key="learning.method",
        )
    with steps.step("read the data"):
        prepared = Prepared.of(config)
    count = trials or config.tune.trials
    wanted = None if concurrent is None else min(concurrent, count)
    with steps.step(f"try {count} settings"), signals_as_interrupts():
        try:
            with cluster(wanted) as there:
                from hedgecast_workers.tune_run import search

                at_once = min(there, count)
                records = search(prepared, count, at_once, storage or str(default_home() / "tuning"), console)
        except KeyboardInterrupt:
            console.print("stopped; nothing is left running")
            raise typer.Exit(130) from None
    best, own = records[0], next(record for record in records if record["own"])
    summary = {
        "study": config.to_dict(),
        "validation_days": len(prepared.validation),
        "best": best,
        "own": own,
        "trials": records,
        "seconds": steps.seconds,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(summary, indent=2, default=str) + "\n", encoding="utf-8")
    console.print(_table(records))
    console.print(
        f"best of {len(records)} on the same {len(prepared.validation)} validation days, and so flattered; "
        f"the study's own settings cost {_number(own['cost'])}. All trials: {output}"
    )
    console.print(train_command(study, changes or [], best["values"]), soft_wrap=True, markup=False)
    if as_json:
        print(json.dumps(summary, default=str))


def train_command(study: str, changes: Sequence[str], values: Mapping[str, Any]) -> str:
    """What trains ``study`` with the ``changes`` it was tuned with and ``values`` of its learning table."""
    # JSON of numbers, strings, truth values and lists of them is TOML, too.
    settings = [*changes, *(f"learning.{key}={json.dumps(value)}" for key, value in values.items())]
    return shlex.join(["hedgecast", "train", study, *(word for each in settings for word in ("--set", each))])


def _table(records: list[dict[str, Any]]) -> Table:
    table = Table()
    keys = list(records[0]["values"])
    for column in ("cost", "epochs", "", *keys):
        table.add_column(column, overflow="fold")
    for record in records:
        note = "own" if record["own"] else record["error"] or ""
        values = [f"{v:.3g}" if isinstance(v, float) else str(v) for v in record["values"].values()]
        table.add_row(_number(record["cost"]), str(record["epochs"]), note, *values)
    return table


def _number(cost: float | None) -> str:
    return "-" if cost is None else f"{cost:.2f}"
