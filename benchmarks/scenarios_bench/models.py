"""The teacher and its students that all pieces run, made once by the commands that users have."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from hedgecast.commands.workflow import Prepared
from hedgecast.data.features import features
from hedgecast.data.windows import Windows
from hedgecast.diffusion.generator import Generator
from hedgecast.diffusion.noise import day_numbers
from hedgecast.learning.study import read_study
from hedgecast.registry.bundle import Bundle
from hedgecast.registry.weights import generator_of

RUNS = pathlib.Path(__file__).resolve().parents[2] / "runs" / "scenarios"
STUDY = "german_grid"
TRAINING = ("learning.method=diffusion", "learning.epochs=40")
"""What is changed of the study, for time: the same network without its joint phase, and at most 40 epochs."""
TEACHING = ("distill.epochs=6", "distill.pool_per_day=48")
"""And of its distillation: a fifth of the epochs, on a quarter of the teacher's scenarios."""
TEACHER, STUDENT = "teacher", "student-1"


@dataclasses.dataclass(frozen=True, slots=True)
class HeldOutDays:
    """Days that no training saw, as generators and sessions take them."""

    windows: Windows
    context: NDArray[np.float64]
    """(D, C) raw features."""
    numbers: NDArray[np.int64]
    """(D,) which day, for the noise."""

    @property
    def torch_context(self) -> torch.Tensor:
        """(D, C) float32."""
        return torch.from_numpy(self.context).float()


def bundle(name: str) -> Bundle:
    """The teacher's or the student's bundle; trained and distilled first where it is not there."""
    folder = RUNS / name
    if not (folder / "bundle.json").is_file():
        commands = {
            TEACHER: ["train", STUDY, *_set(TRAINING)],
            STUDENT: ["distill", STUDY, "--model", f"{STUDY}@1", "--steps", "1", *_set(TEACHING)],
        }
        if name == STUDENT:
            bundle(TEACHER)
        else:
            # The teacher is version 1 of a registry of its own, and a student of another gives way.
            for other in ("home", STUDENT):
                shutil.rmtree(RUNS / other, ignore_errors=True)
        _hedgecast([*commands[name], "--output", str(folder)])
    return Bundle.open(folder)


def teacher() -> Generator:
    """The teacher's network in torch."""
    return generator_of(bundle(TEACHER)).eval().float()


@functools.cache
def prepared() -> Prepared:
    """The study's data."""
    return Prepared.of(read_study(STUDY, list(TRAINING)))


def held_out_days(every: int = 1) -> HeldOutDays:
    """Every so-manieth day of the test year that has all its slots."""
    windows = prepared().split.test
    whole = np.flatnonzero(np.isfinite(windows.slots).all(axis=(1, 2)))
    windows = windows.select(whole[::every])
    return HeldOutDays(windows, features(windows), day_numbers(windows.days))


def _set(changes: Sequence[str]) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


def _hedgecast(arguments: Sequence[str]) -> None:
    Console(stderr=True).print(f"hedgecast {' '.join(arguments)}")
    script = "from hedgecast.cli import main; main()"
    environment: dict[str, Any] = {**os.environ, "HEDGECAST_HOME": str(RUNS / "home")}
    subprocess.run([sys.executable, "-c", script, *arguments], check=True, env=environment)
