"""Derivatives of a solution by the implicit function theorem.

At a central-path point all optimality conditions are the gradient, in the primal variables and the
multipliers v, of one function, the Lagrangian with a logarithmic barrier on the multipliers,

    L(v; theta) = costs + y'(T x + W w - h) + z'(U x + V w - k) + barrier * sum log z + ...

so their matrix M is the symmetric Hessian of L. For an incoming gradient g of the loss in v, with
a = -M^-1 g (one solve with the factors of the forward pass),

    d loss / d theta = d/d theta [ a' grad_v L(v; theta) ]  +  the loss's own derivative in theta.

Each term below is that bracket's derivative in one tensor of the problem. Everything is in the solver's
scaled costs; the scale cancels, because g is not scaled and M^-1 undoes it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from hedgecast.decisions.block_factor import BlockIndex
from hedgecast.decisions.block_numbers import Entries, Numbers
from hedgecast.decisions.compiled import CompiledSolver
from hedgecast.decisions.compiled_point import CompiledPoint
from hedgecast.decisions.interior_point import Newton
from hedgecast.decisions.iterates import Iterate, Point
from hedgecast.programs.blocks import BlockProblem
from hedgecast.programs.risk import Risk

# Order of the differentiable tensors in `ImplicitSolve.apply`.
MATRIX_NAMES = ("P", "A", "G", "Q", "R", "O", "T", "W", "U", "V")
VECTOR_NAMES = ("q", "a", "g", "o", "c", "e", "h", "k")
INPUT_NAMES = (*MATRIX_NAMES, *VECTOR_NAMES, "probability", "benchmark")
_FIRST_STAGE = ("P", "A", "G", "q", "a", "g")


@dataclasses.dataclass(frozen=True, slots=True)
class Solved:
    """What the backward pass needs: the good members' numbers and their point."""

    index: BlockIndex
    numbers: Numbers
    risk: Risk
    members: Tensor
    """Indices of the good members in the whole batch."""
    point: Point
    """Where gradients are taken, good members only."""
    x: Tensor
    """(B, n) of the whole batch."""
    w: Tensor
    """(B, S, m) of the whole batch; empty where w is not asked for with gradients."""
    costs: Tensor
    """(B, S) of the whole batch."""
    compiled: CompiledSolver | None
    """The compiled loops of the good members, where they apply."""


