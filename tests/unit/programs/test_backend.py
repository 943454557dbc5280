"""Backends by name."""

from __future__ import annotations

import cvxpy as cp
import numpy as np
import pytest

from hedgecast.core.errors import ProgramError
from hedgecast.programs.backend import Backend, available_backends, backend
from hedgecast.programs.catalog.generation_scheduling import build
from hedgecast.programs.program import TwoStageProgram


def conic() -> TwoStageProgram:
    z, y = cp.Variable(2, name="z"), cp.Parameter(2, name="y")
    return TwoStageProgram(
        name="distance", decision=z, uncertain=y, constraints=[cp.sum(z) == 1], recourse_cost=cp.norm2(z - y)
    )


def test_registered_backends_keep_the_protocol() -> None:
    assert {"reference", "structured", "cvxpylayers"} <= set(available_backends())
    for name in ("reference", "structured", "cvxpylayers"):
        found = backend(name)
        assert isinstance(found, Backend)
        assert found.name == name
        assert backend(name) is found


def test_the_default_follows_the_programs_cones() -> None:
    assert build(3).backend().name == "structured"
    assert conic().backend().name == "reference"
    assert conic().template is None
    with pytest.raises(ProgramError, match="recourse has second-order cones"):
        conic().solve(np.zeros((1, 1, 2)), backend="structured")


def test_a_layer_finds_a_backend_with_gradients() -> None:
    assert build(3).layer().solver.name == "structured"
    with pytest.raises(ProgramError, match="no gradients"):
        build(3).layer(backend="reference")
