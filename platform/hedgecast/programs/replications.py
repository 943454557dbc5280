"""How far one decision may be from optimal under the asked measure, from fresh scenarios.

For a measure rho_b,a of cost c or of regret c - v (see `hedgecast.programs.risk`) and replication r with
scenarios y_rs of its own,

    G_r = F_r(z) - min_z' rho_r(z')  >=  0
    F_r(z) = (1 - b) mean_s c + b [ eta + mean_s (c - v - eta)_+ / (1 - a) ]

with eta held where the decision was made, so that F_r is a mean of independent terms and its expectation is
not below the measure of the decision. The intervals that the G_r make are those of
`hedgecast.programs.information`.

Source: Mak, Morton and Wood (1999), section 3.2, https://doi.org/10.1016/S0167-6377(98)00054-6; the form with
eta: Rockafellar and Uryasev (2000), eq. 4, https://doi.org/10.21314/JOR.2000.038.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hedgecast.core.errors import ConfigError
from hedgecast.programs.risk import Risk

if TYPE_CHECKING:
    from hedgecast.programs.program import TwoStageProgram

# Scenarios of one batch of replications: bounds the memory of a solve, not its result.
_MOST_SCENARIOS = 20_000


def tail_threshold(costs: Tensor, probabilities: Tensor, risk: Risk) -> float:
    """The eta of a decision: the least value that costs or regrets (S,) reach with probability alpha."""
    ordered, order = costs.sort()
    reached = probabilities[order].cumsum(0)
    index = int(torch.searchsorted(reached, torch.tensor(risk.alpha - 1e-12, dtype=reached.dtype)))
    return float(ordered[min(index, len(ordered) - 1)])


def replicated_gaps(
    program: TwoStageProgram,
    decision: Tensor,
    replications: Tensor,
    given: Mapping[str, Any] | None,
    *,
    risk: Risk,
    threshold: float,
    tolerance: float | None = None,
    check: Callable[[], None] = lambda: None,
) -> Tensor:
    """(R,) gaps of one decision, one a replication.

    Parameters
    ----------
    program : TwoStageProgram
    decision : Tensor
        (1, N).
    replications : Tensor
        (R, S, D) scenarios, drawn independently of each other and of the decision.
    given : mapping, optional
        Of the one context.
    risk : Risk
    threshold : float
        `tail_threshold` of the decision on its own scenarios; not used by the expectation.
    tolerance : float, optional
        As in `TwoStageProgram.solve`.
    check : callable
        Called between batches; raises where the work is not worth going on with.

    Raises
    ------
    ConfigError
        The measure is the worst case: no number of replications bounds what was never drawn.
    SolveError
        A replication has no optimum.
    """
    if not risk.neutral and risk.alpha == 1.0:
        raise ConfigError("the worst case has no gap's interval: what was never drawn cannot be bounded")
    size = max(1, _MOST_SCENARIOS // replications.shape[1])
    gaps = []
    for part in torch.split(replications, size):
        check()
        best = program.solve(part, None, given, risk=risk, tolerance=tolerance).require_optimal()
        check()
        with torch.no_grad():
            costs = program.value(decision.expand(len(part), -1), part, given, tolerance=tolerance)
        benchmarks: Tensor | float = 0.0
        if risk.on_regret and not risk.neutral:
            benchmarks = program.wait_and_see(part, given, tolerance=tolerance)
        gaps.append(_measured(costs, benchmarks, risk, threshold) - best.objective)
    return torch.cat(gaps)


def _measured(costs: Tensor, benchmarks: Tensor | float, risk: Risk, threshold: float) -> Tensor:
    """(R,) F_r of costs (R, S)."""
    if risk.neutral:
        return costs.mean(dim=1)
    excess = (costs - benchmarks - threshold).clamp(min=0.0).mean(dim=1) / (1.0 - risk.alpha)
    return (1.0 - risk.beta) * costs.mean(dim=1) + risk.beta * (threshold + excess)
