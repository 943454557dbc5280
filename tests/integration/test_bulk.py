"""Parts and folders of bulk runs, in this process; `tests/e2e/test_ray_bulk.py` has the actors."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import secrets
import shutil
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from hedgecast.core.errors import ConfigError, DataError, UnavailableError
from hedgecast.data.datasets import load_table
from hedgecast.registry.session import Context, ScenarioSession
from hedgecast.rpc.codec import NamedRows
from hedgecast.testing import TinyModel
from hedgecast_workers import bulk_part, bulk_run
from hedgecast_workers import generate as generate_module
from hedgecast_workers.bulk_files import BulkFiles
from hedgecast_workers.bulk_part import PartWriter
from hedgecast_workers.bulk_plan import (
    BulkSettings,
    check_study,
    days_of_files,
    days_of_study,
    digest_of,
    of_table,
    to_table,
    within,
)
from hedgecast_workers.bulk_run import Maker, days_of_task, part_of
from hedgecast_workers.generate import generate

# The clock skips an hour on the 28th.
SPAN = "2021-03-27..2021-03-29"


@pytest.fixture(scope="module")
def session(tiny: TinyModel) -> ScenarioSession:
    return ScenarioSession(tiny.bundle)


@pytest.fixture(scope="module")
def days(tiny: TinyModel) -> list[Context]:
    return within(days_of_study(tiny.study.data, tiny.schema), SPAN)


@pytest.fixture
def files(tmp_path: Path) -> BulkFiles:
    return BulkFiles.at(str(tmp_path / "set"))


def settings_of(tiny: TinyModel, days: list[Context], scenarios: int = 50, seed: int = 3) -> BulkSettings:
    return BulkSettings.of(tiny.bundle, "tiny@1", days, scenarios=scenarios, seed=seed)


def there(files: BulkFiles) -> set[str]:
    folder = Path(files.address)
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}


def paths_of(files: BulkFiles, name: str, steps: int) -> np.ndarray:
    """(S, T) of a part's one series."""
    with files.filesystem.open_input_file(files.path(name)) as file:
        table = pyarrow.parquet.read_table(file)
    return np.asarray(table["load_gw"].to_numpy()).reshape(-1, steps)


def test_a_part_holds_the_scenarios_that_are_served(
    tiny: TinyModel, session: ScenarioSession, days: list[Context], files: BulkFiles
) -> None:
    # More than one pass through the network, and a day of 23 hours; raw rows as a planner sends them.
    day, table = days[1], load_table(tiny.study.data)
    start = int(np.searchsorted(table.times, day.step_times[0]))
    past, ahead = slice(start - 200, start), slice(start, start + 23)
    history = NamedRows(times=table.times[past], columns={n: v[past] for n, v in table.columns.items()})
    known = NamedRows(times=table.times[ahead], columns={"holiday": table.columns["holiday"][ahead]})
    served = session.scenarios(history, known, 5000, seed=3)
    settings = settings_of(tiny, days, 5000)
    part = PartWriter(session, files, settings).make(day)
    assert part.made
    assert part.record["fingerprint"] == served.fingerprint()
    assert part.record["rows"] == 5000 * 23
    np.testing.assert_array_equal(paths_of(files, part.record["file"], 23), served.paths[0, :, :, 0].numpy())
    found = pyarrow.parquet.read_table(files.path(part.record["file"]))
    assert found["scenario"].to_pylist()[:24] == [0] * 23 + [1]
    assert served.times is not None
    assert list(found["time"].to_numpy()[:23]) == list(served.times[0])
    assert found.schema.field("load_gw").metadata[b"unit"] == b"GW"
    about = json.loads(found.schema.metadata[b"hedgecast"])
    assert (about["seed"], about["model"], about["day"]) == (3, "tiny@1", "2021-03-28")
    assert about["fingerprint"] == tiny.bundle.manifest.fingerprint
    assert len(about["times"]) == 23


