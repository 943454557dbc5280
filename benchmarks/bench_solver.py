"""The structured solve against its peers, in one process: a table, a JSON line and a file per case.

Every time is the median of at least five runs after a warm-up, at tolerance 1e-6, with equal threads.
Each solver's answer is first checked against Clarabel at 1e-9. Moreau is called natively (its
interior-point method): through cvxpylayers 1.2.0 it returned wrong answers. Ratios are peer time over
structured time; the structured time includes making the numbers from the scenarios.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import datetime
import importlib.metadata
import json
import multiprocessing
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import clarabel
import cvxpy as cp
import diffcp
import moreau
import numba
import numpy as np
import scipy.sparse as sp
import torch
from rich.console import Console
from rich.table import Table

from hedgecast.core.process import peak_memory_mib
from hedgecast.decisions.kernels_emit import TILED
from hedgecast.decisions.kernels_writer import tapes
from hedgecast.decisions.structured import StructuredBackend
from hedgecast.programs.blocks import BlockProblem, SparseMatrix
from hedgecast.programs.catalog import battery_storage, freight_routing, generation_scheduling
from hedgecast.programs.program import TwoStageProgram

RESULTS = pathlib.Path(__file__).parent / "results"
TOLERANCE = 1e-6
RUNS = 5
BACKEND = StructuredBackend()

Quadratic = tuple[sp.csc_array, np.ndarray, sp.csc_array, np.ndarray, int]


def median_seconds(task: Callable[[], Any], runs: int = RUNS) -> float:
    task()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        task()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def extensive(problem: BlockProblem, member: int) -> Quadratic:
    """P, q, A, b of the member's deterministic equivalent, equality rows first, equal probabilities."""
    n, m, S = problem.num_first, problem.num_recourse, problem.num_scenarios

    def block(name: str, s: int = 0) -> sp.csr_array:
        value: SparseMatrix = getattr(problem, name)
        row = value.values[min(member, value.values.shape[0] - 1), min(s, value.values.shape[1] - 1)]
        where = (value.rows.numpy(), value.cols.numpy())
        return sp.csr_array((row.detach().numpy(), where), shape=value.shape)

    def vector(name: str, s: int = 0) -> np.ndarray:
        value = getattr(problem, name)[min(member, getattr(problem, name).shape[0] - 1)]
        value = value[min(s, value.shape[0] - 1)] if name in "ocehk" else value
        return value.detach().numpy()

    p = 1.0 / S
    eye, ones = sp.identity(S, format="csr"), np.ones(S)

    def stack(name: str) -> sp.csr_array:
        """All scenarios' matrices on the diagonal."""
        if getattr(problem, name).values.shape[1] == 1:
            return sp.csr_array(sp.kron(eye, block(name)))
        return sp.csr_array(sp.block_diag([block(name, s) for s in range(S)]))

    def column(name: str) -> sp.csr_array:
        return sp.csr_array(sp.vstack([block(name, s) for s in range(S)]))

    O = sum((block("O", s) for s in range(S)), sp.csr_array((n, n))) * p  # noqa: E741
    P = sp.block_array([[block("P") + O, p * column("R").T], [p * column("R"), p * stack("Q")]])
    linear = vector("q") + p * sum(vector("o", s) for s in range(S))
    q = np.concatenate([linear, *(p * ones[s] * vector("c", s) for s in range(S))])
    width = S * m
    first = [sp.hstack([block(name), sp.csr_array((block(name).shape[0], width))]) for name in ("A", "G")]
    second = [sp.hstack([column(x), stack(w)]) for x, w in (("T", "W"), ("U", "V"))]
    A = sp.csc_array(sp.vstack([first[0], second[0], first[1], second[1]]))
    h = [vector("h", s) for s in range(S)]
    k = [vector("k", s) for s in range(S)]
    b = np.concatenate([vector("a"), *h, vector("g"), *k])
    return sp.csc_array(P), q, A, b, vector("a").size + sum(part.size for part in h)


