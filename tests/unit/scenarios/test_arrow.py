"""Scenarios in Arrow: back as they were, without copies, and read by pyarrow alone in another process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from hedgecast.core.errors import ConfigError, DataError, ShapeError
from hedgecast.scenarios.arrow import (
    Description,
    indices_of,
    paths_of,
    record_batch,
    record_batches,
    rows_under,
    scenario_set,
)
from hedgecast.scenarios.reduction import reduce_set
from hedgecast.scenarios.scenario_set import ScenarioSet

HOURS = np.datetime64("2024-03-30T23:00", "ns") + np.arange(6) * np.timedelta64(1, "h")


def some_set(size: int = 50, *, series: int = 1, weighted: bool = False, seed: int = 0) -> ScenarioSet:
    draws = torch.Generator().manual_seed(seed)
    weights = torch.rand(1, size, generator=draws, dtype=torch.float64) + 0.1
    return ScenarioSet(
        paths=torch.randn(1, size, 6, series, generator=draws),
        names=("load", "price")[:series],
        units=("GW", "EUR/MWh")[:series],
        probabilities=(weights / weights.sum()).float() if weighted else None,
        times=HOURS[None],
        source="load-model:7",
        seed=2**63 + 5,
    )


@pytest.mark.parametrize("series", [1, 2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_set_comes_back_as_it_was(series: int, weighted: bool, dtype: torch.dtype) -> None:
    full = some_set(series=series, weighted=weighted)
    full = ScenarioSet(
        paths=full.paths.to(dtype), names=full.names, units=full.units, times=full.times, source=full.source,
        probabilities=None if full.probabilities is None else full.probabilities.to(dtype), seed=full.seed,
    )  # fmt: skip
    batches = list(record_batches(full, max_bytes=900))
    assert len(batches) > 1
    back = scenario_set(batches)
    assert back.fingerprint() == full.fingerprint()
    assert (back.source, back.seed, back.paths.dtype) == (full.source, full.seed, dtype)
    described = Description.of_schema(batches[0].schema)
    assert described.fingerprint == full.fingerprint()
    assert indices_of(batches) is None
    table = scenario_set(pa.Table.from_batches(batches))
    assert table.fingerprint() == full.fingerprint()


def test_one_series_is_not_copied_on_either_way() -> None:
    paths = np.random.default_rng(0).normal(size=(1000, 6, 1)).astype(np.float32)
    schema = Description(names=("load",), units=("GW",), num_steps=6).schema()
    batch = record_batch(schema, paths)
    address = paths.__array_interface__["data"][0]
    assert batch.column("load").values.buffers()[1].address == address
    back = paths_of(batch)
    assert back.__array_interface__["data"][0] == address
    assert np.shares_memory(back, paths)
    part = paths_of(batch.slice(10, 5))
    assert np.shares_memory(part, paths)
    np.testing.assert_array_equal(part, paths[10:15])
    # A message that was received is read where it lies.
    message = batch.serialize()
    received = pa.ipc.read_record_batch(message, schema)
    lies = received.column("load").values.buffers()[1].address
    assert message.address <= lies < message.address + message.size
    np.testing.assert_array_equal(paths_of(received), paths)
    # A set that shares memory with its tensor: the batches of record_batches too.
    full = some_set(300)
    first = next(record_batches(full))
    assert first.column("load").values.buffers()[1].address == full.paths.data_ptr()


@pytest.mark.parametrize("series", [1, 2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("max_bytes", [1200, 4096, 2**16])
def test_no_message_is_larger_than_its_limit_and_few_are_small(
    series: int, weighted: bool, max_bytes: int
) -> None:
    full = some_set(6000, series=series, weighted=weighted)
    indices = np.arange(6000) * 3
    batches = list(record_batches(full, indices=indices, max_bytes=max_bytes))
    sizes = [batch.serialize().size for batch in batches]
    assert max(sizes) <= max_bytes
    row = 24 * series + 8 + 8 * weighted
    assert min(sizes[:-1]) > max_bytes - row - 64 * 4
    assert sum(batch.num_rows for batch in batches) == 6000
    np.testing.assert_array_equal(indices_of(batches), indices)


READER = """
import json, sys
import pyarrow as pa
import pyarrow.parquet as pq
with pa.memory_map(sys.argv[1]) as source, pa.ipc.open_stream(source) as reader:
    schema, table = reader.schema, reader.read_all()
