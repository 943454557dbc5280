"""What all commands that ask a running service share: options, rows from files, answers as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from hedgecast.client import Client, Question, TlsFiles
from hedgecast.commands.rows import rows_from_file
from hedgecast.core.errors import ConfigError

Model = Annotated[str, typer.Option("--model", help="NAME, NAME@ALIAS or NAME@VERSION.")]
Rows = Annotated[
    Path, typer.Option("--rows", help="CSV or Parquet file with the rows before the decision period.")
]
Known = Annotated[
    Path | None,
    typer.Option("--known", help="File with the rows known ahead, one per step of the period."),
]
Timestamp = Annotated[str, typer.Option("--timestamp", help="Name of the time column.")]
Address = Annotated[str, typer.Option("--address", help="HOST:PORT of the service.")]
ScenarioCount = Annotated[int, typer.Option("--scenarios", help="Scenarios to draw.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the draw.")]
RiskText = Annotated[
    str,
    typer.Option("--risk", help="expectation, worst, cvar:ALPHA, mixture:BETA:ALPHA, or regret-cvar:ALPHA."),
]
Given = Annotated[
    list[str] | None,
    typer.Option("--given", help="NAME=NUMBER or NAME=[a,b,...]: a parameter known now; repeatable."),
]
Authorities = Annotated[
    Path | None, typer.Option("--authorities", help="PEM file: makes the channel secure.")
]
Deadline = Annotated[float, typer.Option("--deadline", help="Seconds to wait, retries included.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

ADDRESS = "127.0.0.1:50051"


def connect(address: str, authorities: Path | None, deadline: float) -> Client:
    """The client of a command; its token is the environment variable ``HEDGECAST_TOKEN``."""
    tls = None if authorities is None else TlsFiles(authorities=authorities)
    # A token on the command line would stand in the process list.
    token = os.environ.get("HEDGECAST_TOKEN")
    return Client(address, token=token, tls=tls, deadline_seconds=deadline)


def question(
    client: Client,
    model: str,
    rows: Path,
    known: Path | None,
    timestamp: str,
    *,
    given: list[str] | None,
    scenarios: int,
    seed: int,
    risk: str,
) -> Question:
    """The question that the files and options make, for the columns that the model wants.

    Raises
    ------
    DataError, ConfigError
        A file or an option that cannot be used.
    """
    wanted = client.model(model)
    past = rows_from_file(rows, timestamp, list(wanted.history_columns))
    ahead = None if known is None else rows_from_file(known, timestamp, list(wanted.known_columns))
    return Question(
        history=past.columns,
        history_times=past.times,
        known=None if ahead is None else ahead.columns,
        known_times=None if ahead is None else ahead.times,
        given=given_of(given or []),
        scenario_count=scenarios,
        seed=seed,
        risk=risk,
    )


def given_of(pairs: list[str]) -> dict[str, Any]:
    """Given parameters from NAME=NUMBER and NAME=[a,b,...].

    Raises
    ------
    ConfigError
        Another form.
    """
    given: dict[str, Any] = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        try:
            value = json.loads(text)
            given[name] = np.asarray(value, np.float64)
        except (json.JSONDecodeError, TypeError, ValueError) as error:
            raise ConfigError(
                f"--given {pair!r}: write NAME=NUMBER or NAME=[a,b,...], for example capacity=80", given=pair
            ) from error
        if not separator or not name:
            raise ConfigError(f"--given {pair!r}: write NAME=NUMBER", given=pair)
    return given


def plain(value: Any) -> Any:
    """An answer as plain data for JSON: times in ISO 8601, UTC; what is not finite as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, np.ndarray) and value.dtype.kind == "M":
        return [f"{np.datetime_as_string(time, unit='s')}Z" for time in value]
    if isinstance(value, np.datetime64):
        return f"{np.datetime_as_string(value, unit='s')}Z"
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
