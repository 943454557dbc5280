"""docs/scaling.md: how scenarios scale past the machine that was measured, by a model of few numbers.

    seconds(S) = a + b S                      one request of S scenarios on one core: calls, then scenarios
    rate = min(N / b, G g / m, L / m)         N cores that draw, G gateways of g bytes a second, a link of L

with m = 4 T F bytes a scenario of float32. a and b are fitted to what the benchmark measured, g is measured,
N, G and L are the reader's. On a GPU b is the larger of arithmetic and memory traffic, and a the launches of
its kernels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

STEPS_A_DAY = 24
HIDDEN, BLOCKS = 128, 3
"""Of the study's network."""
GIGABIT = 1e9 / 8
# Assumptions about a GPU, not measurements: layers this narrow reach a small share of a data sheet's float16
# rate, and a launch takes a few microseconds.
GPU_FLOPS, GPU_SHARE, LAUNCH_SECONDS, KERNELS = 100e12, 0.2, 5e-6, 40


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """seconds(S) = a + b S."""

    a: float
    b: float

    @classmethod
    def through(cls, counts: Sequence[int], seconds: Sequence[float]) -> Line:
        """Through the smallest and the largest size, which is where each of the two terms is seen best."""
        if len(counts) < 2 or counts[-1] <= counts[0]:
            raise ValueError(f"sizes {list(counts)}: two that rise are needed")
        b = (seconds[-1] - seconds[0]) / (counts[-1] - counts[0])
        return cls(a=seconds[0] - b * counts[0], b=b)


def flops(dim: int = STEPS_A_DAY) -> int:
    """Of one network call for one scenario: two for each weight of a matrix that sees scenarios."""
    return 2 * (dim * HIDDEN + BLOCKS * 2 * HIDDEN * HIDDEN + HIDDEN * dim + dim * dim)


def gpu_batch(share: float = GPU_SHARE) -> int:
    """Scenarios of which the arithmetic takes as long as the launches: fewer leave the GPU waiting."""
    return round(KERNELS * LAUNCH_SECONDS * GPU_FLOPS * share / flops())


