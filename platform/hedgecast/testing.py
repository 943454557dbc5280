"""Small real things for tests, here and in packages that build on hedgecast."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch

from hedgecast.data.datasets import load_table
from hedgecast.data.features import features
from hedgecast.data.schema import FeatureSchema
from hedgecast.data.splits import Split, split_windows
from hedgecast.data.windows import build_windows
from hedgecast.diffusion.generator import Generator
from hedgecast.learning.study import Study, read_study
from hedgecast.registry.bundle import Bundle
from hedgecast.registry.package import package

_STUDY = """
name = "tiny"

[data]
path = "tiny.csv"
timestamp = "timestamp"
timezone = "Europe/Berlin"
step = "1h"
targets = ["load_gw"]
known = ["holiday"]
units = {{ load_gw = "GW" }}
history = 168
horizon = 24

[split]
validation = "{validation}"
test = "{test}"

[program]
name = "generation_scheduling"

[program.parameters]
ramp_limit = 4.0
capacity = 80.0

[program.units]
schedule = "GW"

[learning]
method = "diffusion"
"""


def write_tiny_study(folder: Path, *, num_days: int = 260, seed: int = 0, start: str = "2021-01-01") -> Path:
    """Path of a study file whose CSV table, written beside it, has a made-up load.

    Parameters
    ----------
    folder : Path
        Where both files go.
    num_days : int
        Local days in the table; the last 30 are the test, the 40 before them validation.
    seed : int
        Of the made-up load: a daily and weekly shape, a slow level, and noise that is wider at noon.
    start : str
        First local day; an ordinary year has both changes of the clock in it.
    """
    begin = np.datetime64(f"{start}T00:00", "h") - np.timedelta64(1, "h")  # Berlin's winter midnight in UTC
    times = begin + np.arange(24 * num_days).astype("timedelta64[h]")
    generator = np.random.default_rng(seed)
    hours = np.arange(len(times))
    noon = np.exp(-0.5 * ((hours % 24 - 11) / 3.0) ** 2)
    weekend = ((hours // 24) % 7) >= 5
    level = np.convolve(generator.normal(size=len(times) + 71), np.ones(72) / 72**0.5, mode="valid")
    load = 45 + 10 * noon - 6 * weekend + 1.5 * level + (0.4 + noon) * generator.normal(size=len(times))
    table = "\n".join(
        f"{str(time).replace('T', ' ')}:00+00:00,{value:.6f},{int(off)}"
        for time, value, off in zip(times.astype("datetime64[m]"), load, weekend, strict=True)
    )
    (folder / "tiny.csv").write_text("timestamp,load_gw,holiday\n" + table + "\n", encoding="utf-8")
    last = np.datetime64(start) + num_days
    study = folder / "tiny.toml"
    study.write_text(_STUDY.format(validation=last - 70, test=last - 30), encoding="utf-8")
    return study


@dataclasses.dataclass(frozen=True, slots=True)
class TinyModel:
    """A small study with an exported generator: real statistics, a network moved off its start."""

    study: Study
    schema: FeatureSchema
    split: Split
    generator: Generator
    bundle: Bundle


def make_tiny_model(folder: Path) -> TinyModel:
    """The tiny study's model, its bundle in ``folder / "bundle"``; nothing is trained."""
    study = read_study(write_tiny_study(folder))
    table = load_table(study.data)
    schema = FeatureSchema.from_table(study.data, table)
    split = split_windows(build_windows(table, schema), study.split)
    draws = torch.Generator().manual_seed(0)
    context = torch.from_numpy(features(split.train))
    generator, _ = Generator.fitted(Generator.Config(), context, torch.from_numpy(split.train.slots), draws)
    with torch.no_grad():
        for parameter in generator.denoiser.exit.parameters():
            parameter.normal_(0.0, 0.05, generator=draws)
    bundle = package(
        folder / "bundle",
        study=study,
        schema=schema,
        generator=generator,
        context=context[:10],
        training={"days": len(split.train)},
        metrics={"cost_difference_low": -1.0, "crps_ratio": 1.0, "coverage_90": 0.9, "unsolved_share": 0.0},
    )
    return TinyModel(study=study, schema=schema, split=split, generator=generator, bundle=bundle)
