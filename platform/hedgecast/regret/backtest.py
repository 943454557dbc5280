"""What each method's decisions would have cost on days that have come true.

Every method gives scenarios by slot for the same days. They are mapped to the day's real steps (23 or 25
where clocks change), the program of that length is solved, and its decision meets the real day.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch

from hedgecast.core.errors import ConfigError, DataError, ShapeError, SolveError
from hedgecast.data.windows import ArrayOrTensor
from hedgecast.programs.program import TwoStageProgram
from hedgecast.programs.risk import EXPECTATION, Risk
from hedgecast.regret.metrics import (
    Interval,
    block_bootstrap,
    cost_cvar,
    cost_quantiles,
    regret,
    relative_regret,
)
from hedgecast.scenarios.scenario_set import ScenarioSet

ProgramFor = Callable[[int], TwoStageProgram]
Progress = Callable[[str, int, int], None]
"""(method, days done, days in all)."""

QUANTILES = (0.05, 0.5, 0.95)
TAIL = 0.9


class DecisionDays(Protocol):
    """Days that are decided and then come true: `Windows` of a table, or a part made of arrays."""

    @property
    def days(self) -> np.ndarray:
        """(B,) datetime64[D]."""
        ...

    @property
    def num_steps(self) -> np.ndarray:
        """(B,) real steps of each day."""
        ...

    def __len__(self) -> int: ...

    def to_steps(self, paths: ArrayOrTensor, row: int) -> ArrayOrTensor:
        """(..., R, F) of one day's real steps from ``paths`` (..., T, F) by slot."""
        ...

    def realized(self, row: int) -> np.ndarray:
        """(R, F) targets that came true."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MethodResult:
    """One method's days."""

    label: str
    num_scenarios: int
    costs: np.ndarray
    """(D,) realized cost of each day's decision."""
    expected: np.ndarray
    """(D,) cost that the method's own scenarios expected of it."""
    decisions: tuple[np.ndarray, ...]
    """D flat decisions; their length follows the day's."""
    solve_seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One method in the table; costs are means over days, in the program's money."""

    label: str
    num_scenarios: int
    num_days: int
    cost: float
    expected_cost: float
    regret: float
    relative_regret: float
    cost_quantiles: tuple[float, ...]
    """At `QUANTILES`."""
    cost_cvar: float
    """Of the worst tenth of days."""
    difference: Interval
    """Cost less the baseline's, day by day."""
    is_baseline: bool
    solve_seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Backtest:
    """Realized costs of all methods on the same days."""

    days: np.ndarray
    """(D,) datetime64[D]."""
    best: np.ndarray
    """(D,) cost had the day been known."""
    methods: tuple[MethodResult, ...]
    baseline: str

    def method(self, label: str) -> MethodResult:
        """The days of one method.

        Raises
        ------
        ConfigError
            No method has that label.
        """
        for result in self.methods:
            if result.label == label:
                return result
        raise ConfigError(f"no method {label!r}: there are {', '.join(m.label for m in self.methods)}")

    def table(
        self, seed: int, *, level: float = 0.95, block_days: int = 7, num_resamples: int = 2000
    ) -> tuple[Row, ...]:
        """One row a method, with its paired interval against the baseline.

        Parameters
        ----------
        seed : int
            Every row's resampling starts from it, so that rows draw the same blocks.
        level, block_days, num_resamples
            See `hedgecast.regret.metrics.block_bootstrap`.
        """
        reference = self.method(self.baseline).costs
        rows = []
        for result in self.methods:
            generator = torch.Generator().manual_seed(seed)
            rows.append(
                Row(
                    label=result.label,
                    num_scenarios=result.num_scenarios,
                    num_days=len(self.days),
                    cost=float(result.costs.mean()),
                    expected_cost=float(result.expected.mean()),
                    regret=float(regret(result.costs, self.best).mean()),
                    relative_regret=relative_regret(result.costs, self.best),
                    cost_quantiles=tuple(cost_quantiles(result.costs, QUANTILES).tolist()),
                    cost_cvar=cost_cvar(result.costs, TAIL),
                    difference=block_bootstrap(
                        result.costs - reference,
                        generator,
                        level=level,
                        block_days=block_days,
                        num_resamples=num_resamples,
                    ),
                    is_baseline=result.label == self.baseline,
                    solve_seconds=result.solve_seconds,
                )
            )
        return tuple(rows)

    def records(self) -> list[dict[str, Any]]:
        """One plain record a day: date, cost had it been known, and each method's cost and regret."""
        return [
            {
                "day": str(day),
                "best": float(self.best[row]),
                "cost": {result.label: float(result.costs[row]) for result in self.methods},
                "regret": {
                    result.label: float(result.costs[row] - self.best[row]) for result in self.methods
                },
            }
            for row, day in enumerate(self.days)
        ]


