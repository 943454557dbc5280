"""Generated passes against the interpreted ones, and the tapes that they are made of."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from hedgecast.decisions import compiled, kernels_emit
from hedgecast.decisions.compiled import work_shapes
from hedgecast.decisions.kernels_components import components
from hedgecast.decisions.kernels_emit import (
    COEFFICIENTS,
    LANES,
    assemble,
    generate,
    in_segments,
    loops,
    whole_components,
)
from hedgecast.decisions.kernels_passes import (
    adjoint_backward_all,
    adjoint_forward_all,
    adjoint_right_side_all,
    begin_all,
    costs_all,
    finish_all,
    new_block,
    new_lanes,
    pack_context,
    predict_all,
)
from hedgecast.decisions.kernels_pattern import make_coefficients, make_pattern
from hedgecast.decisions.kernels_segments import least_operations, phases
from hedgecast.decisions.kernels_tape import Tape
from hedgecast.decisions.kernels_writer import PASSES, tapes
from hedgecast.decisions.scenario_blocks import analyze_blocks
from hedgecast.decisions.single_scenario import merge_stages
from hedgecast.decisions.structured import StructuredBackend
from hedgecast.decisions.working_arrays import new_work


def _pattern(problem):
    return make_pattern(analyze_blocks(problem, has_risk=False), problem)


def _varies(problem):
    return tuple(values.varies for values in make_coefficients(problem))


class State:
    """One context's tiles with random variables, the same for the same seed."""

    def __init__(self, problem, code, seed=0):
        self.p, coefficients = _pattern(problem), make_coefficients(problem)
        S = problem.num_scenarios
        tiles = -(-S // LANES)
        draws = np.random.default_rng(seed)
        weight, measure = draws.uniform(0.5, 1.5, (1, S)), draws.uniform(0.5, 1.5, (1, S))
        self.a, work = new_lanes(self.p, LANES), new_work(work_shapes(self.p, tiles, LANES))
        d = pack_context(coefficients, 0, weight, measure, tiles, LANES)
        rows = (self.p.num_recourse, self.p.num_equalities, self.p.num_inequalities)
        w, y, z = (draws.standard_normal((tiles, count, LANES)) for count in rows)
        s = draws.uniform(0.5, 2.0, z.shape)
        for array in (*work[:4], work[10], self.a.x, self.a.dx):
            array[:] = draws.standard_normal(array.shape)
        self.a.length[:], self.a.floor[:], self.a.regularization[:] = 0.1, 0.05, 1e-9
        self.a.barrier[:], self.a.second_share[:] = 0.2, 1.0
        self.block = new_block(d, w, y, np.abs(z) + 0.5, s, work, self.a, code)

    def sums(self):
        names = ("hessian", "dual_x", "affine_x", "centering_x", "second_x", "primal", "dual", "product",
                 "second", "ratio", "off_center")  # fmt: skip
        return {name: getattr(self.a, name).copy() for name in names}

    def iteration(self):
        """Everything that an iteration and an adjoint leave behind, pass by pass."""
        p, b, a = self.p, self.block, self.a
        found = []

        def note(*arrays):
            found.extend(array.copy() for array in arrays)
            found.extend(self.sums().values())

        begin_all(p, b, a, True)
        note(b.w, b.y, b.z, b.s, b.work[2], b.work[6], b.work[7], b.work[8])
        a.ratio[:] = 0.0
        predict_all(p, b, a)
        note(b.work[7])
        a.ratio[:] = 0.0
        finish_all(p, b, a)
        note(*b.work[:4])
        costs_all(p, b, a)
        note(b.work[9])
        adjoint_right_side_all(p, b, a)
        adjoint_forward_all(p, b, a)
        note(b.work[7])
        adjoint_backward_all(p, b, a)
        note(*b.work[:3])
        return found


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("varying", [True, False])
@pytest.mark.parametrize("written", [whole_components, in_segments])
def test_every_pass_equals_the_interpreted_one(problems, seed, varying, written):
    problem, _ = problems.random(seed, B=1, S=11, n=3, m=4, equalities=seed % 3, varying=varying)
    p = _pattern(problem)
    code = assemble(p, _varies(problem), {name: written(p, name) for name in PASSES})
    generated = State(problem, code.addresses, seed).iteration()
    interpreted = State(problem, np.zeros(len(PASSES), np.int64), seed).iteration()
    assert len(generated) == len(interpreted)
    for left, right in zip(generated, interpreted, strict=True):
        scale = 1.0 + np.abs(right).max(initial=0.0)
        np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-10 * scale)


