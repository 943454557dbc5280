"""The compiled loops behind tensors: who may use them, layouts, and members they leave unsolved.

They take float64 tensors on the CPU under a neutral risk measure. The method is that of
`interior_point`; a member that they do not bring to the end is solved again there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hedgecast.decisions.block_factor import BlockIndex
from hedgecast.decisions.block_numbers import Numbers
from hedgecast.decisions.central_path import Limits, follow_central_path, replace_members
from hedgecast.decisions.compiled_point import CompiledPoint, FirstPoint
from hedgecast.decisions.iterates import Iterate, Outcome, Quality
from hedgecast.decisions.kernels_adjoint import Adjoint, adjoint_contexts
from hedgecast.decisions.kernels_context import Report, Results, Settings, solve_contexts
from hedgecast.decisions.kernels_emit import LANES, generate
from hedgecast.decisions.kernels_first import FirstStage
from hedgecast.decisions.kernels_lanes import LaneReport, LaneResults, adjoint_lanes, solve_lanes
from hedgecast.decisions.kernels_pattern import (
    Coefficients,
    Pattern,
    Values,
    make_coefficients,
    make_pattern,
)
from hedgecast.decisions.kernels_settle import Settled, settle_contexts
from hedgecast.decisions.kernels_writer import PASSES
from hedgecast.decisions.solve_threads import IntArray, in_threads
from hedgecast.decisions.working_arrays import FloatArray, Shapes, Work, WorkingArrays, aligned_empty
from hedgecast.programs.blocks import BlockProblem, SparseMatrix
from hedgecast.programs.risk import EXPECTATION, Risk

_REGULARIZATION = 1e-9
# In blocks with equality rows. A column without curvature and the multiplier of its row have nothing but the
# regularization for pivots, in turn: the growth between them is one over its square, and that stays below
# one over rounding from the square root of rounding, 1.5e-8, on (Saunders 1996, "Cholesky-based methods for
# sparse least squares: the benefits of regularization"). Of 192 sets of 200 weeks of freight the loops left
# unsolved at a tolerance of 1e-8: 45 with 1e-9 and with 3e-9, none with this. The tensors' loop sees to its
# pivots instead: so much would stop it where scenarios weigh nothing, as outside a tail.
_EQUALITY_REGULARIZATION = 3e-8
# The adjoint is not refined as it is on tensors: it makes do with less.
_ADJOINT_REGULARIZATION = 1e-12
# Scenarios side by side. Reading the index lists costs a tile as much as 15 of them (measured on schedules:
# 16 x 200 in 200 ms with 8, 86 with 40, 77 with 104); more fills the cache for nothing.
_MAX_LANES = 104
_MIN_LANES = 48
# Bytes: a fresh page costs as much as filling it.
_WORKING_ARRAYS = WorkingArrays(most_bytes=2**26)
# Longest list of multiply-adds of one scenario that is worth interpreting lane by lane.
_MAX_MULTIPLY_ADDS = 2_000_000


def compiled_applies(problem: BlockProblem, index: BlockIndex, risk: Risk) -> bool:
    """Whether a batch is one for the compiled loops."""
    deterministic = problem.num_first == 0 and problem.num_scenarios == 1
    return (
        problem.device.type == "cpu"
        and problem.dtype == torch.float64
        and risk.neutral
        and (deterministic or problem.num_first > 0)
        and index.structure.num_multiply_adds <= _MAX_MULTIPLY_ADDS
    )


class CompiledSolver:
    """The compiled loops for one batch: its numbers as arrays, the solve and the adjoint solve.

    Parameters
    ----------
    problem : BlockProblem
        The members to solve, all finite.
    index : BlockIndex
        The template's elimination.
    numbers : Numbers
        The same members' numbers for the tensor path.
    """

    def __init__(self, problem: BlockProblem, index: BlockIndex, numbers: Numbers) -> None:
        self.index, self.numbers = index, numbers
        self.deterministic = problem.num_first == 0
        if index.compiled_pattern is None:
            index.compiled_pattern = make_pattern(index.structure, problem)
        self.pattern: Pattern = index.compiled_pattern
        B, S = problem.num_contexts, problem.num_scenarios
        self.weight, self.measure = _array(numbers.relative), _array(numbers.measure)
        self.coefficients = make_coefficients(problem)
        if self.deterministic:
            self.coefficients = Coefficients(*map(_programs_as_scenarios, self.coefficients))
            self.constant = _array(numbers.e.expand(B, 1)[:, 0])
        else:
            self.first = _first_stage(problem, numbers)
        self.code = self._code()
        self.tiles, self.lanes = _tiling(B if self.deterministic else S, generated=bool(self.code[0]))

    def _code(self) -> IntArray:
        """Addresses of the template's passes for these coefficients, generated once."""
        varies = tuple(values.varies for values in self.coefficients)
        with self.index.lock:
            if varies not in self.index.generated:
                self.index.generated[varies] = generate(self.pattern, varies)
            found = self.index.generated[varies]
        return np.zeros(len(PASSES), np.int64) if found is None else found.addresses

    def _in_threads(
        self, task: Callable[[IntArray, Work], None], count: int, *, tiles: int, even: bool = False
    ) -> None:
        """Run ``task`` on all indices below ``count``, each part with working arrays of so many tiles."""
        shapes = work_shapes(self.pattern, tiles, self.lanes)

        def on_part(part: IntArray) -> None:
            with _WORKING_ARRAYS.lent(shapes) as work:
                task(part, work)

        in_threads(on_part, count, even=even)

    def settle(self, x: FloatArray, barrier: FloatArray) -> tuple[Settled, Results]:
        """What scenarios bring to the first stage at a decision (B, n), and their central points there."""
        result, _, _ = self._allocate(smoothing=False)
        result.x[:] = x
        return self._settle(result, barrier), result

    def _settle(self, result: Results, barrier: FloatArray) -> Settled:
        B, n = result.x.shape
        settled = Settled(np.empty((B, n)), np.empty((B, n, n)), np.zeros(B, np.int64))
        self._in_threads(
            lambda part, work: settle_contexts(
                self.pattern, self.coefficients, self.weight, self.measure, _ADJOINT_REGULARIZATION, barrier,
                part, self.lanes, self.code, work, result, settled,
            ),
            B,
            tiles=self.tiles,
        )  # fmt: skip
        return settled

    def solve(self, limits: Limits, warm: Iterate | None = None) -> Outcome:
        """The solution of every member; what the loops leave unsolved goes through the tensor path."""
        return self._solve_rest(limits, self.attempt(limits, warm))

    def attempt(self, limits: Limits, warm: Iterate | FirstPoint | None = None) -> Outcome:
        """What the loops find; not every member need have converged.

        ``warm`` holds interior points to start from, or first stages of such points alone; deterministic
        programs start cold all the same.
        """
        B = self.numbers.num_contexts
        result, report, central = self._allocate(limits.smoothing is not None)
        if isinstance(warm, FirstPoint):
            for name in ("x", "equality", "multiplier", "slack"):
                getattr(result, name)[:] = getattr(warm.arrays, name)
            self._settle(result, warm.barrier)
        elif warm is not None and not self.deterministic:
            CompiledPoint(self.numbers.num_scenarios, result).put(torch.arange(B), warm)
        regularization = _EQUALITY_REGULARIZATION if self.pattern.num_equalities else _REGULARIZATION
        settings = Settings(limits.tolerance, limits.max_iterations, limits.smoothing or 0.0, regularization)
        if self.deterministic:
            lane_result, lane_central = _by_program(result), _by_program(central)
            lane_report = LaneReport(*report[1:])
            self._in_threads(
                lambda part, work: solve_lanes(
                    self.pattern, self.coefficients, self.weight[:, 0], self.constant, settings, part,
                    self.lanes, self.code, work, lane_result, lane_central,
                    lane_report,
                ),
                self.tiles,
                tiles=1,
            )  # fmt: skip
        else:
            self._in_threads(
                lambda part, work: solve_contexts(
                    self.pattern, self.coefficients, self.first, self.weight, self.measure, settings, part,
                    self.lanes, self.code, work, warm is not None, result, central, report,
                ),
                B,
                tiles=self.tiles,
            )  # fmt: skip
        point = CompiledPoint(self.numbers.num_scenarios, result)
        return Outcome(
            iterate=point,
            central=CompiledPoint(self.numbers.num_scenarios, central) if limits.smoothing else None,
            quality=Quality(*map(torch.from_numpy, (report.primal, report.dual, report.gap, report.gap))),
            converged=torch.from_numpy(report.converged),
            central_found=torch.from_numpy(report.central_found),
            iterations=torch.from_numpy(report.iterations),
            costs=None if self.deterministic else torch.from_numpy(report.costs),
        )

    def _allocate(self, smoothing: bool) -> tuple[Results, Report, Results]:
        B, S, p = self.numbers.num_contexts, self.numbers.num_scenarios, self.pattern
        rows = (p.num_recourse, p.num_equalities, p.num_inequalities, p.num_inequalities)

        def results() -> Results:
            shape = (B, 1, 1) if self.deterministic else (B, self.tiles, self.lanes)
            num_rows = 0 if self.deterministic else self.first.g_ptr.shape[0] - 1
            return Results(
                np.empty((B, p.num_first)), np.empty((B, p.envelope.shape[0] - p.num_first)),
                np.empty((B, num_rows)), np.empty((B, num_rows)),
                *(aligned_empty(shape[0], shape[1], count, shape[2]) for count in rows),
            )  # fmt: skip

        report = Report(
            np.empty((0, 0) if self.deterministic else (B, S)), np.empty(B), np.empty(B), np.empty(B),
            np.zeros(B, np.bool_), np.zeros(B, np.bool_), np.zeros(B, np.int64),
        )  # fmt: skip
        first = results()
        return first, report, results() if smoothing else first

    def _solve_rest(self, limits: Limits, outcome: Outcome) -> Outcome:
        rest = (~outcome.converged).nonzero()[:, 0]
        if not rest.numel():
            return outcome
        numbers = self.numbers.select(rest)
        again = follow_central_path(self.index, numbers, EXPECTATION, limits)
        replace_members(outcome, rest, again)
        if outcome.costs is not None:
            outcome.costs[rest] = numbers.costs(again.iterate.x.T[:, :, None], again.iterate.w)
        return outcome

    def adjoint(
        self,
        point: CompiledPoint,
        grad_x: Tensor,
        grad_w: Tensor | None,
        grad_costs: Tensor | None,
        wanted: set[str],
    ) -> tuple[Tensor, ...]:
        """The adjoint's x, w, equality, multiplier, y and z as `Iterate` lays them out.

        ``grad_x`` (B, n) includes what the costs' gradient brings in x through O and o. Parts that the
        wanted gradients do not need are empty.
        """
        p, B, S = self.pattern, self.numbers.num_contexts, self.numbers.num_scenarios
        if self.deterministic:
            step = LaneResults(
                np.empty((B, p.num_recourse)), np.empty((B, p.num_equalities)),
                np.empty((B, p.num_inequalities)), np.empty((0, 0)),
            )  # fmt: skip
            assert grad_w is not None
            gradient = _array(grad_w[:, 0])
            self._in_threads(
                lambda part, work: adjoint_lanes(
                    p, self.coefficients, self.weight[:, 0], _ADJOINT_REGULARIZATION, part, self.lanes,
                    self.code, work, _by_program(point.arrays), gradient, step,
                ),
                self.tiles,
                tiles=1,
                even=True,
            )  # fmt: skip
            w, y, z = (torch.from_numpy(array).T[:, :, None] for array in step[:3])
            empty = grad_x.new_zeros(B, 0)
            return empty, w, empty, empty, y, z
        everything = "probability" in wanted
        need_w = everything or not wanted.isdisjoint({"c", "Q", "R", "W", "V"})
        need_y = everything or not wanted.isdisjoint({"h", "T", "W"})
        need_z = everything or not wanted.isdisjoint({"k", "U", "V"})
        out = Adjoint(
            np.empty((B, p.num_first)), np.empty((B, p.envelope.shape[0] - p.num_first)),
            np.empty((B, self.first.g_ptr.shape[0] - 1)),
            np.empty((B, S if need_w else 0, p.num_recourse)),
            np.empty((B, S if need_y else 0, p.num_equalities)),
            np.empty((B, S if need_z else 0, p.num_inequalities)),
        )  # fmt: skip
        in_x = _array(grad_x)
        in_costs = np.zeros((B, S)) if grad_costs is None else _array(grad_costs)
        self._in_threads(
            lambda part, work: adjoint_contexts(
                p, self.coefficients, self.first, self.weight, self.measure, _ADJOINT_REGULARIZATION, part,
                self.lanes, self.code, work, point.arrays, in_x, in_costs, out,
            ),
            B,
            tiles=self.tiles,
            even=True,
        )  # fmt: skip
        w, y, z = (torch.from_numpy(array).permute(2, 0, 1) for array in out[3:])
        return (
            torch.from_numpy(out.x), w, torch.from_numpy(out.equality), torch.from_numpy(out.multiplier), y, z
        )  # fmt: skip


