"""The nearest decision that keeps a program's first-stage constraints.

    min_x  sum_i ((x_i - wish_i) / scale_i)^2     s.t.  A x = a,  G x <= g

over the decision and the auxiliary first-stage columns of its canonical form, as a batch of quadratic
programs on the same solver as everything else, so it is differentiable in the wish and the given
parameters.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from hedgecast.core.errors import ProgramError
from hedgecast.decisions.structured import StructuredBackend
from hedgecast.programs.backend import Inputs
from hedgecast.programs.blocks import BlockProblem, SparseMatrix
from hedgecast.programs.program import TwoStageProgram


@dataclasses.dataclass(frozen=True, slots=True)
class Projected:
    """Feasible decisions."""

    flat: Tensor
    """(B, N), differentiable."""
    verdicts: Tensor
    """(B,) of `Verdict`."""
    primal_residual: Tensor
    """(B,): largest violation of the first-stage constraints, relative as in `Decision`."""


def project(
    program: TwoStageProgram, inputs: Inputs, wish: Tensor, scale: Tensor, *, tolerance: float = 1e-9
) -> Projected:
    """The feasible decisions nearest to ``wish``.

    Parameters
    ----------
    program : TwoStageProgram
        With a block form.
    inputs : Inputs
        Gives the given parameters.
    wish : Tensor
        (B, N).
    scale : Tensor
        (N,) size of each entry: what counts as one unit of distance.
    tolerance : float
        Relative residuals and gap of the projection.

    Raises
    ------
    ProgramError
        The program has no block form.
    """
    problem = _nearest(program, inputs, wish, scale)
    found = StructuredBackend().solve_blocks(problem, wish.new_ones(wish.shape[0], 1), tolerance=tolerance)
    return Projected(found.x[:, : program.num_decision], found.verdicts, found.primal_residual)


def _nearest(program: TwoStageProgram, inputs: Inputs, wish: Tensor, scale: Tensor) -> BlockProblem:
    if program.template is None:
        raise ProgramError(f"program {program.name!r} has no block form: {program.template_reason}")
    full = program.template.instantiate(inputs.uncertain[:, :1], inputs.given)
    size, width = full.num_first, program.num_decision
    curvature = 2.0 / scale.square()
    index = torch.arange(width, device=wish.device)
    linear = torch.nn.functional.pad(-curvature * wish, (0, size - width))

    return BlockProblem(
        num_contexts=wish.shape[0],
        num_scenarios=1,
        P=SparseMatrix(index, index, (size, size), curvature.expand(1, 1, -1)),
        q=linear,
        d=wish.new_zeros(1),
        A=full.A,
        a=full.a,
        G=full.G,
        g=full.g,
        Q=SparseMatrix.empty(0, 0, wish),
        R=SparseMatrix.empty(0, size, wish),
        O=SparseMatrix.empty(size, size, wish),
        o=wish.new_zeros(1, 1, size),
        c=wish.new_zeros(1, 1, 0),
        e=wish.new_zeros(1, 1),
        T=SparseMatrix.empty(0, size, wish),
        W=SparseMatrix.empty(0, 0, wish),
        h=wish.new_zeros(1, 1, 0),
        U=SparseMatrix.empty(0, size, wish),
        V=SparseMatrix.empty(0, 0, wish),
        k=wish.new_zeros(1, 1, 0),
    )
