"""Names and shapes to flat entries and back."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest
import torch

from hedgecast.core.errors import ProgramError, ShapeError
from hedgecast.programs.entries import Layout


def layout() -> Layout:
    leaves = [
        cp.Parameter((2, 3), name="a"),
        cp.Parameter(name="b", nonneg=True),
        cp.Parameter((2, 2), name="c", PSD=True),
    ]
    return Layout(leaves, "numbers")


def test_flatten_and_unflatten_are_inverse() -> None:
    flat = torch.arange(22.0).reshape(2, 11)
    named = layout().unflatten(flat)
    assert named["a"].shape == (2, 2, 3)
    assert named["b"].shape == (2,)
    assert named["a"][1, 0].tolist() == [11, 12, 13]
    assert torch.equal(layout().flatten(named, ("contexts",)), flat)


def test_series_of_steps_are_taken_in_c_order() -> None:
    single = Layout([cp.Parameter(6, name="y")], "scenarios")
    paths = torch.arange(12.0).reshape(1, 2, 3, 2)
    assert torch.equal(single.flatten(paths, ("contexts", "scenarios")), paths.flatten(2))


def test_integers_and_lists_become_float64() -> None:
    single = Layout([cp.Parameter(2, name="y")], "scenarios")
    assert single.flatten([[1, 2]], ("contexts",)).dtype == torch.float64
    assert single.flatten(np.array([[1, 2]]), ("contexts",)).dtype == torch.float64
    assert single.flatten(torch.ones(1, 2), ("contexts",)).dtype == torch.float32


def test_declared_signs_and_definiteness_are_checked() -> None:
    good = torch.tensor([0.0] * 6 + [1.0] + [2.0, 1.0, 1.0, 2.0], dtype=torch.float64)
    bad = good.repeat(4, 1)
    bad[0, 6] = -1.0
    bad[1, 8:10] = 3.0
    bad[2, 0] = torch.nan
    assert layout().lawful(bad).tolist() == [False, False, False, True]


def test_mistakes_are_named() -> None:
    named = layout().unflatten(torch.zeros(2, 11))
    with pytest.raises(ProgramError, match="numbers lacks 'b'"):
        layout().flatten({key: value for key, value in named.items() if key != "b"}, ("contexts",))
    with pytest.raises(ShapeError, match="leading axes"):
        layout().flatten({**named, "b": torch.zeros(3)}, ("contexts",))
    with pytest.raises(
        ShapeError, match=r"must be \(contexts, 11 entries of a \(2, 3\), b \(\), c \(2, 2\)\)"
    ):
        layout().flatten(torch.zeros(2, 10), ("contexts",))
