"""The loop of the interior-point method: start, predictor and corrector, who leaves and when."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from hedgecast.decisions.block_factor import BlockIndex
from hedgecast.decisions.block_numbers import Numbers
from hedgecast.decisions.interior_point import Newton
from hedgecast.decisions.iterates import Iterate, Outcome, Quality, Residuals
from hedgecast.programs.risk import EXPECTATION, Risk

# The barrier aimed at is at most this share of the present one: a step that promises less would only center,
# and a centered point would never leave.
_MOST_CENTERING = 0.3
# Of the direction that takes over where the corrected one is blocked.
_SAFE_CENTERING = 0.5
# Fraction of the way to the boundary that a step may go.
_STEP_FRACTION = 0.995
# The smallest barrier aimed at leaves this share of the tolerated gap; more where rounding is larger.
_GAP_SHARE = {torch.float64: 0.05, torch.float32: 0.3}
# How near every product s z must be to the barrier, relative to it, for a central point.
_CENTRAL = {torch.float64: 1e-7, torch.float32: 1e-2}
# Inequalities are relaxed by this share of the tolerance, relative to each right-hand side, so that rows
# that meet (a demand of zero between zero and zero) leave an interior.
_RELAXATION = 1e-3
# A step that is no number is taken again with this many times the regularization, up to the most of it.
_MORE_REGULARIZATION = 100.0
_LEAST_AND_MOST_REGULARIZATION = (1e-9, 1e-4)
# Who makes no progress goes on with so much before being given up: above the square root of rounding no
# factor grows (one of 8 sets of freight under a worst case needs it).
_LAST_REGULARIZATION = 1e-7


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """When to stop."""

    tolerance: float
    """On relative residuals and gap."""
    max_iterations: int
    smoothing: float | None = None
    """Barrier, in the units of the costs, of the point at which gradients are taken."""


def follow_central_path(
    index: BlockIndex, numbers: Numbers, risk: Risk, limits: Limits, warm: Iterate | None = None
) -> Outcome:
    """The solution of every member, and its central-path point at the smoothing barrier.

    Members leave when they converge, and when their steps or numbers show that they never will. What single
    precision leaves unsolved for its rounding is solved again in double.

    Parameters
    ----------
    index : BlockIndex
        The template's elimination.
    numbers : Numbers
        The batch; all finite.
    risk : Risk
        The measure.
    limits : Limits
        Tolerance, iterations, smoothing.
    warm : Iterate or None
        An earlier solution of nearby numbers; shifted into the interior and used as the start.
    """
    newton = Newton(index, numbers, risk, _RELAXATION * limits.tolerance)
    point = start_point(newton) if warm is None else shifted_point(newton, warm)
    outcome = _Batch(newton, point, limits).run()
    rest = (~outcome.converged).nonzero()[:, 0]
    if numbers.q.dtype == torch.float32 and rest.numel():
        again = follow_central_path(index, numbers.select(rest).double(), risk, limits)
        replace_members(outcome, rest, again)
    return outcome


def replace_members(outcome: Outcome, members: Tensor, again: Outcome) -> None:
    """Write a second solve of some members into a batch, in the batch's precision."""
    dtype = outcome.iterate.x.dtype
    outcome.iterate.put(members, again.iterate.iterate().map(lambda value, _: value.to(dtype)))
    if outcome.central is not None and again.central is not None:
        outcome.central.put(members, again.central.iterate().map(lambda value, _: value.to(dtype)))
    for kept, value in zip(outcome.quality, again.quality, strict=True):
        kept[members] = value.to(kept.dtype)
    outcome.converged[members] = again.converged
    outcome.central_found[members] = again.central_found
    outcome.iterations[members] = again.iterations


