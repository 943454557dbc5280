"""docs/scenarios-benchmark.md from the result files that there are; only roundings are computed here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

Record = Mapping[str, Any]
_HEAD = """# Scenarios against their peers

Made by `make bench-scenarios` from `benchmarks/results/scenarios_*.json`. The model is the German grid's (24
hours of one series, the study's network of three blocks of 128), trained without its joint phase and for at
most 40 epochs; its student of one network call had 6 epochs on 48 scenarios a day. Peers run the same
weights in the same run, in turn with ours. One thread each where nothing else is said. Which figures hold on
other machines:
[How scenarios scale](scaling.md).
"""


def page(found: Mapping[str, Record]) -> str:
    """The page in Markdown; pieces without a result are named as such."""
    text = _HEAD
    for piece, (title, lines) in _SECTIONS.items():
        text += f"\n## {title}\n\n"
        if piece in found:
            text += "\n".join([*lines(found[piece]), "", _where(found[piece])]) + "\n"
        else:
            text += f"Not measured yet: `python benchmarks/bench_scenarios.py --piece {piece}`.\n"
    return text


def verdict(reached: bool, aim: str) -> str:
    """Whether an aim was reached, in words."""
    return f"reaches the aim of {aim}" if reached else f"**misses the aim of {aim}**"


def loaded(record: Record) -> bool:
    """Whether other work took part of the machine."""
    return bool(max(record["load_before"], record["load_after"]) > record["cores"])


def _diffusers(record: Record) -> Iterator[str]:
    yield (
        f"Our network in the loop of Hugging Face diffusers' `DDIMScheduler` (v-prediction at our angles), "
        f"which gives "
        f"the numbers of our own DDIM to {record['agreement_with_our_ddim']:.0e} relative. Scores over "
        f"{record['days']} test days, {record['scenarios']} scenarios a day, from the same noise; "
        f"scenarios per second "
        "from a seed to paths in units, processor time.\n"
    )
    yield from _speeds(record, calls="1,000 and 10,000 scenarios of one context")
    rows = record["rows"]
    for name in ("student 1", "adams 5", "adams 10", "heun 10"):
        row = rows[name]
        least = min(ratio["median"] for ratio in row["times_the_peer"].values())
        equal = "equal within 2 %" if row["equal"] else "**not equal within 2 %**"
        reached = least >= record["aim"] and row["equal"]
        judged = verdict(reached, "20 times") if name == "student 1" else "no aim was set"
        yield f"- {name}: {least:.1f} times the peer or more, energy score {equal}: {judged}."


def _published(record: Record) -> Iterator[str]:
    yield (
        "All 1,000 steps of the linear schedule without noise between them, as the published "
        "decision-focused sampler "
        f"runs; measured on fewer days ({record['days']}) and scenarios ({record['scenarios']} a day). No "
        f"aim was "
        "set, this states it.\n"
    )
    yield from _speeds(record, calls="1,000 scenarios of one context")


def _speeds(record: Record, *, calls: str) -> Iterator[str]:
    counts = list(record["rows"][record["peer"]]["scenarios_per_second"])
    yield f"{calls}; {record['rounds']} rounds, medians.\n"
    heads = [f"a second, at {int(count):,}" for count in counts] + [f"times, at {int(n):,}" for n in counts]
    yield _cells(("sampler", "energy score", "change", "95 %", *heads))
    yield _cells(["---"] * (4 + len(heads)))
    for name, row in record["rows"].items():
        change = row["energy_change"]
        yield _cells(
            (
                name,
                f"{row['energy_score']:.3f}",
                f"{change['mean']:+.2%}",
                f"[{change['low']:+.2%}, {change['high']:+.2%}]",
                *(f"{row['scenarios_per_second'][count]:,.0f}" for count in counts),
                *(_spread(row["times_the_peer"][count]) for count in counts),
            )
        )
    yield ""


def _neuralforecast(record: Record) -> Iterator[str]:
    yield (
        f"NHITS with quantiles 0.01 to 0.99, same columns and days of training, {record['days']} test days "
        f"of 24 hours, "
        f"{record['scenarios']} scenarios a day; its settings were not searched for. Lower is better; in "
        f"brackets "
        "the difference to ours with its 95 % paired interval over blocks of a week. Seconds are processor "
        "time for "
        f"{record['timed_scenarios']:,} scenarios of one day; training took NeuralForecast "
        f"{record['training_seconds']['NeuralForecast']:.0f} s of wall time.\n"
    )
    figures = ("energy_score", "variogram_score", "crps", "regret", "cost")
    yield _cells(("method", *(figure.replace("_", " ") for figure in figures), "seconds"))
    yield _cells(["---"] * (len(figures) + 2))
    first = next(iter(record["rows"]))
    for name, row in record["rows"].items():
        cells = [
            f"{row['mean'][figure]:.4g}"
            + ("" if name == first else f" {_interval(row['less_ours'][figure])}")
            for figure in figures
        ]
        yield _cells((name, *cells, f"{row['seconds_per_day']:.3g}"))


def _steps(record: Record) -> Iterator[str]:
    yield (
        "The same weights as an encoder, a step and an un-scaling graph, called from Python, against the "
        "one graph in "
        "which the steps are unrolled. How many times as long the calls take, median of the rounds; more "
        "than 1 is "
        "slower than ours. Processor time.\n"
    )
    heads = ("model", "scenarios", "one graph, ms", "per step, times", "in the same chunks, times")
    yield _cells(heads)
    yield _cells(["---"] * len(heads))
    for name, model in record["models"].items():
        for row in model["sizes"]:
            times = (_spread(ratio, 3) for ratio in row["over_one_graph"].values())
            yield _cells((name, f"{row['scenarios']:,}", f"{row['milliseconds']['one graph']:.3g}", *times))
    yield ""
    for name, model in record["models"].items():
        yield f"- {name}: {verdict(model['faster_everywhere'], 'being faster at every size')}."


def _grpc(record: Record) -> Iterator[str]:
    yield (
        "GenerateScenarios for one context with the student, one caller, rows to paths. *bare* is "
        "`ScenarioSession.draw` in the caller's process; *in process* a gRPC server in a thread of it; "
        "*ray* the local "
        "service with one replica of each part. Milliseconds.\n"
    )
    ways = list(record["rows"][0]["median_ms"])
    heads = (
        "scenarios",
        "requests",
        *(f"{way}, median" for way in ways),
        *(f"{way} adds" for way in ways[1:]),
    )
    yield _cells(heads)
    yield _cells(["---"] * len(heads))
    for row in record["rows"]:
        medians = (f"{row['median_ms'][way]:.2f}" for way in ways)
        added = (f"{row['added_ms'][way]:.2f}" for way in ways[1:])
        yield _cells((f"{row['scenarios']:,}", row["requests"], *medians, *added))
    yield ""
    aim, count = record["aim_milliseconds"], record["aim_scenarios"]
    (row,) = [row for row in record["rows"] if row["scenarios"] == count]
    for way in ways[1:]:
        value = row["median_ms"][way]
        yield f"- {count:,} scenarios, {way}: median {value:.1f} ms, {verdict(value < aim, f'{aim:.0f} ms')}."


def _flight(record: Record) -> Iterator[str]:
    share, speed = record["share_of_flight"], record["megabytes_per_second"]
    yield (
        f"{record['scenarios']:,} x {record['steps']} float32 in batches of {record['batch_rows']:,}, "
        f"drawing left out; "
        "each server a process of its own, this client the third. Ours is the whole server as shipped "
        "(`leave_out_fingerprint`, which `scenario_batches` sets) and our client, Flight is pyarrow's.\n"
    )
    yield f"- GenerateScenarios {speed['grpc']:,.0f} MB/s, Flight {speed['flight']:,.0f} MB/s (medians)."
    yield (
        f"- Of Flight's rate, round by round: {_spread(share)}: "
        f"{verdict(record['reached'], f'''{record['aim']:.0%}''')}."
    )
    memory = record["alone"]
    yield (
        f"- Memory while {memory['streams']} streams of {1e-6 * record['bytes']:,.0f} MB passed: the "
        f"server's grew by "
        f"{1e-6 * memory['server_growth']:.1f} MB, the client's by {1e-6 * memory['client_growth']:.1f} "
        f"MB; within a "
        f"stream the client held {1e-6 * memory['client_range']:.1f} MB more at most than at its least."
    )


def _bulk(record: Record) -> Iterator[str]:
    yield (
        f"`hedgecast generate`'s actors on {record['days']} days of {record['scenarios_of_a_day']:,} "
        f"scenarios, each "
        "measurement a fresh process, between the first and the last part.\n"
    )
    yield _cells(("", "scenarios a second", "CPU s per million", "start, s"))
    yield _cells(["---"] * 4)
    for name, row in record["median"].items():
        figures = (row["scenarios_per_second"], row["cpu_seconds_per_million"], row["start_seconds"])
        yield _cells((name, *(f"{figure:,.1f}" for figure in figures)))
    yield ""
    yield (
        f"- One actor takes {record['time_over_bare_loop']:.2f} of the bare loop's time and "
        f"{record['cpu_over_bare_loop']:.2f} of its processor time: in time it "
        f"{verdict(record['reached'], '1.25')}, in processor time it "
        f"{verdict(record['reached_in_processor_time'], '1.25')}."
    )
    yield f"- Two actors have {record['two_over_one']:.2f} times the rate of one."


_SECTIONS: dict[str, tuple[str, Callable[[Record], Iterator[str]]]] = {
    "diffusers": ("diffusers, DDIM of 50 steps", _diffusers),
    "published": ("The published loop of 1,000 steps", _published),
    "neuralforecast": ("NeuralForecast's simulate()", _neuralforecast),
    "steps": ("ONNX Runtime called once per step", _steps),
    "grpc": ("What the service adds", _grpc),
    "flight": ("A million scenarios against Arrow Flight", _flight),
    "bulk": ("In bulk, through Ray Data", _bulk),
}


def _where(record: Record) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    text = (
        f"{record['date']}, {record['processor']}, {record['cores']} cores, load {record['load_before']} "
        f"before and "
        f"{record['load_after']} after; {versions}."
    )
    if loaded(record):
        text += " **Other work took part of the machine**: read the comparisons, not the absolute figures."
    return text


def _spread(ratio: Mapping[str, float], digits: int = 2) -> str:
    return f"{ratio['median']:.{digits}f} [{ratio['least']:.2f}, {ratio['largest']:.2f}]"


def _interval(value: Mapping[str, float]) -> str:
    return f"({value['mean']:+.3g} [{value['low']:+.3g}, {value['high']:+.3g}])"


def _cells(cells: Iterable[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"
