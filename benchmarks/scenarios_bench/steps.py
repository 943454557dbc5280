"""One graph with its steps unrolled against ONNX Runtime called once per step from Python.

The peer has three graphs of the same weights: the encoder (once a context), one step of the solver, and the
un-scaling. That is the least work that a loop outside can do: it encodes once, too, and copies nothing that
it need not. Both take the same noise, which is made beforehand. `ScenarioSession` cuts many scenarios into
chunks; the peer is taken both ways, all at once and in the same chunks. One thread, processor time.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from scenarios_bench.measure import in_turn, ratio
from torch import Tensor, nn

from hedgecast.diffusion.generator import Generator
from hedgecast.diffusion.noise import scenario_noise
from hedgecast.diffusion.samplers import EVALUATIONS, STEPS
from hedgecast.diffusion.schedule import sampling_times
from hedgecast.registry.export import PARITY_BOUND, export_graph

PEERS = ("per step", "per step, in chunks")
SIZES = (1, 10, 100, 1_000, 10_000)
CHUNK = 4096
"""Scenarios of one run, as `ScenarioSession` takes them."""
# Until a size has been drawn for about as long.
_SCENARIOS_A_SIZE = 20_000
_LEAST_ROUNDS, _MOST_ROUNDS = 9, 201

Paths = NDArray[np.float32]


class _Whole(nn.Module):
    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, context: Tensor, noise: Tensor) -> Tensor:
        return self.generator.sample(context, noise)


class _Encode(nn.Module):
    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, context: Tensor) -> Tensor:
        return self.generator.encode(context)


class _Step(nn.Module):
    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, encoded: Tensor, state: Tensor, time: Tensor, next_time: Tensor) -> Tensor:
        velocity = functools.partial(self.generator.denoiser, encoded=encoded)
        return STEPS[self.generator.config.sampler](velocity, state, time, next_time)


class _Finish(nn.Module):
    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, context: Tensor, state: Tensor) -> Tensor:
        return self.generator.finish(context, state)


@dataclasses.dataclass(frozen=True, slots=True)
class Loop:
    """The three sessions and the times of the steps between them."""

    encode: Any
    step: Any
    finish: Any
    times: tuple[float, ...]

    def __call__(self, context: NDArray[np.float32], noise: NDArray[np.float32]) -> Paths:
        """Paths (B, S, T, F)."""
        (encoded,) = self.encode.run(None, {"context": context})
        state = noise
        for now, later in zip(self.times[:-1], self.times[1:], strict=True):
            given = {"encoded": encoded, "state": state, "time": _scalar(now), "next_time": _scalar(later)}
            (state,) = self.step.run(None, given)
        (paths,) = self.finish.run(None, {"context": context, "state": state})
        return np.asarray(paths)


def loop_of(generator: Generator, context: Tensor) -> Loop:
    """The peer for a generator whose solver reads no past."""
    noise = torch.zeros(2, 3, generator.dim)
    start, end = (torch.tensor(time) for time in sampling_times(generator.config.sampler_steps)[:2])
    context = context[:2].float()
    with torch.no_grad():
        encoded = generator.encode(context)
    step_inputs = ("encoded", "state", "time", "next_time")
    return Loop(
        encode=session(export_graph(_Encode(generator), (context,), ("context",), "encoded")),
        step=session(export_graph(_Step(generator), (encoded, noise, start, end), step_inputs, "next_state")),
        finish=session(export_graph(_Finish(generator), (context, noise), ("context", "state"), "paths")),
        times=sampling_times(generator.config.sampler_steps),
    )


def scenario_session(generator: Generator, context: Tensor) -> Any:
    """The one graph of a generator, traced as bundles have it, its paths compared with torch's."""
    context, noise = context[:2].float(), torch.from_numpy(scenario_noise(1, [0, 1], 30, generator.dim))
    found = session(export_graph(_Whole(generator), (context, noise[:, :3]), ("context", "noise"), "paths"))
    with torch.no_grad():
        expected = generator.sample(context, noise)
    paths = torch.from_numpy(one_graph(found, context.numpy(), noise.numpy()))
    difference = float((paths - expected).abs().max() / expected.square().mean().sqrt())
    if not difference < PARITY_BOUND:
        raise RuntimeError(f"the graph differs from torch by {difference:.1e} relative")
    return found


def session(graph: bytes) -> Any:
    """One thread, as both sides have it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def one_graph(graph: Any, context: NDArray[np.float32], noise: NDArray[np.float32]) -> Paths:
    """Paths of the whole graph."""
    (paths,) = graph.run(None, {"context": context, "noise": noise})
    return np.asarray(paths)


def measure(models: dict[str, Generator], context: Tensor, *, effort: float = 1.0) -> dict[str, Any]:
    """Both ways at every size, for each model.

    Parameters
    ----------
    models : dict
        By name, each with a solver of `STEPS`.
    context : Tensor
        (B, C) raw features of real days; the first is drawn for.
    effort : float
        Share of the usual rounds.
    """
    found = {}
    for name, generator in models.items():
        graph = scenario_session(generator, context)
        ways: dict[str, Callable[..., Paths]] = {
            "one graph": functools.partial(one_graph, graph),
            "per step": loop_of(generator, context),
        }
        row = np.asarray(context[:1].numpy(), dtype=np.float32)
        rows = [_size(ways, row, count, generator.dim, effort) for count in SIZES]
        found[name] = {
            "sampler": generator.config.sampler,
            "steps": generator.config.sampler_steps,
            "calls": generator.config.sampler_steps * EVALUATIONS[generator.config.sampler],
            "sizes": rows,
            "faster_everywhere": all(
                row["over_one_graph"][name]["median"] > 1.0 for row in rows for name in PEERS
            ),
        }
    return {"models": found}


def _size(
    ways: dict[str, Callable[..., Paths]], context: NDArray[np.float32], count: int, dim: int, effort: float
) -> dict[str, Any]:
    noise = scenario_noise(0, [0], count, dim)
    chunks = [np.ascontiguousarray(noise[:, start : start + CHUNK]) for start in range(0, count, CHUNK)]

    def in_chunks(way: Callable[..., Paths]) -> Paths:
        return np.concatenate([way(context, chunk) for chunk in chunks], axis=1)

    calls = {
        "one graph": functools.partial(in_chunks, ways["one graph"]),
        PEERS[0]: functools.partial(ways["per step"], context, noise),
        PEERS[1]: functools.partial(in_chunks, ways["per step"]),
    }
    own = calls["one graph"]()
    difference = max(float(np.abs(calls[name]() - own).max()) for name in PEERS)
    difference /= float(np.sqrt(np.square(own).mean()))
    if not difference < PARITY_BOUND:
        raise RuntimeError(f"the ways differ by {difference:.1e} relative at {count} scenarios")
    rounds = round(effort * min(max(_SCENARIOS_A_SIZE // count, _LEAST_ROUNDS), _MOST_ROUNDS))
    seconds = in_turn(calls, max(rounds, 3), clock=time.process_time)
    return {
        "scenarios": count,
        "rounds": len(seconds["one graph"]),
        "milliseconds": {name: 1e3 * float(np.median(own)) for name, own in seconds.items()},
        "over_one_graph": {name: ratio(seconds[name], seconds["one graph"]) for name in PEERS},
        "difference": difference,
    }


def _scalar(value: float) -> NDArray[np.float32]:
    return np.asarray(value, dtype=np.float32)