def backtest(
    windows: DecisionDays,
    methods: Mapping[str, ScenarioSet],
    program_for: ProgramFor,
    *,
    baseline: str,
    given: Mapping[str, Any] | None = None,
    risk: Risk = EXPECTATION,
    backend: str | None = None,
    batch_days: int = 64,
    progress: Progress | None = None,
) -> Backtest:
    """Realized costs of every method on every day of ``windows``.

    Parameters
    ----------
    windows : Windows, or Part of arrays
        Days whose targets are known.
    methods : mapping of labels to ScenarioSet
        Scenarios by slot, one context a day in the order of ``windows``. A point forecast is one scenario.
    program_for : callable
        Number of steps to the program over them; called once for each length.
    baseline : str
        Label that differences are taken against.
    given : mapping, optional
        Given parameters for every day; the programs' defaults where left out.
    risk : Risk
        What decisions minimize; realized costs are compared in any case.
    backend : str, optional
    batch_days : int
        Days solved together.
    progress : callable, optional
        Called after each batch.

    Raises
    ------
    ConfigError, ShapeError, DataError
        An unknown baseline, scenarios of other days, or days whose targets are not known.
    SolveError
        A day has no optimal decision; names method and day.
    """
    _check(windows, methods, baseline)
    programs: dict[int, TwoStageProgram] = {}
    batches = list(_batches(windows, batch_days))
    for num_steps, _ in batches:
        if num_steps not in programs:
            programs[num_steps] = program_for(num_steps)
    best = np.full(len(windows), np.nan)
    for num_steps, rows in batches:
        known = _known(programs[num_steps], windows, rows, given, backend)
        best[rows] = known
    results = []
    for label, scenarios in methods.items():
        found = _MethodRun(label, scenarios, len(windows))
        for num_steps, rows in batches:
            found.run(programs[num_steps], windows, rows, given, risk, backend)
            if progress is not None:
                progress(label, found.done, len(windows))
        results.append(found.result())
    return Backtest(days=windows.days, best=best, methods=tuple(results), baseline=baseline)


class _MethodRun:
    """One method's arrays, filled batch by batch."""

    def __init__(self, label: str, scenarios: ScenarioSet, num_days: int) -> None:
        self.label, self.scenarios = label, scenarios
        self.costs, self.expected = np.full(num_days, np.nan), np.full(num_days, np.nan)
        self.decisions: dict[int, np.ndarray] = {}
        self.seconds = 0.0

    @property
    def done(self) -> int:
        return len(self.decisions)

    def run(
        self,
        program: TwoStageProgram,
        windows: DecisionDays,
        rows: np.ndarray,
        given: Mapping[str, Any] | None,
        risk: Risk,
        backend: str | None,
    ) -> None:
        paths = self.scenarios.paths.detach()
        by_step = torch.stack([windows.to_steps(paths[row], row) for row in rows.tolist()])
        weights = self.scenarios.weights()[torch.as_tensor(rows)]
        start = time.perf_counter()
        decision = program.solve(by_step.flatten(2), weights, given, risk=risk, backend=backend)
        self.seconds += time.perf_counter() - start
        bad = torch.nonzero(decision.verdicts != 0)[:, 0]
        if bad.numel():
            member = int(bad[0])
            raise SolveError(
                f"method {self.label!r}, day {windows.days[rows[member]]}: "
                f"{decision.verdict(member).name.lower()}; {bad.numel()} of {rows.size} days in this "
                "batch have no optimal decision",
                method=self.label,
                day=str(windows.days[rows[member]]),
            )
        real = _realized(windows, rows, decision.flat)
        with torch.no_grad():
            costs = program.value(decision.flat, real, given, backend=backend)[:, 0]
        self.costs[rows] = costs.cpu().double().numpy()
        self.expected[rows] = decision.objective.cpu().double().numpy()
        for row, flat in zip(rows.tolist(), decision.flat.cpu().double().numpy(), strict=True):
            self.decisions[row] = flat

    def result(self) -> MethodResult:
        return MethodResult(
            label=self.label,
            num_scenarios=self.scenarios.num_scenarios,
            costs=self.costs,
            expected=self.expected,
            decisions=tuple(self.decisions[row] for row in range(len(self.costs))),
            solve_seconds=self.seconds,
        )


def _realized(windows: DecisionDays, rows: np.ndarray, like: torch.Tensor) -> torch.Tensor:
    """(rows, 1, R*F): the day that came true as one scenario."""
    real = np.stack([windows.realized(row) for row in rows.tolist()])
    return torch.as_tensor(real).to(like).flatten(1)[:, None, :]


def _known(
    program: TwoStageProgram,
    windows: DecisionDays,
    rows: np.ndarray,
    given: Mapping[str, Any] | None,
    backend: str | None,
) -> np.ndarray:
    real = _realized(windows, rows, torch.zeros((), dtype=torch.float64))
    costs = program.wait_and_see(real, given, backend=backend)[:, 0].numpy()
    bad = np.flatnonzero(~np.isfinite(costs))
    if bad.size:
        raise SolveError(
            f"day {windows.days[rows[bad[0]]]}: even known ahead it has no optimal decision "
            f"(cost {costs[bad[0]]}); check the program's limits",
            day=str(windows.days[rows[bad[0]]]),
        )
    return np.asarray(costs)


def _batches(windows: DecisionDays, batch_days: int) -> Iterator[tuple[int, np.ndarray]]:
    """(steps, rows) of days of equal length, at most ``batch_days`` together."""
    lengths = windows.num_steps
    for num_steps in np.unique(lengths):
        rows = np.flatnonzero(lengths == num_steps)
        for start in range(0, rows.size, batch_days):
            yield int(num_steps), rows[start : start + batch_days]


def _check(windows: DecisionDays, methods: Mapping[str, ScenarioSet], baseline: str) -> None:
    if not len(windows):
        raise DataError("no day to test on: widen the test part of the split")
    if baseline not in methods:
        raise ConfigError(
            f"baseline {baseline!r} is no method: there are {', '.join(methods)}", key="baseline"
        )
    for label, scenarios in methods.items():
        shape = tuple(scenarios.paths.shape)
        if shape[0] != len(windows):
            raise ShapeError(
                f"method {label!r}: paths have shape {shape}: must be ({len(windows)} days, scenarios, "
                "slots, series)"
            )
