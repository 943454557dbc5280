"""Interior points of a batch in the layout of the compiled loops, read as tensors on demand."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from hedgecast.decisions.iterates import Iterate, Point
from hedgecast.decisions.kernels_context import Results
from hedgecast.decisions.working_arrays import FloatArray


class CompiledPoint:
    """A batch of solutions in the layout of the compiled loops, read as an `Iterate` on demand."""

    eta = u = t = mu = nu = None

    def __init__(self, num_scenarios: int, arrays: Results) -> None:
        self.num_scenarios, self.arrays = num_scenarios, arrays

    @property
    def x(self) -> Tensor:
        """(B, n)."""
        return torch.from_numpy(self.arrays.x)

    @property
    def equality(self) -> Tensor:
        """(B, rows of A)."""
        return torch.from_numpy(self.arrays.equality)

    @property
    def multiplier(self) -> Tensor:
        """(B, rows of G)."""
        return torch.from_numpy(self.arrays.multiplier)

    @property
    def slack(self) -> Tensor:
        """(B, rows of G)."""
        return torch.from_numpy(self.arrays.slack)

    @property
    def w(self) -> Tensor:
        """(m, B, S)."""
        return self._scenarios(self.arrays.w)

    @property
    def y(self) -> Tensor:
        """(rows of W, B, S)."""
        return self._scenarios(self.arrays.y)

    @property
    def z(self) -> Tensor:
        """(rows of V, B, S)."""
        return self._scenarios(self.arrays.z)

    @property
    def s(self) -> Tensor:
        """(rows of V, B, S)."""
        return self._scenarios(self.arrays.s)

    def _scenarios(self, tiles: FloatArray) -> Tensor:
        B, count, entries, lanes = tiles.shape
        flat = torch.from_numpy(tiles).permute(2, 0, 1, 3).reshape(entries, B, count * lanes)
        return flat[:, :, : self.num_scenarios]

    def iterate(self) -> Iterate:
        """All variables as tensors."""
        return Iterate(
            x=self.x, w=self.w, equality=self.equality, multiplier=self.multiplier, slack=self.slack,
            y=self.y, z=self.z, s=self.s,
        )  # fmt: skip

    def select(self, members: Tensor) -> CompiledPoint:
        """The solutions of some members."""
        chosen = members.numpy()
        return CompiledPoint(self.num_scenarios, Results(*(array[chosen] for array in self.arrays)))

    def put(self, members: Tensor, part: Point) -> None:
        """Write other solutions over those of some members."""
        chosen = members.numpy()
        for name in ("x", "equality", "multiplier", "slack"):
            getattr(self.arrays, name)[chosen] = getattr(part, name).numpy()
        for name in ("w", "y", "z", "s"):
            target = getattr(self.arrays, name)
            _, count, entries, lanes = target.shape
            values = getattr(part, name).permute(1, 2, 0).numpy()
            padded = np.concatenate(
                [values, np.repeat(values[:, -1:], count * lanes - values.shape[1], axis=1)], axis=1
            )
            target[chosen] = padded.reshape(len(chosen), count, lanes, entries).transpose(0, 1, 3, 2)


@dataclasses.dataclass(frozen=True, slots=True)
class FirstPoint:
    """First stages of interior points, from which the scenarios' parts follow."""

    arrays: Results
    barrier: FloatArray
    """(B,) mean product of slacks and multipliers, in scaled costs."""
