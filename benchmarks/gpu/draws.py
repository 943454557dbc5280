"""What a GPU makes of a bundle's network: scenarios a second, bits, and the error against the CPU."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from hedgecast.diffusion.noise import scenario_noise
from hedgecast.registry.bundle import Bundle
from hedgecast.registry.graphs import SCENARIOS_GRAPH

SIZES = (1, 64, 1024, 4096, 16_384, 65_536)
ROUNDS = 7
SESSIONS = (1, 2, 4)
PADDED = 1024
"""Rows of every run where the same bits are looked for."""
CPU = [("CPUExecutionProvider", {})]


def cuda(**options: str) -> list[tuple[str, dict[str, str]]]:
    """The GPU, the CPU for what it lacks."""
    return [("CUDAExecutionProvider", options), *CPU]


@dataclasses.dataclass(frozen=True)
class Network:
    """A bundle's scenario graph on a provider."""

    bundle: Bundle
    session: onnxruntime.InferenceSession
    context: NDArray[np.float32]
    """(1, C) a real day's features."""

    @classmethod
    def of(cls, folder: pathlib.Path, context: NDArray[np.float64], providers: list[Any]) -> Network:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        # Errors: which products the CPU could not fold is no news.
        options.log_severity_level = 3
        bundle = Bundle.open(folder)
        if providers[0][0] not in onnxruntime.get_available_providers():
            raise RuntimeError(f"ONNX Runtime has no {providers[0][0]}: install onnxruntime-gpu in its place")
        session = onnxruntime.InferenceSession(str(folder / SCENARIOS_GRAPH), options, providers=providers)
        # Where a library of the GPU's is missing it goes on without, silently.
        if providers[0][0] != session.get_providers()[0]:
            raise RuntimeError(f"asked for {providers[0][0]}, ONNX Runtime runs on {session.get_providers()}")
        return cls(bundle, session, context.astype(np.float32))

    def noise(self, count: int, start: int = 0) -> NDArray[np.float32]:
        """(1, count, T*F) of seed 0 and day 0."""
        return scenario_noise(0, [0], count, self.bundle.manifest.generator.noise_size, start=start)

    def __call__(self, noise: NDArray[np.float32]) -> NDArray[np.float32]:
        (paths,) = self.session.run(None, {"context": self.context, "noise": noise})
        return np.asarray(paths)[0]


def measured(folders: Mapping[str, pathlib.Path], context: NDArray[np.float64]) -> dict[str, Any]:
    """All figures of the bundles of one model, by precision."""
    reference = Network.of(folders["float32"], context, CPU)
    networks = {
        "float32": Network.of(folders["float32"], context, cuda(use_tf32="0")),
        "float32, tf32": Network.of(folders["float32"], context, cuda(use_tf32="1")),
        **{name: Network.of(folders[name], context, cuda()) for name in ("float16", "bfloat16")},
    }
    rates = {name: _rates(network, SIZES) for name, network in networks.items()}
    return {
        "generator": dataclasses.asdict(reference.bundle.manifest.generator),
        "noise": {str(size): _seconds(lambda size=size: reference.noise(size)) for size in SIZES},  # type: ignore[misc]
        "rates": {"cpu, one thread": _rates(reference, SIZES[:4]), **rates},
        "errors": {name: _error(network, reference) for name, network in networks.items()},
        "bits": {name: _bits(network) for name, network in {"cpu": reference, **networks}.items()},
        "sessions": {
            name: _sessions(folders[name], context, size)
            for name, size in (("float32", 1024), ("float16", 1024))
        },
    }


def _rates(network: Network, sizes: tuple[int, ...]) -> dict[str, float]:
    """Seconds of a run, noise made before, by its scenarios."""
    found = {}
    for size in sizes:
        noise = network.noise(size)
        found[str(size)] = _seconds(lambda noise=noise: network(noise))  # type: ignore[misc]
    return found


def _seconds(call: Callable[[], object]) -> float:
    """Median of some calls after two that warm up."""
    seconds = []
    for _ in range(ROUNDS + 2):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[2:])


def _error(network: Network, reference: Network) -> dict[str, float]:
    """As a half-precision bundle states it."""
    noise = network.noise(4096)
    expected, found = reference(noise).astype(np.float64), network(noise).astype(np.float64)
    difference = found - expected
    spread = expected - expected.mean(axis=0)
    return {
        "relative_error": float(np.abs(difference).max() / np.sqrt((expected**2).mean())),
        "share_of_spread": float(np.sqrt((difference**2).mean() / (spread**2).mean())),
    }


def _bits(network: Network) -> dict[str, bool]:
    """Whether a scenario is the same bits whatever is drawn with it, or in runs of equally many rows."""
    whole = network(network.noise(4096))
    alone = np.concatenate(
        [network(network.noise(size, start)) for start, size in ((0, 1), (1, 63), (64, 960))]
    )
    again = network(network.noise(4096))

    def padded(start: int, size: int, place: int) -> NDArray[np.float32]:
        rows = network.noise(PADDED, 50_000)
        rows[:, place : place + size] = network.noise(size, start)
        return network(rows)[place : place + size]

    few = np.concatenate([padded(0, 1, 7), padded(1, 63, 501), padded(64, 900, 100), padded(964, 60, 0)])
    return {
        "again": bool(np.array_equal(whole, again)),
        "any_rows": bool(np.array_equal(whole[:1024], alone)),
        "equal_rows": bool(np.array_equal(network(network.noise(PADDED)), few)),
        "relative_difference": float(
            np.abs(whole[:1024] - alone).max() / np.sqrt((whole.astype(float) ** 2).mean())
        ),
    }


def _sessions(folder: pathlib.Path, context: NDArray[np.float64], size: int) -> dict[str, float]:
    """Scenarios a second of so many sessions of a process at once, in runs of ``size``."""
    found = {}
    for count in SESSIONS:
        networks = [Network.of(folder, context, cuda(use_tf32="0")) for _ in range(count)]
        noise = networks[0].noise(size)
        runs = 40

        def work(network: Network, noise: NDArray[np.float32] = noise, runs: int = runs) -> None:
            for _ in range(runs):
                network(noise)

        with concurrent.futures.ThreadPoolExecutor(count) as pool:
            list(pool.map(lambda network: network(noise), networks))  # noqa: B023 - used at once
            started = time.perf_counter()
            list(pool.map(work, networks))
            found[str(count)] = count * runs * size / (time.perf_counter() - started)
    return found
