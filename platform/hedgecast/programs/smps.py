"""SMPS files of two-stage linear programs, as programs with scenarios.

Three files of one base name: ``.cor`` (an MPS file with the values of one scenario), ``.tim`` (where the
second stage begins, by position, or stage by name with PERIODS EXPLICIT) and ``.sto`` (what is random):

- INDEP DISCRETE: independent entries, each with its values and probabilities;
- BLOCKS DISCRETE: independent groups of entries; every realization of a block lists the same entries;
- SCENARIOS DISCRETE: whole scenarios, each inheriting what it does not list from its parent.

Random entries may stand in right-hand sides, costs and coefficients of second-stage rows.
INDEP and BLOCKS may be mixed; their product is enumerated up to a limit, and sampled beyond it.

Source: Birge et al. (1987), COAL Newsletter 17; Gassmann and Kristjansson (2008),
https://doi.org/10.1093/imaman/dpm007.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor

from hedgecast.core.errors import DataError
from hedgecast.programs.mps import Core, Line, pairs, read_core, read_lines
from hedgecast.programs.program import TwoStageProgram
from hedgecast.programs.smps_model import Element, Stages, build_program, core_value

# Probabilities in published files are rounded; beyond this the list is taken to be incomplete.
_PROBABILITY_TOLERANCE = 1e-4

_OPERATIONS: dict[str, Callable[[float, float], float]] = {
    "REPLACE": lambda _core, value: value,
    "ADD": lambda core, value: core + value,
    "MULTIPLY": lambda core, value: core * value,
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SmpsInstance:
    """A two-stage linear program and its scenarios."""

    name: str
    program: TwoStageProgram
    """Decision variable ``x`` (first-stage columns in file order), uncertain ``random``."""
    columns: tuple[str, ...]
    """Names of the entries of ``x``."""
    elements: tuple[str, ...]
    """Names of the random entries, ``column/row``; ``rhs name/row`` for right-hand sides."""
    scenarios: Tensor
    """(1, S, D) float64."""
    probabilities: Tensor
    """(1, S) float64."""
    num_outcomes: int
    """Scenarios that the files describe."""
    sampled: bool
    """Whether the scenarios are a random sample because there are too many outcomes."""
    maximize: bool
    """Whether the files ask for a maximum: costs are then the negative of their objective."""


@dataclasses.dataclass(slots=True)
class _Outcome:
    """One realization of some entries."""

    line: Line
    probability: float
    values: dict[Element, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(slots=True)
class _Stochastics:
    """What is random: independent factors, each with alternative outcomes."""

    factors: dict[str, list[_Outcome]] = dataclasses.field(default_factory=dict)
    by_name: dict[str, _Outcome] = dataclasses.field(default_factory=dict)
    """Scenarios by name, for inheritance."""


def read_smps(
    base: str | Path, *, max_scenarios: int = 100_000, num_samples: int = 10_000, seed: int = 0
) -> SmpsInstance:
    """The program and scenarios of the files ``base.cor``, ``base.tim`` and ``base.sto``.

    Parameters
    ----------
    base : str or Path
        Path without extension, or with one of the three; upper-case extensions and ``.core``, ``.time``,
        ``.stoch`` and ``.mps`` are found too.
    max_scenarios : int
        The most outcomes that are enumerated.
    num_samples, seed : int
        Size and seed of the sample that is drawn beyond that, of equal weights.

    Raises
    ------
    DataError
        A file is missing or wrong; names file and line.
    """
    base = Path(base)
    core = read_core(_find(base, "core file", (".cor", ".core", ".mps")))
    stages = _read_stages(core, _find(base, "time file", (".tim", ".time")))
    stochastics = _read_stochastics(core, stages, _find(base, "stochastics file", (".sto", ".stoch")))
    factors = list(stochastics.factors.values())
    elements = list(dict.fromkeys(e for factor in factors for outcome in factor for e in outcome.values))
    num_outcomes = math.prod(len(factor) for factor in factors)
    sampled = num_outcomes > max_scenarios
    if sampled:
        values, probabilities = _sample(core, factors, elements, num_samples, seed)
    else:
        values, probabilities = _enumerate(core, factors, elements)
    return SmpsInstance(
        name=core.name or base.name,
        program=build_program(core, stages, elements, core.name or base.name),
        columns=tuple(stages.columns[0]),
        elements=tuple(f"{element.column}/{element.row}" for element in elements),
        scenarios=values.unsqueeze(0),
        probabilities=probabilities.unsqueeze(0),
        num_outcomes=num_outcomes,
        sampled=sampled,
        maximize=core.maximize,
    )


def _find(base: Path, what: str, suffixes: tuple[str, ...]) -> Path:
    stem = base.with_suffix("") if base.suffix.lower() in (".cor", ".tim", ".sto") else base
    for suffix in suffixes:
        for candidate in (Path(f"{stem}{suffix}"), Path(f"{stem}{suffix.upper()}")):
            if candidate.is_file():
                return candidate
    raise DataError(f"{stem}{suffixes[0]}: no such file: the {what} of an SMPS triple", file=str(stem))


def _read_stages(core: Core, path: Path) -> Stages:
    """The columns and rows of the two stages."""
    lines = read_lines(path, fixed=core.fixed)
    starts: list[tuple[Line, str, str, str]] = []
    members: dict[str, dict[str, str]] = {"ROWS": {}, "COLUMNS": {}}
    section = ""
    for line in lines:
        if line.header:
            section = line.fields[0].upper()
            if section not in ("TIME", "PERIODS", "ROWS", "COLUMNS"):
                raise line.error(f"unknown section {section}: known are TIME, PERIODS, ROWS, COLUMNS, ENDATA")
        elif section == "PERIODS" and len(line.fields) in (1, 3):
            column, row = line.fields[:2] if len(line.fields) == 3 else ("", "")
            starts.append((line, column, row, line.fields[-1]))
        elif section in members and len(line.fields) == 2:
            members[section][line.fields[0]] = line.fields[1]
        else:
            raise line.error("expected a column, a row and a period")
    if len(starts) != 2:
        raise DataError(
            f"{path}: {len(starts)} periods: only two-stage programs are supported", file=str(path)
        )
    periods = (starts[0][3], starts[1][3])
    if members["ROWS"] or members["COLUMNS"]:
        return Stages(
            periods,
            _assigned(path, "column", list(core.columns), members["COLUMNS"], periods),
            _assigned(path, "row", list(core.senses), members["ROWS"], periods),
        )
    line, column, row, _ = starts[1]
    return Stages(
        periods,
        _halves(line, "column", list(core.columns), column),
        _halves(line, "row", list(core.senses), row),
    )


def _halves(line: Line, what: str, names: list[str], first: str) -> tuple[list[str], list[str]]:
    if first not in names:
        raise line.error(f"{what} {first!r} is not in the core file")
    position = names.index(first)
    if what == "column" and position == 0:
        raise line.error(
            f"the second stage begins at the first column {first!r}: nothing is decided here and now"
        )
    return names[:position], names[position:]


def _assigned(
    path: Path, what: str, names: list[str], periods_of: dict[str, str], periods: tuple[str, str]
) -> tuple[list[str], list[str]]:
    for name in names:
        if periods_of.get(name) not in periods:
            raise DataError(
                f"{path}: {what} {name!r} has period {periods_of.get(name)!r}: must be one of {periods}",
                file=str(path),
            )
    return tuple([name for name in names if periods_of[name] == period] for period in periods)  # type: ignore[return-value]


def _read_stochastics(core: Core, stages: Stages, path: Path) -> _Stochastics:
    found = _Stochastics()
    section, operation, outcome = "", "REPLACE", None
    for line in read_lines(path, fixed=core.fixed):
        if line.header:
            section, operation = _section(line, section)
        elif section == "INDEP":
            _read_independent(core, stages, line, operation, found)
        elif section in ("BLOCKS", "SCENARIOS"):
            if line.fields[0].upper() == ("BL" if section == "BLOCKS" else "SC"):
                outcome = _begin(line, section, found)
            elif outcome is None:
                raise line.error(f"stands before the first realization of {section}")
            else:
                _read_entries(core, stages, line, operation, outcome)
        else:
            raise line.error("stands before INDEP, BLOCKS or SCENARIOS")
    if not found.factors:
        raise DataError(f"{path}: nothing is random: use a plain linear program", file=str(path))
    _check_factors(found)
    return found


def _section(line: Line, current: str) -> tuple[str, str]:
    words = [field.upper() for field in line.fields]
    if words[0] == "STOCH":
        return "", "REPLACE"
    if words[0] not in ("INDEP", "BLOCKS", "SCENARIOS"):
        raise line.error(f"unknown section {words[0]}: known are STOCH, INDEP, BLOCKS, SCENARIOS, ENDATA")
    if len(words) < 2 and words[0] != "SCENARIOS":
        raise line.error(f"{words[0]} needs its distribution: only DISCRETE is supported")
    if len(words) > 1 and words[1] != "DISCRETE":
        raise line.error(f"{words[0]} {words[1]}: only DISCRETE is supported; discretize the distribution")
    if current and "SCENARIOS" in (current, words[0]):
        raise line.error(f"{words[0]} after {current}: SCENARIOS cannot be mixed with other sections")
    operation = words[2] if len(words) > 2 else "REPLACE"
    if operation not in _OPERATIONS:
        raise line.error(f"modification {operation}: must be one of {', '.join(_OPERATIONS)}")
    return words[0], operation


def _read_independent(core: Core, stages: Stages, line: Line, operation: str, found: _Stochastics) -> None:
    if len(line.fields) not in (4, 5):
        raise line.error("an INDEP line needs column, row, value, (period,) probability")
    element = _element(core, stages, line, line.fields[0], line.fields[1])
    if len(line.fields) == 5:
        _check_period(stages, line, line.fields[3])
    outcome = _Outcome(line, _probability(line, len(line.fields) - 1))
    outcome.values[element] = _OPERATIONS[operation](core_value(core, element), line.number_at(2))
    found.factors.setdefault(f"INDEP {element}", []).append(outcome)


def _begin(line: Line, section: str, found: _Stochastics) -> _Outcome:
    """A new outcome for a BL line (name, period, probability) or an SC line (name, parent, probability)."""
    needed = 4 if section == "BLOCKS" else 5
    if len(line.fields) != needed and not (section == "SCENARIOS" and len(line.fields) == 4):
        expected = (
            "BL name period probability" if section == "BLOCKS" else "SC name parent probability period"
        )
        raise line.error(f"expected: {expected}")
    if section == "BLOCKS":
        outcome = _Outcome(line, _probability(line, 3))
        found.factors.setdefault(f"BLOCK {line.fields[1]}", []).append(outcome)
        return outcome
    name, parent = line.fields[1], line.fields[2].strip("'\"")
    outcome = _Outcome(line, _probability(line, 3))
    if name in found.by_name:
        raise line.error(f"scenario {name!r} is listed twice")
    if parent.upper() != "ROOT":
        if parent not in found.by_name:
            raise line.error(
                f"parent scenario {parent!r} is not listed above: use ROOT or an earlier scenario"
            )
        outcome.values.update(found.by_name[parent].values)
    found.by_name[name] = outcome
    found.factors.setdefault("SCENARIOS", []).append(outcome)
    return outcome


def _read_entries(core: Core, stages: Stages, line: Line, operation: str, outcome: _Outcome) -> None:
    for row, value in pairs(line, 1):
        element = _element(core, stages, line, line.fields[0], row)
        outcome.values[element] = _OPERATIONS[operation](core_value(core, element), value)


def _element(core: Core, stages: Stages, line: Line, column: str, row: str) -> Element:
    if column not in core.columns and column != core.rhs_name and column.upper() not in ("RHS", "RIGHT"):
        raise line.error(f"column {column!r} is neither a column nor the right-hand side of the core file")
    if not core.knows_row(row) or row in core.free_rows:
        raise line.error(f"row {row!r} is not a row of the core file")
    if row != core.objective and row not in stages.rows[1]:
        raise line.error(f"row {row!r} belongs to the first stage, where nothing can be random")
    return Element(column if column in core.columns else core.rhs_name, row)


def _probability(line: Line, position: int) -> float:
    value = line.number_at(position)
    if not 0.0 <= value <= 1.0:
        raise line.error(f"probability {value:g}: must lie in [0, 1]")
    return value


def _check_period(stages: Stages, line: Line, period: str) -> None:
    if period != stages.periods[1]:
        raise line.error(f"period {period!r}: random entries belong to the second one, {stages.periods[1]!r}")


def _check_factors(found: _Stochastics) -> None:
    owners: dict[Element, str] = {}
    for name, outcomes in found.factors.items():
        total = sum(outcome.probability for outcome in outcomes)
        if abs(total - 1.0) > _PROBABILITY_TOLERANCE:
            raise outcomes[-1].line.error(f"the probabilities of {name} sum to {total:.6g}, not 1")
        for outcome in outcomes:
            if name.startswith("BLOCK") and outcome.values.keys() != outcomes[0].values.keys():
                raise outcome.line.error(f"this realization of {name} lists other entries than its first one")
            for element in outcome.values:
                if owners.setdefault(element, name) != name:
                    raise outcome.line.error(f"{element} is random in {owners[element]} and in {name}")


def _enumerate(core: Core, factors: list[list[_Outcome]], elements: list[Element]) -> tuple[Tensor, Tensor]:
    rows, weights = [], []
    for combination in itertools.product(*factors):
        rows.append(_row(core, combination, elements))
        weights.append(math.prod(outcome.probability for outcome in combination))
    probabilities = torch.tensor(weights, dtype=torch.float64)
    return torch.tensor(rows, dtype=torch.float64), probabilities / probabilities.sum()


def _sample(
    core: Core, factors: list[list[_Outcome]], elements: list[Element], count: int, seed: int
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    picks = []
    for factor in factors:
        weights = torch.tensor([outcome.probability for outcome in factor], dtype=torch.float64)
        picks.append(torch.multinomial(weights, count, replacement=True, generator=generator).tolist())
    rows = [
        _row(core, [factor[pick] for factor, pick in zip(factors, draw, strict=True)], elements)
        for draw in zip(*picks, strict=True)
    ]
    return torch.tensor(rows, dtype=torch.float64), torch.full((count,), 1.0 / count, dtype=torch.float64)


def _row(core: Core, combination: Iterable[_Outcome], elements: list[Element]) -> list[float]:
    values: dict[Element, float] = {}
    for outcome in combination:
        values.update(outcome.values)
    return [values[e] if e in values else core_value(core, e) for e in elements]
