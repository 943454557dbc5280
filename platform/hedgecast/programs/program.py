"""Two-stage stochastic programs from one scenario written in CVXPY.

    min_x  cost(x) + rho_s[ V(x, y_s) ]                          s.t. constraints(x)
    V(x, y) = min_w recourse_cost(x, w, y)                       s.t. recourse_constraints(x, w, y)

x are the decision variables (here and now), y the uncertain parameters of a scenario, w the recourse
variables (everything else that the recourse uses), rho a risk measure over scenarios. All costs that
this class reports are cost(x) + V(x, y): the known cost is always included.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import cvxpy as cp
import torch
from torch import Tensor, nn

from hedgecast.core.errors import DependencyError, ProgramError, ShapeError
from hedgecast.programs import checks
from hedgecast.programs.backend import MAX_ITERATIONS, Backend, Inputs, backend, tolerance_or_default
from hedgecast.programs.canonical import compile_stage, feasibility_of, without_decision_rows
from hedgecast.programs.diagnosis import Diagnosis
from hedgecast.programs.entries import Entries, Layout
from hedgecast.programs.information import GapInterval, Information, gap_interval
from hedgecast.programs.inputs import InputReader
from hedgecast.programs.results import solve_batch, wait_and_see_costs
from hedgecast.programs.risk import EXPECTATION, Risk
from hedgecast.programs.solution import Decision
from hedgecast.programs.stages import CompiledStage, stage_costs
from hedgecast.programs.template import Template, make_template
from hedgecast.programs.violations import FirstStageCheck


class TwoStageProgram:
    """A decision problem under uncertainty, compiled once from one scenario.

    Parameters
    ----------
    name : str
    decision : cvxpy.Variable or sequence of them
        What is decided here and now; any shape.
    uncertain : cvxpy.Parameter or sequence of them
        One scenario of what is not known; may stand in costs, right-hand sides and in front of variables.
    given : cvxpy.Parameter or sequence of them
        Known when deciding. A value set on them now becomes the default.
    constraints : sequence of cvxpy constraints
        On the decision alone.
    cost : cvxpy expression or number
        Known cost of the decision.
    recourse_cost : cvxpy expression
        Cost of one scenario after the best recourse.
    recourse_constraints : sequence of cvxpy constraints
        What binds the recourse variables (all variables that are not decisions).

    Raises
    ------
    ProgramError
        A rule is broken; the message names the expression.
    """

    def __init__(
        self,
        *,
        name: str,
        decision: Any,
        uncertain: Any,
        recourse_cost: Any,
        given: Any = (),
        constraints: Any = (),
        cost: Any = 0,
        recourse_constraints: Any = (),
    ) -> None:
        self.name = name
        self.decision = checks.as_leaves(decision, cp.Variable, "decision")
        self.uncertain = checks.as_leaves(uncertain, cp.Parameter, "uncertain")
        self.given = checks.as_leaves(given, cp.Parameter, "given")
        self.cost = checks.as_cost(cost, "cost")
        self.recourse_cost = checks.as_cost(recourse_cost, "recourse_cost")
        self.constraints = checks.as_constraints(constraints, "constraints")
        self.recourse_constraints = checks.as_constraints(recourse_constraints, "recourse_constraints")
        checks.check_program(
            self.decision, self.uncertain, self.given, self.cost, self.constraints, self.recourse_cost,
            self.recourse_constraints,
        )  # fmt: skip
        self.decision_layout = Layout(self.decision, "decision")
        self.reader = InputReader(self.uncertain, self.given)
        self.num_decision = self.decision_layout.size
        self.num_uncertain = self.reader.uncertain.size
        self.num_given = self.reader.given.size
        self._compile()

    # ---- construction ----

    def _compile(self) -> None:
        own = {variable.id for variable in self.decision}
        unsure = {parameter.id for parameter in self.uncertain}

        def certain(constraint: Any) -> bool:
            uses_recourse = any(variable.id not in own for variable in constraint.variables())
            return not uses_recourse and all(p.id not in unsure for p in constraint.parameters())

        # A recourse constraint that no scenario and no recourse variable enters binds the decision.
        first = [*self.constraints, *(c for c in self.recourse_constraints if certain(c))]
        recourse = [c for c in self.recourse_constraints if not certain(c)]
        leaves = (self.decision, self.uncertain, self.given)
        self.first = compile_stage(self.cost, first, *leaves)
        scenario = without_decision_rows(compile_stage(self.recourse_cost, recourse, *leaves))
        known = without_decision_rows(compile_stage(self.cost, [], *leaves))
        sizes = (self.num_uncertain, self.num_given)
        self.template: Template | None = None
        self.template_reason = ""
        if self.first.cones.linear and scenario.cones.linear:
            self.template = make_template(self.first, scenario, *sizes)
        else:
            cones = self.first.cones if not self.first.cones.linear else scenario.cones
            where = "first stage" if not self.first.cones.linear else "recourse"
            self.template_reason = f"its {where} has {cones} cones: it is no quadratic or linear program"
        block = self.template.scenario if self.template is not None else None
        self.recourse = CompiledStage.of(scenario, sizes, block)
        self.known_cost = CompiledStage.of(known, sizes, None)
        self._first_stage_check = FirstStageCheck(self.decision, self.given, first)
        self.diagnosis = Diagnosis(self.first, first, scenario, recourse)

    @functools.cached_property
    def first_stage_alone(self) -> CompiledStage:
        """What binds the decision alone, as a stage without cost: +inf where it has no solution."""
        return CompiledStage.of(feasibility_of(self.first), (self.num_uncertain, self.num_given), None)

    @property
    def cost_expressions(self) -> tuple[str, ...]:
        """The costs as CVXPY writes them, without those that are fixed numbers."""
        costs = (self.cost, self.recourse_cost)
        return tuple(checks.show(cost) for cost in costs if not cost.is_constant())

    @property
    def recourse_variables(self) -> tuple[Any, ...]:
        """The variables that are not decisions, in order of appearance."""
        own = {variable.id for variable in self.decision}
        found = {
            variable.id: variable
            for expression in (self.recourse_cost, *self.recourse_constraints)
            for variable in expression.variables()
            if variable.id not in own
        }
        return tuple(found.values())

    # ---- entries ----

    def inputs(
        self, scenarios: Entries, probabilities: Any = None, given: Mapping[str, Any] | None = None
    ) -> Inputs:
        """The numbers of a batch, in the dtype and on the device of the scenarios.

        Parameters
        ----------
        scenarios : Tensor or ndarray (B, S, ...), or mapping of names to (B, S, *shape)
            Entries of the uncertain parameters in declaration and C order. Integers become float64.
        probabilities : Tensor or ndarray (B, S), optional
            Equal where left out.
        given : mapping of names to *shape or (B, *shape), optional
            Parameters left out take their default.

        Raises
        ------
        ShapeError, ProgramError
            A wrong shape, an unknown or a missing name.
        """
        return self.reader.read(scenarios, probabilities, given)

    def unflatten(self, flat: Tensor) -> dict[str, Tensor]:
        """Decision variable name to (B, *shape), from flat decisions (B, N)."""
        return self.decision_layout.unflatten(flat)

    def flatten(self, decision: Entries) -> Tensor:
        """(B, N) decisions in declaration and C order, from flat ones or from a mapping by name."""
        return self.decision_layout.flatten(decision, ("contexts",))

    # ---- solving ----

    def backend(self, name: str | None = None, risk: Risk = EXPECTATION) -> Backend:
        """The backend called ``name``, or the default: structured where it can, else reference.

        Raises
        ------
        ProgramError
            The backend cannot solve this program; the message says why.
        """
        if name is None:
            try:
                found = backend("structured")
            except (DependencyError, ProgramError):
                return backend("reference")
            return found if found.refusal(self, risk) is None else backend("reference")
        found = backend(name)
        reason = found.refusal(self, risk)
        if reason is not None:
            raise ProgramError(f"backend {name!r} cannot solve program {self.name!r}: {reason}", backend=name)
        return found

    def solve(
        self,
        scenarios: Entries,
        probabilities: Any = None,
        given: Mapping[str, Any] | None = None,
        *,
        risk: Risk = EXPECTATION,
        backend: str | None = None,
        tolerance: float | None = None,
        max_iterations: int = MAX_ITERATIONS,
        slopes: bool = False,
    ) -> Decision:
        """Decisions of a batch of contexts, without gradient; failures are verdicts.

        Parameters
        ----------
        scenarios, probabilities, given
            See `inputs`.
        risk : Risk
        backend : str, optional
            Name of a registered backend; the default is structured where the program is a quadratic or
            linear one, else reference.
        tolerance : float, optional
            Relative residuals and gap; 1e-7 in float64 and 1e-4 in float32 where left out.
        max_iterations : int
        slopes : bool
            Also the objective's derivative in the given parameters, where the backend has multipliers.
        """
        with torch.no_grad():
            inputs = self.inputs(scenarios, probabilities, given)
            return solve_batch(
                self,
                self.backend(backend, risk),
                inputs,
                risk,
                tolerance_or_default(tolerance, inputs.uncertain),
                max_iterations,
                slopes=slopes,
            )

    def wait_and_see(
        self,
        scenarios: Entries,
        given: Mapping[str, Any] | None = None,
        *,
        backend: str | None = None,
        tolerance: float | None = None,
        max_iterations: int = MAX_ITERATIONS,
    ) -> Tensor:
        """(B, S) cost of every scenario had it been known; no gradient.

        +inf where a scenario has no feasible decision, -inf where it is unbounded, NaN where its numbers
        are not finite or the solver did not converge.
        """
        with torch.no_grad():
            inputs = self.inputs(scenarios, None, given)
            usable = self.reader.usable(inputs)
            costs = torch.full_like(inputs.probabilities, torch.nan)
            costs[usable], _ = wait_and_see_costs(
                self,
                self.backend(backend),
                inputs.select(usable),
                tolerance_or_default(tolerance, inputs.uncertain),
                max_iterations,
            )
            return costs

    def value(
        self,
        decision: Entries,
        scenarios: Entries,
        given: Mapping[str, Any] | None = None,
        *,
        backend: str | None = None,
        tolerance: float | None = None,
    ) -> Tensor:
        """(B, S) cost of a decision under every scenario, after the best recourse.

        Differentiable in the decision, the scenarios and the given parameters. +inf where a scenario has no
        recourse. What binds the decision alone is not checked: see `violation`.
        """
        inputs = self.inputs(scenarios, None, given)
        flat = self.flatten(decision).to(inputs.uncertain)
        if flat.shape[0] != inputs.uncertain.shape[0]:
            raise ShapeError(
                f"{flat.shape[0]} decisions for {inputs.uncertain.shape[0]} contexts: give one each"
            )
        return self.costs_of(
            self.backend(backend), flat, inputs, tolerance_or_default(tolerance, inputs.uncertain)
        )

    def costs_of(self, solver: Backend, flat: Tensor, inputs: Inputs, tolerance: float) -> Tensor:
        """(B, S) cost of flat decisions (B, N), for checked inputs; see `value`."""
        known, recourse = self.stage_costs(solver, flat, inputs, tolerance)
        return known[:, None] + recourse

    def stage_costs(
        self, solver: Backend, flat: Tensor, inputs: Inputs, tolerance: float
    ) -> tuple[Tensor, Tensor]:
        """Known cost (B,) and recourse costs (B, S) of flat decisions (B, N), for checked inputs."""
        nothing = inputs.uncertain.new_zeros(inputs.uncertain.shape[0], 1, self.num_uncertain)
        known = stage_costs(self.known_cost, solver, flat, nothing, inputs.given, tolerance)
        recourse = stage_costs(self.recourse, solver, flat, inputs.uncertain, inputs.given, tolerance)
        return known[:, 0], recourse

    def violation(self, decision: Entries, given: Any = None) -> Tensor:
        """(B,) largest violation of what binds the decision alone, in each constraint's own units.

        Parameters
        ----------
        decision : Tensor (B, N) or mapping of names
        given : mapping of names, or checked entries (1 or B, K), optional
        """
        flat = self.flatten(decision).detach()
        entries = given if isinstance(given, Tensor) else self.reader.given_entries(given or {}, flat)
        arrays = [tensor.detach().cpu().double().numpy() for tensor in (flat, entries)]
        return torch.as_tensor(self._first_stage_check(*arrays)).to(flat)

    def violations_by_name(self, decision: Entries, given: Any = None) -> list[tuple[str, float]]:
        """What binds the decision alone, as CVXPY writes it, with one decision's violation of each.

        Parameters
        ----------
        decision : Tensor (1, N) or mapping of names
        given : mapping of names, optional
        """
        flat = self.flatten(decision).detach()
        entries = self.reader.given_entries(given or {}, flat)
        arrays = [tensor[0].detach().cpu().double().numpy() for tensor in (flat, entries)]
        return self._first_stage_check.by_name(*arrays)

    def regret(
        self,
        decision: Entries,
        scenarios: Entries,
        given: Mapping[str, Any] | None = None,
        *,
        backend: str | None = None,
        tolerance: float | None = None,
    ) -> Tensor:
        """(B, S) cost of a decision less the wait-and-see cost; differentiable as `value` in the decision."""
        benchmarks = self.wait_and_see(scenarios, given, backend=backend, tolerance=tolerance)
        return self.value(decision, scenarios, given, backend=backend, tolerance=tolerance) - benchmarks

    # ---- what information is worth ----

    def information(
        self,
        scenarios: Entries,
        probabilities: Any = None,
        given: Mapping[str, Any] | None = None,
        *,
        backend: str | None = None,
        tolerance: float | None = None,
    ) -> Information:
        """The values of perfect information and of the stochastic solution, and what they are made of."""
        return Information(self, scenarios, probabilities, given, backend=backend, tolerance=tolerance)

    def gap_interval(
        self,
        decision: Entries,
        batches: Iterable[Entries],
        given: Mapping[str, Any] | None = None,
        *,
        confidence: float = 0.95,
        backend: str | None = None,
        tolerance: float | None = None,
    ) -> GapInterval:
        """A one-sided confidence interval of a decision's optimality gap by multiple replications.

        ``batches`` yields independent scenarios (B, S, ...); see `hedgecast.programs.information`.
        """
        return gap_interval(
            self, decision, batches, given, confidence=confidence, backend=backend, tolerance=tolerance
        )

    def layer(
        self,
        *,
        backend: str | None = None,
        risk: Risk = EXPECTATION,
        smoothing: float = 0.0,
        tolerance: float | None = None,
        warm_start: bool = False,
    ) -> nn.Module:
        """A module from (scenarios, probabilities, given) to flat decisions (B, N), differentiable in all.

        Parameters
        ----------
        backend : str, optional
            ``structured`` or ``cvxpylayers``; the default is the first that can.
        risk : Risk
        smoothing : float
            Barrier at which gradients are taken, in units of cost; at zero they are those of the solver's
            last iterate, which differ between solvers at kinks.
        tolerance : float, optional
            1e-8 in float64 and 1e-4 in float32 where left out.
        warm_start : bool
            Start each call where the thread's last one of the same sizes ended: for data that change little.
            With one scenario on the CPU in double precision the structured backend starts cold.
        """
        from hedgecast.programs.layer import DecisionLayer

        return DecisionLayer(
            self,
            backend=backend,
            risk=risk,
            smoothing=smoothing,
            tolerance=tolerance,
            warm_start=warm_start,
        )

    def __repr__(self) -> str:
        return (
            f"TwoStageProgram({self.name!r}: {self.num_decision} decisions, {self.num_uncertain} uncertain "
            f"and {self.num_given} given entries)"
        )
