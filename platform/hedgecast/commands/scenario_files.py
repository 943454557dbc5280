"""The data files of ``hedgecast solve``: scenarios in Parquet, given parameters in JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
from torch import Tensor

from hedgecast.core.errors import DataError, ProgramError
from hedgecast.programs.program import TwoStageProgram

PROBABILITY = "probability"
# Rounded probabilities of a file may miss 1 by this much; they are then scaled to sum to 1.
_PROBABILITY_TOLERANCE = 1e-6


def read_scenarios(path: Path, program: TwoStageProgram) -> tuple[Tensor, Tensor | None]:
    """Scenarios (1, S, D) and probabilities (1, S), None where the file has none.

    Raises
    ------
    DataError
        Not a Parquet file, no rows, a wrong number of columns, or a cell that is no finite number; names
        file, column and row (from 1).
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file", file=str(path))
    try:
        table = pa.parquet.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file: {error}", file=str(path)) from error
    names = [name for name in table.column_names if name != PROBABILITY]
    if len(names) != program.num_uncertain:
        entries = ", ".join(f"{p.name()} {tuple(p.shape)}" for p in program.uncertain)
        raise DataError(
            f"{path}: {len(names)} scenario columns ({_listed(names)}), but program {program.name!r} has "
            f"{program.num_uncertain} uncertain entries ({entries}): give one column each, in this order",
            file=str(path),
            found=len(names),
            needed=program.num_uncertain,
        )
    if table.num_rows == 0:
        raise DataError(f"{path}: no rows: give at least one scenario", file=str(path))
    values = np.stack([_numbers(path, table, table.column_names.index(name)) for name in names], axis=1)
    scenarios = torch.from_numpy(values).unsqueeze(0)
    if PROBABILITY not in table.column_names:
        return scenarios, None
    probabilities = _probabilities(path, _numbers(path, table, table.column_names.index(PROBABILITY)))
    return scenarios, torch.from_numpy(probabilities).unsqueeze(0)


def read_given(path: Path, program: TwoStageProgram) -> dict[str, np.ndarray]:
    """Given parameters by name, in their shapes.

    Raises
    ------
    DataError
        Not a JSON object of numbers.
    ProgramError
        A name that the program does not have, or a value of another shape.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file", file=str(path))
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {error.lineno}, column {error.colno}: not JSON: {error.msg}", file=str(path)
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text: {error}", file=str(path)) from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: holds a {type(found).__name__}: must be an object of parameters by name")
    shapes = {parameter.name(): tuple(parameter.shape) for parameter in program.given}
    return {name: _given_value(path, name, value, shapes) for name, value in found.items()}


def _given_value(path: Path, name: str, value: Any, shapes: dict[str, tuple[int, ...]]) -> np.ndarray:
    if name not in shapes:
        known = ", ".join(shapes) or "none"
        raise ProgramError(
            f"{path}: {name!r} is no given parameter: there are {known}", file=str(path), key=name
        )
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{path}: {name!r} = {value!r}: must be numbers in the shape {shapes[name]}",
            file=str(path),
            key=name,
        ) from error
    if array.shape != shapes[name]:
        raise ProgramError(
            f"{path}: {name!r} has shape {array.shape}: must be {shapes[name]}", file=str(path), key=name
        )
    if not np.isfinite(array).all():
        raise DataError(f"{path}: {name!r} has an entry that is not finite", file=str(path), key=name)
    return array


def _numbers(path: Path, table: Any, index: int) -> np.ndarray:
    name, column = table.column_names[index], table.column(index)
    if table.column_names.count(name) > 1:
        raise DataError(
            f"{path}: two columns are named {name!r}: names must differ", file=str(path), column=name
        )
    kind = column.type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind)):
        raise DataError(
            f"{path}, column {name!r}: holds {kind}: must be numbers", file=str(path), column=name
        )
    values = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise DataError(
            f"{path}, column {name!r}, row {bad[0] + 1}: {_cell(column, int(bad[0]))} is no finite number "
            f"({bad.size} in this column): remove the scenario or fill it before",
            file=str(path),
            column=name,
            row=int(bad[0]) + 1,
        )
    return np.ascontiguousarray(values)


def _cell(column: Any, row: int) -> str:
    value = column[row].as_py()
    return "an empty cell" if value is None else str(value)


def _probabilities(path: Path, values: np.ndarray) -> np.ndarray:
    bad = np.flatnonzero(values < 0)
    if bad.size:
        raise DataError(
            f"{path}, column {PROBABILITY!r}, row {bad[0] + 1}: {values[bad[0]]:g}: must be at least 0",
            file=str(path),
            column=PROBABILITY,
            row=int(bad[0]) + 1,
        )
    total = float(values.sum())
    if abs(total - 1.0) > _PROBABILITY_TOLERANCE:
        raise DataError(
            f"{path}, column {PROBABILITY!r}: sums to {total:.9g}: must sum to 1; divide by the sum, or "
            "leave the column out for equal weights",
            file=str(path),
            column=PROBABILITY,
            total=total,
        )
    return values / total


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:6])
    return f"{shown}, ..." if len(names) > 6 else shown or "none"
