import dataclasses
import re
from pathlib import Path

import numpy as np
import torch

from hedgecast.report.page import DayPicture, MethodRow, Page, write_report
from hedgecast.scenarios.realism import realism_report
from hedgecast.scenarios.scenario_set import ScenarioSet


def make_page() -> Page:
    generator = np.random.default_rng(0)
    scenarios = 40 + generator.normal(size=(200, 24)).cumsum(axis=1)
    day = DayPicture(
        times=np.datetime64("2020-01-01") + np.arange(24).astype("timedelta64[h]"),
        scenarios=scenarios,
        decision=np.quantile(scenarios, 0.99, axis=0),
        realized=scenarios[3],
        regret=generator.gamma(2.0, size=200),
        realized_regret=1.5,
        quantity="residual load",
        decision_name="schedule",
        unit="GW",
    )
    rows = (
        MethodRow(
            label="point <forecast>", cost=900.0, regret=800.0, difference=850.0, interval=(700.0, 990.0),
            crps=float("nan"), coverage=float("nan"),
        ),
        MethodRow(
            label="ridge", cost=50.0, regret=45.0, difference=0.0, interval=(0.0, 0.0),
            crps=1.0, coverage=0.9, baseline=True,
        ),
        MethodRow(
            label="diffusion", cost=48.0, regret=43.0, difference=-2.0, interval=(-3.0, -1.0),
            crps=0.9, coverage=0.88,
        ),
    )  # fmt: skip
    return Page(
        title="A & B", lead="What was done.", day=day, rows=rows, num_days=366, num_scenarios=200,
        facts={"data": {"rows": 35064}}, notes=("Whatever came out.",),
    )  # fmt: skip


def test_the_page_is_one_file_with_its_pictures_inside(tmp_path: Path) -> None:
    path = write_report(tmp_path, make_page())
    text = path.read_text()
    assert text.count('src="data:image/png;base64,') == 4
    assert not re.search(r'(src|href)="(?!data:)', text)
    for name in ("fan_chart", "schedule", "regret", "methods"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_realism_has_a_section_where_there_is_some(tmp_path: Path) -> None:
    draws = np.random.default_rng(1)
    paths, realized = draws.normal(size=(30, 20, 4, 1)), draws.normal(size=(30, 4, 1))
    scenarios = ScenarioSet(paths=torch.from_numpy(paths), names=("load",), units=("GW",))
    report = realism_report(scenarios, realized)
    page = dataclasses.replace(make_page(), realism={"ridge": report}, transfer={"ridge": 3.25})
    text = write_report(tmp_path, page).read_text()
    assert text.count('src="data:image/png;base64,') == 5
    assert f"<td>{report.diversity_ratio:.2f}</td><td>3.25</td>" in text
    assert "How real the scenarios are" not in write_report(tmp_path, make_page()).read_text()


def test_the_table_holds_the_numbers_that_came_in(tmp_path: Path) -> None:
    text = write_report(tmp_path, make_page()).read_text()
    assert "<td>-2.00 [-3.00, -1.00]</td>" in text
    assert "<td>88.0%</td>" in text
    assert "35064" in text


def test_text_is_escaped(tmp_path: Path) -> None:
    text = write_report(tmp_path, make_page()).read_text()
    assert "point &lt;forecast&gt;" in text
    assert "<title>A &amp; B</title>" in text
