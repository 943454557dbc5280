"""Block problems written by hand, random ones, and their extensive form for an independent solver."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import Tensor

from hedgecast.decisions.structured import StructuredBackend
from hedgecast.programs.blocks import BlockProblem, SparseMatrix
from hedgecast.programs.risk import EXPECTATION, Risk


def sparse(rows, cols, shape, values) -> SparseMatrix:
    rows = torch.as_tensor(rows, dtype=torch.int64)
    cols = torch.as_tensor(cols, dtype=torch.int64)
    values = torch.as_tensor(values, dtype=torch.float64)
    values = values.reshape(1, 1, -1) if values.ndim == 1 else values
    order = (rows * max(1, shape[1]) + cols).argsort()
    return SparseMatrix(rows[order], cols[order], tuple(shape), values[..., order])


def of_dense(dense: Tensor) -> SparseMatrix:
    """(1 or B, 1 or S, rows, cols) to the pattern of what is nonzero anywhere."""
    rows, cols = (dense != 0).any(dim=0).any(dim=0).nonzero(as_tuple=True)
    return SparseMatrix(rows, cols, tuple(dense.shape[2:]), dense[:, :, rows, cols])


def empty(rows: int, cols: int) -> SparseMatrix:
    return sparse([], [], (rows, cols), [])


def schedule(
    paths: Tensor, *, ramp: float = 0.4, shortage: float = 50.0, excess: float = 0.5, money: float = 1.0
) -> BlockProblem:
    """Generation scheduling: paths (B, S, T); u >= y - z, v >= z - y, quadratic imbalance, ramps."""
    B, S, T = paths.shape
    t, d = torch.arange(T), torch.arange(T - 1)
    one, ones = paths.new_ones(T - 1), paths.new_ones(T)
    zero = torch.zeros_like(paths)
    new = paths.new_zeros
    return BlockProblem(
        num_contexts=B, num_scenarios=S,
        P=empty(T, T), q=new(1, T), d=new(1), A=empty(0, T), a=new(1, 0),
        G=sparse(torch.cat([d, d, d + T - 1, d + T - 1]), torch.cat([d, d + 1, d, d + 1]), (2 * (T - 1), T),
                 torch.cat([-one, one, one, -one])),
        g=new(1, 2 * (T - 1)) + ramp,
        Q=empty(2 * T, 2 * T), R=empty(2 * T, T), O=sparse(t, t, (T, T), money * ones),
        o=-money * paths,
        c=money * torch.cat([shortage * ones, excess * ones]).reshape(1, 1, -1),
        e=0.5 * money * (paths**2).sum(dim=2),
        T=empty(0, T), W=empty(0, 2 * T), h=new(1, 1, 0),
        U=sparse(torch.cat([t, 2 * T + t]), torch.cat([t, t]), (4 * T, T), torch.cat([-ones, ones])),
        V=sparse(torch.arange(4 * T), torch.cat([t, t, T + t, T + t]), (4 * T, 2 * T), -torch.ones(4 * T)),
        k=torch.cat([-paths, zero, paths, zero], dim=2),
    )  # fmt: skip


def random_problem(
    seed: int,
    *,
    B: int = 2,
    S: int = 3,
    n: int = 3,
    m: int = 3,
    equalities: int = 1,
    rows: int = 4,
    varying: bool = True,
) -> tuple[BlockProblem, Tensor]:
    """A bounded, feasible program with random patterns, and probabilities."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    def thin(dense: Tensor, share: float = 0.6) -> Tensor:
        mask = torch.rand(dense.shape[2:], generator=generator) < share
        return dense * mask

    def lead(*shape: int) -> Tensor:
        return draw(B, S, *shape) if varying else draw(1, 1, *shape)

    first_equalities = 1 if n > 1 else 0
    half = thin(draw(1, 1, n, n))
    quadratic = half.transpose(2, 3) @ half
    block = thin(draw(1, 1, m, m), 0.4)
    # [Q R; R' O] = F'F is positive semidefinite.
    factor = thin(lead(2, m + n) * 0.3, 0.7)
    whole = factor.transpose(2, 3) @ factor
    W, T = thin(lead(equalities, m)), thin(lead(equalities, n))
    # A well-conditioned equality block, so that the rows are independent.
    W = W + torch.eye(equalities, m, dtype=torch.float64) * 2.0
    box_w = torch.cat([torch.eye(m), -torch.eye(m)]).double()
    V = torch.cat(
        [thin(lead(rows, m)), box_w.expand(B if varying else 1, S if varying else 1, -1, -1)], dim=2
    )
    U = torch.cat([thin(lead(rows, n)), torch.zeros(*V.shape[:2], 2 * m, n, dtype=torch.float64)], dim=2)
    A = draw(1, 1, first_equalities, n)
    G = torch.cat([torch.eye(n), -torch.eye(n)]).double()[None, None]
    x0, w0 = draw(B, n) * 0.3, draw(B, S, m) * 0.3
    slack = torch.rand(B, S, rows + 2 * m, dtype=torch.float64, generator=generator) * 0.5
    Ux = (U @ x0[:, None, :, None])[..., 0]
    box = torch.cat([Ux * 0 + (V @ w0[..., None])[..., 0] + Ux + slack], dim=2)
    box[:, :, rows:] = 3.0
    problem = BlockProblem(
        num_contexts=B, num_scenarios=S,
        P=of_dense(quadratic), q=draw(B, n), d=draw(B),
        A=of_dense(A), a=(A[0] @ x0[:, :, None])[..., 0], G=of_dense(G),
        g=torch.full((1, 2 * n), 3.0, dtype=torch.float64),
        Q=of_dense(whole[:, :, :m, :m] + block.transpose(2, 3) @ block), R=of_dense(whole[:, :, :m, m:]),
        O=of_dense(whole[:, :, m:, m:]), o=draw(B, S, n), c=draw(1, 1, m) + 0.3 * draw(B, S, m), e=draw(B, S),
        T=of_dense(T), W=of_dense(W), h=((T @ x0[:, None, :, None]) + W @ w0[..., None])[..., 0],
        U=of_dense(U), V=of_dense(V), k=box,
    )  # fmt: skip
    weights = torch.rand(B, S, dtype=torch.float64, generator=generator) + 0.2
    return problem, weights / weights.sum(dim=1, keepdim=True)