def test_a_folder_is_one_table_over_days_of_other_lengths(
    tiny: TinyModel, session: ScenarioSession, days: list[Context], files: BulkFiles
) -> None:
    settings = settings_of(tiny, days)
    files.begin(settings)
    writer = PartWriter(session, files, settings)
    manifest = files.finish(settings, days, [writer.make(day).record for day in days])
    assert files.manifest() == manifest
    assert [part["steps"] for part in manifest["parts"]] == [24, 23, 24]
    assert manifest["rows"] == 50 * 71
    assert manifest["bytes"] == sum(
        Path(files.path(part["file"])).stat().st_size for part in manifest["parts"]
    )
    table = pyarrow.parquet.read_table(files.address)
    assert table.num_rows == 50 * 71
    assert {str(day) for day in table["day"].unique().to_pylist()} == {
        "2021-03-27",
        "2021-03-28",
        "2021-03-29",
    }


def test_a_restart_makes_only_what_is_not_whole(
    tiny: TinyModel, session: ScenarioSession, days: list[Context], files: BulkFiles
) -> None:
    settings = settings_of(tiny, days)
    writer = PartWriter(session, files, settings)
    before = [writer.make(day).record for day in days]
    assert not any(writer.make(day).made for day in days)
    # One part damaged without a change of size, one journal lost.
    damaged = Path(files.path(before[0]["file"]))
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    Path(files.path("_parts/2021-03-29.json")).unlink()
    again = [writer.make(day) for day in days]
    assert [part.made for part in again] == [True, False, True]
    assert [part.record for part in again] == before
    assert len([name for name in there(files) if name.endswith(".parquet")]) == 3
    Path(files.path(before[1]["file"])).write_bytes(b"short")
    assert writer.make(days[1]).made


def test_another_run_is_refused(
    tiny: TinyModel, days: list[Context], files: BulkFiles, tmp_path: Path
) -> None:
    settings = settings_of(tiny, days)
    files.begin(settings)
    files.begin(dataclasses.replace(settings, model="tiny@2"))
    for other, said in (
        (settings_of(tiny, days, seed=4), r"seed 3 \(asked: 4\)"),
        (settings_of(tiny, days, 60), r"scenarios 50 \(asked: 60\)"),
        (settings_of(tiny, days[:2]), "contexts [0-9a-f]{12}"),
        (dataclasses.replace(settings, versions={"hedgecast": "9"}), "versions"),
    ):
        with pytest.raises(ConfigError, match=f"holds another run: {said}.*give another --out"):
            files.begin(other)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds 1 files and no run of generate"):
        BulkFiles.at(str(tmp_path / "notes")).begin(settings)


class Failing:
    """A session that fails at its third block."""

    def __init__(self, session: ScenarioSession, error: BaseException) -> None:
        self.session, self.error, self.calls = session, error, 0

    def draw(self, *arguments: object, **options: object) -> np.ndarray:
        self.calls += 1
        if self.calls == 3:
            raise self.error
        return self.session.draw(*arguments, **options)  # type: ignore[arg-type]


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(bulk_part, "ROW_GROUP_BYTES", 2**20)
    return 2**20


def test_nothing_of_a_part_that_failed_is_left(
    tiny: TinyModel, session: ScenarioSession, days: list[Context], files: BulkFiles, small_groups: int
) -> None:
    settings = settings_of(tiny, days, 20_000)
    for error in (OSError("no space left"), KeyboardInterrupt()):
        writer = PartWriter(Failing(session, error), files, settings)  # type: ignore[arg-type]
        with pytest.raises(type(error)):
            writer.make(days[0])
    assert there(files) == set()


