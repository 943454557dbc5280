"""A stage at fixed decisions: its canonical form, its reduced rows, and what it costs."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hedgecast.programs.canonical import Stage
from hedgecast.programs.evaluate import Separable, with_slopes
from hedgecast.programs.presolve import reduce_stage
from hedgecast.programs.template import ScenarioBlock, make_block

if TYPE_CHECKING:
    from hedgecast.programs.backend import Backend


@dataclasses.dataclass(frozen=True, slots=True)
class CompiledStage:
    """One stage that is evaluated at fixed decisions: the recourse, or the known cost alone."""

    stage: Stage
    block: ScenarioBlock | None
    """The reduced rows; None where the stage has other cones than linear ones."""
    separable: Separable | None
    """Its closed form, where it has one."""

    @classmethod
    def of(cls, stage: Stage, sizes: tuple[int, int], block: ScenarioBlock | None) -> CompiledStage:
        """A stage with its block, made here where it is left out and the stage has one.

        Parameters
        ----------
        stage : Stage
        sizes : tuple of int
            Uncertain and given entries, D and K.
        block : ScenarioBlock, optional
        """
        if block is None and stage.cones.linear:
            block = make_block(reduce_stage(stage), stage.num_decision, stage.num_rows, sizes)
        return cls(stage, block, Separable.of(block) if block is not None else None)


def stage_costs(
    compiled: CompiledStage, solver: Backend, flat: Tensor, uncertain: Tensor, given: Tensor, tolerance: float
) -> Tensor:
    """(B, S) cost of one stage for fixed decisions, with slopes in every argument.

    Parameters
    ----------
    compiled : CompiledStage
    solver : Backend
        Used where the stage has no closed form.
    flat : Tensor
        (B, N).
    uncertain, given : Tensor
        (B, S, D) and (1 or B, K).
    tolerance : float
    """
    if compiled.separable is not None:
        return compiled.separable(flat, uncertain, given)
    num_contexts, num_scenarios = uncertain.shape[:2]
    decisions = flat.repeat_interleave(num_scenarios, dim=0)
    scenarios = uncertain.reshape(num_contexts * num_scenarios, -1)
    known = given.expand(num_contexts, -1).repeat_interleave(num_scenarios, dim=0)
    with torch.no_grad():
        value = solver.evaluate(compiled, decisions, scenarios, known, tolerance=tolerance)
    return with_slopes(value, decisions, scenarios, known).reshape(num_contexts, num_scenarios)
