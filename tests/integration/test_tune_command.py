"""What ``hedgecast tune`` says at its end, read as a terminal and ``hedgecast train`` would."""

from __future__ import annotations

import shlex
from pathlib import Path

from hedgecast.learning.study import read_study
from hedgecast.learning.tuning import value_of
from hedgecast.testing import write_tiny_study
from hedgecast_workers.tune import train_command


def test_the_command_trains_the_study_that_was_tuned_with_what_was_found(tmp_path: Path) -> None:
    study = write_tiny_study(tmp_path, num_days=200)
    values = {
        "learning_rate": 1.5e-05,
        "checkpointed": True,
        "generator.sampler": "adams",
        "generator.denoiser.hidden": 128,
    }
    said = train_command(str(study), ["learning.epochs=60", "name=my study"], values)
    program, command, source, *options = shlex.split(said)
    assert (program, command, source) == ("hedgecast", "train", str(study))
    assert options[::2] == ["--set"] * 6
    found = read_study(source, [change for change in options[1::2] if change != "name=my study"])
    assert found.learning.epochs == 60
    for key, value in values.items():
        assert value_of(found.learning, key) == value
