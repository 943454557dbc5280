"""The job scripts say only what `ray job submit` and our command line understand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import pytest
import typer.main

from hedgecast import cli

JOBS = Path(__file__).parents[2] / "deploy" / "jobs"
SCRIPTS = sorted(JOBS.glob("*.sh"))
PLACES = {
    "RAY_API_SERVER_ADDRESS": "http://127.0.0.1:8265",
    "HEDGECAST_REGISTRY": "http://mlflow:5000",
    "HEDGECAST_STORAGE": "s3://bucket/my runs",
    "HEDGECAST_RESULTS": "/mnt/results of all",
    "HEDGECAST_OUT": "s3://bucket/scenarios of 2020",
}
# In place of Ray: prints what it was asked.
STAND_IN = f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n"


def _submit(
    script: Path, folder: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    ray = folder / "ray"
    ray.write_text(STAND_IN, encoding="utf-8")
    ray.chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [script, *arguments],
        env={"PATH": path, **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def _asked(script: Path, folder: Path, *arguments: str, **environment: str) -> tuple[list[str], list[str]]:
    """What Ray is told, and what the cluster runs."""
    done = _submit(script, folder, *arguments, **environment)
    assert done.returncode == 0, done.stderr
    words = json.loads(done.stdout)
    at = words.index("--")
    return words[:at], words[at + 1 :]


def _parsed(command: click.Command, words: list[str]) -> dict[str, Any]:
    """The values by name; click ends with an error for every word that it does not know."""
    return dict(command.make_context(command.name, list(words)).params)


@pytest.fixture(scope="module")
def ours() -> Mapping[str, click.Command]:
    group = typer.main.get_command(cli.build([script.stem for script in SCRIPTS]))
    return group.commands  # type: ignore[attr-defined, no-any-return]


def test_every_long_command_has_a_script() -> None:
    assert [script.stem for script in SCRIPTS] == ["backtest", "distill", "generate", "train", "tune"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_both_sides_understand_every_word(
    script: Path, tmp_path: Path, ours: Mapping[str, click.Command]
) -> None:
    from ray.dashboard.modules.job.cli import submit

    # generate takes no changes: a day's rows and the model decide.
    more = ("--days", "a..b") if script.stem == "generate" else ("--set", "a.b=1")
    told, (program, name, *words) = _asked(script, tmp_path, "my study.toml", *more, **PLACES)
    assert told[:2] == ["job", "submit"]
    assert (program, name) == ("hedgecast", script.stem)
    given = _parsed(ours[name], words)
    assert given["study"] == "my study.toml"
    passed_on = given["days"] if name == "generate" else given.get("changes", given.get("changed"))
    assert passed_on in ("a..b", ["a.b=1"])
    assert given["as_json"] is True
    ray = _parsed(submit, [*told[2:], "--", program])
    assert ray["working_dir"] == "."
    assert ray["entrypoint_num_cpus"] >= 1
    assert ray["submission_id"].startswith(f"{name}-")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_missing_place_is_named_before_anything_is_sent(script: Path, tmp_path: Path) -> None:
    text = script.read_text(encoding="utf-8")
    needed = [name for name in PLACES if f'"${{{name}:?' in text]
    assert "RAY_API_SERVER_ADDRESS" in needed
    for name in needed:
        done = _submit(script, tmp_path, "study", **{key: PLACES[key] for key in PLACES if key != name})
        assert done.returncode != 0
        assert done.stdout == ""
        assert f"{name}: is not set" in done.stderr
    without_study = _submit(script, tmp_path, **PLACES)
    assert without_study.returncode != 0
    assert "name a study" in without_study.stderr


def test_places_reach_the_command(tmp_path: Path, ours: Mapping[str, click.Command]) -> None:
    train = _parsed(ours["train"], _asked(JOBS / "train.sh", tmp_path, "german_grid", **PLACES)[1][2:])
    assert train["storage"] == PLACES["HEDGECAST_STORAGE"]
    assert train["registry"] == PLACES["HEDGECAST_REGISTRY"]
    assert (train["num_workers"], train["gpu"]) == (2, False)
    assert train["run_name"].startswith("german_grid-")
    again = _asked(JOBS / "train.sh", tmp_path, "x", HEDGECAST_GPU="1", HEDGECAST_RUN="march", **PLACES)[1][
        2:
    ]
    assert _parsed(ours["train"], again)["run_name"] == "march"
    assert _parsed(ours["train"], again)["gpu"] is True
    told, words = _asked(JOBS / "backtest.sh", tmp_path, "a.toml", HEDGECAST_TRIALS_AT_ONCE="3", **PLACES)
    backtest = _parsed(ours["backtest"], words[2:])
    assert backtest["workers"] == int(told[told.index("--entrypoint-num-cpus") + 1]) == 3
    assert str(backtest["output"]) == f"{PLACES['HEDGECAST_RESULTS']}/backtest-a"
    tune = _parsed(ours["tune"], _asked(JOBS / "tune.sh", tmp_path, "a.toml", **PLACES)[1][2:])
    assert (tune["trials"], tune["concurrent"]) == (20, 4)
    words = _asked(JOBS / "generate.sh", tmp_path, "a.toml", "--days", "a..b", **PLACES)[1]
    generate = _parsed(ours["generate"], words[2:])
    assert (generate["model"], generate["scenarios"], generate["actors"]) == ("a@champion", 1000, 4)
    assert generate["out"] == PLACES["HEDGECAST_OUT"]
    words = _asked(JOBS / "distill.sh", tmp_path, "a.toml", HEDGECAST_MODEL="a@3", **PLACES)[1]
    assert _parsed(ours["distill"], words[2:])["model"] == "a@3"
    assert (
        _parsed(ours["distill"], _asked(JOBS / "distill.sh", tmp_path, "a", **PLACES)[1][2:])["model"] is None
    )
    assert str(tune["output"]).startswith(PLACES["HEDGECAST_RESULTS"])


def test_an_unknown_flag_would_be_seen(ours: Mapping[str, click.Command]) -> None:
    # Of the click inside typer, which is not the click that Ray uses.
    with pytest.raises(Exception, match="No such option: --not-there"):
        _parsed(ours["train"], ["german_grid", "--not-there"])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_shellcheck_has_nothing_to_say(script: Path) -> None:
    checker = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([checker, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