def _known_ahead(problems, tensors, hours):
    """Schedules of hours that ramps chain, each scenario a program of its own."""
    paths = 2.0 + torch.rand(70, 1, hours, dtype=torch.float64, generator=tensors(5))
    return merge_stages(problems.schedule(paths, ramp=0.05))


def test_a_day_whose_hours_are_chained_is_written_in_loops_of_its_rows(problems, tensors):
    longer, shorter = (_pattern(_known_ahead(problems, tensors, hours)) for hours in (36, 12))
    assert len(components(longer)) == 1

    def operations(pattern, written):
        return sum(len(loop.operations) for loop in written(pattern, "begin"))

    # Three times the hours are three times the operations written out, and more turns of the same loops.
    assert operations(longer, whole_components) > 2.8 * operations(shorter, whole_components)
    rows = [sum(len(loop.operations) for loop in loops(phases(p, "begin")[2])) for p in (longer, shorter)]
    assert rows[0] == rows[1]
    assert operations(longer, in_segments) < 0.3 * operations(longer, whole_components)


def test_a_chain_that_is_too_long_either_way_is_not_written_to_find_out(problems, tensors, monkeypatch):
    pattern = _pattern(_known_ahead(problems, tensors, 200))
    assert 4 * (pattern.num_nodes + pattern.num_entries) > kernels_emit.MOST_OPERATIONS
    monkeypatch.setattr(kernels_emit, "tapes", None)
    monkeypatch.setattr(kernels_emit, "phases", None)
    assert generate(pattern, (False,) * len(COEFFICIENTS)) is None


def test_what_elimination_takes_at_least_is_less_than_what_is_written(problems, tensors):
    for hours in (2, 12, 36):
        pattern = _pattern(_known_ahead(problems, tensors, hours))
        for written in (whole_components, in_segments):
            longest = max(sum(len(loop.operations) for loop in written(pattern, name)) for name in PASSES)
            assert least_operations(pattern) < longest


def test_programs_that_are_written_in_segments_have_the_interpreted_ones_solutions(
    problems, tensors, monkeypatch
):
    probabilities = torch.ones(70, 1, dtype=torch.float64)
    made = []

    def counted(pattern, varies):
        made.append(generate(pattern, varies))
        return made[-1]

    monkeypatch.setattr(compiled, "generate", counted)
    problem = _known_ahead(problems, tensors, 36)
    assert sum(len(loop.operations) for loop in whole_components(_pattern(problem), "begin")) > 4000
    generated = _solve(problem, probabilities, 1e-2)
    assert made[0] is not None
    monkeypatch.setattr(compiled, "generate", lambda pattern, varies: None)
    interpreted = _solve(_known_ahead(problems, tensors, 36), probabilities, 1e-2)
    for left, right in zip(generated, interpreted, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-6)


def test_what_an_earlier_solve_left_in_the_working_arrays_spoils_none(problems, tensors, monkeypatch):
    backend, probabilities = StructuredBackend(), torch.ones(70, 1, dtype=torch.float64)
    problem = _known_ahead(problems, tensors, 9)
    before = backend.solve_blocks(problem, probabilities)
    assert compiled._WORKING_ARRAYS.kept_bytes > 0
    for _, work in compiled._WORKING_ARRAYS._kept:
        for array in work:
            array[:] = np.nan
    # Nothing is left to the tensor path, which would hide it.
    monkeypatch.setattr(compiled, "follow_central_path", None)
    after = backend.solve_blocks(problem, probabilities)
    torch.testing.assert_close(after.x, before.x, rtol=0.0, atol=0.0)


def _solve(problem, probabilities, smoothing):
    leaf = problem.k.clone().requires_grad_()
    object.__setattr__(problem, "k", leaf)
    found = StructuredBackend().solve_blocks(problem, probabilities, tolerance=1e-8, smoothing=smoothing)
    (found.x.sum() + found.scenario_costs.square().sum()).backward()
    return found.x.detach(), found.scenario_costs.detach(), leaf.grad