def page(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The page in Markdown; what the missing pieces would say is left out and named."""
    lines = [_HEAD]
    if "steps" in found:
        lines += _cores(found["steps"])
    if "flight" in found:
        lines += _gateways(found["flight"])
    if "grpc" in found:
        lines += _requests(found["grpc"])
    if "bulk" in found:
        lines += _bulk(found["bulk"])
    missing = [piece for piece in ("steps", "flight", "grpc", "bulk") if piece not in found]
    if missing:
        lines += [f"No result yet of: {', '.join(missing)} (`make bench-scenarios`).", ""]
    return "\n".join([*lines, _gpu(), _TAIL])


def student_line(record: Mapping[str, Any]) -> Line:
    """Of the student's one graph."""
    sizes = next(iter(record["models"].values()))["sizes"]
    counts = [row["scenarios"] for row in sizes]
    return Line.through(counts, [1e-3 * row["milliseconds"]["one graph"] for row in sizes])


def _cores(record: Mapping[str, Any]) -> Iterator[str]:
    line = student_line(record)
    rate, load = 1.0 / line.b, _load(record)
    yield "## Cores that draw\n"
    yield (
        f"Measured{load}: the student's graph takes {1e6 * line.a:,.0f} us a call and {1e6 * line.b:.2f} "
        f"us a scenario, "
        f"noise left out: {rate:,.0f} scenarios a second and core.\n"
    )
    yield "Calculated, N / b, each replica with a core and one thread:\n"
    yield "| replicas | scenarios a second | 1,000,000 scenarios |\n|---|---|---|"
    for replicas in (1, 4, 16, 64):
        yield f"| {replicas} | {replicas * rate:,.0f} | {1e6 * line.b / replicas:.2f} s |"
    yield (
        f"\nBelow {line.a / line.b:,.0f} scenarios a request the call costs more than the scenarios: small "
        f"requests "
        "gain from being drawn together, large ones from more replicas.\n"
    )


def _gateways(record: Mapping[str, Any]) -> Iterator[str]:
    speed = 1e6 * record["megabytes_per_second"]["grpc"]
    size = 4 * record["steps"]
    yield "## Gateways and the network\n"
    yield (
        f"Measured{_load(record)}: one gateway process and one reader on loopback, {1e-6 * speed:,.0f} "
        f"MB/s; at {size} "
        f"bytes a scenario {speed / size:,.0f} scenarios a second.\n"
    )
    yield "Calculated, L / m, for scenarios of 24 float32 (framing adds less than 0.1 %):\n"
    yield "| link | scenarios a second | gateways that fill it |\n|---|---|---|"
    for gigabits in (1, 10, 25, 100):
        link = gigabits * GIGABIT
        yield f"| {gigabits} Gbit/s | {link / size:,.0f} | {link / speed:.2g} |"
    yield "\nOn TLS and a real network a gateway does less; how much was not measured.\n"


def _requests(record: Mapping[str, Any]) -> Iterator[str]:
    rows = record["rows"]
    ways = [way for way in rows[0]["added_ms"] if way in ("in process", "ray")]
    yield "## Requests\n"
    yield f"Measured{_load(record)}, one caller, what a request costs beyond its draw:\n"
    yield "| scenarios | " + " | ".join(f"{way}, ms" for way in ways) + " |"
    yield "|---|" + "---|" * len(ways)
    for row in rows:
        yield f"| {row['scenarios']:,} | " + " | ".join(f"{row['added_ms'][way]:.1f}" for way in ways) + " |"
    yield (
        "\nCalculated: with R requests a second of S scenarios, R (a + b S) cores draw; a solver replica "
        "reads the rows "
        "and passes the paths on, about what is added above, so plan one for each 1 / (added seconds) "
        "requests a "
        "second, divided by 0.6 as in [Sizing](sizing.md).\n"
    )


def _bulk(record: Mapping[str, Any]) -> Iterator[str]:
    one = record["median"]["1 actor"]
    yield "## In bulk\n"
    yield (
        f"Measured{_load(record)}: one actor {one['scenarios_per_second']:,.0f} scenarios a second with "
        f"the teacher's eight "
        f"calls, two actors {record['two_over_one']:.2f} times that, {one['start_seconds']:.0f} s until "
        f"the first draws.\n"
    )
    yield "Calculated, start + scenarios / (actors * rate), for 10,000,000 scenarios (960 MB of values):\n"
    yield "| actors, a core each | seconds |\n|---|---|"
    for actors in (1, 8, 64):
        seconds = one["start_seconds"] + 1e7 / (actors * one["scenarios_per_second"])
        yield f"| {actors} | {seconds:,.0f} |"
    yield "\nParts are written one by one; an object store's rate, which may bound them, was not measured.\n"


def _gpu() -> str:
    return f"""## A GPU

Nothing here was measured: there was no GPU. One network call is {flops():,} floating point operations a
scenario. Assumed: {KERNELS} kernels a call at {1e6 * LAUNCH_SECONDS:.0f} us, {GPU_SHARE:.0%} of {
        1e-12 * GPU_FLOPS:.0f} Tflop/s in float16. Calculated: launches and arithmetic take equally long at {
        gpu_batch():,}
scenarios, so a batch of several times that keeps the GPU busy, and smaller ones take the launches' time
whatever their size. That rate, {GPU_FLOPS * GPU_SHARE / flops():,.0f} scenarios a second and call, is beyond
what noise made on a CPU and one gateway can pass on: noise by counter would have to be made on the GPU
before a second GPU helps.
"""


def _load(record: Mapping[str, Any]) -> str:
    load = max(record["load_before"], record["load_after"])
    return f" at a load of {load:.0f} on {record['cores']} cores" if load > record["cores"] else ""


_HEAD = """# How scenarios scale

Written by `make bench-scenarios`. **Measured** figures are those of [Scenarios against
peers](scenarios-benchmark.md), on the machine named there. **Calculated** ones follow from these by the
model and were seen nowhere:

    seconds(S) = a + b S                  one request of S scenarios on one core
    rate = min(N / b, G g / m, L / m)     N cores that draw, G gateways of g bytes a second, a link of L

with m = 4 T F bytes a scenario of T steps and F series in float32.
"""
_TAIL = """## Not measured

A GPU, more than one node, more than two cores, TLS at these rates, a real network, an object store. The
model leaves out what appears there first: memory bandwidth that cores share, and the hop between a denoiser
and a solver on two nodes, which moves each path once more.
"""