def clarabel_solve(quadratic: Quadratic, tolerance: float = 1e-9) -> np.ndarray:
    P, q, A, b, equalities = quadratic
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = tolerance
    cones = [clarabel.ZeroConeT(equalities), clarabel.NonnegativeConeT(b.size - equalities)]
    solution = clarabel.DefaultSolver(
        sp.csc_matrix(sp.triu(P)), q, sp.csc_matrix(A), b, cones, settings
    ).solve()
    return np.asarray(solution.x)


def value(quadratic: Quadratic, x: np.ndarray) -> float:
    return float(0.5 * x @ (quadratic[0] @ x) + quadratic[1] @ x)


def check(name: str, quadratics: list[Quadratic], values: list[float]) -> float:
    """Largest relative distance from Clarabel's objective at 1e-9; ends the run if it is no solution."""
    worst = 0.0
    for quadratic, found in zip(quadratics, values, strict=True):
        truth = value(quadratic, clarabel_solve(quadratic))
        worst = max(worst, abs(found - truth) / (1.0 + abs(truth)))
    if worst > 1e-4:
        raise SystemExit(f"{name}: objective is off by {worst:.1e} relative to Clarabel")
    return worst


class Case:
    """One program with a batch of scenarios."""

    def __init__(self, name: str, program: TwoStageProgram, paths: torch.Tensor) -> None:
        self.name, self.program, self.paths = name, program, paths
        self.given = program.inputs(paths[:1], None).given
        self.probabilities = torch.full(paths.shape[:2], 1.0 / paths.shape[1], dtype=torch.float64)

    def problem(self, paths: torch.Tensor | None = None) -> BlockProblem:
        assert self.program.template is not None
        return self.program.template.instantiate(self.paths if paths is None else paths, self.given)

    def structured(self, *, backward: bool = True) -> Any:
        """Instantiate, solve and (with ``backward``) differentiate in the scenarios."""
        if not backward:
            with torch.no_grad():
                return BACKEND.solve_blocks(self.problem(), self.probabilities, tolerance=TOLERANCE)
        leaf = self.paths.clone().requires_grad_()
        found = BACKEND.solve_blocks(self.problem(leaf), self.probabilities, tolerance=TOLERANCE)
        found.x.sum().backward()
        return found

    def checked(self, count: int = 2) -> float:
        found = self.structured(backward=False)
        problem = self.problem()
        members = range(min(count, problem.num_contexts))
        quadratics = [extensive(problem, b) for b in members]
        offsets = [
            float((problem.e.expand(*self.paths.shape[:2])[b]).mean() + problem.d[-1]) for b in members
        ]
        return check("structured", quadratics, [float(found.objective[b]) - offsets[b] for b in members])


def moreau_task(case: Case, *, backward: bool = True) -> tuple[Callable[[], Any], float]:
    """Native Moreau on the extensive form: solve (and backward) with structure and matrices set up before."""
    problem = case.problem()
    B = problem.num_contexts
    members = [extensive(problem, b) for b in range(B)]
    # Explicit structure: the pattern is that of the first member, values are read at its places.
    P, A = (sp.csr_array(members[0][i]) for i in (0, 2))
    equalities = members[0][4]
    settings = moreau.Settings(
        solver="ipm", device="cpu", batch_size=B, enable_grad=backward,
        ipm_settings=moreau.IPMSettings(tol_gap_abs=TOLERANCE, tol_gap_rel=TOLERANCE, tol_feas=TOLERANCE),
    )  # fmt: skip
    cones = moreau.Cones(num_zero_cones=equalities, num_nonneg_cones=A.shape[0] - equalities)
    solver = moreau.CompiledSolver(
        n=A.shape[1], m=A.shape[0], P_row_offsets=P.indptr, P_col_indices=P.indices,
        A_row_offsets=A.indptr, A_col_indices=A.indices, cones=cones, settings=settings,
    )  # fmt: skip
    solver.setup(
        np.stack([sp.csr_array(member[0]).data for member in members]),
        np.stack([sp.csr_array(member[2]).data for member in members]),
    )
    qs, bs = np.stack([member[1] for member in members]), np.stack([member[3] for member in members])
    upstream = np.zeros((B, A.shape[1]))
    upstream[:, : problem.num_first] = 1.0

    def run() -> Any:
        solution = solver.solve(qs, bs)
        if backward:
            solver.backward(upstream)
        return solution

    x = np.asarray(run().x)
    return run, check("moreau", members[:2], [value(members[b], x[b]) for b in range(min(2, B))])


