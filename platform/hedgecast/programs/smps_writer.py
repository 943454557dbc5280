"""A linear two-stage program with its scenarios as SMPS files, for solvers that are not ours.

Three files of one base name, in free format with names of at most eight characters: ``.cor`` has the program
with the numbers of the first scenario, ``.tim`` where the second stage begins, ``.sto`` under SCENARIOS what
each scenario has that differs from the first. Columns ``X1``, ``X2``, ... are the first stage (comments at
the top of ``.cor`` say which decision each one is), ``Y1``, ... the recourse; rows ``A`` and ``G`` bind the
first stage alone, ``T`` and ``U`` are equalities and inequalities of a scenario. A cost that nothing changes
is the right-hand side of ``COST``, with its sign turned, as MPS has it; where it is random it is the column
``YCONST``, since few readers know a random right-hand side of the objective.

Source: Birge et al. (1987), COAL Newsletter 17.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hedgecast.core.errors import ProgramError
from hedgecast.core.files import written_whole
from hedgecast.programs.block_arrays import BlockArrays

if TYPE_CHECKING:
    from hedgecast.programs.entries import Entries
    from hedgecast.programs.program import TwoStageProgram

# Not RHS: some readers take that for the section's own name.
_COST, _RHS, _BOUNDS = "COST", "RIGHT", "BND"
_PERIODS = ("STAGE1", "STAGE2")
# A stage must have a column and a row: these say nothing, for programs whose recourse has none.
_IDLE_COLUMN, _IDLE_ROW = "YNONE", "UNONE"
# A random constant: a column that costs one, and the row that sets it.
_CONSTANT_COLUMN, _CONSTANT_ROW = "YCONST", "TCONST"

Entry = tuple[str, str]


def write_smps(
    program: TwoStageProgram,
    scenarios: Entries,
    base: str | Path,
    *,
    probabilities: Any = None,
    given: Mapping[str, Any] | None = None,
    context: int = 0,
) -> tuple[Path, Path, Path]:
    """The files ``base.cor``, ``base.tim`` and ``base.sto`` of one context, each written whole.

    Parameters
    ----------
    program : TwoStageProgram
        A linear one: no cost is quadratic, no cone but linear.
    scenarios, probabilities, given
        See `TwoStageProgram.inputs`; scenarios of probability zero are left out.
    base : str or Path
        Path without extension; files of that name are replaced.
    context : int
        Of the batch.

    Raises
    ------
    ProgramError
        The program is no linear one, or its numbers are unusable.
    """
    numbers = BlockArrays.of(program, scenarios, probabilities, given, context=context)
    if not numbers.linear:
        raise ProgramError(
            f"program {program.name!r} has quadratic costs, which SMPS cannot hold: set them to zero, or "
            "export it with hedgecast.programs.mpi_sppy_export",
            name=program.name,
        )
    stem = Path(base)
    name = "".join(letter if letter.isalnum() else "_" for letter in program.name)[:8] or "PROGRAM"
    core = _entries(numbers, 0)
    random = _random_entries(numbers, core)
    written = []
    for suffix, lines in (
        (".cor", _core_lines(numbers, name, core, random)),
        (".tim", _time_lines(numbers, name)),
        (".sto", _stochastic_lines(numbers, name, core, random)),
    ):
        path = stem.with_name(stem.name + suffix)
        with written_whole(path) as partial, partial.open("w", encoding="ascii") as file:
            file.writelines(f"{line}\n" for line in lines)
        written.append(path)
    return written[0], written[1], written[2]


def _rows(numbers: BlockArrays) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(sense, name) of the rows of the first and of the second stage."""
    count = {letter: numbers.matrices[letter].shape[0] for letter in "AGTU"}
    first = [("E", f"A{i + 1}") for i in range(count["A"])] + [("L", f"G{i + 1}") for i in range(count["G"])]
    second = [("E", f"T{i + 1}") for i in range(count["T"])] + [("L", f"U{i + 1}") for i in range(count["U"])]
    second += [("E", _CONSTANT_ROW)] * _random_constant(numbers)
    return first, second or [("L", _IDLE_ROW)]


def _columns(numbers: BlockArrays) -> tuple[list[str], list[str]]:
    first = [f"X{j + 1}" for j in range(len(numbers.columns))]
    second = [f"Y{j + 1}" for j in range(numbers.num_recourse)] + [_CONSTANT_COLUMN] * _random_constant(
        numbers
    )
    return first, second or [_IDLE_COLUMN]


def _random_constant(numbers: BlockArrays) -> bool:
    return bool(numbers.constant.max() > numbers.constant.min())