parquet = pq.read_table(sys.argv[2])
assert parquet.schema.equals(schema, check_metadata=True), parquet.schema
assert parquet.to_pylist() == table.to_pylist()
assert not any(name.startswith(("hedgecast", "torch")) for name in sys.modules)
metadata = {key.decode(): value.decode() for key, value in schema.metadata.items()}
units = {field.name: field.metadata[b"unit"].decode() for field in schema if field.metadata}
row = table.slice(7, 1).to_pylist()
json.dump({"rows": table.num_rows, "units": units, "metadata": metadata, "row": row}, sys.stdout)
"""


def test_another_process_reads_it_with_pyarrow_alone(tmp_path: Path) -> None:
    full = some_set(series=2, weighted=True)
    described = Description.of(full, model_version="7")
    batches = list(record_batches(full, description=described, max_bytes=2000))
    with (
        pa.OSFile(str(tmp_path / "set.arrows"), "wb") as sink,
        pa.ipc.new_stream(sink, batches[0].schema) as out,
    ):
        for batch in batches:
            out.write_batch(batch)
    pq.write_table(pa.Table.from_batches(batches), tmp_path / "set.parquet")
    command = [sys.executable, "-c", READER, str(tmp_path / "set.arrows"), str(tmp_path / "set.parquet")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["rows"] == 50
    assert found["units"] == {"load": "GW", "price": "EUR/MWh"}
    assert found["row"][0]["price"] == full.paths[0, 7, :, 1].tolist()
    assert full.probabilities is not None
    assert found["row"][0]["probability"] == full.probabilities[0, 7].item()
    metadata = found["metadata"]
    assert json.loads(metadata["hedgecast.times"])[:2] == ["2024-03-30T23:00:00Z", "2024-03-31T00:00:00Z"]
    assert metadata["hedgecast.model_version"] == "7"
    assert metadata["hedgecast.seed"] == str(2**63 + 5)
    assert metadata["hedgecast.fingerprint"] == full.fingerprint()
    # And we read both back, from Parquet with a column that we know nothing of.
    table = pq.read_table(tmp_path / "set.parquet")
    table = table.append_column("day", pa.array(["2024-03-31"] * 50))
    assert scenario_set(table).fingerprint() == full.fingerprint()


def test_what_is_not_known_is_left_out() -> None:
    plain = ScenarioSet(paths=torch.zeros(1, 2, 3, 1), names=("load",), units=("",))
    (batch,) = record_batches(plain, description=Description.of(plain, fingerprint=""))
    assert set(batch.schema.metadata) == {b"hedgecast.format", b"hedgecast.series"}
    back = scenario_set([batch])
    assert (back.times, back.seed, back.source, back.units) == (None, None, "", ("",))


def test_a_reduction_says_what_it_is() -> None:
    full = some_set(60, series=2)
    few, (how,) = reduce_set(full, 8)
    described = Description.of(few, extra={"distance": repr(how.distance), "method": how.method})
    batches = list(record_batches(few, description=described, indices=how.indices))
    np.testing.assert_array_equal(indices_of(batches), how.indices)
    again = Description.of_schema(batches[0].schema)
    assert float(again.extra["distance"]) == how.distance
    assert again.extra["method"] == "forward-selection"
    back = scenario_set(batches)
    torch.testing.assert_close(back.weights(), few.weights())
    torch.testing.assert_close(back.paths[0], full.paths[0, how.indices])


def test_times_within_a_second_are_kept() -> None:
    times = np.datetime64("2024-01-01", "ns") + np.arange(3) * np.timedelta64(1_500_000_001, "ns")
    described = Description(names=("load",), units=("GW",), num_steps=3, times=times)
    np.testing.assert_array_equal(Description.of_schema(described.schema()).times, times)


def test_each_context_has_its_own_batches() -> None:
    two = ScenarioSet(
        paths=torch.arange(12.0).reshape(2, 3, 2, 1), names=("load",), units=("GW",),
        times=np.stack([HOURS[:2], HOURS[2:4]]),
    )  # fmt: skip
    back = scenario_set(record_batches(two, 1))
    assert back.fingerprint() == two.contexts(1, 2).fingerprint()


def batch_of(**change: Any) -> pa.RecordBatch:
    arguments: dict[str, Any] = {"paths": np.zeros((4, 6, 1), np.float32), **change}
    schema = arguments.pop("schema", Description(names=("load",), units=("GW",), num_steps=6).schema())
    return record_batch(schema, arguments.pop("paths"), **arguments)


WEIGHTED = Description(names=("load",), units=("GW",), num_steps=6).schema(weighted=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"paths": np.zeros((4, 5, 1), np.float32)}, r"must be \(scenarios, 6, 1\)"),
        ({"paths": np.zeros((4, 6, 1))}, "float64 for a schema of float"),
        ({"probabilities": np.ones(4) / 4}, "column 'probability' is in one of"),
        ({"schema": WEIGHTED}, "column 'probability' is in one of"),
        ({"schema": WEIGHTED, "probabilities": np.ones(3) / 3}, r"must be \(4,\)"),
    ],
)
def test_a_batch_that_does_not_fit_its_schema_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        batch_of(**change)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"names": ("scenario",)}, ConfigError, "series 'scenario'"),
        ({"names": ("load", "load"), "units": ("GW", "GW")}, ConfigError, "names must differ"),
        ({"units": ()}, ShapeError, "1 names and 0 units"),
        ({"times": HOURS}, ShapeError, r"times has shape \(6,\): must be \(3,\)"),
        ({"num_steps": 0, "times": None}, ShapeError, "0 steps"),
        ({"extra": {"seed": "3"}}, ConfigError, "extra has the key 'seed'"),
    ],
)
def test_a_wrong_description_is_refused(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Description(**{"names": ("load",), "units": ("GW",), "num_steps": 3, **change})


def test_batches_that_are_no_set_are_refused() -> None:
    with pytest.raises(DataError, match="no record batch"):
        scenario_set([])
    with pytest.raises(DataError, match=r"hedgecast\.format = None"):
        scenario_set(pa.table({"load": [1.0]}))
    first, second = some_set(seed=0), some_set(seed=1)
    with pytest.raises(DataError, match="different schemas"):
        scenario_set([*record_batches(first), *record_batches(second)])
    batch = batch_of()
    with pytest.raises(DataError, match="column 'load' is missing"):
        Description.of_schema(batch.rename_columns(["other"]).schema.with_metadata(batch.schema.metadata))
    with pytest.raises(ShapeError, match="float16: must be float32 or float64"):
        Description(names=("load",), units=("GW",), num_steps=3).schema(dtype=np.float16)
    with pytest.raises(ConfigError, match="max_bytes = 100: one scenario takes 24 bytes"):
        rows_under(batch.schema, 100)
