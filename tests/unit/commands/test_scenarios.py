"""``hedgecast scenarios`` against a server in this process: three forms of one set."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import typer
from typer.testing import CliRunner

from hedgecast.client import Client, GeneratedScenarios
from hedgecast.commands.scenarios import quantiles, scenarios
from hedgecast.core.errors import ConfigError, InputError
from hedgecast.rpc.codec import NamedRows
from hedgecast.scenarios.arrow import scenario_set
from hedgecast.service.background import background_server
from hedgecast.service.local import LocalBackend
from hedgecast.service.settings import ServiceSettings

APP = typer.Typer(pretty_exceptions_enable=False)
APP.command()(scenarios)


@pytest.fixture
def address(local_backend: LocalBackend) -> Iterator[str]:
    with background_server(local_backend, ServiceSettings(port=0)) as address:
        yield address


@pytest.fixture
def history(rows: NamedRows, tmp_path: Path) -> Path:
    lines = [
        f"{time}Z,{load!r}"
        for time, load in zip(
            np.datetime_as_string(rows.times, unit="s"), rows.columns["load"].tolist(), strict=True
        )
    ]
    path = tmp_path / "history.csv"
    path.write_text("\n".join(["timestamp,load", *lines]) + "\n")
    return path


def _run(address: str, history: Path, out: Path, *more: str) -> str:
    words = [
        "--model",
        "last_day",
        "--rows",
        history,
        "--out",
        out,
        "--address",
        address,
        "--seed",
        "4",
        *more,
    ]
    result = CliRunner().invoke(APP, [str(word) for word in words], env={"COLUMNS": "200"})
    if result.exception is not None:
        raise result.exception
    return result.stdout


def _found(address: str, rows: NamedRows, **options: Any) -> GeneratedScenarios:
    with Client(address) as client:
        return client.scenarios(
            "last_day", history=rows.columns, history_times=rows.times, scenario_count=90, seed=4, **options
        )


def test_the_files_hold_the_clients_set(address: str, history: Path, rows: NamedRows, tmp_path: Path) -> None:
    found = _found(address, rows)
    said = json.loads(_run(address, history, tmp_path / "a.parquet", "--scenarios", "90", "--json"))
    assert said["fingerprint"] == found.fingerprint
    assert (said["scenario_count"], said["drawn_count"], said["reduction"]) == (90, 90, None)
    assert said["times"][0] == "2020-06-01T12:00:00Z"
    assert scenario_set(pa.parquet.read_table(tmp_path / "a.parquet")).fingerprint() == found.fingerprint
    table = _run(address, history, tmp_path / "a.arrow", "--scenarios", "90")
    assert "90 scenarios of last_day@3" in table
    assert "2020-06-01 12:00" in table
    with pa.OSFile(str(tmp_path / "a.arrow")) as source:
        assert scenario_set(pa.ipc.open_file(source).read_all()).fingerprint() == found.fingerprint
    _run(address, history, tmp_path / "a.csv", "--scenarios", "90")
    with (tmp_path / "a.csv").open(newline="") as stream:
        read = list(csv.DictReader(stream))
    assert len(read) == 90 * 6
    assert (read[7]["scenario"], read[7]["time"]) == ("1", "2020-06-01T13:00:00Z")
    np.testing.assert_array_equal(
        np.array([row["load"] for row in read], np.float32).reshape(90, 6), found.paths[..., 0]
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.arrow",
        "a.csv",
        "a.parquet",
        "history.csv",
    ]


def test_a_reduction_is_told_with_its_cost(
    address: str, history: Path, rows: NamedRows, tmp_path: Path
) -> None:
    found = _found(address, rows, reduce_to=5, risk="cvar:0.5", given={"capacity": 41.0})
    assert found.reduction is not None
    more = ("--scenarios", "90", "--reduce-to", "5", "--risk", "cvar:0.5", "--given", "capacity=41")
    said = json.loads(_run(address, history, tmp_path / "few.csv", *more, "--json"))
    assert said["reduction"]["cost_error"] == pytest.approx(found.reduction.cost_error, rel=1e-9)
    with (tmp_path / "few.csv").open(newline="") as stream:
        read = list(csv.DictReader(stream))
    assert [int(row["scenario"]) for row in read[::6]] == found.indices.tolist()
    assert [float(row["probability"]) for row in read[::6]] == found.probabilities.tolist()
    assert "5 of 90 by forward selection" in _run(address, history, tmp_path / "few.parquet", *more)
    by_step = _run(address, history, tmp_path / "few.parquet", *more, "--reduce-by", "quantiles")
    assert "5 of 90 by quantiles" in by_step


@pytest.mark.parametrize(
    ("out", "more", "error", "message"),
    [
        ("day.txt", (), ConfigError, r"must end in \.parquet, \.arrow, \.csv"),
        ("day.csv", ("--risk", "cvar:0.9"), ConfigError, "--reduce-to"),
        ("day.csv", ("--reduce-by", "quantiles"), ConfigError, "--reduce-to"),
        ("day.csv", ("--reduce-to", "5", "--reduce-by", "best"), ConfigError, "reduction_method is 'best'"),
        ("day.csv", ("--scenarios", "2000000"), InputError, "scenario_count is 2000000"),
    ],
)
def test_wrong_use_is_one_error_and_leaves_nothing(
    address: str, history: Path, tmp_path: Path, out: str, more: tuple[str, ...], error: type[Exception],
    message: str,
) -> None:  # fmt: skip
    with pytest.raises(error, match=message):
        _run(address, history, tmp_path / out, *more)
    assert [path.name for path in tmp_path.iterdir()] == ["history.csv"]


def test_quantiles_weigh_what_they_rank() -> None:
    paths = np.array([3.0, 1.0, 2.0]).reshape(3, 1, 1)
    weights = np.array([0.1, 0.7, 0.2])
    found = quantiles(paths, weights, (0.0, 0.7, 0.71, 0.9, 0.95, 1.0))[:, 0, 0]
    assert found.tolist() == [1.0, 1.0, 2.0, 2.0, 3.0, 3.0]
    equal = np.random.default_rng(0).normal(size=(200, 3, 2))
    exact = np.quantile(equal, [0.05, 0.5, 0.95], axis=0, method="inverted_cdf")
    np.testing.assert_array_equal(quantiles(equal, np.full(200, 1 / 200), (0.05, 0.5, 0.95)), exact)
