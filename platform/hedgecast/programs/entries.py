"""Named arrays to flat entries and back: declaration and C order, on any leading axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hedgecast.core.errors import ProgramError, ShapeError

Entries = Tensor | np.ndarray | Mapping[str, Any]

# Entries beyond their declared sign by less than this are rounding.
_ROUNDING = 1e-9


class Layout:
    """Where the entries of some CVXPY leaves stand in one flat vector.

    Parameters
    ----------
    leaves : sequence of cvxpy leaves
    what : str
        How messages call these arrays.
    """

    def __init__(self, leaves: Sequence[Any], what: str) -> None:
        self.what = what
        self.names = tuple(leaf.name() for leaf in leaves)
        self.shapes = tuple(tuple(int(n) for n in leaf.shape) for leaf in leaves)
        self.sizes = tuple(int(leaf.size) for leaf in leaves)
        self.size = sum(self.sizes)
        self._signs = np.concatenate([_sign(leaf) for leaf in leaves]) if leaves else np.zeros(0)
        self._curved = [
            (position, 1.0 if leaf.attributes["PSD"] else -1.0)
            for position, leaf in enumerate(leaves)
            if leaf.attributes["PSD"] or leaf.attributes["NSD"]
        ]

    def describe(self) -> str:
        """Names with their shapes."""
        return ", ".join(f"{name} {shape}" for name, shape in zip(self.names, self.shapes, strict=True))

    def check_names(self, found: Mapping[str, Any], *, complete: bool) -> None:
        """Check that ``found`` has known names only, and all of them where it must be ``complete``.

        Raises
        ------
        ProgramError
            Names the odd one and the known ones.
        """
        for name in found:
            if name not in self.names:
                known = ", ".join(self.names) or "none"
                raise ProgramError(f"{self.what} has {name!r}: known names are {known}", name=name)
        for name in self.names:
            if complete and name not in found:
                raise ProgramError(f"{self.what} lacks {name!r}: give {self.describe()}", name=name)

    def flatten(self, values: Entries, axes: tuple[str, ...]) -> Tensor:
        """(*axes, size) entries of flat or shaped values, or of a mapping by name.

        Parameters
        ----------
        values : Tensor, ndarray or mapping
            An array has the leading ``axes``, then as many entries as all leaves together.
        axes : tuple of str
            Names of the leading axes, for messages.

        Raises
        ------
        ShapeError, ProgramError
            A wrong shape or name.
        """
        lead = len(axes)
        if isinstance(values, Mapping):
            self.check_names(values, complete=True)
            parts = []
            for name, shape in zip(self.names, self.shapes, strict=True):
                part = as_float(values[name])
                if tuple(part.shape[lead:]) != shape or part.ndim < lead:
                    expected = ", ".join([*axes, *map(str, shape)])
                    raise ShapeError(
                        f"{self.what}[{name!r}] has shape {tuple(part.shape)}: must be ({expected})"
                    )
                parts.append(part.reshape(*part.shape[:lead], -1))
            if len({tuple(part.shape[:lead]) for part in parts}) > 1:
                shapes = ", ".join(str(tuple(part.shape[:lead])) for part in parts)
                raise ShapeError(f"{self.what}: the leading axes ({', '.join(axes)}) differ: {shapes}")
            return torch.cat(parts, dim=lead)
        flat = as_float(values)
        shaped = len(self.shapes) == 1 and tuple(flat.shape[lead:]) == self.shapes[0]
        if flat.ndim < lead or not (shaped or tuple(flat.shape[lead:]) == (self.size,)):
            # Series of steps may come as (..., steps, series): as many entries, in C order.
            if flat.ndim > lead + 1 and flat.shape[lead:].numel() == self.size:
                return flat.flatten(lead)
            raise ShapeError(
                f"{self.what} has shape {tuple(flat.shape)}: must be ({', '.join(axes)}, {self.size} "
                f"entries of {self.describe()}); for a single one add leading axes of one"
            )
        return flat.reshape(*flat.shape[:lead], self.size)

    def unflatten(self, flat: Tensor) -> dict[str, Tensor]:
        """Name to (..., *shape), from (..., size)."""
        parts = torch.split(flat, list(self.sizes), dim=-1)
        return {
            name: part.reshape(*part.shape[:-1], *shape)
            for name, shape, part in zip(self.names, self.shapes, parts, strict=True)
        }

    def lawful(self, flat: Tensor) -> Tensor:
        """(...) whether entries (..., size) are finite and keep what was declared of them in CVXPY.

        Its convexity rules relied on declared signs and definiteness: numbers that break them would make
        another problem.
        """
        good = torch.isfinite(flat).all(dim=-1)
        if self._signs.any():
            signs = torch.as_tensor(self._signs).to(flat)
            good &= (flat * signs >= -_ROUNDING).all(dim=-1)
        if self._curved:
            parts = torch.split(torch.nan_to_num(flat.detach()), list(self.sizes), dim=-1)
            for position, sign in self._curved:
                matrix = parts[position].reshape(*flat.shape[:-1], *self.shapes[position])
                eigenvalues = torch.linalg.eigvalsh(sign * matrix)
                scale = 1.0 + eigenvalues.abs().amax(dim=-1)
                good &= eigenvalues.amin(dim=-1) >= -1e-8 * scale
        return good


def as_float(values: Any) -> Tensor:
    """A tensor of floats: tensors and arrays of floats as they are, anything else in float64."""
    tensor = values if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
    return tensor if tensor.is_floating_point() else tensor.double()


def _sign(leaf: Any) -> np.ndarray:
    attributes = leaf.attributes
    up, down = attributes["nonneg"] or attributes["pos"], attributes["nonpos"] or attributes["neg"]
    return np.full(leaf.size, 1.0 if up else -1.0 if down else 0.0)
