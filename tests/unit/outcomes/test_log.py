"""A log that was cut, damaged or refused by its disk."""

import errno
import os
import threading

import numpy as np
import pytest

from hedgecast.core.errors import OutcomeError, UnavailableError
from hedgecast.outcomes import log as log_module
from hedgecast.outcomes.log import Log, salvage_file

PAYLOADS = [b"first", b"", b"x" * 20, b"\x89HCf inside", b"last one"]


def _written(path, payloads=PAYLOADS) -> list[int]:
    """Sizes of the file after each record."""
    log = Log(path)
    sizes = []
    for kind, payload in enumerate(payloads):
        log.append(kind, payload)
        sizes.append(log.size)
    log.close()
    return sizes


def _read(path) -> list[tuple[int, bytes]]:
    log = Log(path)
    try:
        return [(entry.kind, log.read(entry)) for entry in log.recovered]
    finally:
        log.close()


def test_what_was_written_is_read_again(tmp_path) -> None:
    _written(tmp_path / "a.log")
    assert _read(tmp_path / "a.log") == list(enumerate(PAYLOADS))
    assert _read(tmp_path / "empty.log") == []
    assert _read(tmp_path / "empty.log") == []


def test_a_log_cut_at_any_byte_keeps_every_whole_record_and_goes_on(tmp_path, caplog) -> None:
    path = tmp_path / "a.log"
    sizes = _written(path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        for torn in tmp_path.glob("*.torn-*"):
            torn.unlink()
        kept = sum(size <= length for size in sizes)
        assert _read(path) == list(enumerate(PAYLOADS))[:kept]
        begin = sizes[kept - 1] if kept else 8
        aside = b"".join(torn.read_bytes() for torn in tmp_path.glob("*.torn-*"))
        assert aside == whole[begin:length]
        if length % 5 == 0:
            log = Log(path)
            log.append(9, b"next")
            log.close()
            assert _read(path) == [*list(enumerate(PAYLOADS))[:kept], (9, b"next")]


def test_zeros_where_the_end_should_be_are_a_torn_end(tmp_path) -> None:
    # Some filesystems lengthen the file before they write to it.
    path = tmp_path / "a.log"
    _written(path)
    path.write_bytes(path.read_bytes() + bytes(5000))
    assert _read(path) == list(enumerate(PAYLOADS))
    (tmp_path / "new.log").write_bytes(bytes(4096))
    assert _read(tmp_path / "new.log") == []


def test_any_damaged_byte_is_noticed(tmp_path) -> None:
    path = tmp_path / "a.log"
    sizes = _written(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(5)
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        if place < sizes[-2]:
            # A whole record follows, so this was no dying writer.
            with pytest.raises(OutcomeError, match=r"damaged at byte|is no log"):
                Log(path)
            assert path.read_bytes() == damaged
        else:
            assert _read(path) == list(enumerate(PAYLOADS))[:-1]


def test_damage_under_an_open_log_is_noticed(tmp_path) -> None:
    log = Log(tmp_path / "a.log")
    entry = log.append(1, b"payload")
    with open(tmp_path / "a.log", "r+b") as file:
        file.seek(entry.offset)
        file.write(b"P")
    with pytest.raises(OutcomeError, match="damaged at byte 8"):
        log.read(entry)
    log.close()


def test_salvage_keeps_whole_records_and_the_old_file(tmp_path) -> None:
    path = tmp_path / "a.log"
    sizes = _written(path)
    assert salvage_file(path) == 0
    damaged = bytearray(path.read_bytes())
    damaged[sizes[1] + 20] ^= 1
    path.write_bytes(damaged)
    assert salvage_file(path) == sizes[2] - sizes[1]
    assert _read(path) == [pair for pair in enumerate(PAYLOADS) if pair[0] != 2]
    assert path.with_name("a.log.damaged").read_bytes() == damaged
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.log", "a.log.damaged"]


def test_another_file_or_version_is_refused(tmp_path) -> None:
    (tmp_path / "a.log").write_bytes(b"HCOUTC\x00\x02 and more")
    with pytest.raises(OutcomeError, match="another version"):
        Log(tmp_path / "a.log")


def test_a_full_disk_loses_the_record_alone(tmp_path, monkeypatch) -> None:
    log = Log(tmp_path / "a.log")
    log.append(1, b"before")

    def write_half(descriptor: int, data: bytes, offset: int) -> int:
        monkeypatch.undo()
        os.pwrite(descriptor, data[: len(data) // 2], offset)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(log_module.os, "pwrite", write_half)
    with pytest.raises(UnavailableError, match="No space left"):
        log.append(1, b"lost")
    assert (tmp_path / "a.log").stat().st_size == log.size
    log.append(1, b"after")
    log.close()
    assert _read(tmp_path / "a.log") == [(1, b"before"), (1, b"after")]
    assert list(tmp_path.glob("*.torn-*")) == []


def test_after_a_failed_sync_nothing_more_is_acknowledged(tmp_path, monkeypatch) -> None:
    log = Log(tmp_path / "a.log")
    log.append(1, b"unknown")

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(log_module, "_sync_file", fail)
    with pytest.raises(UnavailableError, match="could not be synced"):
        log.sync()
    monkeypatch.undo()
    with pytest.raises(UnavailableError, match="restart"):
        log.append(1, b"more")
    with pytest.raises(UnavailableError, match="restart"):
        log.sync()
    log.close()


def test_waiting_calls_share_one_sync(tmp_path, monkeypatch) -> None:
    log = Log(tmp_path / "a.log")
    count, started, go_on = [], threading.Event(), threading.Event()
    sync_file = log_module._sync_file

    def slow(descriptor: int) -> None:
        count.append(1)
        started.set()
        assert go_on.wait(10)
        sync_file(descriptor)

    monkeypatch.setattr(log_module, "_sync_file", slow)
    log.append(1, b"a")
    threads = [threading.Thread(target=log.sync)]
    threads[0].start()
    assert started.wait(10)
    for _ in range(8):
        log.append(1, b"b")
        threads.append(threading.Thread(target=log.sync))
        threads[-1].start()
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert len(count) == 2
    log.close()


def test_a_closed_log_takes_nothing(tmp_path) -> None:
    log = Log(tmp_path / "a.log")
    log.close()
    log.close()
    with pytest.raises(UnavailableError, match="closed"):
        log.append(1, b"x")
