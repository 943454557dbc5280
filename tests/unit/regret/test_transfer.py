"""The second decision: which one a study gets, and that it reads the other side of the law."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hedgecast.core.errors import ConfigError
from hedgecast.learning.study import read_study
from hedgecast.programs.catalog import ProgramConfig, load_program, program_names
from hedgecast.regret.transfer import TransferConfig, second_program
from hedgecast.testing import write_tiny_study


@pytest.mark.parametrize("name", program_names())
def test_every_shipped_program_has_another_second_decision(name: str) -> None:
    first = ProgramConfig(name=name)
    second = second_program(first)
    assert second is not None
    assert second.parameters != first.parameters
    assert load_program(second, 3).num_uncertain == load_program(first, 3).num_uncertain


def newsvendor_level(parameters: dict[str, float]) -> float:
    """Level of the demand's distribution at which the schedule stands, ramps aside, found by solving."""
    program = load_program(
        ProgramConfig(
            name="generation_scheduling",
            parameters={**parameters, "quadratic_cost": 0.0, "ramp_limit": 1e3},
        ),
        1,
    )
    demand = torch.linspace(0.0, 1.0, 101, dtype=torch.float64).reshape(1, 101, 1)
    return float(program.solve(demand).flat)


def test_scheduling_exchanges_shortage_and_excess() -> None:
    first = ProgramConfig(name="generation_scheduling", parameters={"shortage_cost": 9.0, "excess_cost": 1.0})
    second = second_program(first)
    assert second is not None
    assert newsvendor_level(first.parameters) == pytest.approx(0.9, abs=0.011)
    assert newsvendor_level(second.parameters) == pytest.approx(0.1, abs=0.011)


def test_allocation_exchanges_one_too_many_and_one_too_few() -> None:
    first = ProgramConfig(
        name="product_allocation",
        parameters={"unit_cost": [1.0, 2.0], "price": [4.0, 3.0], "salvage_value": 0.5, "num_products": 2},
    )
    second = second_program(first)
    assert second is not None
    unit = np.array(second.parameters["unit_cost"])
    few, many = np.array([4.0, 3.0]) - unit, unit - 0.5
    assert few == pytest.approx(np.array([1.0, 2.0]) - 0.5)
    assert many == pytest.approx(np.array([4.0, 3.0]) - np.array([1.0, 2.0]))


def test_freight_exchanges_one_truck_too_many_and_one_too_few() -> None:
    second = second_program(
        ProgramConfig(
            name="freight_routing", parameters={"truck_cost": 20.0, "idle_cost": 2.0, "spot_cost": 60.0}
        )
    )
    assert second is not None
    # First: too few 60 - 20 = 40, too many 20 + 2 = 22.
    assert second.parameters["spot_cost"] - 20.0 == pytest.approx(22.0)
    assert second.parameters["idle_cost"] + 20.0 == pytest.approx(40.0)


def test_a_study_may_name_its_own(tmp_path: Path) -> None:
    path = write_tiny_study(tmp_path, num_days=120)
    assert read_study(path).transfer is None
    study = read_study(path, ["transfer.parameters.shortage_cost=3.0"])
    second = second_program(study.program, study.transfer)
    assert second is not None
    assert second.parameters == {"ramp_limit": 4.0, "capacity": 80.0, "shortage_cost": 3.0}
    assert read_study(path, ["transfer.parameters.shortage_cost=3.0"]).to_dict()["transfer"] == {
        "parameters": {"shortage_cost": 3.0}
    }
    other = second_program(
        study.program, TransferConfig(name="battery_storage", parameters={"capacity_mwh": 2.0})
    )
    assert other == ProgramConfig(name="battery_storage", parameters={"capacity_mwh": 2.0})


def test_a_file_next_to_the_study_is_found(tmp_path: Path) -> None:
    path = write_tiny_study(tmp_path, num_days=120)
    path.write_text(path.read_text() + '\n[transfer]\npath = "second.py"\n')
    study = read_study(path)
    assert study.transfer is not None
    assert study.transfer.path == str(tmp_path / "second.py")


def test_a_users_program_has_none_unless_named(tmp_path: Path) -> None:
    own = ProgramConfig(path=str(tmp_path / "mine.py"))
    assert second_program(own) is None
    named = second_program(own, TransferConfig(parameters={"cost": 2.0}))
    assert named == ProgramConfig(path=own.path, parameters={"cost": 2.0})


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match="changes nothing"):
        TransferConfig()
    with pytest.raises(ConfigError, match="is not shipped"):
        TransferConfig(name="unknown")
    with pytest.raises(ConfigError, match="exactly one"):
        TransferConfig(name="portfolio", path="x.py")
