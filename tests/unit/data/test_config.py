from __future__ import annotations

import pytest

from hedgecast.core.errors import ConfigError
from hedgecast.data.config import DataConfig, SplitConfig


def test_a_study_reads_as_written(make_config):
    config = make_config(issue_time="06:00", observed=["wind"], units={"load": "GW"}, step="30min")
    assert config.step_minutes == 30
    assert config.issue_minutes == 360
    assert config.columns == ("load", "wind", "temperature")
    assert DataConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        (
            {"dataset": "german_grid"},
            "data.dataset",
            "both ('german_grid' and 'load.csv') given: set exactly one",
        ),
        ({"path": None}, "data.dataset", "neither given: set exactly one"),
        (
            {"timestamp": None},
            "data.timestamp",
            "missing key 'data.timestamp': name the column of 'load.csv'",
        ),
        (
            {"path": None, "dataset": "german_grid"},
            "data.timestamp",
            "a dataset knows its own times: remove the key",
        ),
        (
            {"timezone": "Europe/Berlino"},
            "data.timezone",
            "'Europe/Berlino' is not a time zone: use an IANA name",
        ),
        ({"timezone": "../etc"}, "data.timezone", "is not a time zone"),
        ({"step": "45min"}, "data.step", "'45min': must be '1h' or minutes that divide an hour"),
        ({"step": "2h"}, "data.step", "'2h': must be '1h'"),
        ({"step": "hourly"}, "data.step", "'hourly': must be"),
        ({"targets": []}, "data.targets", "name at least one column"),
        ({"known": ["load"]}, "data.known", "names 'load', which data.targets names already"),
        ({"observed": ["time"]}, "data.observed", "names 'time', which data.timestamp names already"),
        ({"units": {"wind": "GW"}}, "data.units.wind", "no such column: columns here: load, temperature"),
        ({"history": 0}, "data.history", "data.history = 0: must be at least 1"),
        ({"horizon": 0}, "data.horizon", "data.horizon = 0: must be at least 1"),
        ({"horizon": 25}, "data.horizon", "25 steps of 1h are longer than a day"),
        ({"issue_time": "24:00"}, "data.issue_time", "'24:00': must be a local time HH:MM"),
        ({"issue_time": "06:30"}, "data.issue_time", "'06:30' is not a multiple of the step 1h"),
        ({"horizont": 24}, "data.horizont", "did you mean 'horizon'?"),
        ({"history": 24.0}, "data.history", "is a float: must be an integer"),
        ({"history": "24"}, "data.history", "is a str: must be an integer"),
        ({"targets": "load"}, "data.targets", "must be a list"),
    ],
)
def test_what_cannot_be_is_refused(make_config, changes, key, words):
    with pytest.raises(ConfigError) as caught:
        make_config(**changes)
    assert words in str(caught.value)
    assert caught.value.facts["key"] == key


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"validation": "2019-7-1st"}, "split.validation", "'2019-7-1st': must be a date YYYY-MM-DD"),
        ({"test": "2019-02-30"}, "split.test", "must be a date"),
        ({"test": "2019-07-01"}, "split.test", "is not after split.validation = '2019-07-01'"),
        ({"test_end": "2019-12-31"}, "split.test_end", "is not after split.test = '2020-01-01'"),
    ],
)
def test_dates_out_of_order_are_refused(changes, key, words):
    values = {"validation": "2019-07-01", "test": "2020-01-01", **changes}
    with pytest.raises(ConfigError) as caught:
        SplitConfig.from_dict(values, path="split")
    assert words in str(caught.value)
    assert caught.value.facts["key"] == key
