"""The surrogate backend's gate on real history: a table, a JSON line and a file per case.

For each program: scenario sets are drawn from its default history (`catalog.history`), the map is trained and
its gate calibrated on sets of their own, and the figures are those of sets that neither has seen. The
seed decides every draw. What is asked of the gate: among the decisions that it trusts, at most 5 % cost more
than 2 % above the optimum. Seconds are wall time per set, in batches of all test sets.
"""

from __future__ import annotations

import argparse
import datetime
import json
import pathlib
import platform
import re
import time
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import beta
from shipped import SHIPPED

from hedgecast.decisions.surrogate_training import SurrogateConfig, train_surrogate
from hedgecast.programs.catalog.history import history
from hedgecast.programs.risk import Risk

RESULTS = pathlib.Path(__file__).parent / "results"


def run(case: str, config: SurrogateConfig) -> dict[str, Any]:
    name, measure, build = SHIPPED[case]
    pool = history(name)
    start = time.perf_counter()
    surrogate = train_surrogate(build(), pool.values[0], risk=Risk.parse(measure), config=config)
    report = surrogate.report
    trusted = round(report["trusted_share"] * report["num_test"])
    over = round((report["trusted_over_budget_share"] or 0.0) * trusted)
    return {
        "case": f"surrogate_{case}",
        "program": name,
        "risk": measure,
        "history": pool.source,
        "pool": int(pool.values.shape[1]),
        **report,
        "trusted": trusted,
        "over_budget": over,
        # Exact binomial: with 95 % probability the share of bad decisions among trusted ones is below it.
        "over_budget_share_bound": (
            float(beta.ppf(0.95, over + 1, trusted - over)) if over < trusted else None
        ),
        "max_doubt": surrogate.gate.max_doubt,
        "total_seconds": time.perf_counter() - start,
        "threads": torch.get_num_threads(),
        "machine": _machine(),
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
    }


def _machine() -> str:
    found = re.search(r"model name\s*:\s*(.+)", pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return found[1] if found else platform.processor()


def show(results: list[dict[str, Any]]) -> None:
    table = Table(title="the surrogate's gate", title_justify="left")
    columns = ("case", "mean regret, no gate", "trusted", "over budget", "largest", "exact / surrogate")
    for column in columns:
        table.add_column(column, justify="left" if column == "case" else "right")
    for result in results:
        largest = result["trusted_largest_regret"]
        table.add_row(
            result["case"].removeprefix("surrogate_"),
            f"{result['mean_regret']:.2%}",
            f"{result['trusted']} of {result['num_test']}",
            f"{result['over_budget']}",
            "-" if largest is None else f"{largest:.2%}",
            f"{result['exact_seconds_per_set'] / result['surrogate_seconds_per_set']:.1f}",
        )
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", choices=[[], *SHIPPED], help="default: all")
    parser.add_argument("--seed", type=int, default=20251126)
    parser.add_argument("--train", type=int, default=600, help="scenario sets to train on")
    parser.add_argument("--calibration", type=int, default=300, help="scenario sets that set the gate")
    parser.add_argument("--test", type=int, default=200, help="scenario sets of the figures")
    parser.add_argument("--scenarios", type=int, default=100, help="scenarios a set")
    parser.add_argument("--budget", type=float, default=0.02, help="relative regret")
    arguments = parser.parse_args()
    config = SurrogateConfig(
        num_instances=arguments.train,
        num_calibration=arguments.calibration,
        num_test=arguments.test,
        num_scenarios=arguments.scenarios,
        budget=arguments.budget,
        seed=arguments.seed,
    )
    RESULTS.mkdir(exist_ok=True)
    results = []
    for case in arguments.cases or SHIPPED:
        result = run(case, config)
        results.append(result)
        print(json.dumps(result, allow_nan=False), flush=True)
        path = RESULTS / f"{result['case']}.json"
        path.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    show(results)


if __name__ == "__main__":
    main()
