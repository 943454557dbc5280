"""``hedgecast probe``: ask a running service for a decision over made-up rows, to see that it answers."""

from __future__ import annotations

import datetime
import json
import os
import zoneinfo
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console

from hedgecast.client import Client, DecisionAnswer, ModelInfo, ScenarioArrays, TlsFiles
from hedgecast.core.errors import ConfigError, UntrustedError

# An ordinary day: no clock of the world changed in it.
_DAY = datetime.date(2024, 1, 10)


def probe(
    model: Annotated[str, typer.Option(help="NAME, NAME@ALIAS or NAME@VERSION.")],
    address: Annotated[str, typer.Option(help="HOST:PORT of the service.")] = "127.0.0.1:50051",
    authorities: Annotated[Path | None, typer.Option(help="PEM file: makes the channel secure.")] = None,
    certificate: Annotated[
        Path | None, typer.Option(help="PEM file of this client's certificate, for mutual TLS.")
    ] = None,
    key: Annotated[Path | None, typer.Option(help="PEM file of its private key.")] = None,
    issue_time: Annotated[str, typer.Option(help="HH:MM at which the study decides.")] = "00:00",
    scenarios: Annotated[int, typer.Option(min=1, help="Scenarios to draw.")] = 50,
    deadline: Annotated[float, typer.Option(help="Seconds to wait, retries included.")] = 120.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Ask for a decision on a day of made-up rows (all ones), and say how long it took.

    What comes back is no plan to follow: it shows that rows are read, scenarios drawn and programs solved,
    and that this client is let in. Where the model's policy refuses such rows, the program is solved on
    made-up scenarios. The token comes from `HEDGECAST_TOKEN`.

    For example:

        hedgecast probe --model german_grid@champion

        hedgecast probe --model german_grid --address decisions.example.com:50051 --authorities ca.crt
        --certificate tls.crt --key tls.key --json
    """
    if (certificate is None) != (key is None):
        raise ConfigError("give both --certificate and --key, or neither")
    if certificate is not None and authorities is None:
        raise ConfigError("--certificate needs --authorities: a client's certificate is shown over TLS only")
    tls = None if authorities is None else TlsFiles(authorities=authorities, certificate=certificate, key=key)
    # A token on the command line would stand in the process list.
    token = os.environ.get("HEDGECAST_TOKEN")
    with Client(address, token=token, tls=tls, deadline_seconds=deadline) as client:
        wanted = client.model(model)
        past, ahead = _times(wanted, issue_time)
        answer = _answer(client, model, wanted, past, ahead, scenarios)
    record = {
        "model": answer.model,
        "verdict": answer.verdict.state,
        "scenarios": answer.scenario_count,
        "seconds": answer.durations["total"],
    }
    if as_json:
        print(json.dumps(record))
    else:
        milliseconds = 1e3 * answer.durations["total"]
        Console().print(f"{answer.model} decides: {answer.verdict.state.lower()}, {milliseconds:.0f} ms")


def _answer(
    client: Client,
    model: str,
    wanted: ModelInfo,
    past: NDArray[np.datetime64],
    ahead: NDArray[np.datetime64],
    count: int,
) -> DecisionAnswer:
    try:
        return client.decide(
            model,
            history={name: np.ones(len(past)) for name in wanted.history_columns},
            history_times=past,
            known={name: np.ones(len(ahead)) for name in wanted.known_columns} or None,
            known_times=ahead if wanted.known_columns else None,
            scenario_count=count,
        )
    except UntrustedError:
        # The rows were read and scenarios drawn, and the model's policy is right to refuse them: nothing like
        # these rows was in training. What is left to see is the solver, on scenarios of our own.
        shape = (count, len(ahead), len(wanted.series))
        own = ScenarioArrays(
            series=tuple(wanted.series),
            units=tuple(wanted.series.values()),
            times=ahead,
            paths=np.ones(shape),
            probabilities=np.full(count, 1.0 / count),
        )
        return client.decide(model, own_scenarios=own)


def _times(model: ModelInfo, issue_time: str) -> tuple[NDArray[np.datetime64], NDArray[np.datetime64]]:
    """Start of each step of the history and of the decision period, UTC."""
    try:
        wall = datetime.datetime.combine(_DAY, datetime.time.fromisoformat(issue_time))
    except ValueError as error:
        raise ConfigError(f"--issue-time {issue_time!r}: write HH:MM, for example 00:00") from error
    zone = zoneinfo.ZoneInfo(model.time_zone)
    instant = wall.replace(tzinfo=zone).astimezone(datetime.UTC).replace(tzinfo=None)
    begin = np.datetime64(instant, "ns")
    step = np.timedelta64(round(model.step_seconds * 1e9), "ns")
    past = begin - step * np.arange(model.history_steps, 0, -1)
    return past, begin + step * np.arange(model.horizon_steps)
