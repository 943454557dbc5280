"""Our one graph against diffusers' loops around the same network: scenarios per second, and their scores.

Both begin with a seed and end with paths in units; diffusers draws its noise with torch.randn, ours is
counter- based. Scores are taken on days of the test year, from the same noise, so that a day's difference is
the sampler's alone. One thread each; processor time, since neither side waits.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scenarios_bench.diffusers_loop import Loop, agreement, ddim_loop, published_loop
from scenarios_bench.measure import Call, in_turn, ratio
from scenarios_bench.models import HeldOutDays
from scenarios_bench.steps import scenario_session

from hedgecast.diffusion.generator import Generator
from hedgecast.diffusion.noise import scenario_noise
from hedgecast.learning.fidelity import BUDGET, changes
from hedgecast.registry.session import ScenarioSession
from hedgecast.scenarios.scores import energy_score

AIM = 20.0
COUNTS = (1_000, 10_000)
FALLBACKS = {"adams 5": ("adams", 5), "adams 10": ("adams", 10), "heun 10": ("heun", 5)}
"""Solvers of the teacher's own network, no training: name to sampler and steps."""
_CHUNK = 4096
_DAYS_AT_ONCE = 32

Draw = Callable[[NDArray[np.float64], NDArray[np.int64], int], NDArray[np.float32]]
"""Contexts, their numbers and a count to paths (B, S, T, F) of seed 0."""


def with_sampler(teacher: Generator, sampler: Any, steps: int) -> Generator:
    """The teacher's network with another solver."""
    config = dataclasses.replace(teacher.config, sampler=sampler, sampler_steps=steps)
    model = Generator.from_dict({**teacher.to_dict(), "config": config.to_dict()})
    model.load_state_dict(teacher.state_dict())
    return model.eval().float()


def graph_draw(generator: Generator, context: torch.Tensor) -> Draw:
    """Draws of an exported graph, noise included, in the chunks of `ScenarioSession`."""
    graph, dim = scenario_session(generator, context), generator.dim

    def draw(contexts: NDArray[np.float64], numbers: NDArray[np.int64], count: int) -> NDArray[np.float32]:
        rows, parts = contexts.astype(np.float32), []
        for start in range(0, count, _CHUNK):
            noise = scenario_noise(0, numbers, min(_CHUNK, count - start), dim, start=start)
            parts.append(graph.run(None, {"context": rows, "noise": noise})[0])
        return np.concatenate(parts, axis=1)

    return draw


def loop_draw(loop: Loop, generator: Generator, *, own_noise: bool) -> Draw:
    """Draws of a diffusers loop, from torch's noise (as its users have it) or from ours (to be compared)."""
    draws = torch.Generator().manual_seed(0)

    def draw(contexts: NDArray[np.float64], numbers: NDArray[np.int64], count: int) -> NDArray[np.float32]:
        if own_noise:
            noise = torch.from_numpy(scenario_noise(0, numbers, count, generator.dim))
        else:
            noise = torch.randn((len(contexts), count, generator.dim), generator=draws)
        paths = loop.sample(generator, torch.from_numpy(contexts).float(), noise)
        return np.asarray(paths.numpy())

    return draw


def measure_diffusers(
    teacher: Generator,
    sessions: Mapping[str, ScenarioSession],
    days: HeldOutDays,
    *,
    scenarios: int,
    rounds: int,
) -> dict[str, Any]:
    """DDIM of 50 steps in diffusers against ``sessions`` as served and the solvers that need no training."""
    graphs = {
        name: graph_draw(with_sampler(teacher, *given), days.torch_context)
        for name, given in FALLBACKS.items()
    }
    own = {**{name: session_draw(one) for name, one in sessions.items()}, **graphs}
    peer = ddim_loop()
    scored = {"diffusers DDIM 50": loop_draw(peer, teacher, own_noise=True), **own}
    timed = {"diffusers DDIM 50": loop_draw(peer, teacher, own_noise=False), **own}
    noise = torch.from_numpy(scenario_noise(0, days.numbers[:20], 50, teacher.dim))
    return {
        "agreement_with_our_ddim": agreement(teacher, days.torch_context[:20], noise),
        **compared(scored, timed, days, scenarios=scenarios, rounds=rounds, counts=COUNTS),
        "aim": AIM,
        "budget": BUDGET,
    }


def measure_published(
    teacher: Generator, student: ScenarioSession, days: HeldOutDays, *, scenarios: int, rounds: int
) -> dict[str, Any]:
    """The published loop of 1,000 steps, on fewer scenarios, against the student."""
    own = {"student 1": session_draw(student)}
    peer = published_loop()
    scored = {"published loop 1,000": loop_draw(peer, teacher, own_noise=True), **own}
    timed = {"published loop 1,000": loop_draw(peer, teacher, own_noise=False), **own}
    return compared(scored, timed, days, scenarios=scenarios, rounds=rounds, counts=COUNTS[:1])


def session_draw(student: ScenarioSession) -> Draw:
    """As the service draws."""
    return lambda contexts, numbers, count: student.draw(contexts, numbers, count, 0)


def compared(
    scored: Mapping[str, Draw],
    timed: Mapping[str, Draw],
    days: HeldOutDays,
    *,
    scenarios: int,
    rounds: int,
    counts: tuple[int, ...],
) -> dict[str, Any]:
    """Scores of all against the first, the peer, and how many times its scenarios per second each has."""
    peer = next(iter(scored))
    scores = {name: _energy(draw, days, scenarios) for name, draw in scored.items()}
    rows: dict[str, Any] = {name: {"scenarios_per_second": {}, "times_the_peer": {}} for name in timed}
    for name, values in scores.items():
        (change,) = changes({"energy": scores[peer]}, {"energy": values})
        rows[name]["energy_score"] = change.after
        rows[name]["energy_change"] = dataclasses.asdict(change.relative)
        rows[name]["equal"] = abs(change.relative.mean) <= BUDGET
    for count in counts:
        one: dict[str, Call] = {
            name: functools.partial(draw, days.context[:1], days.numbers[:1], count)
            for name, draw in timed.items()
        }
        seconds = in_turn(one, rounds, clock=time.process_time)
        for name, own in seconds.items():
            rows[name]["scenarios_per_second"][str(count)] = count / float(np.median(own))
            rows[name]["times_the_peer"][str(count)] = ratio(seconds[peer], own)
    return {"peer": peer, "days": len(days.numbers), "scenarios": scenarios, "rounds": rounds, "rows": rows}


def _energy(draw: Draw, days: HeldOutDays, count: int) -> NDArray[np.float64]:
    """(D,) energy score."""
    found = []
    for start in range(0, len(days.numbers), _DAYS_AT_ONCE):
        part = slice(start, start + _DAYS_AT_ONCE)
        paths = draw(days.context[part], days.numbers[part], count).astype(np.float64)
        real = days.windows.slots[part]
        found.append(energy_score(paths.reshape(*paths.shape[:2], -1), real.reshape(len(real), -1)))
    return np.concatenate(found)
