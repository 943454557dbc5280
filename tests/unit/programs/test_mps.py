import math
from pathlib import Path

import pytest

from hedgecast.core.errors import DataError
from hedgecast.programs.mps import read_core

CORE = """NAME          SMALL
ROWS
 N  COST
 L  LIMIT
 G  NEED
 E  EVEN
 E  ODD
 N  SPARE
COLUMNS
    A         COST               1   LIMIT              2
    A         NEED               1   EVEN               1
    B         COST              -1   ODD                3
    B         SPARE              5
    C         COST               4
RHS
    RHS       LIMIT              7   NEED               1
    RHS       COST             -10
RANGES
    RNG       LIMIT              3   NEED               2
    RNG       EVEN               4   ODD               -5
BOUNDS
 UP BND       A                  9
 FX BND       B                  2
 FR BND       C
ENDATA
"""


def _read(tmp_path: Path, text: str):
    path = tmp_path / "case.cor"
    path.write_text(text)
    return read_core(path)


def test_rows_columns_ranges_and_bounds_are_read(tmp_path: Path) -> None:
    core = _read(tmp_path, CORE)
    assert core.name == "SMALL"
    assert core.objective == "COST"
    assert core.free_rows == {"SPARE"}
    assert core.columns["A"] == {"COST": 1.0, "LIMIT": 2.0, "NEED": 1.0, "EVEN": 1.0}
    assert core.rhs == {"LIMIT": 7.0, "NEED": 1.0, "COST": -10.0}
    assert core.spread("LIMIT") == (-3.0, 0.0)
    assert core.spread("NEED") == (0.0, 2.0)
    assert core.spread("EVEN") == (0.0, 4.0)
    assert core.spread("ODD") == (-5.0, 0.0)
    assert core.upper == {"A": 9.0, "B": 2.0, "C": math.inf}
    assert core.lower == {"B": 2.0, "C": -math.inf}


def test_names_with_blanks_are_read_at_fixed_columns(tmp_path: Path) -> None:
    text = (
        "NAME          BLANKS\n"
        "ROWS\n"
        " N  TOTAL C\n"
        " L  ROW 1\n"
        "COLUMNS\n"
        "    COL 1     TOTAL C            1.5   ROW 1              2.5\n"
        "RHS\n"
        "    RHS       ROW 1                4\n"
        "ENDATA\n"
    )
    core = _read(tmp_path, text)
    assert core.fixed
    assert core.columns == {"COL 1": {"TOTAL C": 1.5, "ROW 1": 2.5}}
    assert core.rhs == {"ROW 1": 4.0}


def test_free_and_fixed_format_say_the_same(tmp_path: Path) -> None:
    free = "\n".join(
        line if line and line[0] != " " else " " + " ".join(line.split()) for line in CORE.splitlines()
    )
    assert _read(tmp_path, free) == _read(tmp_path, CORE)


@pytest.mark.parametrize("line", ["OBJSENSE\n MAX", "OBJSENSE MAXIMIZE"])
def test_the_objective_sense_is_read(tmp_path: Path, line: str) -> None:
    assert _read(tmp_path, CORE.replace("ROWS\n", f"{line}\nROWS\n", 1)).maximize


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "    C         COST               4",
            "    C         COST               x",
            "line 14: 'x' is not a finite",
        ),
        (
            "    C         COST               4",
            "    C         WHERE              4",
            "'WHERE' is not in ROWS",
        ),
        (
            "    C         COST               4",
            "    A         COST               4",
            "column 'A' was begun before",
        ),
        (" L  LIMIT", " Q  LIMIT", "line 4: a row needs a type"),
        (" E  ODD", " E  EVEN", "line 7: row 'EVEN' is listed twice"),
        (" N  COST", " L  COST", "is not in ROWS|has a second"),
        ("RANGES", "RANGE", "unknown section RANGE: known are"),
        (
            " UP BND       A                  9",
            " UP BND       Z                  9",
            "'Z', which is no column",
        ),
        (
            " UP BND       A                  9",
            " UP BND       A                 -9",
            "'A' has upper bound -9 below",
        ),
        (" FR BND       C", " BV BND       C", "bound BV makes the column integer"),
        (
            "    C         COST               4",
            "    M1        'MARKER'      'INTORG'",
            "integer columns are not",
        ),
        ("ENDATA\n", "", "ENDATA is missing"),
        ("ENDATA\n", "ENDATA\n    A  COST  1\n", "stands after ENDATA"),
    ],
)
def test_a_wrong_line_is_refused_by_file_and_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in CORE
    if old == " N  COST":
        text = CORE.replace(" N  SPARE\n", "").replace(old, new)
        message = "row 'SPARE' is not in ROWS"
    else:
        text = CORE.replace(old, new)
    with pytest.raises(DataError, match=message) as caught:
        _read(tmp_path, text)
    assert "case.cor" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.cor: no such file"):
        read_core(tmp_path / "nowhere.cor")
