"""The shipped studies' tables read, and their figures stand on the training part."""

from __future__ import annotations

import importlib.resources
import tomllib
from pathlib import Path

import numpy as np
import pytest

from hedgecast.data.config import DataConfig, SplitConfig
from hedgecast.data.datasets import load_table
from hedgecast.data.features import features
from hedgecast.data.scaling import feature_standardizer
from hedgecast.data.schema import FeatureSchema
from hedgecast.data.splits import split_windows
from hedgecast.data.windows import build_windows

SHARED = Path(__file__).parents[4] / "shared" / "data" / "vic_elec.parquet"


def study(name, **data):
    text = importlib.resources.files("hedgecast.studies").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    values = tomllib.loads(text)
    config = DataConfig.from_dict({**values["data"], **data}, path="data")
    return config, SplitConfig.from_dict(values["split"], path="split"), values["program"]["parameters"]


def parts(config, split):
    table = load_table(config)
    windows = build_windows(table, FeatureSchema.from_table(config, table))
    return windows, split_windows(windows, split)


def ramps(train):
    """Absolute changes within the days, (B, T - 1)."""
    return np.abs(np.diff(train.slots[:, :, 0], axis=1))


def test_german_grid(german_cache, monkeypatch):
    monkeypatch.setenv("HEDGECAST_CACHE", str(german_cache))
    config, split, parameters = study("german_grid")
    windows, made = parts(config, split)
    assert len(windows) == 1454
    assert made.report.train == 892
    assert made.report.validation == 176
    assert made.report.test == len(made.test) == 366
    assert len(made.report.purged_train) == len(made.report.purged_validation) == 7
    assert windows.schema.names.index("residual_load_gw.back7[0]") > 0
    assert windows.schema.daily == ("holiday",)
    changes = ramps(made.train)
    assert np.mean(changes < parameters["ramp_limit"]) == pytest.approx(0.978, abs=0.002)
    assert np.mean((changes > parameters["ramp_limit"]).any(axis=1)) == pytest.approx(0.35, abs=0.02)
    assert 1.0 < parameters["capacity"] / made.train.slots.max() < 1.05


def test_german_features_stay_near_training(german_cache, monkeypatch):
    """No feature of a later day lies far outside: nearly constant ones are not blown up."""
    monkeypatch.setenv("HEDGECAST_CACHE", str(german_cache))
    config, split, _ = study("german_grid", observed=["wind_gw", "solar_gw"])
    _, made = parts(config, split)
    scaling = feature_standardizer(made.train)
    assert np.abs(scaling.transform(features(made.validation))).max() < 12
    assert np.abs(scaling.transform(features(made.test))).max() < 12


@pytest.mark.shared
def test_vic_elec():
    config, split, parameters = study("vic_elec", path=str(SHARED))
    windows, made = parts(config, split)
    assert windows.report.days == len(windows) == 731 - 2
    assert windows.report.irregular_days == ("2012-04-01", "2012-10-07", "2013-04-07", "2013-10-06")
    assert made.test.num_steps[made.test.index("2013-10-06")] == 46
    assert windows.num_steps[windows.index("2013-04-07")] == 50
    assert len(made.report.purged_train) == 2
    assert windows.schema.known == ("temp_c", "holiday")
    assert windows.schema.daily == ("holiday",)
    changes = ramps(made.train)
    assert np.mean(changes < parameters["ramp_limit"]) == pytest.approx(0.99, abs=0.002)
    assert 1.0 < parameters["capacity"] / made.train.slots.max() < 1.05
