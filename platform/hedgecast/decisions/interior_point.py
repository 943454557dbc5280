"""A batched primal-dual interior-point method for block-arrow quadratic programs, on torch tensors.

One iteration, for all members of the batch at once (Mehrotra's predictor and corrector):

1. residuals of the optimality conditions at the iterate (x, w, y, z, s; eta, u, t, mu, nu with risk);
2. factors: every scenario's block, then the first stage (`block_factor`, `first_stage`);
3. the affine direction, the centering parameter, the corrected direction, one common step.

Each scenario is written in its own units: its multipliers are divided by its measure (its probability),
and the barrier of a scenario is weighted by it. The central path at barrier b is then the solution of

    min  f(x) + sum_s p_s (smoothed recourse cost of s)

so it does not change when scenarios are permuted or split. With risk (see `hedgecast.programs.risk`)
the scenario costs enter through the epigraph rows c_s - v_s <= eta + u_s, whose multipliers mu_s reweight
the scenarios; the rows are quadratic where the recourse cost is. The corrector has their second-order
terms, and after a step the rows' slacks t and u take up what the costs' curvature left, so that the rows'
residuals fall as linear rows' do; only stationarity is ever off by a product of steps.

Regularization is proximal: it is added to the Newton matrix and not to the residuals, so that it slows
the last digits and never moves the solution. Converged members leave the batch.

Sources: Mehrotra (1992), https://doi.org/10.1137/0802028; Birge and Qi (1988), block-arrow elimination,
https://doi.org/10.1287/mnsc.34.12.1472; Schwan et al. (2023), proximal regularization, arXiv 2304.00290.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hedgecast.decisions.block_factor import BlockFactor, BlockIndex, factorize_blocks
from hedgecast.decisions.block_numbers import Numbers
from hedgecast.decisions.first_stage import FirstStageFactor, factorize_first_stage
from hedgecast.decisions.iterates import Iterate, Residuals
from hedgecast.decisions.optimality import Optimality, matvec, matvec_t
from hedgecast.programs.risk import Risk

# Proximal regularization of the Newton matrix (costs are scaled near one): a hundredth of the barrier
# within these bounds, so that it does not slow the last digits of directions with hardly any curvature.
_REGULARIZATION = {torch.float64: (1e-13, 1e-9), torch.float32: (1e-6, 3e-5)}


class Newton(Optimality):
    """Newton's system of the optimality conditions: factors, directions, products.

    Parameters
    ----------
    index : BlockIndex
        The template's elimination.
    numbers, risk, relaxation
        See `Optimality`.
    """

    def __init__(self, index: BlockIndex, numbers: Numbers, risk: Risk, relaxation: float = 0.0) -> None:
        super().__init__(numbers, risk, relaxation)
        self.index = index

    def select(self, members: Tensor) -> Newton:
        """The system of some members."""
        return Newton(self.index, self.numbers.select(members), self.risk, self.relaxation)

    def factorize(
        self, point: Iterate, at_least: Tensor | None = None
    ) -> tuple[BlockFactor, FirstStageFactor]:
        """Factors of the Newton matrix at a point; regularized by ``at_least`` (B,) where that is given."""
        data = self.numbers
        gradients = theta = None
        if point.mu is not None:
            column = point.x.T[:, :, None]
            in_w, in_x = data.cost_gradient(column, point.w)
            scale = self.scale * self.live
            gradients = (in_w * scale, in_x * scale)
            theta = self.theta(point)
        least, most = _REGULARIZATION[data.q.dtype]
        regularization = (0.01 * self.barrier(point)).clamp(min=least, max=most)
        if at_least is not None:
            regularization = torch.maximum(regularization, at_least)
        blocks = factorize_blocks(
            self.index,
            data,
            weight=self.weight(point),
            ratio=point.z / point.s,
            regularization=regularization,
            gradients=gradients,
            theta=theta,
            live=self.live,
        )
        # Small, and of products over 1e7: always in double precision.
        hessian = blocks.schur.double()
        n = data.num_first
        G, ratio = data.G.double(), (point.multiplier / point.slack).double()
        hessian[:, :n, :n] += self.P + G.transpose(1, 2) @ (ratio[:, :, None] * G)
        equality = data.A.double()
        if not self.neutral:
            equality = torch.cat([equality, equality.new_zeros(*equality.shape[:2], 1)], dim=2)
        return blocks, factorize_first_stage(hessian, equality, regularization.double())

    def solve(
        self,
        factors: tuple[BlockFactor, FirstStageFactor],
        x: Tensor,
        equality: Tensor,
        nodes: Tensor,
        epigraph: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Solution (x and eta, equality, nodes, mu) of the reduced Newton system."""
        blocks, first = factors
        rhs, gathered = blocks.solve_blocks(nodes, epigraph)
        dtype = x.dtype
        solution = first.solve((x + gathered).double(), equality.double().expand(x.shape[0], -1))
        x, equality = (part.to(dtype) for part in solution)
        solved, mu = blocks.finish_blocks(rhs, x)
        return x, equality, solved, mu

    def direction(
        self,
        point: Iterate,
        residuals: Residuals,
        factors: tuple[BlockFactor, FirstStageFactor],
        complementarity: dict[str, Tensor],
    ) -> Iterate:
        """The step d with the linearized conditions zero and slack*dmult + mult*dslack as given.

        Keys of ``complementarity`` are slack names.
        """
        data = self.numbers
        first = (complementarity["slack"] + point.multiplier * residuals.slack) / point.slack
        inner = (complementarity["s"] + point.z * residuals.s) / point.s
        x = -residuals.x - matvec_t(data.G, first) - data.U.sum_transposed(inner, data.measure)
        w = -residuals.w - data.V.apply_transposed(inner)
        epigraph = None
        if point.mu is not None:
            assert residuals.eta is not None
            assert residuals.t is not None
            assert point.t is not None
            x = torch.cat([x, -residuals.eta[:, None]], dim=1)
            safe_mu = torch.where(self.live > 0, point.mu, torch.ones_like(point.mu))
            epigraph = -residuals.t - complementarity["t"] / safe_mu
            if point.u is not None:
                assert point.nu is not None
                assert residuals.u is not None
                epigraph = epigraph + (complementarity["u"] - point.u * residuals.u) / point.nu
            epigraph = epigraph * self.live
        nodes = torch.cat([w, -residuals.y.expand(-1, *w.shape[1:])])
        x, equality, solved, mu = self.solve(factors, x, -residuals.equality, nodes, epigraph)
        m, n = data.Q.shape[0], data.num_first
        dx, dw = x[:, :n], solved[:m]
        slack = -residuals.slack - matvec(data.G, dx)
        s = -residuals.s - data.U.apply(dx.T[:, :, None]) - data.V.apply(dw)
        step = Iterate(
            x=dx,
            w=dw,
            equality=equality,
            multiplier=(complementarity["slack"] - point.multiplier * slack) / point.slack,
            slack=slack,
            y=solved[m:],
            z=(complementarity["s"] - point.z * s) / point.s,
            s=s,
        )
        if mu is not None:
            assert point.mu is not None
            assert point.t is not None
            step.eta, step.mu = x[:, n], mu * self.live
            step.t = (complementarity["t"] - point.t * step.mu) / safe_mu * self.live
            if point.u is not None:
                assert point.nu is not None
                assert residuals.u is not None
                step.nu = residuals.u - step.mu
                step.u = (complementarity["u"] - point.u * step.nu) / point.nu * self.live
        return step

    def second_order(self, residuals: Residuals, step: Iterate, share: Tensor) -> Residuals:
        """The residuals with the second-order terms of a step: mu times w and x, and the costs' curvature."""
        if step.mu is None:
            return residuals
        assert residuals.t is not None
        data = self.numbers
        column = step.x.T[:, :, None]
        in_w = data.Q.apply(step.w) + data.R.apply(column)
        in_x = data.R.apply_transposed(step.w) + data.O.apply(column)
        live = self.scale * self.live * share[:, None]
        weight = live * step.mu
        curvature = 0.5 * ((in_w * step.w).sum(dim=0) + (in_x * column).sum(dim=0))
        return residuals._replace(
            w=residuals.w + weight * in_w,
            x=residuals.x + (in_x * (weight * data.measure)).sum(dim=2).T,
            t=residuals.t + live * curvature,
        )

    def absorb(self, point: Iterate, excess: Tensor) -> None:
        """Move u, t and eta up so that the epigraph rows' residuals lose ``excess`` (B, S)."""
        assert point.t is not None
        assert point.eta is not None
        above = excess.clamp(min=0.0)
        if point.u is not None:
            point.u = point.u + above
        else:
            most = above.amax(dim=1)
            point.eta = point.eta + most
            point.t = point.t + (most[:, None] - above) * self.live
        point.t = point.t + (above - excess)

    def multiply(
        self, point: Iterate, x: Tensor, equality: Tensor, nodes: Tensor, mu: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """The unregularized reduced Newton matrix times a vector laid out as `solve` returns it."""
        data = self.numbers
        m, n = data.Q.shape[0], data.num_first
        dx, dw, dy = x[:, :n], nodes[:m], nodes[m:]
        column, weight = dx.T[:, :, None], self.weight(point)
        first = point.multiplier / point.slack * matvec(data.G, dx)
        inner = point.z / point.s * (data.U.apply(column) + data.V.apply(dw))
        in_w = weight * (data.Q.apply(dw) + data.R.apply(column))
        in_w = in_w + data.W.apply_transposed(dy) + data.V.apply_transposed(inner)
        in_x = weight * (data.R.apply_transposed(dw) + data.O.apply(column))
        epigraph = None
        out_x = matvec(self.P, dx) + matvec_t(data.A, equality) + matvec_t(data.G, first)
        if mu is not None:
            assert point.mu is not None
            assert point.t is not None
            grad_w, grad_x = data.cost_gradient(point.x.T[:, :, None], point.w)
            scale = self.scale * self.live
            grad_w, grad_x = grad_w * scale, grad_x * scale
            in_w, in_x = in_w + grad_w * mu, in_x + grad_x * mu
            epigraph = (grad_w * dw).sum(dim=0) + (grad_x * column).sum(dim=0) - self.live * x[:, n:]
            epigraph = epigraph - self.theta(point) * mu
        out_x = out_x + (in_x * data.measure).sum(dim=2).T
        out_x = out_x + data.T.sum_transposed(dy, data.measure) + data.U.sum_transposed(inner, data.measure)
        if mu is not None:
            out_x = torch.cat([out_x, -(data.measure * self.live * mu).sum(dim=1, keepdim=True)], dim=1)
        rows = data.T.apply(column) + data.W.apply(dw)
        return out_x, matvec(data.A, dx), torch.cat([in_w, rows.expand(-1, *in_w.shape[1:])]), epigraph

    def theta(self, point: Iterate) -> Tensor:
        """(B, S): minus the epigraph row's diagonal entry."""
        assert point.t is not None
        assert point.mu is not None
        theta = point.t / torch.where(self.live > 0, point.mu, torch.ones_like(point.mu))
        if point.u is not None:
            assert point.nu is not None
            theta = theta + point.u / point.nu
        return theta
