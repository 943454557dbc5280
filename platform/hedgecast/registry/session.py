"""Scenarios from a bundle, with ONNX Runtime: no torch model, no training code.

Two halves, so that a service can keep them in different processes: `ContextReader` turns raw named
rows into one context (cheap, needs the schema only), `ScenarioSession` turns contexts into paths (the
network). `scenario_set` joins them again.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Self, cast

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from hedgecast.core.errors import BundleError, DependencyError, ShapeError
from hedgecast.data.features import features
from hedgecast.data.rows import window_from_rows
from hedgecast.data.schema import FeatureSchema
from hedgecast.data.windows import Windows
from hedgecast.diffusion.noise import day_numbers, scenario_noise
from hedgecast.registry.bundle import Bundle, check_file
from hedgecast.registry.graphs import BASELINE_GRAPH, SCENARIOS_GRAPH
from hedgecast.registry.ladder import MeasuredLadder
from hedgecast.rpc.codec import NamedRows
from hedgecast.scenarios.scenario_set import ScenarioSet

CPU = ("CPUExecutionProvider",)
_LOG = logging.getLogger(__name__)
# 4,096 scenarios of 24 hours keep a layer's activations near 2 MB, inside the second-level cache.
_CHUNK = 4096


@dataclasses.dataclass(frozen=True, slots=True)
class Context:
    """One decision day, ready for the network."""

    features: NDArray[np.float64]
    """(C,) raw features."""
    day_number: int
    """Days since 1970-01-01: the context's number in the noise."""
    step_times: NDArray[np.datetime64]
    """(R,) UTC, start of each real step."""
    step_slots: NDArray[np.int64]
    """(R,) wall-clock slot of each real step."""


class ContextReader:
    """Contexts from raw rows, by a bundle's schema.

    Attributes
    ----------
    made_by : str
        Source of its sets of scenarios.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.schema = FeatureSchema.from_dict(bundle.manifest.schema, path="schema")
        # Here, once: the fingerprint is that of the whole manifest and takes a millisecond.
        self.made_by = f"{bundle.manifest.name}:{bundle.manifest.fingerprint[:12]}"

    def read(self, history: NamedRows, known: NamedRows) -> Context:
        """The context of the decision day that follows ``history``.

        Raises
        ------
        DataError
            The rows do not make a context; the message names column and time.
        """
        window = window_from_rows(
            self.schema,
            times=history.times,
            columns=history.columns,
            known_times=known.times,
            known=known.columns,
        )
        return context_of(window, 0)

    def scenario_set(self, context: Context, paths: NDArray[np.float32], seed: int) -> ScenarioSet:
        """Paths (S, T, F) by slot as scenarios of the day's real steps."""
        shape = self.bundle.manifest.generator
        real = paths[:, context.step_slots].astype(np.float64)
        return ScenarioSet(
            paths=torch.from_numpy(real)[None],
            names=shape.names,
            units=shape.units,
            times=context.step_times[None],
            source=self.made_by,
            seed=seed,
        )


