"""Two-stage stochastic programs from one scenario written in CVXPY.

    min_x  cost(x) + rho_s[ V(x, y_s) ]                          s.t. constraints(x)
    V(x, y) = min_w recourse_cost(x, w, y)                       s.t. recourse_constraints(x, w, y)

x are the decision variables (here and now), y the uncertain parameters of a scenario, w the recourse
variables (everything else that the recourse uses), rho a risk measure over scenarios. All costs that
this class reports are cost(x) + V(x, y): the known cost is always included.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import cvxpy as cp
import numpy as np
import torch
from torch import Tensor, nn

from hedgecast.core.errors import DependencyError, ProgramError, ShapeError
from hedgecast.programs import checks
from hedgecast.programs.backend import Backend, Inputs, backend
from hedgecast.programs.canonical import Stage, compile_stage, flat_size, without_decision_rows
from hedgecast.programs.evaluate import Separable, with_slopes
from hedgecast.programs.presolve import reduce_stage
from hedgecast.programs.results import solve_batch, usable_members, wait_and_see_costs
from hedgecast.programs.risk import EXPECTATION, Risk
from hedgecast.programs.solution import Decision
from hedgecast.programs.template import ScenarioBlock, Template, make_block, make_template

Entries = Tensor | np.ndarray | Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class CompiledStage:
    """One stage that is evaluated at fixed decisions: the recourse, or the known cost alone."""

    stage: Stage
    block: ScenarioBlock | None
    """The reduced rows; None where the stage has other cones than linear ones."""
    separable: Separable | None
    """Its closed form, where it has one."""


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
        self._check()
        self.num_decision = flat_size(self.decision)
        self.num_uncertain = flat_size(self.uncertain)
        self.num_given = flat_size(self.given)
        self.given_defaults: dict[str, Tensor] = {
            parameter.name(): torch.as_tensor(_dense(parameter.value), dtype=torch.float64)
            for parameter in self.given
            if parameter.value is not None
        }
        self._compile()

    # ---- construction ----

    def _check(self) -> None:
        checks.check_leaves(self.decision, self.uncertain, self.given)
        bounds = [
            (f"bounds of {variable.name()!r}", bound)
            for variable in self.decision
            for bound in variable.attributes["bounds"] or ()
            if isinstance(bound, cp.Expression)
        ]
        first = [("cost", self.cost), *(("constraint", c) for c in self.constraints)]
        recourse = [
            ("recourse_cost", self.recourse_cost),
            *(("recourse constraint", c) for c in self.recourse_constraints),
        ]
        checks.check_first_stage([*first, *bounds], self.decision, self.uncertain, self.given)
        checks.check_recourse(recourse, self.uncertain, self.given)
        for role, expression in [*first, *recourse]:
            checks.check_convex(role, expression)
        everything = [expression for _, expression in [*first, *bounds, *recourse]]
        checks.check_used(self.decision, everything, "decision variable")
        checks.check_used(self.uncertain, [e for _, e in recourse], "uncertain parameter")
        checks.check_used(self.given, everything, "given parameter")

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
        self.recourse = _compiled(scenario, sizes, block)
        self.known_cost = _compiled(known, sizes, None)

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
        """The checked numbers of a batch, in the dtype and on the device of the scenarios.

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
        uncertain = self._scenarios(scenarios)
        num_contexts, num_scenarios = uncertain.shape[:2]
        if probabilities is None:
            weights = uncertain.new_full((num_contexts, num_scenarios), 1.0 / max(num_scenarios, 1))
        else:
            weights = torch.as_tensor(probabilities).to(uncertain)
            if weights.shape != uncertain.shape[:2]:
                raise ShapeError(
                    f"probabilities have shape {tuple(weights.shape)}: must be contexts x scenarios = "
                    f"{tuple(uncertain.shape[:2])}"
                )
        return Inputs(uncertain=uncertain, probabilities=weights, given=self._given(given, uncertain))

    def _scenarios(self, scenarios: Entries) -> Tensor:
        if isinstance(scenarios, Mapping):
            self._check_names(scenarios, self.uncertain, "scenarios", complete=True)
            parts = [_float(scenarios[parameter.name()]) for parameter in self.uncertain]
            for parameter, part in zip(self.uncertain, parts, strict=True):
                if part.ndim != 2 + len(parameter.shape) or tuple(part.shape[2:]) != tuple(parameter.shape):
                    raise ShapeError(
                        f"scenarios[{parameter.name()!r}] has shape {tuple(part.shape)}: must be "
                        f"(contexts, scenarios, {', '.join(map(str, parameter.shape))})"
                    )
            return torch.cat([part.flatten(2) if part.ndim > 2 else part[..., None] for part in parts], dim=2)
        values = _float(scenarios)
        if values.ndim < 3 or values[0, 0].numel() != self.num_uncertain or not values.shape[1]:
            names = ", ".join(f"{p.name()} {tuple(p.shape)}" for p in self.uncertain)
            raise ShapeError(
                f"scenarios have shape {tuple(values.shape)}: must be (contexts, scenarios, "
                f"{self.num_uncertain} entries of {names}); for one context add a leading axis of one"
            )
        return values.flatten(2)

    def _given(self, given: Mapping[str, Any] | None, like: Tensor) -> Tensor:
        given = given or {}
        self._check_names(given, self.given, "given", complete=False)
        parts = []
        for parameter in self.given:
            value = given.get(parameter.name(), self.given_defaults.get(parameter.name()))
            if value is None:
                raise ProgramError(
                    f"given parameter {parameter.name()!r} has no value: pass "
                    f"given={{{parameter.name()!r}: ...}} or set .value before the program is made",
                    name=parameter.name(),
                )
            part = torch.as_tensor(value).to(like)
            shape = tuple(parameter.shape)
            if tuple(part.shape) == shape:
                part = part[None]
            elif tuple(part.shape[1:]) != shape or part.shape[0] not in (1, like.shape[0]):
                raise ShapeError(
                    f"given[{parameter.name()!r}] has shape {tuple(part.shape)}: must be {shape} or "
                    f"{(like.shape[0], *shape)}"
                )
            parts.append(part.reshape(part.shape[0], -1))
        if not parts:
            return like.new_zeros(1, 0)
        rows = max(part.shape[0] for part in parts)
        return torch.cat([part.expand(rows, -1) for part in parts], dim=1)

    def _check_names(
        self, found: Mapping[str, Any], known: Sequence[Any], what: str, *, complete: bool
    ) -> None:
        names = [parameter.name() for parameter in known]
        for name in found:
            if name not in names:
                raise ProgramError(
                    f"{what} has {name!r}: known names are {', '.join(names) or 'none'}", name=name
                )
        for name in names:
            if complete and name not in found:
                raise ProgramError(f"{what} lacks {name!r}", name=name)

    def unflatten(self, flat: Tensor) -> dict[str, Tensor]:
        """Decision variable name to (B, *shape), from flat decisions (B, N)."""
        parts = torch.split(flat, [variable.size for variable in self.decision], dim=1)
        return {
            variable.name(): part.reshape(-1, *variable.shape)
            for variable, part in zip(self.decision, parts, strict=True)
        }

    def flatten(self, decision: Entries) -> Tensor:
        """(B, N) decisions in declaration and C order, from flat ones or from a mapping by name."""
        if isinstance(decision, Mapping):
            self._check_names(decision, self.decision, "decision", complete=True)
            parts = [_float(decision[v.name()]).reshape(-1, v.size) for v in self.decision]
            return torch.cat(parts, dim=1)
        flat = _float(decision)
        if flat.ndim != 2 or flat.shape[1] != self.num_decision:
            raise ShapeError(
                f"decision has shape {tuple(flat.shape)}: must be (contexts, {self.num_decision} entries of "
                f"{', '.join(v.name() for v in self.decision)})"
            )
        return flat

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
        max_iterations: int = 200,
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
        """
        with torch.no_grad():
            inputs = self.inputs(scenarios, probabilities, given)
            return solve_batch(
                self,
                self.backend(backend, risk),
                inputs,
                risk,
                _tolerance(tolerance, inputs.uncertain),
                max_iterations,
            )

    def wait_and_see(
        self,
        scenarios: Entries,
        given: Mapping[str, Any] | None = None,
        *,
        backend: str | None = None,
        tolerance: float | None = None,
        max_iterations: int = 200,
    ) -> Tensor:
        """(B, S) cost of every scenario had it been known; no gradient.

        +inf where a scenario has no feasible decision, -inf where it is unbounded, NaN where its numbers
        are not finite or the solver did not converge.
        """
        with torch.no_grad():
            inputs = self.inputs(scenarios, None, given)
            usable = usable_members(inputs)
            costs = torch.full_like(inputs.probabilities, torch.nan)
            costs[usable], _ = wait_and_see_costs(
                self,
                self.backend(backend),
                inputs.select(usable),
                _tolerance(tolerance, inputs.uncertain),
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
        return self.costs_of(self.backend(backend), flat, inputs, _tolerance(tolerance, inputs.uncertain))

    def costs_of(self, solver: Backend, flat: Tensor, inputs: Inputs, tolerance: float) -> Tensor:
        """(B, S) cost of flat decisions (B, N), for checked inputs; see `value`."""
        nothing = inputs.uncertain.new_zeros(inputs.uncertain.shape[0], 1, self.num_uncertain)
        known = _stage_costs(self.known_cost, solver, flat, nothing, inputs.given, tolerance)
        return known + _stage_costs(self.recourse, solver, flat, inputs.uncertain, inputs.given, tolerance)

    def regret(
        self, decision: Entries, scenarios: Entries, given: Mapping[str, Any] | None = None, **options: Any
    ) -> Tensor:
        """(B, S) cost of a decision less the wait-and-see cost; differentiable as `value` in the decision."""
        benchmarks = self.wait_and_see(scenarios, given, **options)
        return self.value(decision, scenarios, given, **options) - benchmarks

    def layer(
        self,
        *,
        backend: str | None = None,
        risk: Risk = EXPECTATION,
        smoothing: float = 0.0,
        tolerance: float | None = None,
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
        """
        from hedgecast.programs.layer import DecisionLayer

        return DecisionLayer(self, backend=backend, risk=risk, smoothing=smoothing, tolerance=tolerance)

    def __repr__(self) -> str:
        return (
            f"TwoStageProgram({self.name!r}: {self.num_decision} decisions, {self.num_uncertain} uncertain "
            f"and {self.num_given} given entries)"
        )