class _Batch:
    """The members still in the loop, and the results of those that left."""

    def __init__(self, newton: Newton, point: Iterate, limits: Limits) -> None:
        B = newton.numbers.num_contexts
        device = point.x.device
        self.newton, self.point, self.limits = newton, point, limits
        self.members = torch.arange(B, device=device)
        scale = newton.numbers.cost_scale
        self.floor = scale * limits.smoothing if limits.smoothing is not None else torch.zeros_like(scale)
        self.regularization = torch.zeros_like(scale)
        self.before = point
        self.stalled = torch.zeros(B, dtype=torch.int64, device=device)
        self.waiting = torch.zeros_like(self.stalled)
        self.best = torch.full_like(scale, torch.inf)
        self.least_gap = torch.full_like(scale, torch.inf)
        self.result = point.map(lambda value, _: value.clone())
        self.central = point.map(lambda value, _: value.clone()) if limits.smoothing is not None else None
        self.converged = torch.zeros(B, dtype=torch.bool, device=device)
        self.central_found = torch.zeros_like(self.converged)
        self.iterations = torch.zeros_like(self.stalled)
        self.quality: Quality | None = None

    def run(self) -> Outcome:
        for iteration in range(self.limits.max_iterations + 1):
            residuals = self.newton.residuals(self.point)
            quality = self.newton.quality(self.point, residuals)
            if self._recover(quality):
                residuals = self.newton.residuals(self.point)
                quality = self.newton.quality(self.point, residuals)
            self._note_central(quality)
            done = self._done(quality)
            broken = _lost(quality) | self._hopeless(quality)
            last = iteration == self.limits.max_iterations
            leaving = torch.ones_like(done) if last else done | broken
            if bool(leaving.any()):
                self._leave(leaving, done, quality, iteration)
                if not self.members.numel():
                    break
                quality = Quality(*(value[~leaving] for value in quality))
                residuals = self.newton.residuals(self.point)
            self._step(residuals, quality)
        assert self.quality is not None
        return Outcome(
            self.result, self.central, self.quality, self.converged, self.central_found, self.iterations
        )

    def _recover(self, quality: Quality) -> bool:
        """Take members whose last step was no number back to before it, to be regularized more."""
        least, most = _LEAST_AND_MOST_REGULARIZATION
        lost = _lost(quality) & (self.regularization < most)
        if not bool(lost.any()):
            return False
        more = self.regularization.clamp(min=least) * _MORE_REGULARIZATION
        self.regularization = torch.where(lost, more, self.regularization)
        self.point = _choose(lost, self.before, self.point)
        return True

    def _done(self, quality: Quality) -> Tensor:
        scale = self.newton.numbers.cost_scale
        gap = quality.gap * scale * (1.0 + quality.objective.abs()) / self.newton.unit(quality.objective)
        within = torch.stack([quality.primal, quality.dual, gap]).amax(dim=0) <= self.limits.tolerance
        return within & (self.floor == 0)

    def _hopeless(self, quality: Quality) -> Tensor:
        """Members whose steps have died, or whose feasibility has not improved for many iterations, twice."""
        violation = torch.maximum(quality.primal, quality.dual)
        better = (violation < 0.9 * self.best) | (violation <= self.limits.tolerance)
        self.best = torch.where(better, torch.minimum(violation, self.best), self.best)
        if not self.newton.neutral:
            nearer = quality.gap < 0.9 * self.least_gap
            self.least_gap = torch.where(nearer, quality.gap, self.least_gap)
            better = better | nearer
        self.waiting = torch.where(better, 0, self.waiting + 1)
        hopeless = (self.stalled >= 6) | (self.waiting >= 15)
        # Single precision is solved again in double.
        again = hopeless & (self.regularization < _LAST_REGULARIZATION) & (self.best.dtype == torch.float64)
        self.regularization = torch.where(again, _LAST_REGULARIZATION, self.regularization)
        self.stalled = torch.where(again, 0, self.stalled)
        self.waiting = torch.where(again, 0, self.waiting)
        self.best = torch.where(again, torch.inf, self.best)
        return hopeless & ~again

    def _note_central(self, quality: Quality) -> None:
        """Keep the iterate of members that have reached their smoothing barrier, and free them of it."""
        if self.central is None or not bool((self.floor > 0).any()):
            return
        feasible = torch.maximum(quality.primal, quality.dual) <= min(self.limits.tolerance, 1e-6)
        reached = (self.floor > 0) & feasible & (self._off_center() <= _CENTRAL[self.floor.dtype])
        if bool(reached.any()):
            chosen = reached.nonzero()[:, 0]
            self.central.put(self.members[chosen], self.point.select(chosen))
            self.central_found[self.members[chosen]] = True
            self.floor = torch.where(reached, 0.0, self.floor)

    def _off_center(self) -> Tensor:
        """(members,): largest relative distance of a product from the barrier."""
        worst = torch.zeros_like(self.floor)
        for pair in self.newton.pairs:
            inner = pair.slack == "s"
            products = getattr(self.point, pair.slack) * getattr(self.point, pair.multiplier)
            if not products.numel():
                continue
            barrier = self.floor.reshape((1, -1, 1) if inner else (-1, 1)).clamp(min=1e-30)
            off = (products / barrier - 1.0).abs()
            if pair.slack in "tu":
                off = off * self.newton.live
            worst = torch.maximum(worst, off.amax(dim=(0, 2) if inner else (1,)))
        return worst

    def _leave(self, leaving: Tensor, done: Tensor, quality: Quality, iteration: int) -> None:
        chosen = leaving.nonzero()[:, 0]
        gone = self.members[chosen]
        self.result.put(gone, self.point.select(chosen))
        if self.quality is None:
            self.quality = Quality(*(torch.full_like(value, torch.nan) for value in quality))
        for kept, value in zip(self.quality, quality, strict=True):
            kept[gone] = value[chosen]
        self.converged[gone] = done[chosen]
        self.iterations[gone] = iteration
        stay = (~leaving).nonzero()[:, 0]
        for name in ("members", "floor", "regularization", "stalled", "waiting", "best", "least_gap"):
            setattr(self, name, getattr(self, name)[stay])
        if stay.numel():
            self.newton, self.point = self.newton.select(stay), self.point.select(stay)

    def _step(self, residuals: Residuals, quality: Quality) -> None:
        newton, point = self.newton, self.point
        self.before = point
        factors = newton.factorize(point, self.regularization)
        products = {
            pair.slack: getattr(point, pair.slack) * getattr(point, pair.multiplier) for pair in newton.pairs
        }
        barrier = newton.barrier(point)
        aim = {name: _spread(self.floor, name) - value for name, value in products.items()}
        affine = newton.direction(point, residuals, factors, aim)
        reach = newton.step_length(point, affine)
        reached = newton.barrier(point, affine, reach).clamp(min=0.0)
        fraction = ((reached / barrier).clamp(max=1.0) ** 3).clamp(max=_MOST_CENTERING)
        # No smaller than the tolerance asks: products near zero would ruin the gradients' conditioning.
        least = _GAP_SHARE[barrier.dtype] * self.limits.tolerance * newton.unit(quality.objective)
        least = torch.maximum(self.floor, least / newton.num_products())
        target = torch.maximum(barrier * fraction, least)
        corrected = {
            pair.slack: _spread(target, pair.slack)
            - products[pair.slack]
            - _spread(reach, pair.slack) * getattr(affine, pair.slack) * getattr(affine, pair.multiplier)
            for pair in newton.pairs
        }
        second = newton.second_order(residuals, affine, reach)
        step = newton.direction(point, second, factors, corrected)
        longest = newton.step_length(point, step)
        short = longest < 0.1
        if bool(short.any()):
            # A product far below the others blocks the way: go back toward the central path first.
            target = torch.maximum(barrier * _SAFE_CENTERING, least)
            centering = {name: _spread(target, name) - value for name, value in products.items()}
            centered = newton.direction(point, residuals, factors, centering)
            length = newton.step_length(point, centered)
            better = short & (length > longest)
            step = _choose(better, centered, step)
            longest = torch.where(better, length, longest)
        length = torch.where(longest >= 1.0, longest, _STEP_FRACTION * longest)
        self.stalled = torch.where(length < 1e-5, self.stalled + 1, 0)
        self.point = self._moved(residuals, step, length)

    def _moved(self, residuals: Residuals, step: Iterate, length: Tensor) -> Iterate:
        newton = self.newton
        moved = _advance(self.point, step, length)
        if newton.neutral:
            return moved
        # Costs are curved: what the epigraph rows are off by goes into their slacks.
        assert residuals.t is not None
        drift = newton.residuals(moved).t
        assert drift is not None
        newton.absorb(moved, drift - (1.0 - length)[:, None] * residuals.t)
        return moved


