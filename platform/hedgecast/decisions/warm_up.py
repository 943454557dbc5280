"""Compile the structured solver's loops into their cache: ``python -m hedgecast.decisions.warm_up``.

The first solve of a machine compiles for about a minute a loop. Run this where that minute does not
matter: at installation, and in the build of an image. The loops do not depend on the program, so a
small one serves for all.
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing

import cvxpy as cp
import torch

from hedgecast.decisions.screening import LEAST_ROWS
from hedgecast.programs.program import TwoStageProgram


def warm_up() -> None:
    """Compile all loops, the two kinds side by side in processes of their own."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(max_workers=2, mp_context=context) as pool:
        for job in [pool.submit(_contexts), pool.submit(_deterministic)]:
            job.result()


def _program() -> TwoStageProgram:
    plan = cp.Variable(3, name="plan")
    demand = cp.Parameter(3, name="demand")
    shortage = cp.sum(cp.pos(demand - plan))
    return TwoStageProgram(
        name="warm_up",
        decision=plan,
        uncertain=demand,
        constraints=[plan >= 0, cp.abs(cp.diff(plan)) <= 1.0],
        recourse_cost=5 * shortage + cp.sum_squares(plan - demand),
    )


def _scenarios(count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(2, count, 3, generator=generator, dtype=torch.float64)
    return draws.requires_grad_()


def _contexts() -> None:
    """Decisions under several scenarios, and their gradients with and without smoothing; under very many."""
    program = _program()
    for smoothing in (0.0, 1e-3):
        program.layer(smoothing=smoothing)(_scenarios(4)).sum().backward()
    assert program.template is not None
    many = LEAST_ROWS // program.template.scenario.V.shape[0] + 1
    program.solve(_scenarios(many).detach()[:1])


def _deterministic() -> None:
    """Wait-and-see problems: one scenario each."""
    program = _program()
    program.wait_and_see(_scenarios(4).detach())
    program.layer()(_scenarios(1)).sum().backward()


if __name__ == "__main__":
    warm_up()