def work_shapes(p: Pattern, tiles: int, lanes: int) -> Shapes:
    """Working arrays of some tiles in the order of `tile_of`; then costs and upstream gradients."""
    rows = p.num_inequalities
    counts = (
        p.num_recourse, p.num_equalities, rows, rows, rows, p.num_equalities,
        p.num_nodes + p.num_entries, p.num_nodes, p.num_nodes, 1, 1,
    )  # fmt: skip
    return tuple((tiles, count, lanes) for count in counts)


def _array(tensor: Tensor) -> FloatArray:
    return np.ascontiguousarray(tensor.detach().numpy())


def _by_program(results: Results) -> LaneResults:
    """(B, entries) views of one-lane results."""
    return LaneResults(*(array[:, 0, :, 0] for array in results[4:]))


def _programs_as_scenarios(values: Values) -> Values:
    """Tensors of B programs with one scenario each as one context with B scenarios."""
    if values.varies or values.shared.shape[0] == 1:
        return values
    return Values(True, np.zeros((1, 1)), values.shared[None])


def _tiling(count: int, *, generated: bool) -> tuple[int, int]:
    """Tiles and lanes for ``count`` scenarios with the fewest idle lanes; lanes are a multiple of 8."""
    if generated:
        return math.ceil(count / LANES), LANES
    choices = []
    for tiles in range(math.ceil(count / _MAX_LANES), math.ceil(count / _MIN_LANES) + 1):
        lanes = 8 * math.ceil(count / tiles / 8)
        choices.append((tiles * lanes, tiles, lanes))
    _, tiles, lanes = min(choices)
    return tiles, lanes