def _compiled(stage: Stage, sizes: tuple[int, int], block: ScenarioBlock | None) -> CompiledStage:
    if block is None and stage.cones.linear:
        block = make_block(reduce_stage(stage), stage.num_decision, stage.num_rows, sizes)
    return CompiledStage(stage, block, Separable.of(block) if block is not None else None)


def _stage_costs(
    compiled: CompiledStage, solver: Backend, flat: Tensor, uncertain: Tensor, given: Tensor, tolerance: float
) -> Tensor:
    if compiled.separable is not None:
        return compiled.separable(flat, uncertain, given)
    num_contexts, num_scenarios = uncertain.shape[:2]
    decisions = flat.repeat_interleave(num_scenarios, dim=0)
    scenarios = uncertain.reshape(num_contexts * num_scenarios, -1)
    known = given.expand(num_contexts, -1).repeat_interleave(num_scenarios, dim=0)
    with torch.no_grad():
        value = solver.evaluate(compiled, decisions, scenarios, known, tolerance=tolerance)
    return with_slopes(value, decisions, scenarios, known).reshape(num_contexts, num_scenarios)


def _tolerance(asked: float | None, like: Tensor) -> float:
    return asked if asked is not None else 1e-7 if like.dtype == torch.float64 else 1e-4


def _float(values: Any) -> Tensor:
    tensor = values if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
    return tensor if tensor.is_floating_point() else tensor.double()


def _dense(value: Any) -> np.ndarray:
    return np.asarray(value.toarray() if hasattr(value, "toarray") else value, dtype=np.float64)
