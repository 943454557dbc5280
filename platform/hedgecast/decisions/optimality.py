"""What a solution of a batch of block-arrow quadratic programs satisfies, and how far an iterate is from it.

The units are those of `hedgecast.decisions.interior_point`: every scenario's multipliers are divided by its
measure, and costs are scaled near one. With risk the scenario costs c_s enter through the rows
c_s - v_s <= eta + u_s, u_s >= 0, with slacks t_s and multipliers mu_s and nu_s; the worst case has no u.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from hedgecast.decisions.block_numbers import Numbers
from hedgecast.decisions.iterates import Iterate, Pair, Quality, Residuals
from hedgecast.programs.risk import Risk


class Optimality:
    """What a solution of one batch must satisfy: residuals, complementarity, objective.

    Parameters
    ----------
    numbers : Numbers
        The batch.
    risk : Risk
        The measure; neutral ones have no epigraph rows.
    relaxation : float
        Of every inequality, relative to 1 + |its right-hand side|.
    """

    def __init__(self, numbers: Numbers, risk: Risk, relaxation: float = 0.0) -> None:
        self.numbers, self.risk, self.relaxation = numbers, risk, relaxation
        self.g, self.k = numbers.g, numbers.k
        if relaxation > 0.0:
            self.g = numbers.g + relaxation * (1.0 + numbers.g.abs())
            self.k = numbers.k + relaxation * (1.0 + numbers.k.abs())
        self.neutral = risk.neutral
        self.worst = risk.alpha == 1.0
        self.pairs = [Pair("slack", "multiplier"), Pair("s", "z")]
        if not self.neutral:
            self.pairs += [Pair("t", "mu")] if self.worst else [Pair("t", "mu"), Pair("u", "nu")]
        self.scale = numbers.cost_scale[:, None]

    # Made when asked for: gradients of the compiled loops need none but `base`.

    @functools.cached_property
    def base(self) -> Tensor:
        """(B, S): scaled cost weight of a scenario in its own units, without what the risk adds."""
        return self.numbers.relative * (1.0 if self.neutral else 1.0 - self.risk.beta)

    @functools.cached_property
    def live(self) -> Tensor:
        """(B, S): one where a scenario has a probability, else zero."""
        return (self.numbers.probability > 1e-12 / self.numbers.num_scenarios).to(self.numbers.q.dtype)

    @functools.cached_property
    def P(self) -> Tensor:  # noqa: N802 (the name of the formula)
        """(B, n, n) scaled."""
        return self.numbers.P * self.numbers.cost_scale[:, None, None]

    @functools.cached_property
    def q(self) -> Tensor:
        """(B, n) scaled."""
        return self.numbers.q * self.numbers.cost_scale[:, None]

    def measure(self, pair: Pair) -> Tensor | float:
        """Weight of a pair's products."""
        if pair.slack == "slack":
            return 1.0
        return self.numbers.measure if pair.slack == "s" else self.numbers.measure * self.live

    def weight(self, point: Iterate) -> Tensor:
        """(B, S): each scenario's cost weight in its own units."""
        return self.base if point.mu is None else self.base + self.scale * point.mu

    def excess_price(self) -> Tensor:
        """(B, S): cost of one unit of u, in the scenario's own units."""
        share = self.numbers.probability / self.numbers.measure
        return share * (self.risk.beta / (1.0 - self.risk.alpha))

    def residuals(self, point: Iterate) -> Residuals:
        """Every optimality condition but complementarity."""
        data = self.numbers
        column = point.x.T[:, :, None]
        weight = self.weight(point)
        in_w, in_x = data.cost_gradient(column, point.w)
        w = weight * in_w + data.W.apply_transposed(point.y) + data.V.apply_transposed(point.z)
        x = matvec(self.P, point.x) + self.q + matvec_t(data.A, point.equality)
        x = x + matvec_t(data.G, point.multiplier) + (in_x * (weight * data.measure)).sum(dim=2).T
        x = x + data.T.sum_transposed(point.y, data.measure) + data.U.sum_transposed(point.z, data.measure)
        eta = u = t = None
        if point.mu is not None:
            assert point.t is not None
            assert point.eta is not None
            eta = self.risk.beta - (data.measure * point.mu).sum(dim=1)
            t = self.scale * (data.costs(column, point.w) - data.benchmark)
            t = t - point.eta[:, None] + point.t
            if point.u is not None:
                assert point.nu is not None
                t = t - point.u
                u = (self.excess_price() - point.mu - point.nu) * self.live
            t = t * self.live
        return Residuals(
            x=x,
            w=w,
            equality=matvec(data.A, point.x) - data.a,
            slack=matvec(data.G, point.x) + point.slack - self.g,
            y=data.T.apply(column) + data.W.apply(point.w) - data.h,
            s=data.U.apply(column) + data.V.apply(point.w) + point.s - self.k,
            eta=eta,
            u=u,
            t=t,
        )

    def barrier(self, point: Iterate, step: Iterate | None = None, length: Tensor | None = None) -> Tensor:
        """(B,): mean product of slack and multiplier, after a step where one is given."""
        total = point.x.new_zeros(point.x.shape[0])
        for pair in self.pairs:
            slack, multiplier = getattr(point, pair.slack), getattr(point, pair.multiplier)
            if step is not None:
                assert length is not None
                shape = (1, -1, 1) if pair.slack == "s" else (-1, 1)
                slack = slack + length.reshape(shape) * getattr(step, pair.slack)
                multiplier = multiplier + length.reshape(shape) * getattr(step, pair.multiplier)
            axes = (0, 2) if pair.slack == "s" else (1,)
            total = total + (slack * multiplier * self.measure(pair)).sum(dim=axes)
        return total / self.num_products()

    def num_products(self) -> Tensor:
        """(B,): how many products there are, each weighted by its measure; never zero."""
        data = self.numbers
        count = data.measure.sum(dim=1) * data.V.shape[0] + data.G.shape[1]
        for _ in self.pairs[2:]:
            count = count + (data.measure * self.live).sum(dim=1)
        return torch.where(count > 0, count, torch.ones_like(count))

    def step_length(self, point: Iterate, step: Iterate) -> Tensor:
        """(B,): longest common step that keeps all slacks and multipliers nonnegative, at most one."""
        longest = point.x.new_ones(point.x.shape[0])
        for pair in self.pairs:
            for name in pair:
                value, change = getattr(point, name), getattr(step, name)
                if not value.numel():
                    continue
                ratio = torch.where(change < 0, -value / change, torch.inf)
                axes = (0, 2) if pair.slack == "s" else (1,)
                longest = torch.minimum(longest, ratio.amin(dim=axes))
        return longest

    def quality(self, point: Iterate, residuals: Residuals) -> Quality:
        """Relative residuals and gap, and the objective."""
        data = self.numbers
        B = point.x.shape[0]
        scale = 1.0 + torch.stack(
            [
                _largest(data.a, B, batch_axis=0), _largest(data.g, B, batch_axis=0),
                _largest(data.h, B, batch_axis=1), _largest(data.k, B, batch_axis=1),
            ]
        ).amax(dim=0)  # fmt: skip
        primal = [
            _largest(residuals.equality, B, batch_axis=0), _largest(residuals.slack, B, batch_axis=0),
            _largest(residuals.y, B, batch_axis=1), _largest(residuals.s, B, batch_axis=1),
        ]  # fmt: skip
        # The costs are scaled so that their largest coefficient is one: 1 + 1 = 2.
        dual = [_largest(residuals.x, B, batch_axis=0), _largest(residuals.w, B, batch_axis=1)]
        worst_primal = torch.stack(primal).amax(dim=0) / scale + self.relaxation
        if residuals.t is not None:
            assert residuals.eta is not None
            epigraph = _largest(residuals.t, B, batch_axis=0)
            worst_primal = torch.maximum(worst_primal, epigraph / 2.0)
            dual.append(residuals.eta.abs())
            if residuals.u is not None:
                dual.append(_largest(residuals.u, B, batch_axis=0))
        objective = self.objective(point)
        gap = point.x.new_zeros(B)
        for pair in self.pairs:
            products = getattr(point, pair.slack) * getattr(point, pair.multiplier) * self.measure(pair)
            gap = gap + products.sum(dim=(0, 2) if pair.slack == "s" else (1,))
        gap = gap / (data.cost_scale * (1.0 + objective.abs()))
        return Quality(worst_primal, torch.stack(dual).amax(dim=0) / 2.0, gap, objective)

    def unit(self, objective: Tensor) -> Tensor:
        """(B,): the scaled cost that a gap is measured in: of 1 + |objective|, or of a cost coefficient.

        The second keeps the gap meaningful for costs far below one.
        """
        scale = self.numbers.cost_scale
        return scale.clamp(max=1.0) + scale * objective.abs()

    def objective(self, point: Iterate) -> Tensor:
        """(B,): first-stage cost and risk measure at a point, in the units of the costs."""
        data = self.numbers
        column = point.x.T[:, :, None]
        costs = data.costs(column, point.w)
        value = (0.5 * (matvec(data.P, point.x) * point.x) + data.q * point.x).sum(dim=1)
        share = 1.0 if self.neutral else 1.0 - self.risk.beta
        value = value + share * (data.probability * costs).sum(dim=1)
        if point.eta is not None:
            value = value + self.risk.beta * point.eta / data.cost_scale
            if point.u is not None:
                tail = (data.probability * point.u).sum(dim=1) / (1.0 - self.risk.alpha)
                value = value + self.risk.beta * tail / data.cost_scale
        if self.risk.on_regret and not self.neutral:
            value = value + self.risk.beta * (data.probability * data.benchmark).sum(dim=1)
        return value


def matvec(matrix: Tensor, vector: Tensor) -> Tensor:
    """(B, rows) products of matrices (1 or B, rows, cols) with vectors (B, cols)."""
    return (matrix @ vector[:, :, None])[:, :, 0]


def matvec_t(matrix: Tensor, vector: Tensor) -> Tensor:
    """(B, cols) products of the transposes with vectors (B, rows)."""
    return (matrix.transpose(1, 2) @ vector[:, :, None])[:, :, 0]


def _largest(values: Tensor, num_members: int, *, batch_axis: int) -> Tensor:
    if not values.numel():
        return values.new_zeros(num_members)
    axes = tuple(axis for axis in range(values.ndim) if axis != batch_axis)
    return values.abs().amax(dim=axes).expand(num_members)
