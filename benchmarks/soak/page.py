"""The page on the soak, written from its result file."""

from __future__ import annotations

from typing import Any

_HEAD = """# Soak: load while things break

The local Ray Serve service (two solvers, {draws}, one gateway with mutual TLS and a token) under mixed
load from callers in closed loops: decisions one by one and in streams at 50, 200 and 1,000 scenarios, plans
compared, decisions explained, scenarios generated, outcomes recorded. Meanwhile replicas are killed
(SIGKILL), the champion is switched twice and Serve's controller is killed. The caller tries again what was
answered with a documented status that is worth it. Every answer is compared with one that the driver computes
from the version and the request alone, without Ray: each number to a relative 1e-6, scenarios bit by bit.

Made by `make soak` from `benchmarks/results/soak.json`.
"""


def page(result: dict[str, Any]) -> str:
    """The page in Markdown."""
    count = result["denoisers"]
    draws = f"{count} denoisers" if count else "which draw for themselves"
    return (
        _HEAD.format(draws=draws)
        + _run(result)
        + _attempts(result)
        + _faults(result)
        + _memory(result)
        + _wrong(result)
    )


def _run(result: dict[str, Any]) -> str:
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in sorted(machine["versions"].items()))
    answered = result["requests_answered"]
    return (
        f"\n## The run\n\n{machine['date']}, {machine['processor']}, {machine['cores']} cores, load average "
        f"{machine['load_before']} before and {machine['load_after']} after; {versions}.\n"
        f"{result['seconds'] / 60:.1f} minutes of {result['callers']} callers.\n\n"
        f"- {sum(answered.values()):,} requests answered: "
        + ", ".join(f"{name} {count:,}" for name, count in answered.items())
        + f".\n- {result['answers_compared']:,} answers compared, {result['answers_identical']:,} of them "
        f"identical in every field, with {result['distinct_recomputed']:,} distinct recomputations.\n"
        f"- {result['answered_after_retries']:,} answered after another try; the longest wait of a request, "
        f"tries included, was {result['longest_wait_seconds']} s.\n"
        f"- {result['outcomes_acknowledged']:,} outcomes acknowledged, each read back from the disk.\n"
    )


def _attempts(result: dict[str, Any]) -> str:
    lines = "".join(f"| {name} | {count:,} |\n" for name, count in result["attempts"].items())
    return "\n## Every try by status\n\n| method: status | tries |\n|---|---|\n" + lines


def _faults(result: dict[str, Any]) -> str:
    text = "\n## What was broken\n\n| after, s | what | |\n|---|---|---|\n"
    for event in result["faults"]:
        if event["what"] == "switch":
            told = f"to version {event['to']}, done in {event['seconds']} s"
        elif "skipped" in event:
            told = event["skipped"]
        else:
            told = f"killed, a process in its place after {event['process_back_seconds']} s"
        text += f"| {event['at']:.0f} | {event['what']} | {told} |\n"
    return text


def _memory(result: dict[str, Any]) -> str:
    text = (
        "\n## Memory\n\nResident memory of each process that lived a minute or more after its first one; the "
        "driver holds the\noracle with all that it has recomputed. The slope's error takes samples as "
        "independent, which they are not quite.\n\n"
        "| process | minutes | first fifth, MiB | last fifth, MiB | slope, MiB a minute | flat |\n"
        "|---|---|---|---|---|---|\n"
    )
    for row in result["memory"]:
        text += (
            f"| {row['role']} | {row['minutes']:.1f} | {row['first_mib']:.0f} | {row['last_mib']:.0f} "
            f"| {row['slope_mib_a_minute']:.2f} +- {row['slope_error']:.2f} "
            f"| {'yes' if row['flat'] else '**no**'} |\n"
        )
    return text


def _wrong(result: dict[str, Any]) -> str:
    if not result["wrong"]:
        return "\n## Verdict\n\nNothing was wrong, lost or mixed.\n"
    return "\n## Verdict\n\n**Wrong:**\n\n" + "".join(f"- {text}\n" for text in result["wrong"])
