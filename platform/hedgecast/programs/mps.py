"""MPS core files: a linear program with row and column names, read strictly.

Free format splits fields at blanks; fixed format cuts them at the columns of the MPS standard, and is
used when a name in ROWS contains a blank. Sections: NAME, OBJSENSE, ROWS, COLUMNS, RHS, RANGES, BOUNDS.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from pathlib import Path

from hedgecast.core.errors import DataError

_FIXED_FIELDS = (slice(1, 3), slice(4, 12), slice(14, 22), slice(24, 36), slice(39, 47), slice(49, 61))
_VALUELESS_BOUNDS = ("FR", "MI", "PL")
_INTEGER_BOUNDS = ("BV", "LI", "UI", "SC", "SI")


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """One line of a file that says something."""

    path: Path
    number: int
    text: str
    fields: tuple[str, ...]
    header: bool
    """Whether the line starts a section."""

    def error(self, message: str) -> DataError:
        """An error that names the file and the line."""
        return DataError(
            f"{self.path}, line {self.number}: {message} (line reads {self.text.strip()!r})",
            file=str(self.path),
            line=self.number,
        )

    def number_at(self, position: int) -> float:
        """The finite number in the field at ``position``."""
        try:
            value = float(self.fields[position].replace("D", "E").replace("d", "e"))
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.error(f"{self.fields[position]!r} is not a finite number")
        return value


@dataclasses.dataclass(slots=True)
class Core:
    """A linear program by names: rows lower <= body <= upper, columns within bounds, cost to minimize."""

    path: Path
    name: str = ""
    fixed: bool = False
    """Whether the fields stand at fixed columns."""
    maximize: bool = False
    """Whether the file asks for a maximum; costs are then the negative of its objective."""
    objective: str = ""
    """Name of the objective row."""
    rhs_name: str = "RHS"
    senses: dict[str, str] = dataclasses.field(default_factory=dict)
    """Row name to L, G or E, in file order; the objective row is not among them."""
    free_rows: set[str] = dataclasses.field(default_factory=set)
    """Further N rows, which bind nothing."""
    columns: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)
    """Column name to its entries by row name, in file order; the objective row is among them."""
    rhs: dict[str, float] = dataclasses.field(default_factory=dict)
    ranges: dict[str, float] = dataclasses.field(default_factory=dict)
    lower: dict[str, float] = dataclasses.field(default_factory=dict)
    upper: dict[str, float] = dataclasses.field(default_factory=dict)

    def spread(self, row: str) -> tuple[float, float]:
        """How far the body of ``row`` may lie below and above its right-hand side (<= 0, >= 0)."""
        sense, width = self.senses[row], self.ranges.get(row)
        if sense == "E":
            return (min(width or 0.0, 0.0), max(width or 0.0, 0.0))
        size = math.inf if width is None else abs(width)
        return (-size, 0.0) if sense == "L" else (0.0, size)

    def knows_row(self, row: str) -> bool:
        """Whether the file has this row, objective and free rows included."""
        return row == self.objective or row in self.senses or row in self.free_rows


def read_lines(path: Path, *, fixed: bool) -> list[Line]:
    """The lines of a file up to ENDATA, comments (``*``) and blank lines left out.

    Raises
    ------
    DataError
        The file is missing, not text, has no ENDATA, or goes on after it.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file", file=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text: {error}", file=str(path)) from None
    lines: list[Line] = []
    ended = False
    for number, text in enumerate(content.splitlines(), start=1):
        if not text.strip() or text.startswith("*"):
            continue
        header = not text[0].isspace()
        fields = _cut(text) if fixed and not header else tuple(text.split())
        line = Line(path, number, text, fields, header)
        if ended:
            raise line.error("stands after ENDATA: remove it or move ENDATA to the end")
        if header and fields[0].upper() == "ENDATA":
            ended = True
            continue
        lines.append(line)
    if not ended:
        raise DataError(f"{path}: ENDATA is missing: the file may be cut off", file=str(path))
    return lines


def read_core(path: Path) -> Core:
    """The linear program of an MPS file.

    Raises
    ------
    DataError
        Names the file and the line of the first thing that is wrong.
    """
    lines = read_lines(path, fixed=False)
    if _has_blanks_in_names(lines):
        lines = read_lines(path, fixed=True)
        core = Core(path=path, fixed=True)
    else:
        core = Core(path=path)
    sections: dict[str, Callable[[Core, Line], None]] = {
        "OBJSENSE": _read_sense,
        "ROWS": _read_row,
        "COLUMNS": _read_column,
        "RHS": _read_rhs,
        "RANGES": _read_range,
        "BOUNDS": _read_bound,
    }
    section = ""
    for line in lines:
        if line.header:
            section = line.fields[0].upper()
            if section == "NAME":
                core.name = " ".join(line.fields[1:])
            elif section not in sections:
                raise line.error(f"unknown section {section}: known are NAME, {', '.join(sections)}, ENDATA")
            elif section == "OBJSENSE" and len(line.fields) > 1:
                _set_sense(core, line, line.fields[1])
        elif section in sections:
            sections[section](core, line)
        else:
            raise line.error("stands before the first section")
    if not core.objective:
        raise DataError(f"{path}: ROWS has no N row: one is needed as objective", file=str(path))
    _check_bounds(core)
    return core


