"""What was measured of cheaper answers is read strictly, and only for the bundle that it is of."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from hedgecast.core.errors import BundleError, ConfigError
from hedgecast.registry.ladder import (
    FORMAT,
    LADDER_FILE,
    MeasuredLadder,
    MeasuredStep,
    Rung,
    Student,
    climbed,
    measured,
)

STEP = MeasuredStep(
    rungs=("fewer_scenarios",), regret_increase=3.0, lower_bound=1.0, upper_bound=5.0, confidence=0.95,
    reference_regret=40.0, num_days=84, first_day="2021-07-01", last_day="2021-09-22", num_scenarios=50,
    reference_scenarios=200, measured_time="2021-10-01T00:00:00Z",
)  # fmt: skip
BOTH = dataclasses.replace(STEP, rungs=("baseline_scenarios", "fewer_scenarios"))
STUDENT = Student(
    name="tiny", version="2", fingerprint="e" * 64, digest="d" * 64, calls=1, teacher_calls=8, distance=0.1
)  # fmt: skip
LADDER = MeasuredLadder(format=FORMAT, fingerprint="f" * 64, steps=(STEP, BOTH))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert MeasuredLadder.read(tmp_path, "f" * 64) is None
    assert LADDER.write(tmp_path) == tmp_path / LADDER_FILE
    assert MeasuredLadder.read(tmp_path, "f" * 64) == LADDER
    assert [path.name for path in tmp_path.iterdir()] == [LADDER_FILE]


def test_another_bundles_record_is_none_of_this_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    LADDER.write(tmp_path)
    assert MeasuredLadder.read(tmp_path, "0" * 64) is None
    assert "is of bundle ffffffffffff, this is 000000000000: measure it again" in caplog.text
    dataclasses.replace(LADDER, format=FORMAT + 1).write(tmp_path)
    with pytest.raises(BundleError, match="has format 2, this version reads 1"):
        MeasuredLadder.read(tmp_path, "f" * 64)


@pytest.mark.parametrize(
    ("key", "value"),
    [("rungs", []), ("rungs", ["magic"]), ("rungs", ["fewer_scenarios"] * 2), ("lower_bound", 9.0),
     ("regret_increase", float("nan")), ("num_days", "many"), ("surprise", 1)],
)  # fmt: skip
def test_a_record_that_makes_no_sense_is_refused(tmp_path: Path, key: str, value: object) -> None:
    record = LADDER.to_dict()
    record["steps"][0] = {**STEP.to_dict(), key: value}
    (tmp_path / LADDER_FILE).write_text(json.dumps(record))
    with pytest.raises(BundleError, match="cannot be read"):
        MeasuredLadder.read(tmp_path, "f" * 64)
    (tmp_path / LADDER_FILE).write_text("{")
    with pytest.raises(BundleError, match="cannot be read"):
        MeasuredLadder.read(tmp_path, "f" * 64)


def test_rungs_are_sorted() -> None:
    with pytest.raises(ConfigError, match="sorted"):
        dataclasses.replace(STEP, rungs=("fewer_scenarios", "baseline_scenarios"))


def test_a_step_is_found_by_all_its_rungs_and_its_count() -> None:
    fewer, baseline = Rung.FEWER_SCENARIOS, Rung.BASELINE_SCENARIOS
    assert measured(LADDER.steps, frozenset({fewer}), 50) is STEP
    assert measured(LADDER.steps, frozenset({fewer}), 49) is None
    assert measured(LADDER.steps, frozenset({fewer, baseline}), 50) is BOTH
    assert measured(LADDER.steps, frozenset({baseline}), 50) is None
    alone = dataclasses.replace(STEP, rungs=("baseline_scenarios",), num_scenarios=200)
    assert measured((alone,), frozenset({baseline}), 50) is alone


def test_a_student_is_kept_with_the_steps_that_it_draws_for(tmp_path: Path) -> None:
    taught = dataclasses.replace(STEP, rungs=("fewer_scenarios", "student_sampler"))
    record = dataclasses.replace(LADDER, steps=(STEP, taught), student=STUDENT)
    record.write(tmp_path)
    assert MeasuredLadder.read(tmp_path, "f" * 64) == record
    assert (STUDENT.full_name, STUDENT.graph) == ("tiny@2", "student-dddddddddddddddd.onnx")
    without = {key: value for key, value in record.to_dict().items() if key != "student"}
    (tmp_path / LADDER_FILE).write_text(json.dumps(without))
    with pytest.raises(BundleError, match="there is no student"):
        MeasuredLadder.read(tmp_path, "f" * 64)


def test_each_step_takes_the_rungs_before_it_and_the_baseline_a_students_place() -> None:
    fewer, taught, baseline, mapped = (
        Rung.FEWER_SCENARIOS,
        Rung.STUDENT_SAMPLER,
        Rung.BASELINE_SCENARIOS,
        Rung.SURROGATE_SOLVER,
    )
    assert climbed([]) == ()
    assert climbed([baseline, fewer]) == (frozenset({baseline}), frozenset({baseline, fewer}))
    assert climbed([taught, fewer, baseline, mapped]) == (
        frozenset({taught}),
        frozenset({taught, fewer}),
        frozenset({fewer, baseline}),
        frozenset({fewer, baseline, mapped}),
    )
    with pytest.raises(ConfigError, match="would change nothing: put it before"):
        climbed([baseline, fewer, taught])