def differentiable(
    solved: Solved, problem: BlockProblem, probability: Tensor, benchmark: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Solutions x (B, n), w (B, S, m) and scenario costs (B, S), with gradients where asked for."""
    inputs = [getattr(problem, name).values for name in MATRIX_NAMES]
    inputs += [getattr(problem, name) for name in VECTOR_NAMES]
    apply: Callable[..., tuple[Tensor, Tensor, Tensor]] = ImplicitSolve.apply
    return apply(solved, *inputs, probability, benchmark)


class ImplicitSolve(torch.autograd.Function):
    """The solution map; its forward pass only hands over what was solved."""

    @staticmethod
    def forward(ctx, solved: Solved, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[no-untyped-def]
        """Copies of what was solved."""
        ctx.solved = solved
        ctx.shapes = [tensor.shape for tensor in inputs]
        ctx.set_materialize_grads(False)
        return solved.x.clone(), solved.w.clone(), solved.costs.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_x, grad_w, grad_costs):  # type: ignore[no-untyped-def]
        """Gradients of every input that asks for one."""
        solved: Solved = ctx.solved
        wanted = {name for name, needed in zip(INPUT_NAMES, ctx.needs_input_grad[1:], strict=True) if needed}
        terms = {} if not solved.members.numel() else _gradients(solved, grad_x, grad_w, grad_costs, wanted)
        results: list[Tensor | None] = []
        for name, shape in zip(INPUT_NAMES, ctx.shapes, strict=True):
            if name not in wanted:
                results.append(None)
            elif name not in terms:
                # Nothing depends on it: no gradient, which autograd takes for zero without carrying zeros on.
                results.append(None)
            else:
                results.append(_fit(terms[name], shape, solved.members, solved.x.shape[0]))
        return (None, *results)


def _fit(value: Tensor, shape: torch.Size, members: Tensor, num_contexts: int) -> Tensor:
    """A gradient of the good members (members first) summed or spread to its input's shape."""
    for axis in range(1, value.ndim):
        if shape[axis] == 1 and value.shape[axis] != 1:
            value = value.sum(dim=axis, keepdim=True)
    if (shape[0] == 1 and num_contexts > 1) or num_contexts == 1:
        return value.sum(dim=0, keepdim=True).expand(shape)
    if value.shape[0] == num_contexts:
        return value.expand(shape)
    full = value.new_zeros(shape)
    return full.index_copy_(0, members, value.expand(value.shape[0], *shape[1:]))


@dataclasses.dataclass(frozen=True, slots=True)
class _Adjoint:
    """a of the module's formula; scenario multipliers in the scenario's own units."""

    x: Tensor
    w: Tensor
    equality: Tensor
    multiplier: Tensor
    y: Tensor
    z: Tensor
    mu: Tensor | None


def _solve_adjoint(newton: Newton, point: Iterate, in_x: Tensor, in_w: Tensor) -> _Adjoint:
    """The adjoint for gradients (B, n) and (m, B, S), refined once against the unregularized matrix."""
    data = newton.numbers
    m, n = data.Q.shape[0], data.num_first
    B = in_x.shape[0]
    factors = newton.factorize(point)
    x = -in_x if newton.neutral else torch.cat([-in_x, in_x.new_zeros(B, 1)], dim=1)
    w = -in_w / data.measure
    nodes = torch.cat([w, w.new_zeros(data.W.shape[0], *w.shape[1:])])
    equality = in_x.new_zeros(B, data.A.shape[1])
    solution = newton.solve(factors, x, equality, nodes, None)
    for _ in range(2):
        product = newton.multiply(point, *solution)
        correction = newton.solve(
            factors,
            x - product[0],
            equality - product[1],
            nodes - product[2],
            None if product[3] is None else -product[3],
        )
        solution = (
            solution[0] + correction[0],
            solution[1] + correction[1],
            solution[2] + correction[2],
            None if solution[3] is None or correction[3] is None else solution[3] + correction[3],
        )
    dx, dw = solution[0][:, :n], solution[2][:m]
    inner = data.U.apply(dx.T[:, :, None]) + data.V.apply(dw)
    return _Adjoint(
        x=dx,
        w=dw,
        equality=solution[1],
        multiplier=point.multiplier / point.slack * (data.G @ dx[:, :, None])[:, :, 0],
        y=solution[2][m:],
        z=point.z / point.s * inner,
        mu=solution[3],
    )


def _gradients(
    solved: Solved, grad_x: Tensor | None, grad_w: Tensor | None, grad_costs: Tensor | None, wanted: set[str]
) -> dict[str, Tensor]:
    """Gradients of the good members, members first, not yet summed over shared axes."""
    newton = Newton(solved.index, solved.numbers, solved.risk)
    data, point = solved.numbers, solved.point
    gx = point.x.new_zeros(point.x.shape) if grad_x is None else grad_x[solved.members]
    gw = None if grad_w is None or not grad_w.numel() else grad_w[solved.members]
    gc = None if grad_costs is None else grad_costs[solved.members]
    if solved.compiled is not None:
        assert isinstance(point, CompiledPoint)
        if gc is not None:
            gx = gx + _weighted_slopes(data, point.x, gc)
        dx, dw, equality, multiplier, y, z = solved.compiled.adjoint(point, gx, gw, gc, wanted)
        adjoint = _Adjoint(dx, dw, equality, multiplier, y, z, None)
    else:
        iterate = point.iterate()
        in_w = torch.zeros_like(iterate.w) if gw is None else gw.permute(2, 0, 1)
        if gc is not None:
            cost_w, cost_x = data.cost_gradient(iterate.x.T[:, :, None], iterate.w)
            gx, in_w = gx + (gc * cost_x).sum(dim=2).T, in_w + gc * cost_w
        adjoint = _solve_adjoint(newton, iterate, gx, in_w)
    terms = _first_stage_gradients(newton, point, adjoint, wanted)
    terms |= _cost_gradients(newton, point, adjoint, gc, wanted)
    terms |= _row_gradients(newton, point, adjoint, wanted)
    if "probability" in wanted:
        terms["probability"] = _probability_gradient(newton, point.iterate(), adjoint)
    if "benchmark" in wanted and adjoint.mu is not None:
        terms["benchmark"] = -newton.scale * data.measure * newton.live * adjoint.mu
    return terms


def _weighted_slopes(data: Numbers, x: Tensor, weights: Tensor) -> Tensor:
    """(B, n): sum over scenarios of weight times (O x + o)."""
    linear = data.o.permute(1, 2, 0)
    if linear.shape[1] == 1:
        total = weights.sum(dim=1, keepdim=True) * linear[:, 0]
    else:
        total = (weights[:, None] @ linear)[:, 0]
    if data.O.values.numel():
        slope = data.O.apply(x.T[:, :, None])
        shared = slope.shape[2] == 1
        total = total + (slope[:, :, 0] * weights.sum(dim=1) if shared else (slope * weights).sum(dim=2)).T
    return total


def _first_stage_gradients(
    newton: Newton, point: Point, adjoint: _Adjoint, wanted: set[str]
) -> dict[str, Tensor]:
    # The dense copies lose their pattern: `structured` keeps it in the index's first-stage patterns.
    patterns = newton.index.first_stage
    scale = newton.numbers.cost_scale[:, None]
    x, ax = point.x, adjoint.x
    terms = {}
    if "q" in wanted:
        terms["q"] = scale * ax
    if "a" in wanted:
        terms["a"] = -adjoint.equality
    if "g" in wanted:
        terms["g"] = -adjoint.multiplier
    if "P" in wanted:
        rows, cols = patterns["P"]
        terms["P"] = (0.5 * scale * (ax[:, rows] * x[:, cols] + x[:, rows] * ax[:, cols]))[:, None]
    for name, multiplier, change in (
        ("A", point.equality, adjoint.equality),
        ("G", point.multiplier, adjoint.multiplier),
    ):
        if name in wanted:
            rows, cols = patterns[name]
            terms[name] = (multiplier[:, rows] * ax[:, cols] + change[:, rows] * x[:, cols])[:, None]
    return terms


def _cost_gradients(
    newton: Newton, point: Point, adjoint: _Adjoint, grad_costs: Tensor | None, wanted: set[str]
) -> dict[str, Tensor]:
    """Q, R, O, o, c and e: weight * a'grad c + (change of weight + gradient of the cost) * c."""
    data = newton.numbers
    x, ax = point.x.T[:, :, None], adjoint.x.T[:, :, None]
    weight = data.measure * (newton.base if point.mu is None else newton.base + newton.scale * point.mu)
    own = grad_costs
    if adjoint.mu is not None:
        by_price = newton.scale * data.measure * newton.live * adjoint.mu
        own = by_price if own is None else own + by_price
    terms = {}
    if "e" in wanted and own is not None:
        terms["e"] = own
    if "o" in wanted:
        spread = weight[:, :, None] * adjoint.x[:, None]
        terms["o"] = spread if own is None else spread.add_(own[:, :, None] * point.x[:, None])
    if "O" in wanted:
        terms["O"] = _product_gradient(data.O, weight, own, (x, ax), (x, ax), 0.5)
    if not wanted.isdisjoint({"c", "Q", "R"}):
        w, aw = point.w, adjoint.w
        if "c" in wanted:
            change = weight * aw
            terms["c"] = (change if own is None else change + own * w).permute(1, 2, 0)
        if "Q" in wanted:
            terms["Q"] = _product_gradient(data.Q, weight, own, (w, aw), (w, aw), 0.5)
        if "R" in wanted:
            terms["R"] = _product_gradient(data.R, weight, own, (w, aw), (x, ax), 1.0)
    return terms


def _product_gradient(
    entries: Entries,
    weight: Tensor,
    own: Tensor | None,
    left: tuple[Tensor, Tensor],
    right: tuple[Tensor, Tensor],
    factor: float,
) -> Tensor:
    """(B, S, nnz): gradient of ``factor * left' M right`` in M; pairs are value and adjoint."""
    rows, cols = entries.rows, entries.cols
    change = left[1][rows] * right[0][cols] + left[0][rows] * right[1][cols]
    total = weight * change
    if own is not None:
        total = total + own * (left[0][rows] * right[0][cols])
    return (factor * total).permute(1, 2, 0)


def _row_gradients(newton: Newton, point: Point, adjoint: _Adjoint, wanted: set[str]) -> dict[str, Tensor]:
    """T, W, h, U, V and k: multiplier * change of the column + change of the multiplier * column."""
    data = newton.numbers
    x, ax = point.x.T[:, :, None], adjoint.x.T[:, :, None]
    terms: dict[str, Tensor] = {}
    for name in ("T", "W", "U", "V"):
        if name in wanted:
            value, a_value = (x, ax) if name in "TU" else (point.w, adjoint.w)
            multiplier, change = (point.y, adjoint.y) if name in "TW" else (point.z, adjoint.z)
            entries: Entries = getattr(data, name)
            r, c = entries.rows, entries.cols
            terms[name] = data.measure * (multiplier[r] * a_value[c] + change[r] * value[c])
    if "h" in wanted:
        terms["h"] = -data.measure * adjoint.y
    if "k" in wanted:
        terms["k"] = -data.measure * adjoint.z
    return {name: value.permute(1, 2, 0) for name, value in terms.items()}


def _probability_gradient(newton: Newton, point: Iterate, adjoint: _Adjoint) -> Tensor:
    """Through the cost weights, the price of the excess, and the measure that weights the barrier."""
    data, risk = newton.numbers, newton.risk
    cost_w, cost_x = data.cost_gradient(point.x.T[:, :, None], point.w)
    share = 1.0 if newton.neutral else 1.0 - risk.beta
    slope = (adjoint.w * cost_w).sum(dim=0) + (adjoint.x.T[:, :, None] * cost_x).sum(dim=0)
    total = data.cost_scale[:, None] * share * slope
    barrier = (adjoint.z * point.s).sum(dim=0)
    if adjoint.mu is not None:
        assert point.t is not None
        barrier = barrier + newton.live * adjoint.mu * point.t
        if point.u is not None:
            assert point.nu is not None
            price = risk.beta / (1.0 - risk.alpha)
            total = total + newton.live * price * (point.u / point.nu) * adjoint.mu
            barrier = barrier - newton.live * adjoint.mu * point.u
    return total + torch.where(data.probability >= data.measure, barrier, 0.0)