def cast(problem: BlockProblem, dtype: torch.dtype) -> BlockProblem:
    changes = {}
    for field in dataclasses.fields(problem):
        value = getattr(problem, field.name)
        if isinstance(value, SparseMatrix):
            changes[field.name] = dataclasses.replace(value, values=value.values.to(dtype))
        elif isinstance(value, Tensor):
            changes[field.name] = value.to(dtype)
    return dataclasses.replace(problem, **changes)


def select(problem: BlockProblem, *, members=None, scenarios=None) -> BlockProblem:
    """Some members and scenarios (repeats allowed) of a batch."""
    changes: dict[str, object] = {}
    if members is not None:
        changes["num_contexts"] = len(members)
    if scenarios is not None:
        changes["num_scenarios"] = len(scenarios)
    for field in dataclasses.fields(problem):
        value = getattr(problem, field.name)
        if isinstance(value, int):
            continue
        values = value.values if isinstance(value, SparseMatrix) else value
        if members is not None and values.shape[0] > 1:
            values = values[members]
        if scenarios is not None and field.name in "QROTWUVocehk" and values.shape[1] > 1:
            values = values[:, scenarios]
        changes[field.name] = (
            dataclasses.replace(value, values=values) if isinstance(value, SparseMatrix) else values
        )
    return dataclasses.replace(problem, **changes)


def pinned(problem: BlockProblem, U: Tensor, V: Tensor, k: Tensor) -> BlockProblem:
    """The problem with rows U x + V w <= k of its own turned round as well: they hold with equality."""
    return dataclasses.replace(
        problem,
        U=of_dense(torch.cat([problem.U.dense(), -U], dim=2)),
        V=of_dense(torch.cat([problem.V.dense(), -V], dim=2)),
        k=torch.cat([problem.k, -k], dim=2),
    )