def _entries(numbers: BlockArrays, scenario: int) -> dict[Entry, float]:
    """(column or right-hand side, row) to its number in one scenario."""
    found: dict[Entry, float] = {}
    costs = zip(numbers.vector("q", scenario), numbers.vector("o", scenario), strict=True)
    found.update({(f"X{j + 1}", _COST): q + o for j, (q, o) in enumerate(costs)})
    found.update({(f"Y{j + 1}", _COST): c for j, c in enumerate(numbers.vector("c", scenario))})
    # The rows of T and W are the same, and so are those of U and V.
    for letter, row, column in (
        ("A", "A", "X"), ("G", "G", "X"), ("T", "T", "X"), ("W", "T", "Y"), ("U", "U", "X"), ("V", "U", "Y"),
    ):  # fmt: skip
        for i, j, value in numbers.matrices[letter].of(scenario):
            found[f"{column}{j + 1}", f"{row}{i + 1}"] = value
    for letter, row in (("a", "A"), ("g", "G"), ("h", "T"), ("k", "U")):
        found.update({(_RHS, f"{row}{i + 1}"): b for i, b in enumerate(numbers.vector(letter, scenario))})
    if _random_constant(numbers):
        found[_CONSTANT_COLUMN, _COST] = found[_CONSTANT_COLUMN, _CONSTANT_ROW] = 1.0
        found[_RHS, _CONSTANT_ROW] = numbers.constant_of(scenario)
    else:
        found[_RHS, _COST] = -numbers.constant_of(scenario)
    return found


def _random_entries(numbers: BlockArrays, core: Mapping[Entry, float]) -> list[Entry]:
    """The entries that differ from the first scenario's in some other one, in the core file's order."""
    found: set[Entry] = set()
    for scenario in range(1, numbers.num_scenarios):
        found.update(entry for entry, value in _entries(numbers, scenario).items() if value != core[entry])
    # A file in which nothing is random is none: then the last row's right-hand side stands for it.
    return [entry for entry in core if entry in found] or [(_RHS, _rows(numbers)[1][-1][1])]


def _core_lines(
    numbers: BlockArrays, name: str, core: Mapping[Entry, float], random: list[Entry]
) -> Iterator[str]:
    (first, second), (first_rows, second_rows) = _columns(numbers), _rows(numbers)
    # In the pattern of the core file, even where the first scenario has a zero.
    listed = {entry: value for entry, value in core.items() if value != 0.0 or entry in set(random)}
    by_column: dict[str, list[tuple[str, float]]] = {column: [] for column in (*first, *second, _RHS)}
    for (column, row), value in listed.items():
        by_column[column].append((row, value))
    yield f"* {numbers.num_scenarios} scenarios; the numbers here are those of the first"
    yield from (f"* {column} = {title}" for column, title in zip(first, numbers.columns, strict=True))
    yield f"NAME {name}"
    yield "ROWS"
    yield f" N {_COST}"
    yield from (f" {sense} {row}" for sense, row in (*first_rows, *second_rows))
    yield "COLUMNS"
    for column in (*first, *second):
        # A column without entries would be none.
        yield from _fields(column, by_column[column] or [(_COST, 0.0)])
    yield "RHS"
    yield from _fields(_RHS, by_column[_RHS])
    yield "BOUNDS"
    for column in (*first, *second):
        yield f" FX {_BOUNDS} {column} 0" if column == _IDLE_COLUMN else f" FR {_BOUNDS} {column}"
    yield "ENDATA"


def _time_lines(numbers: BlockArrays, name: str) -> Iterator[str]:
    (first, second), (first_rows, second_rows) = _columns(numbers), _rows(numbers)
    yield f"TIME {name}"
    yield "PERIODS IMPLICIT"
    yield f" {first[0]} {first_rows[0][1] if first_rows else _COST} {_PERIODS[0]}"
    yield f" {second[0]} {second_rows[0][1]} {_PERIODS[1]}"
    yield "ENDATA"


def _stochastic_lines(
    numbers: BlockArrays, name: str, core: Mapping[Entry, float], random: list[Entry]
) -> Iterator[str]:
    yield f"STOCH {name}"
    yield "SCENARIOS DISCRETE"
    for scenario, probability in enumerate(numbers.probabilities.tolist()):
        yield f" SC S{scenario + 1} ROOT {probability!r} {_PERIODS[1]}"
        values = core if scenario == 0 else _entries(numbers, scenario)
        # The first one lists all that is random, so that readers know the entries from it alone.
        for entry in random:
            value = values.get(entry, 0.0)
            if scenario == 0 or value != core[entry]:
                yield from _fields(entry[0], [(entry[1], value)])
    yield "ENDATA"


def _fields(column: str, entries: list[tuple[str, float]]) -> Iterator[str]:
    yield from (f" {column} {row} {value!r}" for row, value in entries)
