"""The page on the cost of serving is what its result file says, judged by the stated aims."""

from __future__ import annotations

import importlib.util
import json
import pathlib
from types import ModuleType
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("serving_page", ROOT / "benchmarks" / "serving" / "page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _row(callers: int, direct: float, served: float, rate: float) -> dict[str, Any]:
    def way(median: float) -> dict[str, float]:
        return {"p50_ms": median, "p99_ms": 99.0, "p999_ms": 999.0, "requests_per_second": rate}

    return {
        "scenarios": 200,
        "concurrent": callers,
        "requests": 50,
        "direct": way(direct),
        "served": way(served),
    }


@pytest.mark.parametrize(
    ("direct", "served", "within"),
    [(10.0, 15.9, True), (10.0, 16.1, False), (100.0, 124.0, True), (100.0, 126.0, False)],
)
def test_the_larger_of_both_bounds_counts(
    writer: ModuleType, direct: float, served: float, within: bool
) -> None:
    more, share, verdict = writer.overhead(_row(1, direct, served, 1.0))
    assert more == pytest.approx(served - direct)
    assert share == pytest.approx(served / direct - 1.0)
    assert verdict is within


def test_the_page_says_when_an_aim_is_missed_and_the_machine_was_loaded(writer: ModuleType) -> None:
    machine: dict[str, Any] = {"date": "2030-01-01", "processor": "x", "cores": 2, "versions": {}}
    machine |= {"load_before": 1.0, "load_after": 1.0}
    rows = [_row(1, 10.0, 20.0, 4.0), _row(16, 100.0, 120.0, 11.0), _row(32, 200.0, 240.0, 12.0)]
    text = writer.page({"ray": {"machine": machine, "rows": rows}})
    assert "overhead at the median 10.0 ms (100%), **over the aim**" in text
    assert "2.75 times the rate of one, **misses the aim of 3**" in text
    assert "32 callers have 3.00 times the rate of one, reaches the aim" in text
    assert "loaded" not in text
    busy = writer.page({"ray": {"machine": {**machine, "load_before": 9.0}, "rows": rows}})
    assert "**The machine was loaded by other work**" in busy
    assert "overhead at the median 10.0 ms (100%), not settled on a loaded machine" in busy


def test_the_page_is_that_of_the_result(writer: ModuleType) -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "serve.json").read_text())
    assert (ROOT / "docs" / "serving.md").read_text() == writer.page(result)
