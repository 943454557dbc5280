from __future__ import annotations

from pathlib import Path

import pytest

from hedgecast.core.errors import ConfigError
from hedgecast.learning.study import read_study
from hedgecast.learning.trainers import TrainerOptions, remote_trainer
from hedgecast.testing import write_tiny_study


def options(**changes: object) -> TrainerOptions:
    values: dict[str, object] = {
        "num_workers": 2,
        "gpu": False,
        "storage": "runs",
        "run_name": "march",
        "max_failures": 3,
    }
    return TrainerOptions(**{**values, **changes})  # type: ignore[arg-type]


def test_ray_is_found_by_name_and_not_imported(tmp_path: Path) -> None:
    trainer = remote_trainer("ray", read_study(write_tiny_study(tmp_path)), options())
    assert type(trainer).__module__ == "hedgecast_workers.train"


def test_an_unknown_trainer_gets_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no trainer is called 'spark': registered are ray"):
        remote_trainer("spark", read_study(write_tiny_study(tmp_path)), options())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_workers": 0}, "0 workers: at least 1"),
        ({"max_failures": -1}, "must not be negative"),
        ({"run_name": "a/b"}, "run name 'a/b': use letters"),
        ({"run_name": ""}, "run name ''"),
    ],
)
def test_impossible_options_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        options(**changes)