def test_memory_does_not_grow_with_the_scenarios(
    tiny: TinyModel, session: ScenarioSession, days: list[Context], files: BulkFiles, small_groups: int
) -> None:
    peaks, records = [], []
    for count in (8192, 40_000):
        settings = settings_of(tiny, days, count)
        tracemalloc.start()
        records.append(PartWriter(session, files, settings).make(days[0]).record)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # Bounded by one block: 4,096 scenarios' noise, paths and rows.
    assert peaks[1] < 1.05 * peaks[0]
    about = pyarrow.parquet.ParquetFile(files.path(records[1]["file"])).metadata
    sizes = [about.row_group(index).num_rows for index in range(about.num_row_groups)]
    assert sum(sizes) == 24 * 40_000
    assert max(sizes) * 16 <= small_groups
    assert all(size % 24 == 0 for size in sizes)
    # The same set whatever the groups.
    (paths,) = session.draw(days[0].features[None], [days[0].day_number], 40_000, 3)
    assert records[1]["fingerprint"] == session.reader.scenario_set(days[0], paths, 3).fingerprint()


def test_a_run_in_an_object_store(tiny: TinyModel, session: ScenarioSession, days: list[Context]) -> None:
    files = BulkFiles.at(f"fsspec+memory:///{secrets.token_hex(8)}")
    settings = settings_of(tiny, days)
    files.begin(settings)
    writer = PartWriter(session, files, settings)
    records = [writer.make(day).record for day in days]
    assert not writer.make(days[2]).made
    assert files.sweep() == 0
    assert files.finish(settings, days, records)["days"] == 3
    expected = session.draw(days[2].features[None], [days[2].day_number], 50, 3)
    np.testing.assert_array_equal(paths_of(files, records[2]["file"], 24), expected[0, :, :, 0])
    files.filesystem.delete_file(files.path(records[1]["file"]))
    with pytest.raises(UnavailableError, match="give an --out that all nodes reach"):
        files.finish(settings, days, records)


def test_an_actor_needs_nothing_but_what_it_is_sent(
    tiny: TinyModel, days: list[Context], files: BulkFiles, tmp_path: Path
) -> None:
    settings = settings_of(tiny, days)
    model = {file.name: file.read_bytes() for file in tiny.bundle.folder.iterdir()}
    results = Maker(model, files, settings)(to_table(days[:2]))["result"].to_pylist()
    assert [part_of(json.loads(text)).record["day"] for text in results] == ["2021-03-27", "2021-03-28"]
    # What it comes upon is told, not raised: Ray would wrap it, or try again.
    (tmp_path / "file").write_text("in the way")
    (text,) = Maker(model, BulkFiles.at(str(tmp_path / "file" / "set")), settings)(to_table(days))[
        "result"
    ].to_pylist()
    with pytest.raises(UnavailableError, match=r"the folder of the run cannot be written: .*goes on with it"):
        part_of(json.loads(text))


def test_days_of_tables_are_those_of_the_study(tiny: TinyModel, tmp_path: Path) -> None:
    own = days_of_study(tiny.study.data, tiny.schema)
    lines = Path(str(tiny.study.data.path)).read_text().splitlines(keepends=True)
    (tmp_path / "rows").mkdir()
    # Two tables that overlap by a history of 168 hours; the first ends with a day to come.
    cut = 24 * 20
    ahead = [f"{line.split(',')[0]},,{line.split(',')[2]}" for line in lines[1 + cut : 1 + cut + 24]]
    (tmp_path / "rows" / "a.csv").write_text("".join(lines[: 1 + cut] + ahead))
    (tmp_path / "rows" / "b.csv").write_text("".join([lines[0], *lines[1 + cut - 144 :]]))
    data = tiny.study.data
    found = days_of_files([f"file://{tmp_path}/rows"], data, tiny.schema, "timestamp")
    by_number = {day.day_number: digest_of(day) for day in own}
    assert [digest_of(day) for day in found] == [by_number[day.day_number] for day in found]
    assert found[0].day_number == own[0].day_number + 20 - 7
    assert found[-1].day_number == own[-1].day_number
    shutil.copy(tmp_path / "rows" / "b.csv", tmp_path / "rows" / "c.csv")
    with pytest.raises(DataError, match=r"c.csv and .*b.csv both make the day 2021-01-22"):
        days_of_files([str(tmp_path / "rows")], data, tiny.schema, "timestamp")
    with pytest.raises(DataError, match=r"nowhere: no such file"):
        days_of_files([str(tmp_path / "nowhere")], data, tiny.schema, "timestamp")
    dataset = dataclasses.replace(data, dataset="german_grid", path=None, timestamp=None)
    with pytest.raises(DataError, match=r"no column 'when'"):
        days_of_files([str(tmp_path / "rows" / "b.csv")], dataset, tiny.schema, "when")


