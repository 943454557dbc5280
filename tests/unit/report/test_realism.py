"""The realism section: what came in is what is drawn and written."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from hedgecast.report.realism import realism_chart, realism_table
from hedgecast.scenarios.realism import LEVELS, Realism, realism_report
from hedgecast.scenarios.scenario_set import ScenarioSet


@pytest.fixture(scope="module")
def reports() -> dict[str, Realism]:
    draws = np.random.default_rng(0)
    paths, realized = draws.normal(size=(60, 40, 4, 1)), draws.normal(size=(60, 4, 1))

    def report(values: np.ndarray) -> Realism:
        found = ScenarioSet(paths=torch.from_numpy(values), names=("load",), units=("GW",))
        return realism_report(found, realized)

    return {"one <point>": report(paths[:, :1]), "right": report(paths), "narrow": report(0.5 * paths)}


def test_the_picture_draws_the_figures(reports: dict[str, Realism]) -> None:
    ranks, bands = realism_chart(reports).axes
    assert [text.get_text() for text in ranks.get_legend().get_texts()] == ["right", "narrow"]
    heights = ranks.patches[1].get_data().values
    assert heights == pytest.approx(20 * np.array(reports["narrow"].rank_histogram))
    line = bands.containers[0].lines[0]
    assert line.get_xdata() == pytest.approx(LEVELS)
    shares = np.array([band.share for band in reports["right"].coverages])
    assert line.get_ydata() == pytest.approx(shares - np.array(LEVELS))
    # Both panels keep a scale of their own.
    assert ranks.get_ylim()[1] > 1.0 > bands.get_ylim()[1]


def test_only_points_leave_an_empty_picture(reports: dict[str, Realism]) -> None:
    ranks, _ = realism_chart({"point": reports["one <point>"]}).axes
    assert ranks.get_legend() is None
    assert not ranks.patches


def test_the_table_holds_the_figures(reports: dict[str, Realism]) -> None:
    text = realism_table(reports, {"right": 12.5})
    assert "one &lt;point&gt;" in text
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in text.split("<tr>")[2:]]
    assert [len(row) for row in rows] == [12, 12, 12]
    assert rows[1][1] == f"{reports['right'].crps:.3f}"
    assert rows[1][-1] == "12.50"
    assert rows[0][5] == rows[0][-1] == "-"
    assert "transfer" not in realism_table(reports, {})
