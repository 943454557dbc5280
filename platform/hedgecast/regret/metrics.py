"""Regret and its spread over days.

    regret_d = cost of the decision on the day that came true - cost had the day been known

Regret is never negative but for the solvers' tolerances. Days are not independent, so intervals come from
blocks of consecutive days: `hedgecast.scenarios.bootstrap`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from hedgecast.core.errors import ConfigError, ShapeError
from hedgecast.programs.measures import conditional_value_at_risk
from hedgecast.scenarios.bootstrap import Interval as Interval
from hedgecast.scenarios.bootstrap import block_bootstrap as block_bootstrap


def regret(costs: np.ndarray, best: np.ndarray) -> np.ndarray:
    """(D,) cost of each day less the cost had it been known.

    Raises
    ------
    ShapeError
        The arrays differ in shape.
    """
    if costs.shape != best.shape:
        raise ShapeError(
            f"costs {costs.shape} and wait-and-see costs {best.shape} differ: give one each a day"
        )
    difference: np.ndarray = costs - best
    return difference


def relative_regret(costs: np.ndarray, best: np.ndarray) -> float:
    """Total regret as a share of the total absolute cost of known days; NaN where that is zero.

    Notes
    -----
    Source: Tang and Khalil (2024), PyEPO, section 3.4 (normalized regret),
    https://doi.org/10.1007/s12532-024-00255-x.
    """
    scale = float(np.abs(best).sum())
    return float(regret(costs, best).sum()) / scale if scale > 0 else float("nan")


def cost_quantiles(costs: np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """(levels,) quantiles of costs over days, linear between order statistics.

    Raises
    ------
    ConfigError
        A level outside [0, 1].
    """
    if any(not 0.0 <= level <= 1.0 for level in levels):
        raise ConfigError(f"quantile levels {tuple(levels)}: each must lie in [0, 1]", key="levels")
    return np.asarray(np.quantile(costs, levels))


def cost_cvar(costs: np.ndarray, alpha: float) -> float:
    """Mean of the worst ``1 - alpha`` of the days' costs, every day weighing the same."""
    values = torch.as_tensor(np.asarray(costs, dtype=np.float64))
    return float(conditional_value_at_risk(values, torch.full_like(values, 1.0 / values.numel()), alpha))