def test_contexts_travel_as_they_are(days: list[Context]) -> None:
    again = of_table(to_table(days))
    assert [digest_of(day) for day in again] == [digest_of(day) for day in days]
    changed = dataclasses.replace(days[0], features=days[0].features + 1e-15 * (days[0].features == 0.0))
    assert digest_of(changed) != digest_of(days[0])


def test_a_span_and_a_study_that_do_not_fit_are_refused(tiny: TinyModel, days: list[Context]) -> None:
    assert [day.day_number for day in within(days, "2021-03-28")] == [days[1].day_number]
    for span in ("March", "2021-03-28..", "2021-03-29..2021-03-28"):
        with pytest.raises(ConfigError, match=r"write A\.\.B with dates"):
            within(days, span)
    with pytest.raises(DataError, match=r"there are 3 \(2021-03-27 to 2021-03-29\)"):
        within(days, "2022-01-01..2022-02-01")
    check_study(tiny.study.data, tiny.schema, "tiny@1")
    other = dataclasses.replace(tiny.study.data, history=24)
    with pytest.raises(ConfigError, match="the study has history = 24, model tiny@1 was made with 168"):
        check_study(other, tiny.schema, "tiny@1")
    with pytest.raises(ConfigError, match="either --model"):
        generate("tiny", out="x", scenarios=1)
    with pytest.raises(ConfigError, match=r"--contexts FILE, or --days"):
        generate("tiny", out="x", scenarios=1, model="tiny")


def test_small_days_share_a_task() -> None:
    assert days_of_task(100, 24 * 100_000, 2) == 1
    assert days_of_task(5000, 24 * 1000, 2) == 42
    # Few days go out one by one, so that no actor waits.
    assert days_of_task(20, 24, 2) == 1
    assert days_of_task(160, 24, 2) == 10


@pytest.mark.parametrize(("actors", "asked", "used"), [(None, None, 3), (2, 2, 2), (9, 3, 3)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_actors_are_as_many_as_the_cluster_lets_and_there_are_days(
    tiny: TinyModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    actors: int | None,
    asked: int | None,
    used: int,
) -> None:
    wanted: list[int | None] = []
    at_work: list[int] = []

    @contextlib.contextmanager
    def seven_cpus(num_cpus: int | None) -> Iterator[int]:
        wanted.append(num_cpus)
        yield num_cpus or 7

    def here(bundle: Any, files: Any, settings: Any, days: Any, num_actors: int) -> Iterator[Any]:
        at_work.append(num_actors)
        writer = PartWriter(ScenarioSession(bundle), files, settings)
        return (writer.make(day) for day in days)

    monkeypatch.setattr(generate_module, "cluster", seven_cpus)
    monkeypatch.setattr(bulk_run, "parts", here)
    source, folder = str(tiny.bundle.folder.parent / "tiny.toml"), tmp_path / "set"
    generate(source, out=str(folder), scenarios=5, bundle=tiny.bundle.folder, days=SPAN, actors=actors)
    assert (wanted, at_work) == ([asked], [used])
    assert pyarrow.parquet.read_table(folder).num_rows == 5 * 71
