"""Write docs/benchmarks.md from the files of benchmarks/results: what was measured, when and where.

    python deploy/benchmark_tables.py            # writes it
    python deploy/benchmark_tables.py --check    # compares

Nothing is computed here but roundings: a figure that is not in a file is not on the page.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "benchmarks.md"
_HEAD = """# Benchmarks

Written by `python deploy/benchmark_tables.py` from the files of `benchmarks/results`, which hold machine,
versions, date and command of each run. `benchmarks/LOG.md` in the source tree tells what was tried, also what
did not work. Methods on decision tasks are on a page of their own: [Decisions](decisions.md).
"""
_PEERS = {
    "moreau": "Moreau",
    "clarabel_pool": "Clarabel in a pool of two",
    "diffcp": "diffcp",
    "cvxpy_clarabel": "CVXPY and Clarabel",
}

Record = dict[str, Any]


def page() -> str:
    """The whole page."""
    sections = [_solver, _surrogate, _estimators, _hostile]
    return "\n".join([_HEAD, *(line for section in sections for line in section())]).rstrip() + "\n"


def _solver() -> Iterator[str]:
    records = _records("solver_")
    yield "## The structured solve against its peers (`make bench-solver`)\n"
    yield "Each side in the same run; peers by how many times as long they took.\n"
    yield "| case | ours | error of the objective | peers, times as long | date |\n|---|---|---|---|---|"
    for record in records:
        peers = ", ".join(
            f"{name} {record[f'{key}_ratio']:.3g}" for key, name in _PEERS.items() if f"{key}_ratio" in record
        )
        note = f" ({record['note']})" if "note" in record else ""
        shown = ", ".join(
            f"{value:.1e}{' (at 10,000)' if key.endswith('_10000') else ''}"
            for key, value in record.items()
            if key.startswith("objective_error")
        )
        ours = _seconds(record["structured_seconds"])
        yield f"| {record['case']} | {ours} | {shown} | {peers}{note} | {record['date'][:10]} |"
    yield ""
    yield _machine(records)


def _surrogate() -> Iterator[str]:
    records = _records("surrogate_")
    yield "## The learned solver and its gate (`make bench-surrogate`)\n"
    yield "Held-out sets of scenarios. A decision that the gate does not trust is solved exactly.\n"
    yield "| program | risk | trusted | mean regret of those | over budget | a set | exact, a set | date |"
    yield "|---|---|---|---|---|---|---|---|"
    for record in records:
        regret = record["trusted_mean_regret"]
        yield (
            f"| {record['program']} | {record['risk']} | {record['trusted']} of {record['num_test']} | "
            f"{'' if regret is None else f'{100 * regret:.2g} %'} | {record['over_budget']} | "
            f"{_seconds(record['surrogate_seconds_per_set'])} | "
            f"{_seconds(record['exact_seconds_per_set'])} | {record['date']} |"
        )
    yield ""
    yield _machine(records)


def _estimators() -> Iterator[str]:
    (record,) = _records("estimators_")
    yield "## Estimators of the task gradient, where it is known (`make bench-estimators`)\n"
    yield (
        f"Mean of {record['replicates']:,} estimates on a linear-Gaussian model, against the exact "
        "gradient or its known bias.\n"
    )
    yield "| estimator | standard errors from the known mean | relative variance |\n|---|---|---|"
    for name, row in record["rows"].items():
        off, variance = row["standard_errors_from_known_mean"], row["relative_variance"]
        yield f"| {name} | {'' if off is None else f'{off:.2f}'} | {variance:.3g} |"
    yield f"\nMachine: {record['machine']}; {record['date']}.\n"


def _hostile() -> Iterator[str]:
    (record,) = _records("fuzz_service")
    yield "## Hostile inputs (`make fuzz`)\n"
    memory = record["memory_mib"]
    yield (
        f"{record['inputs']:,} inputs, {len(record['wrong'])} wrong answers; memory {memory['warm']} MiB "
        f"warm, {memory['peak']} at its peak, {memory['after']} after.\n"
    )


def _records(prefix: str) -> list[Record]:
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob(f"{prefix}*.json"))]
    if not found:
        raise FileNotFoundError(f"{RESULTS} has no {prefix}*.json: run the benchmark that writes it")
    return found


def _machine(records: list[Record]) -> str:
    machines = {f"{record['machine']}, threads: {record['threads']}" for record in records}
    return f"Machine: {'; '.join(sorted(machines))}.\n"


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{1e3 * value:.3g} ms"


def main() -> int:
    """Write the page, or compare with it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    text = page()
    if not parser.parse_args().check:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    print("docs/benchmarks.md is stale: python deploy/benchmark_tables.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
