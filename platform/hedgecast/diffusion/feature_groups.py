"""Which groups of features still help on the latest days.

A feature can explain the past and mislead about the future: a sensor that broke, a tariff that ended.
Held-out blocks spread over all of training do not see it, because most of them lie before the break. So
groups are judged forward: a ridge on the earlier rows predicts the last ones, and the group without which
that error is smallest is left out, one after another, until none is better left out.

Source: Guyon and Elisseeff (2003), section 4.2 (backward elimination in wrappers),
https://www.jmlr.org/papers/v3/guyon03a.html.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hedgecast.core.errors import DataError, ShapeError
from hedgecast.diffusion.ridge import STRENGTHS, ridge_path


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GroupChoice:
    """What backward elimination kept."""

    kept: tuple[str, ...]
    """Names of the groups that stay, in the order of their first feature."""
    dropped: tuple[str, ...]
    """Names of the others, in the order in which they went."""
    errors: tuple[float, ...]
    """Mean squared error on the held-out rows, targets in units of their variance: with all groups, then
    after each drop."""

    def columns(self, groups: Sequence[str]) -> list[int]:
        """Columns whose group stays."""
        return [index for index, group in enumerate(groups) if group in self.kept]


def choose_groups(
    context: Float[Tensor, "B C"],
    targets: Float[Tensor, "B D"],
    groups: Sequence[str],
    *,
    held_out_rows: int,
    strengths: Sequence[float] = STRENGTHS,
) -> GroupChoice:
    """The groups that a ridge on the earlier rows needs to predict the last ones.

    Every candidate has its own best strength on the held-out rows. Ties keep the group; the last group
    always stays.

    Parameters
    ----------
    context, targets : Tensor
        Training rows in the order of time, finite.
    groups : sequence of str
        Group of each feature.
    held_out_rows : int
        Rows at the end that judge.
    strengths : sequence of float
        Candidates for the ridge.

    Raises
    ------
    ShapeError
        Not one group for each feature.
    DataError
        Fewer than two rows to fit on or none to judge by.
    """
    if len(groups) != context.shape[1]:
        raise ShapeError(f"{len(groups)} groups for {context.shape[1]} features: give one each")
    num_fitted = len(context) - held_out_rows
    if held_out_rows < 1 or num_fitted < 2:
        raise DataError(
            f"{held_out_rows} held-out rows of {len(context)}: leave at least 2 to fit on and 1 to judge by",
            held_out_rows=held_out_rows,
        )
    context, targets = context.double(), targets.double()
    kept, dropped = list(dict.fromkeys(groups)), list[str]()

    def error(names: Sequence[str]) -> float:
        columns = [index for index, group in enumerate(groups) if group in names]
        return _forward_error(context[:, columns], targets, num_fitted, strengths)

    errors = [error(kept)]
    while len(kept) > 1:
        without = {name: error([other for other in kept if other != name]) for name in kept}
        worst = min(kept, key=without.__getitem__)
        if without[worst] >= errors[-1]:
            break
        kept.remove(worst)
        dropped.append(worst)
        errors.append(without[worst])
    return GroupChoice(kept=tuple(kept), dropped=tuple(dropped), errors=tuple(errors))


def _forward_error(context: Tensor, targets: Tensor, num_fitted: int, strengths: Sequence[float]) -> float:
    variance = targets[:num_fitted].var(dim=0, unbiased=False)
    variance = torch.where(variance > 0, variance, torch.ones_like(variance))
    fits = ridge_path(context[:num_fitted], targets[:num_fitted], strengths)
    later, came = context[num_fitted:], targets[num_fitted:]
    return min(float(((fit(later) - came).square().mean(dim=0) / variance).mean()) for fit in fits)