def _first_stage(problem: BlockProblem, numbers: Numbers) -> FirstStage:
    def indices(matrix: SparseMatrix) -> tuple[Any, Any]:
        return matrix.rows.numpy(), matrix.cols.numpy()

    def by_rows(matrix: SparseMatrix) -> tuple[Any, Any, FloatArray]:
        rows, cols = indices(matrix)
        pointer = np.searchsorted(rows, np.arange(matrix.shape[0] + 1)).astype(np.int64)
        return pointer, cols, _array(matrix.values[:, 0])

    def split(tensor: Tensor) -> tuple[bool, FloatArray, FloatArray]:
        if tensor.shape[1] == 1:
            return False, _array(tensor[:, 0]), np.zeros((1, 1, 1))
        return True, np.zeros((1, 1)), _array(tensor)

    parts: tuple[Any, ...] = (
        *indices(problem.P), _array(problem.P.values[:, 0]), _array(problem.q),
        *by_rows(problem.A), _array(problem.a),
        *by_rows(problem.G), _array(problem.g),
        *indices(problem.O), *split(problem.O.values), *split(problem.o),
        _array(problem.e), _array(numbers.cost_scale), np.empty((0, 0, 0)), np.empty((0, 0)),
    )  # fmt: skip
    return FirstStage(*parts)
