"""``hedgecast scenarios``: a running service's scenarios, into a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from hedgecast.client import GeneratedScenarios, ScenarioOptions
from hedgecast.commands import question as ask
from hedgecast.core.errors import ConfigError
from hedgecast.core.files import written_whole

LEVELS = (0.05, 0.5, 0.95)
_ROWS_AT_ONCE = 10_000


def scenarios(
    model: ask.Model,
    rows: ask.Rows,
    out: Annotated[Path, typer.Option("--out", help="File to write: .parquet, .arrow or .csv.")],
    known: ask.Known = None,
    timestamp: ask.Timestamp = "timestamp",
    address: ask.Address = ask.ADDRESS,
    count: ask.ScenarioCount = 200,
    seed: ask.Seed = 0,
    reduce_to: Annotated[
        int | None, typer.Option("--reduce-to", help="Keep at most so many, with probabilities.")
    ] = None,
    reduce_by: Annotated[
        str, typer.Option("--reduce-by", help="auto, forward-selection, k-means or quantiles.")
    ] = "auto",
    risk: ask.RiskText = "expectation",
    given: ask.Given = None,
    authorities: ask.Authorities = None,
    deadline: ask.Deadline = 60.0,
    as_json: ask.AsJson = False,
) -> None:
    """Scenarios of the day that follows the rows of a file, from a running service, written to a file.

    Parquet and Arrow files have one row a scenario and one column of lists a series, with units and times in
    the schema's metadata; a CSV file has one row a scenario and step. The error of `--reduce-to` is told
    in `--risk` and under `--given`. `--reduce-by quantiles` keeps the law of every series and step: for
    programs whose recourse is paid step by step.

    Examples:

        hedgecast scenarios --model german_grid --rows history.csv --scenarios 10000 --out day.parquet

        hedgecast scenarios --model german_grid --rows history.csv --reduce-to 50 --out day.csv

        hedgecast scenarios --model my_grid --rows days.csv --reduce-to 25 --reduce-by quantiles --out day.csv
    """
    write = writer_of(out)
    if reduce_to is None and (given or risk != "expectation" or reduce_by != "auto"):
        raise ConfigError("--risk, --given and --reduce-by are about a reduction: give --reduce-to, too")
    with (
        ask.connect(address, authorities, deadline) as client,
        # Shown on a terminal alone.
        Console(stderr=True).status(f"{count} scenarios"),
    ):
        asked = ask.question(
            client, model, rows, known, timestamp, given=given, scenarios=count, seed=seed, risk=risk
        )
        if reduce_to is None:
            # Only a reduction minimizes anything.
            del asked["risk"]
        options = cast(ScenarioOptions, {**asked, "reduce_to": reduce_to, "reduction_method": reduce_by})
        found = client.scenarios(model, **options)
        with written_whole(out) as part:
            write(found, part)
    if as_json:
        print(json.dumps(record(found, out)))
    else:
        show(found, out, Console())


def writer_of(path: Path) -> Callable[[GeneratedScenarios, Path], None]:
    """What writes scenarios to a file of that name.

    Raises
    ------
    ConfigError
        Another ending.
    """
    writers = {".parquet": _write_parquet, ".arrow": _write_arrow, ".csv": _write_csv}
    if path.suffix not in writers:
        raise ConfigError(
            f"--out {path}: its name must end in {', '.join(writers)}", key="out", file=str(path)
        )
    return writers[path.suffix]


def record(found: GeneratedScenarios, out: Path) -> dict[str, Any]:
    """What was written, as plain data for JSON, without the scenarios."""
    plain: dict[str, Any] = ask.plain(
        {
            "file": str(out),
            "model": found.model,
            "model_fingerprint": found.model_fingerprint,
            "scenario_count": found.table.num_rows,
            "drawn_count": found.drawn,
            "seed": found.seed,
            "fingerprint": found.fingerprint,
            "scenario_source": found.scenario_source,
            "series": found.names,
            "units": found.units,
            "times": found.times,
            "reduction": found.reduction,
            "warnings": found.warnings,
            "request_id": found.request_id,
        }
    )
    return plain


def show(found: GeneratedScenarios, out: Path, console: Console) -> None:
    """Print where the scenarios lie."""
    values = quantiles(found.paths, found.probabilities, LEVELS)
    title = f"{found.table.num_rows} scenarios of {found.model} in {out}"
    table = Table(title=title, caption=f"fingerprint {found.fingerprint[:16]}, quantiles {_levels()}")
    table.add_column("UTC" if len(found.times) else "step")
    for name, unit in zip(found.names, found.units, strict=True):
        table.add_column(f"{name} {unit}".strip(), justify="right")
    for step in range(values.shape[1]):
        when = str(step)
        if len(found.times):
            when = str(np.datetime_as_string(found.times[step], unit="m")).replace("T", " ")
        cells = (" ".join(f"{value:.4g}" for value in series) for series in values[:, step].T)
        table.add_row(when, *cells)
    console.print(table)
    if found.reduction is not None:
        costs = found.reduction
        console.print(
            f"{costs.kept} of {found.drawn} by {costs.method.lower().replace('_', ' ')}: distance "
            f"{costs.relative_distance:.1%} of the mean's; a decision on them costs {costs.cost_error:.4g} "
            f"({costs.relative_cost_error:.2%}) more than the best one on all"
        )
    for warning in found.warnings:
        console.print(f"[yellow]warning[/] {warning}")


def quantiles(
    paths: NDArray[np.floating], probabilities: NDArray[np.float64], levels: tuple[float, ...]
) -> NDArray[np.float64]:
    """(levels, T, F) least values at which the distribution function reaches each level."""
    order = np.argsort(paths, axis=0)
    mass = np.cumsum(probabilities[order], axis=0)
    # Rounding of the sum must not push a level past the value that reaches it.
    places = [(mass < level - 1e-12).sum(axis=0)[None] for level in levels]
    ranked = np.take_along_axis(paths, order, axis=0)
    found = [np.take_along_axis(ranked, np.minimum(place, len(paths) - 1), axis=0)[0] for place in places]
    return np.stack(found).astype(np.float64)


def _levels() -> str:
    return ", ".join(f"{level:g}" for level in LEVELS)


def _write_parquet(found: GeneratedScenarios, path: Path) -> None:
    pyarrow.parquet.write_table(found.table, path)


def _write_arrow(found: GeneratedScenarios, path: Path) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, found.table.schema) as writer:
        writer.write_table(found.table)


def _write_csv(found: GeneratedScenarios, path: Path) -> None:
    paths, times, weights = found.paths, found.times, found.probabilities
    steps = paths.shape[1]
    labels = found.indices if len(found.indices) else np.arange(len(paths))
    texts = (
        [f"{text}Z" for text in np.datetime_as_string(times, unit="s")] if len(times) else list(range(steps))
    )
    weighted = "probability" in found.table.column_names

    def rows(start: int) -> pa.Table:
        part = slice(start, start + _ROWS_AT_ONCE)
        count = len(labels[part])
        columns: dict[str, Any] = {"scenario": np.repeat(labels[part], steps)}
        if weighted:
            columns["probability"] = np.repeat(weights[part], steps)
        columns["time" if len(times) else "step"] = texts * count
        for place, name in enumerate(found.names):
            columns[name] = paths[part, :, place].ravel()
        return pa.table(columns)

    first = rows(0)
    with pyarrow.csv.CSVWriter(path, first.schema) as writer:
        writer.write_table(first)
        for start in range(_ROWS_AT_ONCE, len(paths), _ROWS_AT_ONCE):
            writer.write_table(rows(start))
