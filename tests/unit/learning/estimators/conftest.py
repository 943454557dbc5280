from __future__ import annotations

from collections.abc import Callable

import cvxpy as cp
import pytest
import torch
from torch import Tensor

from hedgecast.learning.draws import Draws
from hedgecast.learning.estimators.seam import Scene
from hedgecast.learning.objective import TaskLoss
from hedgecast.programs.program import TwoStageProgram

MakeScene = Callable[..., Scene]


@pytest.fixture(scope="session")
def quadratic() -> TaskLoss:
    """Cost 1/2 |z - y|^2: the best plan is the mean of the scenarios."""
    plan, load = cp.Variable(2, name="plan"), cp.Parameter(2, name="load")
    program = TwoStageProgram(
        name="quadratic", decision=plan, uncertain=load, recourse_cost=0.5 * cp.sum_squares(plan - load)
    )
    return TaskLoss(program, smoothing=0.0)


@pytest.fixture(scope="session")
def expectile() -> TaskLoss:
    """Cost 5 (y - z)^2 when short and 2 (z - y)^2 when over, of one entry."""
    plan, load = cp.Variable(1, name="plan"), cp.Parameter(1, name="load")
    program = TwoStageProgram(
        name="expectile",
        decision=plan,
        uncertain=load,
        recourse_cost=5.0 * cp.sum(cp.square(cp.pos(load - plan)))
        + 2.0 * cp.sum(cp.square(cp.pos(plan - load))),
    )
    return TaskLoss(program, smoothing=0.0)


@pytest.fixture
def make_scene() -> MakeScene:
    def make(came: Tensor, seed: int, weight: Tensor | None = None) -> Scene:
        """Days whose outcome, whitened and in units, is ``came`` (B, D)."""
        days = len(came)
        generator = torch.Generator().manual_seed(seed)
        return Scene(
            context=torch.arange(days, dtype=torch.float64).unsqueeze(1),
            whitened=came,
            realized=came.unsqueeze(2),
            weight=weight,
            draws=Draws(generator, days, came),
        )

    return make