def conic(quadratic: Quadratic) -> tuple[sp.csc_matrix, np.ndarray, np.ndarray, dict[str, Any]]:
    """The same with its diagonal quadratic as a cone, ||(2 sqrt(P) x, 1 - t)|| <= 1 + t, for lsqr."""
    P, q, A, b, equalities = quadratic
    diagonal = P.diagonal()
    assert P.nnz == np.count_nonzero(diagonal), "diffcp's case has a diagonal quadratic"
    used = np.flatnonzero(diagonal)
    n, height = q.size, used.size
    root = sp.csr_array((2.0 * np.sqrt(diagonal[used]), (np.arange(height), used)), shape=(height, n))
    zero = sp.csr_array((1, n))
    rows = sp.vstack(
        [
            sp.hstack([A, sp.csr_array((A.shape[0], 1))]),
            sp.hstack([zero, [[-1.0]]]),
            sp.hstack([-root, sp.csr_array((height, 1))]),
            sp.hstack([zero, [[1.0]]]),
        ]
    )
    rhs = np.concatenate([b, [1.0], np.zeros(height), [1.0]])
    cones = {"z": equalities, "l": b.size - equalities, "q": [height + 2]}
    return sp.csc_matrix(rows), rhs, np.append(q, 0.5), cones


def diffcp_task(case: Case, threads: int) -> tuple[Callable[[], Any], float]:
    """Diffcp with Clarabel on the extensive form, forward and adjoint derivative."""
    problem = case.problem()
    members = [extensive(problem, b) for b in range(problem.num_contexts)]
    As, bs, cs, cones = (list(part) for part in zip(*map(conic, members), strict=True))
    upstream = np.zeros(cs[0].size)
    upstream[: problem.num_first] = 1.0

    def run() -> Any:
        xs, ys, _, _, adjoint = diffcp.solve_and_derivative_batch(
            As, bs, cs, cones, n_jobs_forward=threads, n_jobs_backward=threads, solve_method="Clarabel",
            tol_gap_abs=TOLERANCE, tol_gap_rel=TOLERANCE, tol_feas=TOLERANCE,
        )  # fmt: skip
        zeros = [np.zeros_like(y) for y in ys]
        adjoint([upstream] * len(xs), zeros, zeros)
        return xs

    xs = run()
    return run, check("diffcp", members[:2], [value(members[b], xs[b][:-1]) for b in range(2)])


def pool_task(case: Case, threads: int) -> tuple[Callable[[], Any], float]:
    """Clarabel, called once per context in a process pool: forward only."""
    problem = case.problem()
    members = [extensive(problem, b) for b in range(problem.num_contexts)]
    pool = concurrent.futures.ProcessPoolExecutor(threads, mp_context=multiprocessing.get_context("spawn"))

    def run() -> list[np.ndarray]:
        return list(pool.map(clarabel_solve, members, [TOLERANCE] * len(members), chunksize=4))

    xs = run()
    return run, check("clarabel pool", members[:2], [value(members[b], xs[b]) for b in range(2)])


