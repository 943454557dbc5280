"""A second decision on the same scenarios: the same problem at other costs.

Scenarios that were trained on the regret of one decision can be good for it and false: all that the 99 %
quantile needs is in one point. A decision that fears the other side reads another part of the law, so regret
on it, which no training saw, tells a law from a trick.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from hedgecast.core.config import Config
from hedgecast.core.errors import ConfigError
from hedgecast.programs.catalog import ProgramConfig


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class TransferConfig(Config):
    """The ``[transfer]`` table of a study: the second decision that scenarios are held against."""

    name: str | None = None
    """A shipped program; left out with ``path``: the study's own."""
    path: str | None = None
    """A Python file that defines ``build(num_steps, **parameters)`` or ``program``."""
    parameters: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Keyword arguments of ``build``; the study's program keeps its other parameters."""

    def __post_init__(self) -> None:
        if self.name is not None or self.path is not None:
            ProgramConfig(name=self.name, path=self.path)
        elif not self.parameters:
            raise ConfigError(
                "[transfer] changes nothing: give transfer.parameters, or another program by transfer.name "
                "or transfer.path; leave the table out for the default",
                key="transfer",
            )


def second_program(program: ProgramConfig, transfer: TransferConfig | None = None) -> ProgramConfig | None:
    """The second decision of a study; None where nothing names one.

    Parameters
    ----------
    program : ProgramConfig
        The study's own.
    transfer : TransferConfig, optional
        Its ``[transfer]`` table. Without one, shipped programs have a default:

        ========================  =====================================================================
        ``generation_scheduling``  shortage and excess cost exchanged
        ``product_allocation``     unit cost such that what a unit too many and one too few cost is exchanged
        ``freight_routing``        spot and idle cost such that the same two are exchanged for a truck
        ``battery_storage``        ten times the cost of level and power
        ``portfolio``              mean-variance: ten times the risk aversion; else mean-variance
        ========================  =====================================================================

    Raises
    ------
    ConfigError
        The transfer table's program is not one.
    """
    if transfer is not None:
        if transfer.name is not None or transfer.path is not None:
            return ProgramConfig(name=transfer.name, path=transfer.path, parameters=transfer.parameters)
        return dataclasses.replace(program, parameters={**program.parameters, **transfer.parameters})
    derive = _DEFAULTS.get(program.name or "")
    if derive is None:
        return None
    changes = derive(_all_parameters(program))
    return dataclasses.replace(program, parameters={**program.parameters, **changes})


def _all_parameters(program: ProgramConfig) -> dict[str, Any]:
    """The parameters that ``build`` gets, its defaults included."""
    build = importlib.import_module(f"hedgecast.programs.catalog.{program.name}").build
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(build).parameters.items()
        if parameter.default is not inspect.Parameter.empty
    }
    return {**defaults, **program.parameters}


def _scheduling(values: Mapping[str, Any]) -> dict[str, Any]:
    return {"shortage_cost": values["excess_cost"], "excess_cost": values["shortage_cost"]}


def _allocation(values: Mapping[str, Any]) -> dict[str, Any]:
    # Too few: v + b - c, too many: c - l. With c' = v + b + l - c they change places.
    price, penalty, salvage, unit = (
        np.asarray(values[name], dtype=np.float64)
        for name in ("price", "shortage_cost", "salvage_value", "unit_cost")
    )
    return {"unit_cost": (price + penalty + salvage - unit).tolist()}


def _freight(values: Mapping[str, Any]) -> dict[str, Any]:
    # A truck too few: p - k, too many: k + i. With p' = 2k + i and i' = p - 2k they change places.
    truck, idle = float(values["truck_cost"]), float(values["idle_cost"])
    spot = np.asarray(values["spot_cost"], dtype=np.float64)
    changed = np.broadcast_to(2 * truck + idle, spot.shape)
    return {"spot_cost": changed.tolist(), "idle_cost": max(float(spot.mean()) - 2 * truck, 0.0)}


def _battery(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: 10.0 * float(values[name]) for name in ("level_cost", "power_cost")}


def _portfolio(values: Mapping[str, Any]) -> dict[str, Any]:
    if values["objective"] == "mean-variance":
        return {"risk_aversion": 10.0 * float(values["risk_aversion"])}
    return {"objective": "mean-variance"}


_DEFAULTS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "generation_scheduling": _scheduling,
    "product_allocation": _allocation,
    "freight_routing": _freight,
    "battery_storage": _battery,
    "portfolio": _portfolio,
}
