"""Every figure of the sizing guide is what its file says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = (ROOT / "docs" / "sizing.md").read_text(encoding="utf-8")
UNITS = {"ms": 1e-3, "s": 1.0, "MiB": 1.0, "GiB": 1.0}
ROWS = re.findall(r"^\| (.+?) \| ([\d.]+) (\w+) \| `(.+?)`, `(.+?)` \|$", PAGE, re.MULTILINE)


def _value(file: str, key: str) -> float:
    found = json.loads((RESULTS / file).read_text(encoding="utf-8"))
    for part in key.split("."):
        # Entries of methods are a list: the first of its label.
        found = next(one for one in found if one["label"] == part) if isinstance(found, list) else found[part]
    return float(found)


def test_the_table_is_read_whole() -> None:
    measured = PAGE.partition("## Measured")[2].partition("## Calculated")[0]
    assert len(ROWS) == measured.count("`, `")
    assert len(ROWS) >= 12


@pytest.mark.parametrize(("what", "figure", "unit", "file", "key"), ROWS, ids=[row[0] for row in ROWS])
def test_a_figure_is_what_its_file_says(what: str, figure: str, unit: str, file: str, key: str) -> None:
    # Rounded to the digits that are printed.
    half = 0.5 * 10 ** -len(figure.partition(".")[2])
    assert abs(_value(file, key) / UNITS[unit] - float(figure)) <= half * 1.0001, what


def test_ratios_follow_from_the_table() -> None:
    figures = {what: float(figure) * UNITS[unit] for what, figure, unit, _, _ in ROWS}
    solve = "solve of one decision, schedule of 24 h, {} scenarios"
    one, ten, hundred = (figures[solve.format(count)] for count in ("1,000", "10,000", "100,000"))
    assert f"10,000 cost {ten / one:.1f} times 1,000, 100,000 cost {hundred / ten:.1f} times 10,000" in PAGE
    assert f"at {1 / one:.0f} requests a second" in PAGE
