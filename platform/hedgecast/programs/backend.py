"""What a solver must offer to a program, and how one is found by name.

Backends live above this package (in `hedgecast.decisions`, or in a user's own distribution) and are
found through the entry point group ``hedgecast.backends``, so that programs never import a solver.
There are two kinds:

- a `Backend` takes the program itself (its canonical stages, any cone) and answers three questions;
- a `BlockBackend` solves `BlockProblem`s, nothing else; `hedgecast.programs.block_backend` makes a
  `Backend` of it.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from hedgecast.core.errors import DependencyError, ProgramError
from hedgecast.programs.blocks import BlockProblem
from hedgecast.programs.risk import Risk

if TYPE_CHECKING:
    from hedgecast.programs.program import TwoStageProgram
    from hedgecast.programs.stages import CompiledStage

GROUP = "hedgecast.backends"
MAX_ITERATIONS = 200
"""Of a solve, where a caller does not say; CVaR of 1,000 schedules of a day takes 66."""


def tolerance_or_default(asked: float | None, like: Tensor) -> float:
    """``asked``, or the relative residuals and gap that fit the precision of ``like``: 1e-7 or 1e-4."""
    return asked if asked is not None else 1e-7 if like.dtype == torch.float64 else 1e-4


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """Checked numbers of a batch, all of one dtype and device."""

    uncertain: Tensor
    """(B, S, D)."""
    probabilities: Tensor
    """(B, S)."""
    given: Tensor
    """(1 or B, K)."""

    def select(self, members: Tensor) -> Inputs:
        """The members of the batch at ``members`` (M,)."""
        return Inputs(
            uncertain=self.uncertain[members],
            probabilities=self.probabilities[members],
            given=self.given if self.given.shape[0] == 1 else self.given[members],
        )

    def apart(self) -> Inputs:
        """(B*S, 1, D): every scenario as a context of its own, certain."""
        num_contexts, num_scenarios, num_uncertain = self.uncertain.shape
        given = self.given
        if given.shape[0] != 1:
            given = given.repeat_interleave(num_scenarios, dim=0)
        return Inputs(
            uncertain=self.uncertain.reshape(num_contexts * num_scenarios, 1, num_uncertain),
            probabilities=self.probabilities.new_ones(num_contexts * num_scenarios, 1),
            given=given,
        )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RawSolution:
    """What a backend found, before it becomes a `Decision`; bad members hold any numbers."""

    flat: Tensor
    """(B, N)."""
    first_cost: Tensor
    """(B,) known cost of the decision."""
    recourse_costs: Tensor
    """(B, S)."""
    verdicts: Tensor
    """(B,) int64 of `Verdict`."""
    primal_residual: Tensor
    dual_residual: Tensor
    gap: Tensor
    iterations: Tensor
    certificate: Tensor | None = None
    """(B, S, rows of the canonical recourse stage): Farkas multipliers of infeasible members, the
    largest over all rows (the first stage's included) of the order of one."""
    slope_given: Tensor | None = None
    """(B, K) derivative of the least objective with respect to the given entries, where it was asked for."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class StageValue:
    """Optimal cost of one stage with the decision fixed, for M separate cases, and its slopes."""

    cost: Tensor
    """(M,): +inf where infeasible, -inf where unbounded, NaN where the solver failed."""
    slope_decision: Tensor
    """(M, N)."""
    slope_uncertain: Tensor
    """(M, D)."""
    slope_given: Tensor
    """(M, K)."""


@runtime_checkable
class Backend(Protocol):
    """A solver of two-stage programs."""

    name: str

    def refusal(self, program: TwoStageProgram, risk: Risk) -> str | None:
        """Why this backend cannot solve ``program`` under ``risk``; None where it can."""
        ...

    def solve(
        self,
        program: TwoStageProgram,
        inputs: Inputs,
        *,
        risk: Risk,
        benchmarks: Tensor | None,
        tolerance: float,
        max_iterations: int,
    ) -> RawSolution:
        """The best decisions for a batch, without gradient.

        Parameters
        ----------
        program : TwoStageProgram
        inputs : Inputs
            Finite numbers; probabilities are distributions.
        risk : Risk
        benchmarks : Tensor, optional
            (B, S) wait-and-see costs where the measure is on regret.
        tolerance : float
            Relative residuals and gap.
        max_iterations : int
        """
        ...

    def evaluate(
        self, compiled: CompiledStage, decision: Tensor, uncertain: Tensor, given: Tensor, *, tolerance: float
    ) -> StageValue:
        """Optimal cost of one stage for M fixed decisions, with its slopes.

        Parameters
        ----------
        compiled : CompiledStage
        decision, uncertain, given : Tensor
            (M, N), (M, D) and (M, K).
        tolerance : float
        """
        ...

    def layer(
        self, program: TwoStageProgram, *, risk: Risk, smoothing: float, tolerance: float | None
    ) -> nn.Module:
        """A module (Inputs, benchmarks or None) -> decisions (B, N) and verdicts (B,).

        Decisions are differentiable in every input; those of members without a solution are NaN.

        Raises
        ------
        ProgramError
            The backend has no gradients.
        """
        ...


@runtime_checkable
class PricingBackend(Backend, Protocol):
    """A solver whose multipliers tell what the given parameters are worth."""

    def solve_with_slopes(
        self,
        program: TwoStageProgram,
        inputs: Inputs,
        *,
        risk: Risk,
        benchmarks: Tensor | None,
        tolerance: float,
        max_iterations: int,
    ) -> RawSolution:
        """As `solve`, with ``slope_given``."""
        ...


class BlockSolution(Protocol):
    """What a `BlockBackend` returns; ``x`` and the costs carry gradients."""

    @property
    def x(self) -> Tensor:
        """(B, n)."""

    @property
    def w(self) -> Tensor:
        """(B, S, m)."""

    @property
    def scenario_costs(self) -> Tensor:
        """(B, S) recourse costs."""

    @property
    def first_cost(self) -> Tensor:
        """(B,)."""

    @property
    def verdicts(self) -> Tensor:
        """(B,) of `Verdict`."""

    @property
    def primal_residual(self) -> Tensor:
        """(B,)."""

    @property
    def dual_residual(self) -> Tensor:
        """(B,)."""

    @property
    def gap(self) -> Tensor:
        """(B,)."""

    @property
    def iterations(self) -> Tensor:
        """(B,)."""

    @property
    def weights(self) -> Tensor:
        """(B, S): how much each scenario's cost weighs at the optimum."""

    @property
    def equality_dual(self) -> Tensor:
        """(B, rows of A)."""

    @property
    def inequality_dual(self) -> Tensor:
        """(B, rows of G), nonnegative."""

    @property
    def recourse_equality_dual(self) -> Tensor:
        """(B, S, rows of W), of the expected cost."""

    @property
    def recourse_inequality_dual(self) -> Tensor:
        """(B, S, rows of V), nonnegative."""

    @property
    def warm(self) -> Any:
        """Where a later solve of nearby numbers may start; None where it cannot."""

    @property
    def certificate(self) -> Tensor:
        """(B, S, rows of W, then of V): Farkas multipliers of infeasible members."""


@runtime_checkable
class BlockBackend(Protocol):
    """A solver of block problems."""

    name: str

    def solve_blocks(
        self,
        problem: BlockProblem,
        probabilities: Tensor,
        *,
        risk: Risk,
        benchmarks: Tensor | None,
        tolerance: float,
        max_iterations: int,
        smoothing: float,
        warm_start: Any = None,
    ) -> BlockSolution:
        """The solution of every member of the batch.

        Parameters
        ----------
        problem : BlockProblem
        probabilities : Tensor
            (B, S).
        risk : Risk
        benchmarks : Tensor, optional
            (B, S).
        tolerance : float
        max_iterations : int
        smoothing : float
            Barrier at which gradients are taken.
        warm_start : optional
            ``warm`` of an earlier solution of the same template and sizes.
        """
        ...


def available_backends() -> tuple[str, ...]:
    """Names of the registered backends, sorted."""
    return tuple(sorted(entry.name for entry in importlib.metadata.entry_points(group=GROUP)))


@functools.cache
def backend(name: str) -> Backend:
    """The backend registered under ``name``.

    Raises
    ------
    ProgramError
        No backend has that name.
    DependencyError
        It is registered, and a package that it needs is missing.
    """
    from hedgecast.programs.block_backend import ProgramBackend

    entries = importlib.metadata.entry_points(group=GROUP, name=name)
    if not entries:
        raise ProgramError(
            f"no backend is called {name!r}: registered are {', '.join(available_backends())}", backend=name
        )
    try:
        made = next(iter(entries)).load()()
    except ImportError as error:
        raise DependencyError(
            f"backend {name!r} needs {error.name or 'a package'}, which is not installed: "
            "pip install 'hedgecast[library]'",
            backend=name,
        ) from error
    return ProgramBackend(made) if isinstance(made, BlockBackend) else made
