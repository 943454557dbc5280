"""Whether a classifier can tell what came true from scenarios."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

# Scenarios of a day that are compared with the one day that came true.
PER_DAY = 4
# Below these a fold has too few days, or the reference too few scenarios, to say anything.
FEWEST_DAYS, FEWEST_SCENARIOS = 20, 16
NUM_FOLDS = 5
# Standardized deviations beyond it look alike: a collapsed set has them without end.
_LARGEST = 8.0
# Strength of the ridge penalty, chosen on draws of equal laws and not on any model.
_PENALTY = 0.01


def two_sample_auc(
    paths: NDArray[np.float64], realized: NDArray[np.float64], draws: np.random.Generator
) -> float:
    """Area under the ROC curve of a classifier of real days against scenarios, on days it has not seen.

    Half of a day's scenarios give its mean and spread; the real day and `PER_DAY` scenarios of the other
    half are measured by them, so that real and drawn are exchangeable where the law is right. A logistic
    regression reads the standardized deviations, their squares and the products of neighboring steps; it is
    fitted on four fifths of the days, consecutive, and asked on the rest.

    Parameters
    ----------
    paths : array
        (D, S, T, F), days in order.
    realized : array
        (D, T, F).
    draws : numpy.random.Generator
        Chooses which scenarios play which part.

    Returns
    -------
    float
        0.5 where they cannot be told apart (less by chance), 1 where they always can; the mean over folds.
        NaN below `FEWEST_DAYS` days or `FEWEST_SCENARIOS` scenarios.

    Notes
    -----
    Source: Lopez-Paz and Oquab (2017), https://arxiv.org/abs/1610.06545.
    """
    num_days, num_scenarios = paths.shape[:2]
    if num_days < FEWEST_DAYS or num_scenarios < FEWEST_SCENARIOS:
        return float("nan")
    order = draws.permuted(np.tile(np.arange(num_scenarios), (num_days, 1)), axis=1)
    half = num_scenarios // 2
    days = np.arange(num_days)[:, None]
    reference, drawn = paths[days, order[:, :half]], paths[days, order[:, half : half + PER_DAY]]
    center, spread = reference.mean(axis=1, keepdims=True), reference.std(axis=1, ddof=1, keepdims=True)
    candidates = np.concatenate([realized[:, None], drawn], axis=1) - center
    # A spread of zero says nothing can deviate: whatever does lies beyond the largest.
    scaled = np.divide(
        candidates,
        spread,
        out=np.sign(candidates) * _LARGEST,
        where=np.broadcast_to(spread > 0, candidates.shape),
    )
    inputs = _inputs(scaled.clip(-_LARGEST, _LARGEST))
    labels = np.zeros(inputs.shape[:2], dtype=np.int64)
    labels[:, 0] = 1
    return _held_out_auc(inputs, labels)


def _inputs(scaled: NDArray[np.float64]) -> NDArray[np.float64]:
    """(D, N, inputs) what the classifier reads of deviations (D, N, T, F)."""
    neighbors = scaled[:, :, 1:] * scaled[:, :, :-1]
    parts = (scaled, scaled**2, neighbors)
    return np.concatenate([part.reshape(*part.shape[:2], -1) for part in parts], axis=2)


def _held_out_auc(inputs: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    num_days = len(labels)
    scores = []
    for held_out in np.array_split(np.arange(num_days), NUM_FOLDS):
        kept = np.setdiff1d(np.arange(num_days), held_out)
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=_PENALTY, class_weight="balanced", max_iter=500)
        )
        model.fit(inputs[kept].reshape(-1, inputs.shape[2]), labels[kept].ravel())
        found = model.decision_function(inputs[held_out].reshape(-1, inputs.shape[2]))
        scores.append(float(roc_auc_score(labels[held_out].ravel(), found)))
    return float(np.mean(scores))
