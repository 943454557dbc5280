from pathlib import Path

import pytest

from hedgecast.core.files import written_whole


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "set.txt"
    with written_whole(target) as part:
        part.write_text("one")
        assert not target.exists()
    assert target.read_text() == "one"
    assert [path.name for path in target.parent.iterdir()] == ["set.txt"]
    beside = tmp_path / "beside"
    beside.touch()
    assert target.stat().st_mode == beside.stat().st_mode


def test_after_an_error_all_is_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "set.txt"
    target.write_text("old")

    def interrupted() -> None:
        with written_whole(target) as part:
            part.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