@pytest.mark.parametrize("smoothing", [0.0, 1e-2])
def test_solutions_and_gradients_are_the_same_without_generated_code(
    problems, tensors, smoothing, monkeypatch
):
    paths = 2.0 + torch.rand(3, 13, 5, dtype=torch.float64, generator=tensors(1))
    probabilities = torch.full((3, 13), 1.0 / 13, dtype=torch.float64)
    generated = _solve(problems.schedule(paths), probabilities, smoothing)
    monkeypatch.setattr(compiled, "generate", lambda pattern, varies: None)
    interpreted = _solve(problems.schedule(paths), probabilities, smoothing)
    for left, right in zip(generated, interpreted, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-6)


def test_a_schedule_is_one_loop_over_its_hours(problems, tensors):
    hours = 7
    problem = problems.schedule(torch.rand(1, 3, hours, dtype=torch.float64, generator=tensors(2)))
    pattern = _pattern(problem)
    assert len(components(pattern)) == 2 * hours
    found = loops(tapes(pattern, "begin"))
    assert sorted(loop.count for loop in found) == [hours, hours]


def test_tapes_with_uneven_rows_are_not_one_loop():
    found = []
    for row in (0, 1, 2, 5, 6):
        tape = Tape()
        tape.store("w", row, tape.mul(tape.load("w", row), tape.constant(2.0)))
        found.append(tape.close())
    assert [(loop.count, loop.operations[0].place) for loop in loops(found)] == [(3, ("w", 0)), (2, ("w", 5))]


def test_components_share_no_node_and_no_row(problems):
    problem, _ = problems.random(3, m=6, equalities=2, rows=5)
    pattern = _pattern(problem)
    found = components(pattern)
    nodes = sorted(node for component in found for node in component.nodes)
    rows = sorted(row for component in found for row in component.rows)
    assert nodes == list(range(pattern.num_nodes))
    assert rows == list(range(pattern.num_inequalities))


def test_long_templates_are_left_to_the_interpreter(problems, monkeypatch):
    problem, _ = problems.random(0)
    monkeypatch.setattr(kernels_emit, "MOST_OPERATIONS", 10)
    assert generate(_pattern(problem), _varies(problem)) is None


def test_code_is_generated_once_for_all_threads(problems, tensors, monkeypatch):
    made = []

    def counted(pattern, varies):
        made.append(dict(zip(COEFFICIENTS, varies, strict=True)))
        return generate(pattern, varies)

    monkeypatch.setattr(compiled, "generate", counted)
    backend = StructuredBackend()
    paths = torch.rand(2, 9, 4, dtype=torch.float64, generator=tensors(3))
    probabilities = torch.full((2, 9), 1.0 / 9, dtype=torch.float64)
    found = [None] * 8

    def solve(place):
        found[place] = backend.solve_blocks(problems.schedule(paths), probabilities).x

    threads = [threading.Thread(target=solve, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert made[0]["k"]
    assert not made[0]["V"]
    for x in found[1:]:
        torch.testing.assert_close(x, found[0], rtol=0.0, atol=0.0)


def test_a_warm_start_ends_at_the_same_solution_in_fewer_iterations(problems, tensors):
    generator = tensors(4)
    paths = 2.0 + torch.rand(3, 40, 6, dtype=torch.float64, generator=generator)
    near = paths + 1e-3 * torch.randn(paths.shape, dtype=torch.float64, generator=generator)
    probabilities = torch.full((3, 40), 1.0 / 40, dtype=torch.float64)
    backend = StructuredBackend()
    last = backend.solve_blocks(problems.schedule(paths), probabilities, tolerance=1e-7)
    cold = backend.solve_blocks(problems.schedule(near), probabilities, tolerance=1e-7)
    warm = backend.solve_blocks(problems.schedule(near), probabilities, tolerance=1e-7, warm_start=last.warm)
    torch.testing.assert_close(warm.objective, cold.objective, rtol=1e-6, atol=1e-6)
    assert (warm.iterations < cold.iterations).all()
