"""``hedgecast performance`` against a real server, and what it prints of alarms."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from hedgecast.cli import build
from hedgecast.client import CanaryFigures, Client, CoverageFigures, DriftFigures, ScenarioArrays
from hedgecast.commands.performance import show
from hedgecast.rpc.codec import NamedRows
from hedgecast.service.background import background_server
from hedgecast.service.local import LocalBackend
from hedgecast.service.settings import load_settings


@pytest.fixture
def address(local_backend: LocalBackend, rows: NamedRows, tmp_path: Path) -> Iterator[str]:
    settings = load_settings(port=0, outcomes_folder=tmp_path / "outcomes")
    with background_server(local_backend, settings) as address, Client(address) as client:
        answer = client.decide(
            "last_day", history=rows.columns, history_times=rows.times, scenario_count=20, gap_replications=0
        )
        realized = ScenarioArrays(
            series=("load",), units=("GW",), times=np.empty(0, "datetime64[ns]"),
            paths=(answer.decision["schedule"] + 1.0).reshape(1, -1, 1), probabilities=np.ones(1),
        )  # fmt: skip
        client.record_outcome(answer.decision_id, realized)
        yield address


def test_the_command_says_what_the_client_says(address: str) -> None:
    ask = ["performance", "last_day@champion", "--address", address]
    answered = CliRunner().invoke(build(["performance"]), [*ask, "--json"])
    assert answered.exit_code == 0, answered.output
    record = json.loads(answered.stdout)
    # A unit short at each of six steps costs 300.
    assert record["cost"]["mean"] == pytest.approx(300.0, rel=1e-6)
    assert record["cost"]["standard_error"] is None
    assert (record["name"], record["outcomes"], record["state"]) == ("last_day@3", 1, "TOO_FEW")
    table = CliRunner().invoke(build(["performance"]), ask, env={"COLUMNS": "160"})
    assert table.exit_code == 0, table.output
    for text in ("last_day@3: 1 outcomes", "realized regret", "300", "too few outcomes to tell of drift"):
        assert text in table.stdout

    with Client(address) as client:
        found = client.performance("last_day")
    loud = dataclasses.replace(
        found,
        coverages=(
            CoverageFigures(
                series="load", level=0.95, expected_share=0.94, covered_share=0.5, lower_bound=0.9,
                upper_bound=0.99, state="OUT_OF_BAND",
            ),
        ),
        drift=DriftFigures(location=0.2, spread=-0.1, p_value=0.001, drifted=True),
        warning="half of [load] lay below",
        canary=CanaryFigures(
            name="last_day@4", action="GO_ON", regret_difference=1.0, lower_bound=-1.0, upper_bound=3.0,
            confidence=0.95, outcomes=80, reason="neither is sure",
        ),
    )  # fmt: skip
    text = io.StringIO()
    show(loud, Console(file=text, width=160))
    for part in (
        "90.0% to 99.0%",
        "out of band",
        "drifted: location +0.2, spread -0.1, p = 0.001",
        "warning: half of [load] lay below",
        "canary last_day@4: go on; neither is sure",
    ):
        assert part in text.getvalue()


def test_the_help_has_an_example() -> None:
    answered = CliRunner().invoke(build(["performance"]), ["performance", "--help"], env={"COLUMNS": "160"})
    assert answered.exit_code == 0
    assert "hedgecast performance german_grid@champion" in answered.stdout
