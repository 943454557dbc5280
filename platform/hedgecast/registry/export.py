"""ONNX graphs of a trained generator, and the proof that they give what torch gives.

The scenario graph holds everything from raw context features and standard normal noise to paths in
units: scaling, context encoding once per context, the unrolled sampler steps. Its batch and scenario
axes are dynamic. The second graph is one denoiser step, for samplers that live elsewhere.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from hedgecast.core.errors import BundleError
from hedgecast.diffusion.generator import Generator
from hedgecast.diffusion.schedule import sampling_times

OPSET = 20
# Float32 sums in another order; measured 1e-6 to 1e-5 on trained generators.
PARITY_BOUND = 1e-4


@dataclasses.dataclass(frozen=True, slots=True)
class Parity:
    """How far a graph lies from torch."""

    scenarios: int
    """Scenarios compared."""
    relative_error: float
    """Largest absolute difference, relative to the root mean square of the torch values."""


@dataclasses.dataclass(frozen=True, slots=True)
class Graphs:
    """All graphs as bytes, with what the comparison with torch gave."""

    scenarios: bytes
    baseline: bytes
    denoiser: bytes
    scenarios_parity: Parity
    denoiser_parity: Parity


def export_graphs(
    generator: Generator, context: Tensor, *, num_scenarios: int = 1000, seed: int = 0
) -> Graphs:
    """The graphs of ``generator``, checked against it.

    Parameters
    ----------
    generator : Generator
        Trained; used in float32 on the CPU.
    context : Tensor
        (B, C) raw features of real days, on which parity is measured.
    num_scenarios : int
        Scenarios compared, spread over the contexts.
    seed : int
        Seed of the noise of the comparison.

    Raises
    ------
    BundleError
        A graph is not valid ONNX, or lies further than `PARITY_BOUND` from torch.
    """
    module = generator.eval().float().cpu()
    context = context.float()
    count = -(-num_scenarios // len(context))
    draws = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(context), count, module.dim, generator=draws)
    start, end = (torch.tensor(time) for time in sampling_times(module.config.sampler_steps)[:2])

    scenarios = export_graph(
        ScenarioGraph(module), (context[:2], noise[:2, :3]), ("context", "noise"), "paths"
    )
    baseline = export_graph(
        _BaselineGraph(module), (context[:2], noise[:2, :3]), ("context", "noise"), "paths"
    )
    step_inputs = ("context", "state", "time", "next_time")
    denoiser = export_graph(
        _StepGraph(module), (context[:2], noise[:2, :3], start, end), step_inputs, "next_state"
    )
    with torch.no_grad():
        paths = module.sample(context, noise)
        states = module.denoise_step(context, noise, start, end)
        plain = module.finish(context, noise)
    graphs = Graphs(
        scenarios=scenarios,
        baseline=baseline,
        denoiser=denoiser,
        scenarios_parity=_parity(scenarios, {"context": context, "noise": noise}, paths),
        denoiser_parity=_parity(
            denoiser, {"context": context, "state": noise, "time": start, "next_time": end}, states
        ),
    )
    baseline_parity = _parity(baseline, {"context": context, "noise": noise}, plain)
    for name, parity in (
        ("scenario", graphs.scenarios_parity),
        ("baseline", baseline_parity),
        ("denoiser", graphs.denoiser_parity),
    ):
        if not parity.relative_error <= PARITY_BOUND:
            raise BundleError(
                f"the {name} graph differs from torch by {parity.relative_error:.1e} relative on "
                f"{parity.scenarios} scenarios (bound {PARITY_BOUND:.0e}): the model is not exported",
                relative_error=parity.relative_error,
            )
    return graphs


class ScenarioGraph(nn.Module):
    """The whole of drawing: context and noise in, scenarios out."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, context: Tensor, noise: Tensor) -> Tensor:
        """Scenarios (B, S, T, F) of contexts (B, C) and noise (B, S, D)."""
        return self.generator.sample(context, noise)


class _BaselineGraph(nn.Module):
    """Noise taken for whitened residuals."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, context: Tensor, noise: Tensor) -> Tensor:
        return self.generator.finish(context, noise)


class _StepGraph(nn.Module):
    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, context: Tensor, state: Tensor, time: Tensor, next_time: Tensor) -> Tensor:
        return self.generator.denoise_step(context, state, time, next_time)


def export_graph(module: nn.Module, example: tuple[Tensor, ...], inputs: Sequence[str], output: str) -> bytes:
    """One module's graph, valid ONNX with all shapes inferred.

    Parameters
    ----------
    module : nn.Module
        Takes and gives tensors alone.
    example : tuple of Tensor
        Arguments to trace with: (B, ...), (B, S, ...) or no axis at all; B and S stay open.
    inputs, output : sequence of str, str
        Names in the graph.

    Raises
    ------
    BundleError
        What was traced is not valid ONNX.
    """
    contexts = torch.export.Dim("contexts", min=1)
    scenarios = torch.export.Dim("scenarios", min=1)
    axes = {2: {0: contexts}, 3: {0: contexts, 1: scenarios}, 0: {}}
    shapes = tuple(axes[tensor.ndim] for tensor in example)
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            example,
            input_names=list(inputs),
            output_names=[output],
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            optimize=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BundleError(f"the exported graph is not valid ONNX: {error}") from error
    return bytes(model.SerializeToString())


def _parity(graph: bytes, inputs: dict[str, Tensor], expected: Tensor) -> Parity:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    scale = float(expected.double().square().mean().sqrt())
    error = float(np.abs(found.astype(np.float64) - expected.double().numpy()).max()) / scale
    return Parity(scenarios=int(expected.shape[0] * expected.shape[1]), relative_error=error)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's progress lines and its warnings about its own internals kept off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
