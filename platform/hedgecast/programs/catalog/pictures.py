"""One figure for a decision of a shipped program: the plan over the scenarios, and its costs.

Figures are made without pyplot, so that nothing global changes; ``figure.savefig(path)`` writes one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from hedgecast.core.errors import ConfigError
from hedgecast.programs.catalog.portfolio import sharpe_weights
from hedgecast.programs.solution import Decision

_PLAN, _RANGE, _SECOND = "#b2182b", "#2166ac", "#d6862a"
_BANDS = ((0.05, 0.95, 0.18), (0.25, 0.75, 0.35))
_NUM_BINS = 40


def picture(name: str, decision: Decision, scenarios: Tensor, member: int = 0) -> Figure:
    """A figure of one context's decision: left plan and scenarios, right the distribution of cost.

    Parameters
    ----------
    name : str
        The shipped program that made the decision.
    decision : Decision
    scenarios : Tensor
        (B, S, ...) as the program took them.
    member : int
        Which context.

    Raises
    ------
    ConfigError
        No picture for a program of this name.
    """
    if name not in _PICTURES:
        raise ConfigError(
            f"program {name!r} has no picture: there are {', '.join(sorted(_PICTURES))}", name=name
        )
    values = {key: value[member].detach().cpu().numpy() for key, value in decision.values.items()}
    if "scaled_weights" in values:
        values["weights"] = sharpe_weights(decision.values)[member].detach().cpu().numpy()
    figure = Figure(figsize=(11.0, 4.2), layout="constrained")
    plan, costs = figure.subplots(1, 2, width_ratios=(2.2, 1.0))
    _PICTURES[name](plan, values, scenarios[member].detach().cpu().numpy())
    _draw_costs(costs, decision.scenario_costs[member].detach().cpu().numpy())
    figure.suptitle(name.replace("_", " "), x=0.01, ha="left")
    return figure


def _draw_costs(axes: Any, costs: np.ndarray) -> None:
    axes.hist(costs, bins=_NUM_BINS, color=_RANGE, alpha=0.6)
    axes.axvline(costs.mean(), color=_PLAN)
    axes.set(title=f"cost by scenario, mean {costs.mean():.4g}", xlabel="cost", ylabel="scenarios")


def _draw_bands(axes: Any, steps: np.ndarray, paths: np.ndarray, label: str) -> None:
    """Bands of the central half and nine tenths of ``paths`` (S, T), and their median."""
    for low, high, alpha in _BANDS:
        edges = np.quantile(paths, (low, high), axis=0)
        axes.fill_between(steps, *edges, color=_RANGE, alpha=alpha, linewidth=0)
    axes.plot(steps, np.median(paths, axis=0), color=_RANGE, label=f"{label}: median, 50 % and 90 % bands")


def _draw_schedule(axes: Any, values: Mapping[str, np.ndarray], paths: np.ndarray) -> None:
    steps = np.arange(1, values["schedule"].size + 1)
    _draw_bands(axes, steps, paths.reshape(len(paths), -1), "demand")
    axes.plot(steps, values["schedule"], color=_PLAN, label="schedule")
    if "reserve" in values:
        top = values["schedule"] + values["reserve"]
        axes.plot(steps, top, color=_PLAN, linestyle="--", label="schedule and reserve")
    axes.set(xlabel="step", ylabel="GW")
    axes.legend()


def _draw_battery(axes: Any, values: Mapping[str, np.ndarray], paths: np.ndarray) -> None:
    steps = np.arange(1, values["state"].size + 1)
    _draw_bands(axes, steps, paths.reshape(len(paths), -1), "price")
    axes.set(xlabel="step", ylabel="price, money per MWh")
    energy = axes.twinx()
    energy.bar(steps, values["charge"], color=_SECOND, alpha=0.6, label="charge")
    energy.bar(steps, -values["discharge"], color=_PLAN, alpha=0.6, label="discharge")
    energy.plot(steps, values["state"], color="black", label="state")
    energy.set_ylabel("MWh")
    lines, labels = axes.get_legend_handles_labels()
    more_lines, more_labels = energy.get_legend_handles_labels()
    axes.legend(lines + more_lines, labels + more_labels, loc="upper left")


def _draw_weights(axes: Any, values: Mapping[str, np.ndarray], paths: np.ndarray) -> None:
    weights = values["weights"]
    returns = 100.0 * paths.reshape(len(paths), -1, weights.size).sum(axis=1)
    positions = np.arange(weights.size)
    axes.bar(positions, 100.0 * weights, color=_PLAN, alpha=0.7, label="weight, %")
    axes.set(xlabel="asset", ylabel="weight, %", xticks=positions)
    spread = axes.twinx()
    low, middle, high = np.quantile(returns, (0.05, 0.5, 0.95), axis=0)
    spread.errorbar(
        positions,
        middle,
        yerr=(middle - low, high - middle),
        fmt="o",
        color=_RANGE,
        label="return: 90 % range",
    )
    spread.set_ylabel("return, %")
    axes.legend(loc="upper left")
    spread.legend(loc="upper right")


def _draw_stock(axes: Any, values: Mapping[str, np.ndarray], paths: np.ndarray) -> None:
    amounts = values["stock"] if "stock" in values else values["amounts"]
    positions = np.arange(amounts.size)
    axes.bar(positions, amounts.reshape(-1), color=_PLAN, alpha=0.7, label="decided")
    flat = paths.reshape(len(paths), -1)
    low, middle, high = np.quantile(flat, (0.05, 0.5, 0.95), axis=0)
    label = "demand: median and 90 % range" if "stock" in values else "profit per unit: median and 90 % range"
    axes.errorbar(positions, middle, yerr=(middle - low, high - middle), fmt="o", color=_RANGE, label=label)
    axes.set(xlabel="step and product, in C order", ylabel="units", xticks=positions)
    axes.legend()


def _draw_freight(axes: Any, values: Mapping[str, np.ndarray], paths: np.ndarray) -> None:
    trucks, routes = values["truck_capacity"], values["route_capacity"]
    days = np.arange(1, trucks.size + 1)
    arrivals = paths.reshape(len(paths), trucks.size, routes.size).sum(axis=2)
    _draw_bands(axes, days, arrivals, "arrivals of all lanes")
    axes.step(days, trucks, where="mid", color=_PLAN, label="trucks booked")
    total = routes.sum()
    axes.axhline(total, color=_SECOND, linestyle="--", label=f"routes booked: {total:.4g} t a day")
    axes.set(xlabel="day", ylabel="t", xticks=days)
    axes.legend()


_PICTURES: dict[str, Callable[[Any, Mapping[str, np.ndarray], np.ndarray], None]] = {
    "generation_scheduling": _draw_schedule,
    "battery_storage": _draw_battery,
    "portfolio": _draw_weights,
    "product_allocation": _draw_stock,
    "freight_routing": _draw_freight,
}
