"""``hedgecast decide`` as a planner types it, against a real server in this process."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hedgecast.client import Client
from hedgecast.service.background import background_server
from hedgecast.service.bundles import local_model
from hedgecast.service.local import LocalBackend
from hedgecast.service.models import BundleReference
from hedgecast.service.settings import load_settings
from hedgecast.testing import Authority, TinyModel

PROGRAM = Path(sys.executable).parent / "hedgecast"


@pytest.fixture(scope="module")
def address(tiny: TinyModel) -> Iterator[str]:
    reference = BundleReference(folder=tiny.bundle.folder, name="tiny", version="1", aliases=("champion",))
    backend = LocalBackend([local_model(reference)])
    with background_server(backend, load_settings(port=0)) as where:
        yield where
    backend.close()


@pytest.fixture
def files(tiny: TinyModel, tmp_path: Path) -> tuple[Path, Path]:
    lines = (tiny.bundle.folder.parent / "tiny.csv").read_text().splitlines()
    times, _ = tiny.split.test.steps_of(10)
    start = next(
        row for row, line in enumerate(lines) if line.startswith(str(times[0])[:16].replace("T", " "))
    )
    history, known = tmp_path / "history.csv", tmp_path / "known.csv"
    history.write_text("\n".join([lines[0], *lines[start - 192 : start]]) + "\n")
    known.write_text("\n".join([lines[0], *lines[start : start + 24]]) + "\n")
    return history, known


def decide(address: str, *arguments: str, command: str = "decide") -> subprocess.CompletedProcess[str]:
    words = [PROGRAM, command, *arguments, "--address", address]
    wide = {**os.environ, "COLUMNS": "160"}
    return subprocess.run(words, capture_output=True, text=True, check=False, env=wide)


def test_the_command_answers_as_the_client(address: str, files: tuple[Path, Path], tiny: TinyModel) -> None:
    history, known = files
    result = decide(
        address, "--model", "tiny@champion", "--rows", str(history), "--known", str(known),
        "--scenarios", "50", "--seed", "4", "--json",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    record = json.loads(result.stdout)
    assert len(record["decision"]["schedule"]) == len(record["times"]) == 24
    assert record["verdict"]["state"] == "OPTIMAL"
    test = tiny.split.test
    times, _ = test.steps_of(10)
    with Client(address) as client:
        answer = client.decide(
            "tiny",
            history={"load_gw": test.history[10, :, 0], "holiday": test.history[10, :, 1]},
            history_times=times[0] + np.timedelta64(1, "h") * np.arange(-168, 0),
            known={"holiday": test.known[10, :, 0]},
            known_times=times,
            scenario_count=50,
            seed=4,
        )
    assert record["scenario_fingerprint"] == answer.scenario_fingerprint
    np.testing.assert_allclose(record["decision"]["schedule"], answer.decision["schedule"], rtol=1e-9)


def test_the_table_shows_plan_and_cost(address: str, files: tuple[Path, Path]) -> None:
    history, known = files
    result = decide(address, "--model", "tiny", "--rows", str(history), "--known", str(known))
    assert result.returncode == 0, result.stderr
    assert "Plan of tiny@1" in result.stdout
    assert "expected regret" in result.stdout


def test_plans_are_evaluated_and_explained(address: str, files: tuple[Path, Path], tmp_path: Path) -> None:
    history, known = files
    ask = ["--model", "tiny", "--rows", str(history), "--known", str(known)]
    mine, flat = tmp_path / "mine.json", tmp_path / "flat.csv"
    mine.write_text(decide(address, *ask, "--scenarios", "30", "--gap-replications", "0", "--json").stdout)
    flat.write_text("schedule\n" + "10.0\n" * 24)
    evaluated = decide(address, str(flat), str(mine), *ask, "--json", command="evaluate")
    assert evaluated.returncode == 0, evaluated.stderr
    record = json.loads(evaluated.stdout)
    assert [plan["label"] for plan in record["plans"]] == ["mine", "flat"]
    assert record["plans"][1]["above_leader"]["lower_bound"] > 0
    table = decide(address, str(flat), str(mine), *ask, command="evaluate")
    assert "above the best plan" in table.stdout
    explained = decide(address, *ask, "--scenarios", "30", "--top", "3", command="explain")
    assert explained.returncode == 0, explained.stderr
    assert "worth of the hedge" in explained.stdout


def test_a_file_that_is_no_plan_is_named(address: str, files: tuple[Path, Path], tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text("[1, 2]")
    ask = ["--model", "tiny", "--rows", str(files[0])]
    for path, message in ((wrong, "is no plan"), (tmp_path / "none.json", "No such file")):
        result = decide(address, str(path), *ask, command="evaluate")
        assert result.returncode == 2
        assert message in result.stderr.replace("\n", " ")


def test_a_gap_in_the_rows_is_named(address: str, files: tuple[Path, Path]) -> None:
    history, known = files
    lines = history.read_text().splitlines()
    lines.pop(100)
    history.write_text("\n".join(lines) + "\n")
    result = decide(address, "--model", "tiny", "--rows", str(history), "--known", str(known))
    assert result.returncode == 2
    message = result.stderr.replace("\n", " ")
    assert "history rows, row 100" in message
    assert "a gap of 1 steps" in message
    assert lines[100][:16] in message
    assert "Traceback" not in result.stderr


def test_a_missing_column_is_named_before_anything_is_sent(
    address: str, files: tuple[Path, Path], tmp_path: Path
) -> None:
    other = tmp_path / "other.csv"
    other.write_text("timestamp,load_mw\n2021-01-01 00:00:00,1\n")
    result = decide(address, "--model", "tiny", "--rows", str(other), "--known", str(files[1]))
    assert result.returncode == 2
    assert "has no column 'load_gw'" in result.stderr.replace("\n", " ")


def test_nobody_listening_is_one_message(files: tuple[Path, Path]) -> None:
    result = decide("127.0.0.1:9", "--model", "tiny", "--rows", str(files[0]), "--deadline", "2")
    assert result.returncode == 2
    assert "127.0.0.1:9" in result.stderr
    assert "Traceback" not in result.stderr


def probe(address: str, *arguments: str, token: str = "") -> subprocess.CompletedProcess[str]:
    command = [str(PROGRAM), "probe", "--address", address, "--model", "tiny@champion", *arguments]
    environment = {**os.environ, "HEDGECAST_TOKEN": token} if token else None
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_a_probe_is_refused_without_its_certificate_or_token(tiny: TinyModel, tmp_path: Path) -> None:
    ca, table = Authority(tmp_path / "ca"), tmp_path / "tokens"
    certificate, key = ca.issue("server")
    table.write_text(f"prober {hashlib.sha256(b'a-long-token').hexdigest()}\n")
    settings = load_settings(
        port=0, tls_certificate=certificate, tls_key=key, tls_client_ca=ca.certificates, token_file=table
    )
    mine, mine_key = ca.issue("prober")
    tls = ["--authorities", str(ca.certificates), "--certificate", str(mine), "--key", str(mine_key)]
    backend = LocalBackend([local_model(BundleReference(folder=tiny.bundle.folder, aliases=("champion",)))])
    with background_server(backend, settings) as secure:
        assert probe(secure, *tls[:2], "--deadline", "5", token="a-long-token").returncode == 2
        assert "UNAUTHENTICATED" in probe(secure, *tls, token="another").stderr
        answered = probe(secure, *tls, "--json", token="a-long-token")
    backend.close()
    assert answered.returncode == 0, answered.stderr
    record = json.loads(answered.stdout)
    assert (record["model"], record["verdict"], record["scenarios"]) == ("tiny@local", "OPTIMAL", 50)
    assert record["seconds"] > 0


def test_a_probe_says_what_is_missing(address: str) -> None:
    assert "both --certificate and --key" in probe(address, "--certificate", "c.pem").stderr
    assert "write HH:MM" in probe(address, "--issue-time", "midnight").stderr
    # The study decides at midnight, not at six.
    assert "decisions are issued at 00:00" in probe(address, "--issue-time", "06:00").stderr
    assert probe(address).stdout.startswith("tiny@1 decides: optimal, ")