def pairs(line: Line, start: int) -> Iterable[tuple[str, float]]:
    """The (row name, number) pairs of a line from field ``start`` on, one or two."""
    rest = len(line.fields) - start
    if rest not in (2, 4):
        raise line.error(
            f"has {len(line.fields)} fields: expected a name and one or two pairs of row and number"
        )
    for position in range(start, len(line.fields), 2):
        yield line.fields[position], line.number_at(position + 1)


def _cut(text: str) -> tuple[str, ...]:
    return tuple(field for part in _FIXED_FIELDS if (field := text[part].strip()))


def _has_blanks_in_names(lines: Iterable[Line]) -> bool:
    section = ""
    for line in lines:
        if line.header:
            section = line.fields[0].upper()
        elif section == "ROWS" and len(line.fields) > 2:
            return True
    return False


def _read_sense(core: Core, line: Line) -> None:
    _set_sense(core, line, line.fields[0])


def _set_sense(core: Core, line: Line, word: str) -> None:
    if word.upper() not in ("MIN", "MINIMIZE", "MAX", "MAXIMIZE"):
        raise line.error(f"objective sense {word!r}: must be MIN or MAX")
    core.maximize = word.upper().startswith("MAX")


def _read_row(core: Core, line: Line) -> None:
    if len(line.fields) != 2 or line.fields[0].upper() not in ("N", "L", "G", "E"):
        raise line.error("a row needs a type (N, L, G or E) and a name")
    sense, name = line.fields[0].upper(), line.fields[1]
    if core.knows_row(name):
        raise line.error(f"row {name!r} is listed twice")
    if sense != "N":
        core.senses[name] = sense
    elif core.objective:
        core.free_rows.add(name)
    else:
        core.objective = name


def _read_column(core: Core, line: Line) -> None:
    name = line.fields[0]
    if "MARKER" in line.text.replace("'", "").upper().split()[1:2]:
        raise line.error("integer columns are not supported: remove the markers to solve the relaxation")
    entries = core.columns.setdefault(name, {})
    if next(reversed(core.columns)) != name:
        raise line.error(f"column {name!r} was begun before another one: its lines must stand together")
    for row, value in pairs(line, 1):
        _require_row(core, line, row)
        if row in entries:
            raise line.error(f"column {name!r} has row {row!r} twice")
        entries[row] = value


def _read_rhs(core: Core, line: Line) -> None:
    start = len(line.fields) % 2
    if start:
        core.rhs_name = line.fields[0] if not core.rhs else core.rhs_name
        if line.fields[0] != core.rhs_name:
            raise line.error(f"a second right-hand side {line.fields[0]!r} after {core.rhs_name!r}: keep one")
    _read_once(core, line, core.rhs, start)


def _read_range(core: Core, line: Line) -> None:
    _read_once(core, line, core.ranges, len(line.fields) % 2)


def _read_once(core: Core, line: Line, into: dict[str, float], start: int) -> None:
    for row, value in pairs(line, start):
        _require_row(core, line, row)
        if row in into:
            raise line.error(f"row {row!r} has a second value here")
        into[row] = value


def _read_bound(core: Core, line: Line) -> None:
    kind = line.fields[0].upper()
    if kind in _INTEGER_BOUNDS:
        raise line.error(f"bound {kind} makes the column integer or semi-continuous: not supported")
    if kind not in ("LO", "UP", "FX", *_VALUELESS_BOUNDS):
        raise line.error(f"unknown bound {kind}: known are LO, UP, FX, {', '.join(_VALUELESS_BOUNDS)}")
    name, value = _bound_target(core, line, kind in _VALUELESS_BOUNDS)
    if kind in ("LO", "FX"):
        core.lower[name] = value
    if kind in ("UP", "FX"):
        core.upper[name] = value
    if kind in ("MI", "FR"):
        core.lower[name] = -math.inf
    if kind in ("PL", "FR"):
        core.upper[name] = math.inf


def _bound_target(core: Core, line: Line, valueless: bool) -> tuple[str, float]:
    """The column and the number of a bound whose set name, and number where none is needed, may be absent."""
    fields = line.fields[1:]
    if valueless:
        for position in (1, 0):
            if position < len(fields) and fields[position] in core.columns:
                return fields[position], 0.0
    elif len(fields) in (2, 3):
        name, value = fields[-2], line.number_at(len(line.fields) - 1)
        if name in core.columns:
            return name, value
        raise line.error(f"bound on {name!r}, which is no column")
    raise line.error("a bound needs a type, a set name, a column and (but for FR, MI, PL) a number")


def _require_row(core: Core, line: Line, row: str) -> None:
    if not core.knows_row(row):
        raise line.error(f"row {row!r} is not in ROWS")


def _check_bounds(core: Core) -> None:
    for name, high in core.upper.items():
        low = core.lower.get(name, 0.0)
        if low > high:
            raise DataError(
                f"{core.path}: column {name!r} has upper bound {high:g} below its lower bound {low:g}: "
                "a column without LO or MI starts at 0",
                file=str(core.path),
                column=name,
            )
