"""How far decisions may be from optimal under the asked measure, from fresh scenarios.

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

from hedgecast.core.errors import ConfigError, ShapeError
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
    threshold: float | Tensor,
    backend: str | None = None,
    tolerance: float | None = None,
    check: Callable[[], None] = lambda: None,
) -> Tensor:
    """(B, R) gaps of one decision a context, one a replication.

    Parameters
    ----------
    program : TwoStageProgram
    decision : Tensor
        (B, N).
    replications : Tensor
        (B, R, S, D) scenarios, drawn independently of each other and of the decision.
    given : mapping, optional
        Names to *shape or (B, *shape).
    risk : Risk
    threshold : float or Tensor
        `tail_threshold` of the decision on its own scenarios, or (B,) of them; not used by the expectation.
    backend, tolerance
        As in `TwoStageProgram.solve`.
    check : callable
        Called between batches; raises where the work is not worth going on with.

    Raises
    ------
    ConfigError
        The measure is the worst case: no number of replications bounds what was never drawn.
    ShapeError
        There are not as many decisions as contexts.
    SolveError
        A replication has no optimum.
    """
    if not risk.neutral and risk.alpha == 1.0:
        raise ConfigError("the worst case has no gap's interval: what was never drawn cannot be bounded")
    num_contexts, count = replications.shape[:2]
    if decision.shape[0] != num_contexts:
        raise ShapeError(f"{decision.shape[0]} decisions for {num_contexts} contexts: give one each")
    fresh = replications.flatten(0, 1)
    entries = program.reader.given_entries(given or {}, decision)
    if entries.shape[0] > 1:
        entries = entries.repeat_interleave(count, dim=0)
    thresholds = torch.as_tensor(threshold, dtype=fresh.dtype).expand(num_contexts).repeat_interleave(count)
    flat = decision.repeat_interleave(count, dim=0)
    options: dict[str, Any] = {"backend": backend, "tolerance": tolerance}
    gaps = []
    for rows in torch.split(torch.arange(len(fresh)), max(1, _MOST_SCENARIOS // replications.shape[2])):
        check()
        part = fresh[rows]
        known = program.reader.given.unflatten(entries if entries.shape[0] == 1 else entries[rows])
        best = program.solve(part, None, known, risk=risk, **options).require_optimal()
        check()
        with torch.no_grad():
            costs = program.value(flat[rows], part, known, **options)
        benchmarks: Tensor | float = 0.0
        if risk.on_regret and not risk.neutral:
            benchmarks = program.wait_and_see(part, known, **options)
        gaps.append(_measured(costs, benchmarks, risk, thresholds[rows]) - best.objective)
    return torch.cat(gaps).reshape(num_contexts, count)


def _measured(costs: Tensor, benchmarks: Tensor | float, risk: Risk, threshold: Tensor) -> Tensor:
    """(R,) F_r of costs (R, S) and thresholds (R,)."""
    if risk.neutral:
        return costs.mean(dim=1)
    excess = (costs - benchmarks - threshold[:, None]).clamp(min=0.0).mean(dim=1) / (1.0 - risk.alpha)
    return (1.0 - risk.beta) * costs.mean(dim=1) + risk.beta * (threshold + excess)