class ScenarioSession:
    """The network of a bundle, its baseline, and a student of it where one lies beside.

    Parameters
    ----------
    bundle : Bundle
        Checked.
    threads : int
        Threads of one draw; replicas that share a machine should not fight for cores.
    providers : sequence of str
        ONNX Runtime execution providers, in order.
    allow_fallback : bool
        Go on without those that are missing, with a warning in the log, rather than fail.

    Attributes
    ----------
    missing_providers : tuple of str
        Asked for and not there; empty unless ``allow_fallback``.

    Raises
    ------
    DependencyError
        ONNX Runtime runs without one of the providers asked for, or the bundle is in half precision and would
        run on the CPU.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int = 1,
        providers: Sequence[str] = CPU,
        allow_fallback: bool = False,
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Threads that spin while they wait take the cores of other replicas.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.bundle = bundle
        self.reader = ContextReader(bundle)
        _check_precision(bundle, providers, allow_fallback)
        # All now: others than the network's are asked for when something is wrong, which is not the time to
        # find out that one does not load.
        self._sessions = {
            name: onnxruntime.InferenceSession(str(bundle.folder / name), options, providers=list(providers))
            for name in (SCENARIOS_GRAPH, BASELINE_GRAPH, *_students(bundle))
        }
        running = self._sessions[SCENARIOS_GRAPH].get_providers()
        self.missing_providers = _missing(providers, running, allow_fallback)

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        threads: int = 1,
        providers: Sequence[str] = CPU,
        allow_fallback: bool = False,
    ) -> Self:
        """The session of the bundle in ``folder``, once its checksums hold."""
        return cls(Bundle.open(folder), threads=threads, providers=providers, allow_fallback=allow_fallback)

    @property
    def graphs(self) -> tuple[str, ...]:
        """Names of the graphs that it draws by."""
        return tuple(self._sessions)

    def draw(
        self,
        contexts: NDArray[np.float64],
        context_numbers: Sequence[int] | NDArray[np.int64],
        count: int,
        seed: int,
        *,
        start: int = 0,
        graph: str = SCENARIOS_GRAPH,
    ) -> NDArray[np.float32]:
        """Paths (B, count, T, F) by slot, in units of the data.

        Scenario i of a seed and a context is the same whatever the batch, the count, the threads and the
        replica: the same bits with ONNX Runtime on one kind of processor, elsewhere up to float32 rounding of
        the matrix products.

        Parameters
        ----------
        contexts : array
            (B, C) raw features.
        context_numbers : sequence of int
            B numbers that name the contexts in the noise; days since 1970-01-01.
        count, seed, start : int
            Scenarios ``start`` to ``start + count`` of the seed.
        graph : str
            Name of the graph that draws.

        Raises
        ------
        ShapeError
            The contexts are of another width.
        BundleError
            The bundle has no such graph.
        """
        starts = np.full(len(contexts), start)
        shape = self.bundle.manifest.generator
        paths = np.empty((len(contexts), count, shape.num_slots, len(shape.names)), dtype=np.float32)
        for begin in range(0, count, _CHUNK):
            size = min(_CHUNK, count - begin)
            paths[:, begin : begin + size] = self.draw_each(
                contexts, context_numbers, size, [seed] * len(contexts), starts + begin, graph=graph
            )
        return paths

    def draw_each(
        self,
        contexts: NDArray[np.float64],
        context_numbers: Sequence[int] | NDArray[np.int64],
        count: int,
        seeds: Sequence[int],
        starts: Sequence[int] | NDArray[np.int64],
        *,
        graph: str = SCENARIOS_GRAPH,
    ) -> NDArray[np.float32]:
        """Paths (B, count, T, F) as `draw`, in one run, each context with a seed and a start of its own.

        Parameters
        ----------
        contexts, context_numbers, count, graph
            As in `draw`.
        seeds, starts : sequence of int
            B of each: scenarios ``starts[b]`` to ``starts[b] + count`` of ``seeds[b]``.
        """
        shape = self.bundle.manifest.generator
        if contexts.ndim != 2 or contexts.shape[1] != shape.num_features:
            raise ShapeError(
                f"contexts has shape {contexts.shape}: must be (contexts, {shape.num_features})",
                num_features=shape.num_features,
            )
        noise = np.empty((len(contexts), count, shape.noise_size), dtype=np.float32)
        for row, (number, seed, start) in enumerate(zip(context_numbers, seeds, starts, strict=True)):
            noise[row] = scenario_noise(seed, [int(number)], count, shape.noise_size, start=int(start))[0]
        session = self._sessions.get(graph)
        if session is None:
            raise BundleError(
                f"{self.bundle.folder} draws by {', '.join(self.graphs)}, not {graph}: fetch it again",
                file=graph,
            )
        (paths,) = session.run(None, {"context": contexts.astype(np.float32), "noise": noise})
        return cast("NDArray[np.float32]", paths)

    def scenarios(self, history: NamedRows, known: NamedRows, count: int, seed: int) -> ScenarioSet:
        """``count`` scenarios of the day that follows ``history``, over its real steps."""
        context = self.reader.read(history, known)
        (paths,) = self.draw(context.features[None], [context.day_number], count, seed)
        return self.reader.scenario_set(context, paths, seed)


def _students(bundle: Bundle) -> tuple[str, ...]:
    """The graph of the student that was measured, if there is one."""
    record = MeasuredLadder.read(bundle.folder, bundle.manifest.fingerprint)
    if record is None or record.student is None:
        return ()
    check_file(bundle.folder, record.student.graph, record.student.digest)
    return (record.student.graph,)


def _check_precision(bundle: Bundle, providers: Sequence[str], allow_fallback: bool) -> None:
    """Half precision is for GPUs: on a CPU float16 is slower than float32 and bfloat16 does not run."""
    precision = bundle.manifest.generator.precision
    if precision == "float32" or tuple(providers) != CPU:
        return
    if precision == "float16" and allow_fallback:
        _LOG.warning("%s is in float16 and runs on the CPU, more slowly than in float32", bundle.folder)
        return
    raise DependencyError(
        f"{bundle.folder} is in {precision}, for GPUs, and was to run on the CPU alone: take the bundle in "
        "float32" + (", or allow it (HEDGECAST_ALLOW_PROVIDER_FALLBACK)" if precision == "float16" else ""),
        precision=precision,
    )


def _missing(asked: Sequence[str], found: Sequence[str], allow_fallback: bool) -> tuple[str, ...]:
    """Providers that ONNX Runtime dropped: where one cannot load it goes on with the others, silently."""
    missing = tuple(name for name in asked if name not in found)
    if missing and not allow_fallback:
        raise DependencyError(
            f"asked ONNX Runtime for {', '.join(asked)}, it runs on {', '.join(found)} without "
            f"{', '.join(missing)}: install onnxruntime-gpu in place of onnxruntime (extra 'gpu'), ask for "
            "CPUExecutionProvider alone, or allow the fallback (HEDGECAST_ALLOW_PROVIDER_FALLBACK)",
            asked=list(asked),
            found=list(found),
        )
    if missing:
        _LOG.warning("ONNX Runtime runs on %s without %s", ", ".join(found), ", ".join(missing))
    return missing


def context_of(windows: Windows, row: int) -> Context:
    """One day of ``windows`` as a context."""
    window = windows.select(slice(row, row + 1))
    times, slots = window.steps_of(0)
    return Context(
        features=features(window)[0],
        day_number=int(day_numbers(window.days)[0]),
        step_times=times,
        step_slots=slots,
    )
