"""Ridge regression in closed form, its strength and its honest residuals from held-out blocks of days.

On standardized features X (rows of mean 0) and targets Y:

    W(s) = (X'X + n s I)^-1 X'Y,    intercept not penalized                              (1)

Days next to each other resemble each other, so a held-out block is a run of consecutive days and the
``gap`` days on both sides of it are left out of the fit too. Residuals in the sample are too small,
which would make scenarios too narrow; everything downstream uses the out-of-fold ones.

Source: Hoerl and Kennard (1970), eq. 2.1, https://doi.org/10.1080/00401706.1970.10488634;
Racine (2000), hv-block cross-validation, https://doi.org/10.1016/S0304-4076(00)00030-0.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hedgecast.core.errors import DataError

STRENGTHS = tuple(10.0**exponent for exponent in (-5, -4.5, -4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5, 0, 1))
"""Candidates for the strength s, on standardized features."""


@dataclasses.dataclass(frozen=True, slots=True)
class Linear:
    """y = intercept + ((x - center) / spread) weight."""

    center: Tensor
    """(C,)."""
    spread: Tensor
    """(C,): 1 where a feature is constant."""
    weight: Tensor
    """(C, D)."""
    intercept: Tensor
    """(D,)."""

    def __call__(self, context: Float[Tensor, "B C"]) -> Float[Tensor, "B D"]:
        """Predictions for raw contexts."""
        return self.intercept + ((context - self.center) / self.spread) @ self.weight


@dataclasses.dataclass(frozen=True, slots=True)
class RidgeFit:
    """A ridge fitted on all rows, with predictions of rows by fits that never saw their block."""

    linear: Linear
    strength: float
    held_out: Tensor
    """(B, D): out-of-fold predictions."""
    errors: dict[float, float]
    """Strength to out-of-fold mean squared error, each target in units of its variance."""


def blocks_of_days(num_rows: int, num_blocks: int, gap: int) -> Iterator[tuple[slice, Bool[Tensor, " B"]]]:
    """Held-out runs of rows, each with the mask of the rows to fit on.

    Parameters
    ----------
    num_rows : int
        Rows in the order of time.
    num_blocks : int
        Runs, of equal length but for rounding.
    gap : int
        Rows on both sides of a run that are in neither part.

    Raises
    ------
    DataError
        Fewer than two rows in a run, or nothing left to fit on.
    """
    if num_blocks < 2 or num_rows < 2 * num_blocks or num_rows - (-(-num_rows // num_blocks)) - 2 * gap < 2:
        raise DataError(
            f"{num_rows} training days are too few for {num_blocks} held-out blocks with {gap} days between: "
            "use a longer training part or fewer blocks",
            num_rows=num_rows,
            num_blocks=num_blocks,
        )
    edges = [round(num_rows * index / num_blocks) for index in range(num_blocks + 1)]
    for start, stop in itertools.pairwise(edges):
        fitted = torch.ones(num_rows, dtype=torch.bool)
        fitted[max(start - gap, 0) : stop + gap] = False
        yield slice(start, stop), fitted


def fit_ridge(
    context: Float[Tensor, "B C"],
    targets: Float[Tensor, "B D"],
    *,
    num_blocks: int = 10,
    gap: int = 7,
    strengths: Sequence[float] = STRENGTHS,
    spread: Float[Tensor, " C"] | None = None,
) -> RidgeFit:
    """The ridge whose strength has the least out-of-fold squared error.

    Rows are days in the order of time. Targets are compared in units of their own variance, so that
    series of different units weigh the same. Ties go to the stronger ridge.

    Parameters
    ----------
    context, targets : Tensor
        Raw features and what they explain.
    num_blocks, gap : int
        As in `blocks_of_days`.
    strengths : sequence of float
        Candidates.
    spread : Tensor, optional
        Positive scale of each feature, from the same days; its standard deviation if left out.

    Raises
    ------
    DataError
        Too few rows for the blocks, or values that are not finite.
    """
    context, targets = context.double(), targets.double()
    for name, values in (("context", context), ("targets", targets)):
        if not bool(torch.isfinite(values).all()):
            row = int((~torch.isfinite(values)).any(dim=1).nonzero()[0])
            raise DataError(f"{name} of training row {row} is not finite: clean the data first", row=row)
    variance = targets.var(dim=0, unbiased=False)
    variance = torch.where(variance > 0, variance, torch.ones_like(variance))
    held_out = torch.stack([torch.full_like(targets, torch.nan) for _ in strengths])
    for rows, fitted in blocks_of_days(len(context), num_blocks, gap):
        for index, linear in enumerate(ridge_path(context[fitted], targets[fitted], strengths, spread)):
            held_out[index, rows] = linear(context[rows])
    scores = ((held_out - targets).square().mean(dim=1) / variance).mean(dim=1).tolist()
    best = min(range(len(strengths)), key=lambda index: (scores[index], -strengths[index]))
    return RidgeFit(
        linear=ridge_path(context, targets, strengths[best : best + 1], spread)[0],
        strength=strengths[best],
        held_out=held_out[best],
        errors=dict(zip(strengths, scores, strict=True)),
    )


def ridge_path(
    context: Float[Tensor, "B C"],
    targets: Float[Tensor, "B D"],
    strengths: Sequence[float],
    fixed_spread: Float[Tensor, " C"] | None = None,
) -> list[Linear]:
    """Equation (1) for each strength, by one singular value decomposition; all in float64."""
    center = context.mean(dim=0)
    spread = context.std(dim=0, unbiased=False)
    constant = spread <= 1e-12 * (1.0 + center.abs())
    spread = torch.where(constant, torch.ones_like(spread), spread)
    if fixed_spread is not None:
        spread = fixed_spread.to(context)
    scaled = torch.where(constant, torch.zeros_like(context), (context - center) / spread)
    intercept = targets.mean(dim=0)
    left, singular, right = torch.linalg.svd(scaled, full_matrices=False)
    rotated = left.T @ (targets - intercept)
    solutions = []
    for strength in strengths:
        # Directions without data (constant or collinear features) get no weight.
        shrunk = singular / (singular.square() + len(context) * strength)
        solutions.append(Linear(center, spread, right.T @ (shrunk.unsqueeze(1) * rotated), intercept))
    return solutions
