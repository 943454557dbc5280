import importlib
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import torch

from hedgecast.core.errors import ConfigError
from hedgecast.programs.catalog import pictures

SHAPES = {
    "generation_scheduling": (24,),
    "battery_storage": (24,),
    "portfolio": (1, 20),
    "product_allocation": (1, 5),
    "freight_routing": (5, 4),
}


def _solved(name: str, **parameters: Any) -> tuple[Any, torch.Tensor]:
    program = importlib.import_module(f"hedgecast.programs.catalog.{name}").build(**parameters)
    generator = torch.Generator().manual_seed(6)
    scenarios = 1.0 + torch.rand(2, 30, *SHAPES[name], generator=generator, dtype=torch.float64)
    return program.solve(scenarios).require_optimal(), scenarios


@pytest.mark.parametrize("name", SHAPES)
def test_every_program_has_a_picture_of_plan_and_costs(name: str, tmp_path: Path) -> None:
    backend = matplotlib.get_backend()
    decision, scenarios = _solved(name)
    figure = pictures.picture(name, decision, scenarios, member=1)
    figure.savefig(tmp_path / "plan.png")
    assert (tmp_path / "plan.png").stat().st_size > 10_000
    assert len(figure.axes) >= 2
    assert matplotlib.get_backend() == backend


def test_the_plan_that_is_drawn_is_the_members_own() -> None:
    decision, scenarios = _solved("generation_scheduling")
    figure = pictures.picture("generation_scheduling", decision, scenarios, member=1)
    drawn = {line.get_label(): line.get_ydata() for line in figure.axes[0].get_lines()}
    assert drawn["schedule"] == pytest.approx(decision.values["schedule"][1].numpy())


def test_the_largest_sharpe_ratio_is_drawn_by_weights() -> None:
    decision, scenarios = _solved("portfolio", objective="maximum-sharpe")
    figure = pictures.picture("portfolio", decision, scenarios)
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == pytest.approx(100.0, rel=1e-6)


def test_an_unknown_program_is_refused() -> None:
    decision, scenarios = _solved("freight_routing")
    with pytest.raises(ConfigError, match="program 'routing' has no picture: there are battery_storage"):
        pictures.picture("routing", decision, scenarios)
