"""Small real things for tests, here and in packages that build on hedgecast."""

from __future__ import annotations

from pathlib import Path

import numpy as np

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