def clarabel_objective(
    problem: BlockProblem,
    probabilities: Tensor,
    member: int,
    risk: Risk = EXPECTATION,
    benchmarks: Tensor | None = None,
) -> tuple[float, np.ndarray]:
    """Optimal value and x of one member by CVXPY and Clarabel on the extensive form."""
    import cvxpy as cp

    def matrix(name: str, s: int) -> sp.csr_array:
        value = getattr(problem, name)
        row = value.values[min(member, value.values.shape[0] - 1), min(s, value.values.shape[1] - 1)]
        return sp.csr_array((row.numpy(), (value.rows.numpy(), value.cols.numpy())), shape=value.shape)

    def vector(name: str, s: int) -> np.ndarray:
        value = getattr(problem, name)
        value = value[min(member, value.shape[0] - 1)]
        return (value[min(s, value.shape[0] - 1)] if name in "ocehk" else value).numpy()

    n, m, S = problem.num_first, problem.num_recourse, problem.num_scenarios
    x = cp.Variable(n)
    constraints, costs = [], []
    if problem.A.shape[0]:
        constraints.append(matrix("A", 0) @ x == vector("a", 0))
    if problem.G.shape[0]:
        constraints.append(matrix("G", 0) @ x <= vector("g", 0))
    for s in range(S):
        w = cp.Variable(m)
        quadratic = sp.block_array([[matrix("Q", s), matrix("R", s)], [matrix("R", s).T, matrix("O", s)]])
        both = cp.hstack([w, x])
        cost = vector("o", s) @ x + vector("c", s) @ w + float(vector("e", s))
        if quadratic.nnz:
            cost = cost + 0.5 * cp.quad_form(both, cp.psd_wrap(quadratic.toarray()))
        costs.append(cost)
        if problem.W.shape[0]:
            constraints.append(matrix("T", s) @ x + matrix("W", s) @ w == vector("h", s))
        constraints.append(matrix("U", s) @ x + matrix("V", s) @ w <= vector("k", s))
    p = probabilities[member].numpy()
    loss = cp.hstack(costs)
    objective = vector("q", 0) @ x + float(vector("d", 0))
    if problem.P.num_nonzeros:
        objective = objective + 0.5 * cp.quad_form(x, cp.psd_wrap(matrix("P", 0).toarray()))
    if risk.neutral:
        objective = objective + p @ loss
    else:
        v = np.zeros(S) if benchmarks is None else benchmarks[member].numpy()
        excess = loss - v
        live = np.flatnonzero(p)
        if risk.alpha == 1.0:
            tail = cp.max(excess[live])
        else:
            eta = cp.Variable()
            tail = eta + p @ cp.pos(excess - eta) / (1 - risk.alpha)
        objective = objective + (1 - risk.beta) * (p @ loss) + risk.beta * tail
        if risk.on_regret:
            objective = objective + risk.beta * float(p @ v)
    model = cp.Problem(cp.Minimize(objective), constraints)
    with warnings.catch_warnings():
        # Clarabel stops near its tolerance on some quadratic epigraphs; the caller compares values.
        warnings.filterwarnings("ignore", message="Solution may be inaccurate")
        model.solve(solver="CLARABEL")
    return float(model.value), x.value


class Problems:
    """The builders above, for tests that cannot import this file."""

    schedule = staticmethod(schedule)
    random = staticmethod(random_problem)
    sparse = staticmethod(sparse)
    empty = staticmethod(empty)
    cast = staticmethod(cast)
    select = staticmethod(select)
    pinned = staticmethod(pinned)
    clarabel = staticmethod(clarabel_objective)


@pytest.fixture(scope="session")
def problems() -> type[Problems]:
    return Problems


@pytest.fixture(scope="session", params=[True, False], ids=["compiled", "tensors"])
def structured(request: pytest.FixtureRequest) -> StructuredBackend:
    return StructuredBackend(compiled=request.param)


@pytest.fixture(scope="session")
def tensors() -> Callable[[int], torch.Generator]:
    return lambda seed: torch.Generator().manual_seed(seed)
