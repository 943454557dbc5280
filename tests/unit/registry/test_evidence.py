"""The table of validation days: what goes in comes out, and what was touched is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from hedgecast.core.errors import BundleError, ShapeError
from hedgecast.learning.fidelity import SCORES
from hedgecast.registry.bundle import VALIDATION_DAYS, Bundle
from hedgecast.registry.evidence import ValidationDays, data_digest, program_digest
from hedgecast.testing import TinyModel, altered_bundle, made_up_days


def test_a_bundle_gives_back_its_days(trained: TinyModel) -> None:
    found, expected = ValidationDays.of(trained.bundle), made_up_days()
    for field in dataclasses.fields(ValidationDays):
        assert np.all(getattr(found, field.name) == getattr(expected, field.name)), field.name
    assert found.regret == pytest.approx(expected.cost - expected.best)
    assert found.unlike(expected) == ()


def test_it_is_plain_parquet_and_the_same_bytes() -> None:
    days = made_up_days()
    table = pyarrow.parquet.read_table(io.BytesIO(days.to_bytes()))
    assert table.column_names == ["day", "cost", "best", "baseline_cost"]
    assert str(table["day"][0].as_py()) == "2021-07-01"
    assert days.to_bytes() == made_up_days().to_bytes()


def test_the_champions_costs_lie_beside_them() -> None:
    days = made_up_days()
    both = dataclasses.replace(days, champion="c" * 64, champion_cost=days.cost + 7.0)
    rival = both.of_champion("c" * 64)
    assert rival is not None
    assert rival.cost == pytest.approx(days.cost + 7.0)
    assert days.unlike(rival) == ()
    assert both.of_champion("d" * 64) is None
    assert days.of_champion("") is None
    table = pyarrow.parquet.read_table(io.BytesIO(both.to_bytes()))
    assert table.column_names[-1] == "champion_cost"
    with pytest.raises(ShapeError, match="give both or neither"):
        dataclasses.replace(days, champion="c" * 64)
    with pytest.raises(ShapeError, match="champion_cost of shape"):
        dataclasses.replace(both, champion_cost=np.zeros(3))


def test_scores_by_the_day_lie_beside_costs(trained: TinyModel, tmp_path: Path) -> None:
    days, draws = made_up_days(), np.random.default_rng(0)
    own, other = ({name: draws.gamma(9.0, size=84) for name in SCORES} for _ in range(2))
    own["crps"][28] = np.nan  # a day of 23 hours
    both = dataclasses.replace(
        days, scores=own, champion="c" * 64, champion_cost=days.cost, champion_scores=other
    )
    bundle = altered_bundle(trained.bundle, tmp_path / "scored", files={VALIDATION_DAYS: both.to_bytes()})
    found = ValidationDays.of(bundle)
    for name in SCORES:
        np.testing.assert_array_equal(found.scores[name], own[name])
    rival = found.of_champion("c" * 64)
    assert rival is not None
    assert {name: values.tolist() for name, values in rival.scores.items()} == {
        name: values.tolist() for name, values in other.items()
    }
    with pytest.raises(ShapeError, match="score crps of shape"):
        dataclasses.replace(days, scores={"crps": np.zeros(3)})
    with pytest.raises(ShapeError, match="score luck of shape"):
        dataclasses.replace(days, scores={"luck": np.zeros(84)})


def test_a_bundle_without_a_table_or_with_a_damaged_one_is_refused(
    trained: TinyModel, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(trained.bundle.folder, tmp_path / "bundle"))
    manifest = json.loads((folder / "bundle.json").read_text())
    junk = b"PAR1 no table PAR1"
    (folder / VALIDATION_DAYS).write_bytes(junk)
    manifest["files"][VALIDATION_DAYS] = hashlib.sha256(junk).hexdigest()
    (folder / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"validation_days\.parquet cannot be read"):
        ValidationDays.of(Bundle.open(folder))
    del manifest["files"][VALIDATION_DAYS]
    (folder / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="train it again"):
        ValidationDays.of(Bundle.open(folder))


def test_measurements_do_not_change_a_bundles_fingerprint(trained: TinyModel) -> None:
    manifest = trained.bundle.manifest
    other = dataclasses.replace(manifest, files={**manifest.files, VALIDATION_DAYS: "0" * 64})
    assert other.fingerprint == manifest.fingerprint
    changed = dataclasses.replace(manifest, files={**manifest.files, "scenarios.onnx": "0" * 64})
    assert changed.fingerprint != manifest.fingerprint


def test_digests_see_what_matters_and_nothing_else() -> None:
    days = np.datetime64("2021-01-01") + np.arange(2)
    real = [np.arange(24.0), np.arange(23.0)]
    digest = data_digest(days, real)
    assert digest == data_digest(days.copy(), [values.copy() for values in real])
    assert digest != data_digest(days + 1, real)
    assert digest != data_digest(days, [real[0], real[1] + 1e-9])
    # The same numbers cut at another place are other days.
    assert digest != data_digest(days, [np.append(real[0], 0.0), real[1][1:]])
    program = {"name": "x", "parameters": {"cost": 1.0}, "units": {"x": "GW"}}
    assert program_digest(program) == program_digest({**program, "units": {}, "path": "/elsewhere.py"})
    assert program_digest(program) != program_digest({**program, "parameters": {"cost": 2.0}})
    assert program_digest(program, b"a") != program_digest(program, b"b")


def test_a_day_without_a_cost_is_refused() -> None:
    with pytest.raises(ShapeError, match="cost of shape"):
        dataclasses.replace(made_up_days(), cost=np.full(84, np.nan))
    with pytest.raises(ShapeError, match="baseline_cost of shape"):
        dataclasses.replace(made_up_days(), baseline_cost=np.zeros(83))
