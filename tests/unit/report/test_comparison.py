from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from hedgecast.report.comparison import NAMES, Entry, Pair, Results, figure, results_markdown, write_results


def entry(label: str, count: int, difference: float) -> Entry:
    return Entry(
        label=label,
        num_scenarios=count,
        drawn=1 if label == "point" else count,
        num_days=30,
        num_seeds=2,
        cost=100 + difference,
        cost_interval=(90 + difference, 110 + difference),
        regret=50.0,
        relative_regret=1.0,
        cost_cvar=200.0,
        expected_cost=95.0,
        difference=difference,
        difference_interval=(difference - 1, difference + 1) if difference else (0.0, 0.0),
        is_baseline=not difference,
        seed_costs=(99 + difference, 101 + difference),
        seed_deviation=1.4142,
        realism={"crps": 0.5, "coverage": float("nan") if label == "point" else 0.9},
        train_seconds=1.0,
        decide_seconds=2.0,
        peak_memory_mib=700.0,
    )


@pytest.fixture
def results() -> Results:
    return Results(
        title="study",
        baseline="ridge-residual",
        level=0.95,
        block_days=7,
        seeds=(0, 1),
        days=("2020-01-01", "2020-01-30"),
        entries=[
            entry(label, count, difference)
            for count in (25, 200)
            for label, difference in (("point", 500.0), ("ridge-residual", 0.0), ("diffusion-dfl", -3.0))
        ],
        pairs=[
            Pair(label="point", other="ridge-residual", num_scenarios=25, difference=500.0, interval=(1, 2))
        ],
        failures=[{"label": "gaussian", "seed": 1, "message": "it broke", "log": "x.log"}],
        facts={"machine": {"cpus": 2}},
    )


def test_three_files_are_written_and_nothing_else(results: Results, tmp_path: Path) -> None:
    paths = write_results(tmp_path, results)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NAMES)
    record = json.loads(paths[0].read_text(encoding="utf-8"), parse_constant=lambda name: pytest.fail(name))
    assert record["format"] == 1
    assert record["entries"][0]["realism"]["coverage"] is None
    assert set(record) == {"format", *(field.name for field in dataclasses.fields(Results))}
    assert paths[2].read_bytes().startswith(b"\x89PNG")


def test_few_that_stand_for_many_say_for_how_many(results: Results) -> None:
    entries = [
        dataclasses.replace(one, drawn=1000) if one.num_scenarios == 25 and one.drawn > 1 else one
        for one in results.entries
    ]
    text = results_markdown(dataclasses.replace(results, entries=entries))
    assert "## 25 scenarios for 1,000 drawn" in text
    assert "## 200 scenarios\n" in text


def test_the_markdown_says_everything_that_a_reader_needs(results: Results) -> None:
    text = results_markdown(results)
    assert "## 25 scenarios" in text
    assert "## 200 scenarios" in text
    assert "| diffusion-dfl | 97.00 [87.00, 107.00] | -3.000 [-4.000, -2.000] | 50.00 | 1.414 |" in text
    assert "| ridge-residual | 100.00 [90.00, 110.00] | baseline |" in text
    assert "| point | 0.5 | - | 1.0 | 2.0 | 700 |" in text
    assert "point less ridge-residual | +500.00 [1.000, 2.000]" in text
    assert "Failed: gaussian, seed 1: it broke" in text
    assert "30 test days, 2020-01-01 to 2020-01-30; seeds 0, 1" in text
    assert "the same days, numbers of scenarios and settings; none was tuned here" in text


def test_costs_have_as_many_digits_as_say_something() -> None:
    assert [figure(value) for value in (12345.6, 123.456, 1.23456, -0.5)] == [
        "12,346",
        "123.46",
        "1.235",
        "-0.500",
    ]
