"""Logs become segments, old segments go, and a death between two steps loses and doubles nothing."""

import datetime
import shutil

import pytest

from hedgecast.core.errors import ConfigError, DecisionNotFoundError, OutcomeError
from hedgecast.outcomes import journal as journal_module
from hedgecast.outcomes.encoding import Kind, decision_of, decision_row, to_bytes
from hedgecast.outcomes.index import Place
from hedgecast.outcomes.journal import Journal, Retention, salvage


def _open(folder, *, now, dropped=None, **retention) -> Journal:
    on_drop = (lambda number: None) if dropped is None else dropped.append
    return Journal(folder, Retention(**retention), now=lambda: now, on_drop=on_drop)


def _append(journal, decision) -> Place:
    with journal.lock:
        place = journal.append(Kind.DECISION, to_bytes(decision_row(decision)))
        journal.roll_if_due()
    return place


def _seeds(journal) -> list[int]:
    return [
        seed for _, table in journal.tables(Kind.DECISION, ["seed"]) for seed in table["seed"].to_pylist()
    ]


def test_places_hold_before_and_after_a_log_is_rolled(tmp_path, now, decided) -> None:
    journal = _open(tmp_path, now=now, roll_bytes=20_000)
    places = [_append(journal, decided(number)) for number in range(40)]
    journal.wait()
    assert len({place.number for place in places}) > 3
    assert [decision_of(*journal.row(Kind.DECISION, place)).seed for place in places] == list(range(40))
    assert _seeds(journal) == list(range(40))
    journal.close()
    again = _open(tmp_path, now=now)
    assert [decision_of(*again.row(Kind.DECISION, place)).seed for place in places] == list(range(40))
    again.close()


def test_a_log_is_rolled_by_age(tmp_path, now, decided) -> None:
    time = now
    journal = Journal(tmp_path, Retention(roll_days=2.0), now=lambda: time, on_drop=print)
    assert _append(journal, decided(1)).number == 1
    time = now + datetime.timedelta(days=2)
    assert _append(journal, decided(2)).number == 1
    assert _append(journal, decided(3)).number == 2
    journal.close()


def test_a_death_before_the_log_is_removed_doubles_nothing(tmp_path, now, decided) -> None:
    journal = _open(tmp_path, now=now)
    place = _append(journal, decided(1))
    shutil.copy(tmp_path / "log" / "00000001.log", tmp_path / "kept")
    with journal.lock:
        journal.roll()
    journal.close()
    shutil.move(tmp_path / "kept", tmp_path / "log" / "00000001.log")
    again = _open(tmp_path, now=now)
    assert _seeds(again) == [1]
    assert decision_of(*again.row(Kind.DECISION, place)).seed == 1
    again.close()


def test_a_death_before_the_segment_is_there_loses_nothing(
    tmp_path, now, decided, monkeypatch, caplog
) -> None:
    journal = _open(tmp_path, now=now)
    place = _append(journal, decided(1))

    def fail(*arguments: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(journal_module, "write_segment", fail)
    with journal.lock:
        journal.roll()
    later = _append(journal, decided(2))
    journal.wait()
    assert "could not be rolled" in caplog.text
    assert decision_of(*journal.row(Kind.DECISION, place)).seed == 1
    journal.close()
    monkeypatch.undo()
    again = _open(tmp_path, now=now)
    assert _seeds(again) == [1, 2]
    again.catch_up()
    again.wait()
    assert [path.name for path in (tmp_path / "log").iterdir()] == ["00000002.log"]
    with again.lock:
        again.roll()
    again.wait()
    assert [path.name for path in sorted((tmp_path / "segments").iterdir())] == ["00000001", "00000002"]
    assert [decision_of(*again.row(Kind.DECISION, p)).seed for p in (place, later)] == [1, 2]
    again.close()


def test_segments_go_by_age_oldest_first(tmp_path, now, decided) -> None:
    dropped: list[int] = []
    journal = _open(tmp_path, now=now + datetime.timedelta(days=15), dropped=dropped, days=10.0)
    for number in (1, 4, 9):
        _append(journal, decided(number))
        with journal.lock:
            journal.roll()
    journal.wait()
    assert dropped == [1, 2]
    assert _seeds(journal) == [9]
    with pytest.raises(DecisionNotFoundError, match="retention"):
        journal.row(Kind.DECISION, Place(1, 0))
    journal.close()


def test_segments_go_by_size(tmp_path, now, decided) -> None:
    dropped: list[int] = []
    journal = _open(tmp_path, now=now, dropped=dropped, max_bytes=60_000)
    for number in range(12):
        _append(journal, decided(number))
        with journal.lock:
            journal.roll()
    journal.wait()
    total = sum(path.stat().st_size for path in (tmp_path / "segments").rglob("*.parquet"))
    assert 30_000 < total <= 60_000
    assert _seeds(journal) == list(range(12))[len(dropped) :]
    assert dropped == list(range(1, len(dropped) + 1))
    journal.close()


def test_a_backup_taken_while_running_is_whole(tmp_path, now, decided) -> None:
    # The order that docs/outcomes.md gives: logs first, then segments.
    journal = _open(tmp_path / "live", now=now)
    _append(journal, decided(1))
    shutil.copytree(tmp_path / "live" / "log", tmp_path / "backup" / "log")
    _append(journal, decided(2))
    with journal.lock:
        journal.roll()
    journal.wait()
    _append(journal, decided(3))
    shutil.copytree(tmp_path / "live" / "segments", tmp_path / "backup" / "segments")
    journal.close()
    restored = _open(tmp_path / "backup", now=now)
    assert _seeds(restored) == [1, 2]
    assert _append(restored, decided(4)).number == 2
    restored.close()


def test_salvage_makes_a_damaged_folder_usable(tmp_path, now, decided) -> None:
    journal = _open(tmp_path, now=now)
    for number in range(3):
        _append(journal, decided(number))
    with pytest.raises(OutcomeError, match="one writer"):
        salvage(tmp_path)
    journal.close()
    path = tmp_path / "log" / "00000001.log"
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(OutcomeError, match="salvage"):
        _open(tmp_path, now=now)
    assert salvage(tmp_path) > 0
    again = _open(tmp_path, now=now)
    assert _seeds(again) == [0, 2]
    again.close()


@pytest.mark.parametrize("name", ["days", "max_bytes", "max_decisions", "roll_bytes", "roll_days"])
def test_retention_must_be_positive(name) -> None:
    with pytest.raises(ConfigError, match=f"{name} = "):
        Retention.from_dict({name: 0})
