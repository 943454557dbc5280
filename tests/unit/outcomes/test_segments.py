"""Parquet files that any reader reads, whole or not there."""

import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hedgecast.core.errors import OutcomeError
from hedgecast.outcomes.encoding import Kind, decision_of, decision_row, outcome_row
from hedgecast.outcomes.segments import Rows, Segment, clear_unfinished, segments_in, write_segment


def _tables(decided, happened, count: int) -> dict[Kind, pa.Table]:
    decisions = [decided(number) for number in range(count)]
    outcomes = [outcome_row(happened(decision), decision) for decision in decisions]
    rows = {Kind.DECISION: [decision_row(decision) for decision in decisions], Kind.OUTCOME: outcomes}
    return {kind: pa.Table.from_batches(rows[kind], schema=kind.schema) for kind in Kind}


def _rows(tables) -> dict[Kind, Rows]:
    def rows(table: pa.Table) -> Rows:
        return Rows(table.num_rows, table.nbytes, lambda start, stop: table.slice(start, stop - start))

    return {kind: rows(table) for kind, table in tables.items()}


def test_plain_parquet_reads_a_segment(tmp_path, decided, happened) -> None:
    write_segment(tmp_path, 3, _rows(_tables(decided, happened, 4))).close()
    decisions = pq.read_table(tmp_path / "00000003" / "decisions.parquet")
    outcomes = pq.read_table(tmp_path / "00000003" / "outcomes.parquet")
    assert decisions.column("decision_id").to_pylist() == ["d-0", "d-1", "d-2", "d-3"]
    assert outcomes.column("regret").to_pylist() == [2.5] * 4
    first = decisions.column("decision")[2].as_py()
    assert [item["name"] for item in first] == ["on", "order"]
    assert first[1]["shape"] == [4]
    assert first[1]["values"] == [2.0, 3.0, 4.0, 5.0]
    assert outcomes.column("realized")[0].as_py()[0]["values"] == [50.0] * 8


def test_a_row_is_found_across_groups(tmp_path, decided, happened) -> None:
    segment = write_segment(tmp_path, 1, _rows(_tables(decided, happened, 600)))
    for row in (0, 255, 256, 511, 512, 599):
        assert decision_of(*segment.row(Kind.DECISION, row)).seed == row
    segment.close()


def test_the_newest_time_is_that_of_either_table(tmp_path, decided, happened) -> None:
    tables = _tables(decided, happened, 3)
    segment = write_segment(tmp_path, 1, _rows(tables))
    assert segment.newest == decided(2).issued_at + datetime.timedelta(days=1)
    segment.close()
    empty = write_segment(tmp_path, 2, _rows({kind: table.slice(0, 0) for kind, table in tables.items()}))
    assert empty.newest is None
    empty.close()


def test_what_a_dying_writer_left_is_no_segment(tmp_path, decided, happened) -> None:
    segment = write_segment(tmp_path, 1, _rows(_tables(decided, happened, 2)))
    segment.close()
    (tmp_path / "00000002.unfinished").mkdir()
    (tmp_path / "00000002.unfinished" / "decisions.parquet").write_bytes(b"PAR1")
    clear_unfinished(tmp_path)
    assert [found.number for found in segments_in(tmp_path)] == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["00000001"]


def test_who_reads_a_segment_reads_on_when_it_is_removed(tmp_path, decided, happened) -> None:
    segment = write_segment(tmp_path, 1, _rows(_tables(decided, happened, 2)))
    segment.remove()
    assert list(tmp_path.iterdir()) == []
    assert segment.table(Kind.DECISION, ["seed"]).column(0).to_pylist() == [0, 1]


def test_a_damaged_byte_is_noticed_or_changes_nothing(tmp_path, decided, happened) -> None:
    rng = np.random.default_rng(6)
    decisions = [decided(1, decision={"x": rng.normal(size=50)}) for _ in range(3)]
    tables = {kind: pa.Table.from_batches([], schema=kind.schema) for kind in Kind}
    tables[Kind.DECISION] = pa.Table.from_batches([decision_row(decision) for decision in decisions])
    write_segment(tmp_path, 1, _rows(tables)).close()
    path = tmp_path / "00000001" / "decisions.parquet"
    whole = path.read_bytes()
    group = pq.ParquetFile(path).metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    column = columns["decision.list.element.values.list.element"]
    begin = column.dictionary_page_offset or column.data_page_offset
    noticed = 0
    for place in range(begin, begin + column.total_compressed_size, 7):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            # Headers of pages hold figures that reading does not need, and no checksum covers these.
            assert Segment(tmp_path / "00000001").table(Kind.DECISION).equals(tables[Kind.DECISION])
        except OutcomeError:
            noticed += 1
    assert noticed > 0.9 * column.total_compressed_size / 7 - 20


def test_missing_and_cut_files_are_named(tmp_path, decided, happened) -> None:
    write_segment(tmp_path, 1, _rows(_tables(decided, happened, 50))).close()
    path = tmp_path / "00000001" / "decisions.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    with pytest.raises(OutcomeError, match=r"decisions\.parquet cannot be read"):
        Segment(tmp_path / "00000001")
    path.unlink()
    with pytest.raises(OutcomeError, match=r"decisions\.parquet cannot be read"):
        Segment(tmp_path / "00000001")