def _lost(quality: Quality) -> Tensor:
    return ~torch.isfinite(quality.primal + quality.dual + quality.gap)


def _spread(per_member: Tensor, slack: str) -> Tensor:
    return per_member.reshape((1, -1, 1) if slack == "s" else (-1, 1))


def _choose(condition: Tensor, first: Iterate, second: Iterate) -> Iterate:
    """Per member, one direction or the other."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(Iterate):
        left, right = getattr(first, field.name), getattr(second, field.name)
        if left is None:
            continue
        shape = (1, -1, 1) if field.name in "wyzs" else (-1, *[1] * (left.ndim - 1))
        changes[field.name] = torch.where(condition.reshape(shape), left, right)
    return Iterate(**changes)


def _advance(point: Iterate, step: Iterate, length: Tensor) -> Iterate:
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(Iterate):
        value, change = getattr(point, field.name), getattr(step, field.name)
        if value is None:
            changes[field.name] = None
            continue
        shape = (1, -1, 1) if field.name in "wyzs" else (-1, *[1] * (value.ndim - 1))
        changes[field.name] = value + length.reshape(shape) * change
    return Iterate(**changes)


def start_point(newton: Newton) -> Iterate:
    """An interior point: the solution with every inequality replaced by a unit penalty, then shifted."""
    data = newton.numbers
    B, S = data.num_contexts, data.num_scenarios
    plain = Newton(newton.index, data, EXPECTATION)
    new = data.probability.new_ones
    m, rows = data.Q.shape[0], data.V.shape[0]
    zero = Iterate(
        x=new(B, data.num_first) * 0,
        w=new(m, B, S) * 0,
        equality=new(B, data.A.shape[1]) * 0,
        multiplier=new(B, data.G.shape[1]),
        slack=new(B, data.G.shape[1]),
        y=new(data.W.shape[0], B, S) * 0,
        z=new(rows, B, S),
        s=new(rows, B, S),
    )
    factors = plain.factorize(zero)
    residuals = plain.residuals(zero)
    aim = {"slack": -zero.slack, "s": -zero.s}
    step = plain.direction(zero, residuals, factors, aim)
    return _with_risk(newton, _interior(newton, step.x, step.w, step.equality, step.y))


def _interior(newton: Newton, x: Tensor, w: Tensor, equality: Tensor, y: Tensor) -> Iterate:
    """Slacks of the rows at (x, w), pushed inside, and multipliers of about one."""
    data = newton.numbers
    slack = data.g - (data.G @ x[:, :, None])[:, :, 0]
    s = data.k - data.U.apply(x.T[:, :, None]) - data.V.apply(w)
    s = s.expand(s.shape[0], data.num_contexts, data.num_scenarios)
    total = slack.abs().sum(dim=1) + (s.abs().sum(dim=0) * data.measure).sum(dim=1)
    count = slack.shape[1] + s.shape[0] * data.measure.sum(dim=1)
    mean = (total / count.clamp(min=1.0)).clamp(min=1e-3)
    slack = torch.maximum(slack, mean[:, None])
    s = torch.maximum(s, mean[None, :, None])
    return Iterate(
        x=x, w=w, equality=equality, multiplier=torch.ones_like(slack), slack=slack, y=y,
        z=torch.ones_like(s), s=s,
    )  # fmt: skip


def _with_risk(newton: Newton, point: Iterate) -> Iterate:
    """The point with eta, u, t, mu and nu, dual feasible in them."""
    if newton.neutral:
        return point
    data, risk = newton.numbers, newton.risk
    loss = newton.scale * (data.costs(point.x.T[:, :, None], point.w) - data.benchmark)
    eta = (loss * data.probability).sum(dim=1)
    off = loss - eta[:, None]
    spread = (off.abs() * data.probability).sum(dim=1, keepdim=True)
    spread = spread.clamp(min=1e-3)
    price = (data.probability / data.measure * risk.beta).clamp(min=1e-30)
    if newton.worst:
        point.eta = eta + (off * newton.live).amax(dim=1)
        point.t = torch.where(newton.live > 0, point.eta[:, None] - loss + spread, 1.0)
        point.mu = price * newton.live
        return point
    point.eta = eta
    point.u = torch.where(newton.live > 0, off.clamp(min=0) + spread, 1.0)
    point.t = torch.where(newton.live > 0, (-off).clamp(min=0) + spread, 1.0)
    point.mu = price * newton.live
    point.nu = torch.where(newton.live > 0, price * risk.alpha / (1.0 - risk.alpha), 1.0)
    return point


def shifted_point(newton: Newton, warm: Iterate) -> Iterate:
    """An earlier solution moved inside: slacks recomputed, products no smaller than a hundredth of one."""
    fresh = _interior(newton, warm.x, warm.w, warm.equality, warm.y)
    data = newton.numbers
    raw = data.k - data.U.apply(warm.x.T[:, :, None]) - data.V.apply(warm.w)
    fresh.s = torch.maximum(raw.expand_as(fresh.s), 0.05 * fresh.s)
    fresh.z = torch.maximum(warm.z, torch.full_like(warm.z, 0.05))
    slack = data.g - (data.G @ warm.x[:, :, None])[:, :, 0]
    fresh.slack = torch.maximum(slack.expand_as(fresh.slack), 0.05 * fresh.slack)
    fresh.multiplier = torch.maximum(warm.multiplier, torch.full_like(warm.multiplier, 0.05))
    return _with_risk(newton, fresh)
