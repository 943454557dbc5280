"""One report of how real scenarios are, on days that have come true.

Scores rank whole laws, calibration asks where what came true falls among the scenarios, structure how they
move from step to step, and a classifier looks for anything else.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hedgecast.core.errors import DataError, ShapeError
from hedgecast.scenarios.calibration import Coverage, coverage, covered, pit, rank_histogram, uniformity
from hedgecast.scenarios.scenario_set import ScenarioSet
from hedgecast.scenarios.scores import crps, diversity, energy_score, tail_crps, variogram_score
from hedgecast.scenarios.structure import autocorrelation_distance, increment_distance
from hedgecast.scenarios.two_sample import two_sample_auc

__all__ = ["Realism", "covered", "crps", "realism_report"]

LEVEL = 0.9
"""The central band that tables show and the gate reads."""
LEVELS = (0.5, 0.8, LEVEL, 0.98)
TAILS = (0.1, 0.9)
"""Levels of the realized days' quantiles, by step, below and above which the tail score counts."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Realism:
    """How well one method's scenarios describe the days; NaN where a figure says nothing of one scenario."""

    num_days: int
    """Days that the figures are over."""
    num_days_left_out: int
    """Days on which the clock skips or repeats a slot."""
    num_scenarios: int
    crps: float
    """Mean over days and entries, in the unit of the data."""
    crps_tails: float
    """CRPS that counts only values below and above the realized days' quantiles at `TAILS`."""
    energy_score: float
    """Mean over days, of whole paths."""
    variogram_score: float
    """Mean over days, order 0.5."""
    coverage: float
    """Share of entries inside the central `LEVEL`."""
    coverages: tuple[Coverage, ...]
    """Bands at `LEVELS`, each with its interval; none for one scenario."""
    pit_distance: float
    """Largest difference of the ranks' distribution function from the uniform one."""
    pit_p_value: float
    """Of that distance under uniform ranks, days drawn in blocks of a week."""
    rank_histogram: tuple[float, ...]
    """Shares of ranks in equal bins; none for one scenario."""
    increment_distance: float
    """Of ramps from step to step, in realized standard deviations."""
    autocorrelation_distance: float
    """Of deviations from the scenarios' mean, over all lags."""
    two_sample_auc: float
    """Of a classifier of real days against scenarios; 0.5 when it cannot tell."""
    diversity_ratio: float
    """Mean distance of two scenarios over that of a scenario to what came true; 1 when right."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)


def realism_report(
    scenarios: ScenarioSet, realized: NDArray[np.float64], *, seed: int = 0, block_days: int = 7
) -> Realism:
    """Every figure of ``scenarios`` against ``realized``.

    Parameters
    ----------
    scenarios : ScenarioSet
        One context a day, days in order, equal weights.
    realized : array
        (B, T, F) what came true by slot (``Windows.slots``); a day that holds NaN is left out and counted.
    seed : int
        Of ties, of the classifier's choice of scenarios and of resampling.
    block_days : int
        Consecutive days drawn together.

    Raises
    ------
    ShapeError
        Weighted scenarios, other shapes, or a scenario that is not finite.
    DataError
        No day is left.

    Notes
    -----
    Series in one unit are compared in it. Where units differ, each series is divided by its standard
    deviation over the realized days first, the same for every method on these days.
    """
    paths, real = _checked(scenarios, realized)
    known = np.isfinite(real).all(axis=(1, 2))
    if not known.any():
        raise DataError(f"none of {len(real)} days has every slot: there is nothing to compare with")
    paths, real = paths[known], real[known]
    if len(set(scenarios.units)) > 1:
        spread = real.std(axis=(0, 1))
        scale = np.where(spread > 0, spread, 1.0)
        paths, real = paths / scale, real / scale
    flat, flat_real = paths.reshape(*paths.shape[:2], -1), real.reshape(len(real), -1)
    low, high = np.quantile(flat_real, TAILS, axis=0)
    energy = energy_score(flat, flat_real)
    return Realism(
        num_days=len(real),
        num_days_left_out=int((~known).sum()),
        num_scenarios=scenarios.num_scenarios,
        crps=float(crps(flat, flat_real).mean()),
        crps_tails=float(tail_crps(flat, flat_real, low, high).mean()),
        energy_score=float(energy.mean()),
        variogram_score=float(variogram_score(paths, real).mean()),
        increment_distance=increment_distance(paths, real),
        autocorrelation_distance=autocorrelation_distance(paths, real),
        two_sample_auc=two_sample_auc(paths, real, np.random.default_rng(seed)),
        diversity_ratio=diversity(flat, flat_real, energy),
        **_calibration(flat, flat_real, seed, block_days),
    )


def _calibration(
    flat: NDArray[np.float64], real: NDArray[np.float64], seed: int, block_days: int
) -> dict[str, Any]:
    if flat.shape[1] == 1:
        nan = float("nan")
        return {
            "coverage": nan,
            "coverages": (),
            "pit_distance": nan,
            "pit_p_value": nan,
            "rank_histogram": (),
        }
    bands = tuple(
        coverage(flat, real, torch.Generator().manual_seed(seed), level=level, block_days=block_days)
        for level in LEVELS
    )
    ranks = pit(flat, real, np.random.default_rng(seed))
    uniform = uniformity(ranks, torch.Generator().manual_seed(seed), block_days=block_days)
    return {
        "coverage": bands[LEVELS.index(LEVEL)].share,
        "coverages": bands,
        "pit_distance": uniform.distance,
        "pit_p_value": uniform.p_value,
        "rank_histogram": tuple(rank_histogram(ranks).tolist()),
    }


def _checked(
    scenarios: ScenarioSet, realized: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if scenarios.probabilities is not None:
        raise ShapeError(
            "the scenarios carry probabilities: realism is that of drawn scenarios of equal weight; measure "
            "the set before it was reduced"
        )
    paths = scenarios.paths.detach().cpu().double().numpy()
    wanted = (paths.shape[0], *paths.shape[2:])
    if realized.shape != wanted:
        raise ShapeError(
            f"realized has shape {realized.shape}: must be {wanted} (days, slots, series) as the scenarios'"
        )
    if not np.isfinite(paths).all():
        day = int(np.flatnonzero(~np.isfinite(paths).all(axis=(1, 2, 3)))[0])
        raise ShapeError(f"{scenarios.source or 'scenarios'}: context {day} holds a value that is not finite")
    return paths, realized.astype(np.float64)
