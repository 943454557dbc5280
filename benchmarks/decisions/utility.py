"""The program of exponential utility for days that share one law, decided by Newton steps.

    min_z  1/n sum_i exp(-y_i'z),   0 <= z <= limit                                              (1)
    z*(y)  = z - H^-1 slope(z; y) at the minimizer z,   H held fixed                              (2)

(2) has the value of the minimizer, where the slope of free amounts is zero, and its derivative by the
implicit function theorem; amounts at a bound do not move. The exponential cone has no block form, and
cvxpylayers takes minutes for the 10,000 scenarios that this cost asks for; (1) takes 40 ms.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hedgecast.core.errors import ProgramError
from hedgecast.programs.catalog.product_allocation import build_exponential
from hedgecast.programs.layer import DecisionLayer
from hedgecast.programs.program import TwoStageProgram
from hedgecast.programs.solution import Verdict


class SharedUtility(TwoStageProgram):
    """`build_exponential`'s program of one step where no day differs from another in what is known.

    All days of a call share one decision, made on their scenarios together: 1,000 days of 8 scenarios
    decide on 8,000. A decision for each day would be made on 8.
    """

    def __init__(self, num_products: int, limit: float) -> None:
        plain = build_exponential(1, num_products=num_products, limit=limit)
        super().__init__(
            name="shared_utility",
            decision=plain.decision,
            uncertain=plain.uncertain,
            constraints=plain.constraints,
            recourse_cost=plain.recourse_cost,
        )
        self.limit = limit

    def value(self, decision: Any, scenarios: Any, *_: Any, **__: Any) -> Tensor:
        """(B, S) cost exp(-profit) of each day's amounts in each of its scenarios."""
        cost: Tensor = torch.exp(-(scenarios @ decision.unsqueeze(2)).squeeze(2))
        return cost

    def layer(self, **_: Any) -> nn.Module:
        """Equation (2); it has no kinks to smooth."""
        return _SharedDecision(self)


class _SharedDecision(DecisionLayer):
    def __init__(self, program: SharedUtility) -> None:
        # Not DecisionLayer's own, which looks for a backend.
        nn.Module.__init__(self)
        self.program = program
        self.limit = program.limit

    def judged(
        self, scenarios: Any, probabilities: Any = None, given: Mapping[str, Any] | None = None
    ) -> tuple[Tensor, Tensor]:
        """(B, N) the one decision of all days, and that it was found."""
        if probabilities is not None or given is not None:
            raise ProgramError("shared utility has equal probabilities and no given parameters")
        amounts = decided(scenarios.flatten(0, 1), self.limit).expand(len(scenarios), -1)
        return amounts, torch.full((len(scenarios),), int(Verdict.OPTIMAL))


def decided(profits: Tensor, limit: float) -> Tensor:
    """(N,) `minimizer`, differentiable in the profits by equation (2)."""
    amounts = minimizer(profits.detach(), limit)
    weight = torch.exp(-profits @ amounts) / len(profits)
    slope = -(profits.T @ weight)
    free = ~_held(amounts, slope.detach(), limit)
    curvature = _curvature(profits.detach()[:, free], weight.detach())
    return amounts.index_put((free,), amounts[free] - torch.linalg.solve(curvature, slope[free]))


def minimizer(profits: Tensor, limit: float) -> Tensor:
    """(N,) the amounts of least mean cost over the draws, to 1e-10 of the cost, by projected Newton steps."""
    amounts = profits.new_full((profits.shape[1],), min(0.5, limit))
    for _ in range(200):
        weight = torch.exp(-profits @ amounts) / len(profits)
        slope = -(profits.T @ weight)
        # Bounds that hold the amount back leave the system.
        free = ~_held(amounts, slope, limit)
        if not bool((slope[free].abs() > 1e-10).any()):
            break
        step = torch.zeros_like(amounts)
        step[free] = -torch.linalg.solve(_curvature(profits[:, free], weight), slope[free])
        amounts = _searched(profits, amounts, step, float(weight.sum()), limit)
    return amounts


def _held(amounts: Tensor, slope: Tensor, limit: float) -> Tensor:
    return ((amounts <= 0) & (slope > 0)) | ((amounts >= limit) & (slope < 0))


def _curvature(profits: Tensor, weight: Tensor) -> Tensor:
    ridge = 1e-12 * torch.eye(profits.shape[1], dtype=profits.dtype)
    return (profits.T * weight) @ profits + ridge


def _searched(profits: Tensor, amounts: Tensor, step: Tensor, cost: float, limit: float) -> Tensor:
    size = 1.0
    while size > 1e-8:
        moved = (amounts + size * step).clamp(0.0, limit)
        if float(torch.exp(-profits @ moved).mean()) <= cost:
            return moved
        size /= 2.0
    return amounts