def demand(B: int, S: int, steps: int = 24, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = 2.0 + 0.6 * torch.sin(torch.linspace(0.0, 6.28, steps, dtype=torch.float64))
    return shape + 0.3 * torch.randn(B, S, steps, dtype=torch.float64, generator=generator)


def schedule_case(B: int, S: int) -> Case:
    return Case(f"schedule 24 h, {B} x {S}", generation_scheduling.build(24), demand(B, S))


def catalog_case(name: str, B: int, S: int) -> Case:
    generator = torch.Generator().manual_seed(1)
    if name == "battery":
        program = battery_storage.build(24)
        paths = 40.0 + 15.0 * torch.randn(B, S, 24, dtype=torch.float64, generator=generator)
    else:
        program = freight_routing.build()
        paths = (10.0 + 4.0 * torch.randn(B, S, 20, dtype=torch.float64, generator=generator)).clamp(min=0.0)
    return Case(f"{name}, {B} x {S}", program, paths)


def against_peers(case: Case, threads: int, peers: tuple[str, ...]) -> dict[str, Any]:
    record: dict[str, Any] = {"case": case.name, "objective_error": case.checked()}
    record["structured_seconds"] = median_seconds(case.structured)
    record["structured_forward_seconds"] = median_seconds(lambda: case.structured(backward=False))
    makers = {
        "moreau": lambda: moreau_task(case),
        "diffcp": lambda: diffcp_task(case, threads),
        "clarabel_pool": lambda: pool_task(case, threads),
    }
    for peer in peers:
        task, error = makers[peer]()
        seconds = median_seconds(task)
        forward_only = peer == "clarabel_pool"
        own = record["structured_forward_seconds" if forward_only else "structured_seconds"]
        record |= {
            f"{peer}_seconds": seconds,
            f"{peer}_ratio": seconds / own,
            f"{peer}_objective_error": error,
        }
    return record


def latency(_: int) -> dict[str, Any]:
    case = schedule_case(1, 1000)
    error = case.checked()
    seconds = median_seconds(lambda: case.structured(backward=False), 20)
    return {"case": case.name + ", latency", "objective_error": error, "structured_seconds": seconds}


def memory_child() -> None:
    """Time of 10,000 and 100,000 scenarios and the peak of this process; printed as JSON."""
    times = {}
    for S in (10_000, 100_000):
        case = schedule_case(1, S)
        times[S] = median_seconds(lambda case=case: case.structured(backward=False))
    # Not getrusage's: that counts what the starting process held, up to the call of exec.
    peak = peak_memory_mib() / 1024
    print(json.dumps({"small": times[10_000], "large": times[100_000], "peak_gib": peak}))


def many_scenarios(_: int) -> dict[str, Any]:
    # A process of its own: the peak is then that of these solves, imports included.
    done = subprocess.run(
        [sys.executable, __file__, "--memory-child"], capture_output=True, text=True, check=True
    )
    figures = json.loads(done.stdout.splitlines()[-1])
    # The extensive form of 100,000 does not fit an independent solver; that of 10,000 goes the same way here.
    error = schedule_case(1, 10_000).checked(1)
    return {
        "case": "schedule 24 h, 1 x 100,000", "objective_error_10000": error,
        "structured_seconds": figures["large"],
        "seconds_10000": figures["small"], "ratio_to_10000": figures["large"] / figures["small"],
        "peak_gib": figures["peak_gib"],
    }  # fmt: skip


def wait_and_see(_: int) -> dict[str, Any]:
    count, sample = 20_000, 200
    case = schedule_case(count, 1)
    error = case.checked(5)
    seconds = median_seconds(lambda: case.structured(backward=False))
    z, y = cp.Variable(24), cp.Parameter(24)
    cost = 50 * cp.sum(cp.pos(y - z)) + 0.5 * cp.sum(cp.pos(z - y)) + 0.5 * cp.sum_squares(z - y)
    model = cp.Problem(cp.Minimize(cost), [cp.abs(cp.diff(z)) <= 0.4, z >= 0])

    def loop() -> None:
        for path in case.paths[:sample, 0].numpy():
            y.value = path
            model.solve(solver=cp.CLARABEL, tol_gap_abs=TOLERANCE, tol_gap_rel=TOLERANCE, tol_feas=TOLERANCE)

    peer = median_seconds(loop) * count / sample
    return {
        "case": "20,000 wait-and-see schedules", "objective_error": error, "structured_seconds": seconds,
        "cvxpy_clarabel_seconds": peer, "cvxpy_clarabel_ratio": peer / seconds,
        "note": f"peer timed on {sample} and scaled",
    }  # fmt: skip


@numba.njit(fastmath=True, nogil=True)
def _triad(a: np.ndarray, b: np.ndarray, c: np.ndarray, repeats: int) -> None:
    for _ in range(repeats):
        for i in range(a.size):
            a[i] = b[i] + 3.0 * c[i]


def counted(case: Case) -> tuple[float, float]:
    """Operations, and numbers read and written, of a scenario's hour in one iteration of the passes."""
    index = BACKEND._index(case.problem(), has_risk=False)
    operations = [
        operation
        for name in ("begin", "predict", "finish")
        for tape in tapes(index.compiled_pattern, name)
        for operation in tape
    ]
    flops = sum(o.code in ("add", "sub", "mul", "inverse", "add to") for o in operations)
    moved = sum(o.code in ("load", "store") for o in operations if o.place and o.place[0] in TILED)
    return flops / 24, moved / 24


def machine_limit(_: int) -> dict[str, Any]:
    """Flops and bytes of the compiled loop against a measured matrix product and triad, one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    case = schedule_case(16, 200)
    found = case.structured(backward=False)
    seconds = median_seconds(lambda: case.structured(backward=False))
    passes = float((found.iterations + 2).sum()) * 200 * 24
    matrix = torch.rand(1024, 1024, dtype=torch.float64)
    flops = 2 * 1024**3 / median_seconds(lambda: matrix @ matrix)
    # A tile's arrays live in the second-level cache: so does the triad.
    a, b, c = (np.random.default_rng(0).random(20_000) for _ in range(3))
    _triad(a, b, c, 1)
    bandwidth = 200 * 3 * 8 * 20_000 / median_seconds(lambda: _triad(a, b, c, 200))
    torch.set_num_threads(threads)
    flops_hour, numbers_hour = counted(case)
    return {
        "case": "compiled loop against the machine, one thread", "structured_seconds": seconds,
        "nanoseconds_per_scenario_hour_iteration": seconds / passes * 1e9,
        "gflops": flops_hour * passes / seconds / 1e9, "peak_gflops": flops / 1e9,
        "flops_share": flops_hour * passes / seconds / flops,
        "gbytes_per_second": 8 * numbers_hour * passes / seconds / 1e9,
        "triad_gbytes_per_second": bandwidth / 1e9,
        "bandwidth_share": 8 * numbers_hour * passes / seconds / bandwidth,
    }  # fmt: skip


CASES: dict[str, Callable[[int], dict[str, Any]]] = {
    "schedule-50": lambda t: against_peers(schedule_case(64, 50), t, ("moreau", "diffcp")),
    "schedule-200": lambda t: against_peers(schedule_case(64, 200), t, ("moreau",)),
    "battery": lambda t: against_peers(catalog_case("battery", 64, 50), t, ("moreau", "clarabel_pool")),
    "freight": lambda t: against_peers(catalog_case("freight", 64, 50), t, ("moreau", "clarabel_pool")),
    "latency": latency,
    "many-scenarios": many_scenarios,
    "wait-and-see": wait_and_see,
    "machine-limit": machine_limit,
}


def environment() -> dict[str, Any]:
    names = ("torch", "numba", "numpy", "moreau", "clarabel", "diffcp", "cvxpy")
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    model = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": model[0] if model else platform.processor(), "threads": torch.get_num_threads(),
        "versions": {name: importlib.metadata.version(name) for name in names},
        "command": "python " + " ".join(sys.argv), "tolerance": TOLERANCE, "runs": RUNS,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", help=f"any of {', '.join(CASES)}; all by default")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory-child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory_child:
        memory_child()
        return
    RESULTS.mkdir(exist_ok=True)
    table = Table("case", "structured (ms)", "against", title="structured solve")
    for name in arguments.cases or CASES:
        record = CASES[name](arguments.threads)
        print(json.dumps(record), flush=True)
        (RESULTS / f"solver_{name}.json").write_text(json.dumps(environment() | record, indent=2) + "\n")
        ratios = [
            f"{key.removesuffix('_ratio')} {found:.0f}x"
            for key, found in record.items()
            if key.endswith("_ratio")
        ]
        shown = ("peak_gib", "ratio_to_10000", "flops_share", "bandwidth_share")
        extra = [f"{key} {record[key]:.3g}" for key in shown if key in record]
        table.add_row(record["case"], f"{1e3 * record['structured_seconds']:.1f}", ", ".join(ratios + extra))
    Console().print(table)


if __name__ == "__main__":
    main()
