from pathlib import Path

import pytest

from hedgecast.core.errors import ConfigError
from hedgecast.learning.study import Study, read_study, shipped_studies
from hedgecast.testing import write_tiny_study


def test_the_shipped_studies_read() -> None:
    assert shipped_studies() == ["german_grid", "vic_elec"]
    study = read_study("german_grid")
    assert study.name == "german_grid"
    assert study.program.parameters["shortage_cost"] == 50.0
    assert read_study("vic_elec", ["data.path=/tmp/x.parquet"]).data.path == "/tmp/x.parquet"


def test_a_study_reads_back_from_its_own_record(tmp_path: Path) -> None:
    study = read_study(write_tiny_study(tmp_path))
    assert Study.from_dict(study.to_dict()) == study


def test_relative_paths_count_from_the_file(tmp_path: Path) -> None:
    assert read_study(write_tiny_study(tmp_path)).data.path == str(tmp_path / "tiny.csv")


def test_set_changes_one_value_and_reads_types(tmp_path: Path) -> None:
    path = write_tiny_study(tmp_path)
    study = read_study(path, ["learning.seed=7", "learning.method=diffusion-dfl", 'data.targets=["load_gw"]'])
    assert study.learning.seed == 7
    assert study.learning.method == "diffusion-dfl"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("learning.sed=7", r"tiny\.toml: unknown key 'learning.sed': did you mean 'seed'"),
        ("learning.seed=x", r"learning.seed = 'x' is a str: must be an integer"),
        ("learning.task_share=1.5", r"learning.task_share = 1.5: must lie in \[0, 1\]"),
        ("name.first=x", r"--set 'name.first=x': name is a value, not a table"),
        ("seed", r"--set 'seed': write path=value"),
        ("surplus=1", r"unknown key 'surplus'"),
        ("name=a b", r"name = 'a b': use letters"),
    ],
)
def test_a_bad_change_names_file_key_and_fix(tmp_path: Path, change: str, message: str) -> None:
    path = write_tiny_study(tmp_path)
    with pytest.raises(ConfigError, match=message):
        read_study(path, [change])


def test_no_such_study_names_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="german_grid, vic_elec"):
        read_study(tmp_path / "none.toml")


def test_no_toml_says_where(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("name = \n")
    with pytest.raises(ConfigError, match=r"bad\.toml is no TOML: .*line 1"):
        read_study(tmp_path / "bad.toml")
