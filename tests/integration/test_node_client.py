"""A client that @grpc/proto-loader makes of the protos in Node.js gets what our own client gets."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from google.rpc import error_details_pb2

from hedgecast.client import Client
from hedgecast.rpc.codec import NamedRows
from hedgecast.service.background import background_server
from hedgecast.service.local import LocalBackend
from hedgecast.service.settings import load_settings
from hedgecast.testing_last_day import LAST_DAY_STEPS, last_day_model, last_day_rows

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "tests" / "node"
# What npm says where the registry cannot be reached; anything else is a fault of ours.
UNREACHED = ("ENOTFOUND", "EAI_AGAIN", "ETIMEDOUT", "ECONNREFUSED", "ECONNRESET", "ENETUNREACH")
QUESTION: dict[str, Any] = {"scenario_count": 50, "seed": 7}


def _lacking(what: str) -> NoReturn:
    message = f"NEEDS {what} for the client in Node.js"
    if os.environ.get("CI") and shutil.which("node"):
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


@pytest.fixture(scope="module")
def modules() -> Path:
    """The packages of the lock file, in the user's cache folder."""
    if not (shutil.which("node") and shutil.which("npm")):
        _lacking("node and npm on PATH")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hedgecast"
    digest = hashlib.sha256((SOURCES / "package-lock.json").read_bytes()).hexdigest()[:16]
    kept = cache / f"node-{digest}"
    if not kept.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{kept.name}.", dir=cache) as folder:
            _install(Path(folder))
            _rename(Path(folder), kept)
    return kept / "node_modules"


def _install(folder: Path) -> None:
    for name in ("package.json", "package-lock.json"):
        shutil.copy(SOURCES / name, folder)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if any(word in done.stderr for word in UNREACHED):
        _lacking("the npm registry")
    assert done.returncode == 0, done.stderr


def _rename(folder: Path, kept: Path) -> None:
    whole = folder / "whole"
    whole.mkdir()
    os.rename(folder / "node_modules", whole / "node_modules")
    try:
        os.rename(whole, kept)
    except OSError:
        # Another run was first.
        assert kept.is_dir()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    backend = LocalBackend([last_day_model()])
    with background_server(backend, load_settings(port=0)) as address:
        yield address
    backend.close()


@pytest.fixture(scope="module")
def plans() -> dict[str, list[float]]:
    mean = last_day_rows().columns["load"][-LAST_DAY_STEPS:]
    return {"short": list(mean - 1.0), "mean": list(mean), "long": list(mean + 0.1), "too much": [101.0] * 6}


@pytest.fixture(scope="module")
def said(modules: Path, address: str, plans: dict[str, list[float]]) -> dict[str, Any]:
    """What the program in Node.js says that the service said."""
    rows = last_day_rows()
    question = {
        **QUESTION,
        "model": "last_day",
        "times": [int(time) for time in rows.times.astype("datetime64[s]").astype(np.int64)],
        "load": list(rows.columns["load"]),
        "plans": plans,
        "target_relative_gap": 0.2,
    }
    # googleapis-common-protos has its sources beside its modules.
    google = Path(error_details_pb2.__file__).parents[2]
    done = subprocess.run(
        ["node", str(SOURCES / "planner.js"), address, str(ROOT / "protos"), str(google)],
        input=json.dumps(question),
        env={**os.environ, "NODE_PATH": str(modules)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _asked(rows: NamedRows) -> dict[str, Any]:
    return {**QUESTION, "history": rows.columns, "history_times": rows.times}


def test_models_and_a_decision_are_those_of_our_client(said: dict[str, Any], address: str) -> None:
    with Client(address) as client:
        (model,) = client.models()
        ours = client.decide("last_day", gap_replications=0, **_asked(last_day_rows()))
    assert said["models"] == [{"name": model.name, "step": 3600}]
    decided = said["decided"]
    assert decided["fingerprint"] == ours.scenario_fingerprint
    np.testing.assert_array_equal(decided["values"]["schedule"], ours.decision["schedule"])
    assert decided["units"] == ["GW"]
    assert decided["first_step"] == int(ours.times[0].astype("datetime64[s]").astype(np.int64))
    assert (decided["expected_cost"], decided["expected_regret"]) == (
        ours.expected_cost,
        ours.expected_regret,
    )
    assert (decided["model"], decided["state"]) == ("last_day@3", "OPTIMAL")


def test_plans_are_ranked_as_by_our_client(
    said: dict[str, Any], address: str, plans: dict[str, list[float]]
) -> None:
    with Client(address) as client:
        given = {label: {"schedule": np.array(values)} for label, values in plans.items()}
        ours = client.evaluate("last_day", given, **_asked(last_day_rows()))
    theirs = said["evaluated"]
    assert [plan["label"] for plan in theirs] == [plan.label for plan in ours.plans]
    assert [plan["label"] for plan in theirs] == ["long", "mean", "short", "too much"]
    for plan, mine in zip(theirs, ours.plans, strict=True):
        assert plan["feasible"] == mine.feasible == (plan["label"] != "too much")
        assert plan["expected_regret"] == pytest.approx(mine.expected_regret, rel=1e-12)
        assert plan["above_best"]["lower_bound"] <= plan["above_best"]["mean"]
    assert "capacity" in theirs[-1]["violations"][0]["constraint"]


def test_a_server_stream_ends_with_its_reason(said: dict[str, Any]) -> None:
    bounds = [message["bound"] for message in said["certified"]]
    assert bounds == sorted(bounds, reverse=True)
    assert [message["stages"] for message in said["certified"]] == list(range(1, len(bounds) + 1))
    assert [message["stop"] for message in said["certified"]] == [
        *["STOP_REASON_UNSPECIFIED"] * (len(bounds) - 1),
        "CERTIFIED",
    ]
    last = said["certified"][-1]
    assert 0 < last["bound"] <= 0.2 * abs(last["objective"])


def test_in_a_stream_of_requests_one_fails_alone(said: dict[str, Any], address: str) -> None:
    streamed = {message["id"]: message for message in said["streamed"]}
    assert sorted(streamed) == [f"day-{index}" for index in range(4)]
    assert (streamed["day-2"]["outcome"], streamed["day-2"]["code"]) == ("error", "INVALID_ARGUMENT")
    with Client(address) as client:
        for index in (0, 1, 3):
            options = {**_asked(last_day_rows()), "seed": index}
            ours = client.decide("last_day", gap_replications=0, **options)
            assert streamed[f"day-{index}"]["fingerprint"] == ours.scenario_fingerprint


def test_details_of_errors_can_be_read(said: dict[str, Any]) -> None:
    unknown, wrong = said["unknown_model"], said["wrong_count"]
    assert (unknown["code"], unknown["same_code"]) == ("NOT_FOUND", True)
    info = unknown["found"]["google.rpc.ErrorInfo"]
    assert (info["domain"], info["reason"]) == ("hedgecast", "MODEL_NOT_FOUND")
    assert (wrong["code"], wrong["same_code"]) == ("INVALID_ARGUMENT", True)
    (violation,) = wrong["found"]["google.rpc.BadRequest"]["field_violations"]
    assert violation["field"] == "scenario_count"
    assert "-1" in wrong["message"]
