"""A bundle whose network runs in half precision, for GPUs, with the error that this makes stated in it.

Only the network is in half precision: noise, scaling, the solver's steps and un-scaling stay in float32, as
do the inputs and outputs of the graph, so that nobody who runs it need know. The graph is traced from the
network with its weights rounded; no graph is rewritten.

The error is that of the graph itself against the float32 network, on real contexts: float16 is run by ONNX
Runtime on the CPU, which puts casts around what it has no float16 code for, and bfloat16, for which it has
none, by ONNX's own reference evaluator. A GPU sums in another order and may differ by as much again.
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from hedgecast.core.errors import BundleError, ConfigError, ShapeError
from hedgecast.diffusion.denoiser import Denoiser
from hedgecast.diffusion.generator import Generator
from hedgecast.registry.bundle import MODEL_CARD, Bundle, write_bundle
from hedgecast.registry.checks import SCENARIO_PARITY
from hedgecast.registry.export import ScenarioGraph, export_graph
from hedgecast.registry.graphs import SCENARIOS_GRAPH
from hedgecast.registry.weights import generator_of

PRECISIONS = {"float16": torch.float16, "bfloat16": torch.bfloat16}
ERROR_BOUND = {"float16": 0.02, "bfloat16": 0.15}
"""Largest relative error of a value; measured about 0.002 and 0.03, far above it something is wrong."""
_SCENARIOS = 200
# Errors and fatal ones: which kernels the CPU lacks is no news here.
_QUIET = 3


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class HalfGraph:
    """The graph, and what half precision does to its scenarios."""

    content: bytes
    scenarios: int
    """Compared."""
    relative_error: float
    """Largest absolute difference to float32, relative to the root mean square of the values."""
    share_of_spread: float
    """Root mean square of the difference over that of the scenarios around their mean of each context."""


def half_graph(generator: Generator, context: Tensor, precision: str, *, seed: int = 0) -> HalfGraph:
    """The scenario graph of ``generator`` with its network in half precision.

    Parameters
    ----------
    generator : Generator
        Trained; left as it is.
    context : Tensor
        (B, C) raw features of real days, on which the error is measured.
    precision : str
        ``float16`` or ``bfloat16``.
    seed : int
        Of the noise of the comparison.

    Raises
    ------
    ConfigError
        Another precision.
    ShapeError
        Contexts of another width than the training ones.
    BundleError
        The error is above `ERROR_BOUND`, or not a number.
    """
    if precision not in PRECISIONS:
        raise ConfigError(
            f"precision = {precision!r}: must be one of {', '.join(PRECISIONS)}", key="precision"
        )
    if context.ndim != 2 or context.shape[1] != generator.num_features:
        raise ShapeError(
            f"context has shape {tuple(context.shape)}: must be (contexts, {generator.num_features}), the "
            "features that the model was trained on"
        )
    whole = generator.eval().float().cpu()
    half = copy.deepcopy(whole)
    # Stands in for a denoiser wherever a generator calls one.
    half.denoiser = _HalfDenoiser(whole.denoiser, PRECISIONS[precision])  # type: ignore[assignment]
    context = context.float()
    noise = torch.randn(
        len(context),
        -(-_SCENARIOS // len(context)),
        whole.dim,
        generator=torch.Generator().manual_seed(seed),
    )
    content = export_graph(ScenarioGraph(half), (context[:2], noise[:2, :3]), ("context", "noise"), "paths")
    with torch.no_grad():
        expected = whole.sample(context, noise).double().numpy()
    found = _run(content, precision, {"context": context.numpy(), "noise": noise.numpy()})
    return _judged(content, found.astype(np.float64), expected, precision)


def half_bundle(bundle: Bundle, context: Tensor, precision: str, folder: Path) -> Bundle:
    """A copy of ``bundle`` in ``folder`` whose scenarios come from the network in half precision.

    Its manifest has the precision and, among the metrics, the error; the parity that a promotion checks is
    that error, too, so that such a bundle does not become champion: it is served from its folder.

    Parameters
    ----------
    bundle : Bundle
        In float32, with its generator.
    context : Tensor
        (B, C) raw features of real days.
    precision : str
    folder : Path
        Where the copy shall stand.

    Raises
    ------
    ConfigError, BundleError
        As `half_graph`; or the bundle is in half precision already.
    """
    if bundle.manifest.generator.precision != "float32":
        raise ConfigError(
            f"{bundle.folder} is in {bundle.manifest.generator.precision} already: give the bundle that it "
            "was made of",
            key="precision",
        )
    graph = half_graph(generator_of(bundle), context, precision)
    files = {name: (bundle.folder / name).read_bytes() for name in bundle.manifest.files}
    card = files.pop(MODEL_CARD).decode()
    manifest: dict[str, Any] = bundle.manifest.to_dict()
    del manifest["files"], manifest["format"]
    manifest["generator"] = {**manifest["generator"], "precision": precision}
    manifest["metrics"] = {
        **manifest["metrics"],
        SCENARIO_PARITY: graph.relative_error,
        f"{precision}_relative_error": graph.relative_error,
        f"{precision}_share_of_spread": graph.share_of_spread,
    }
    return write_bundle(
        folder, files={**files, SCENARIOS_GRAPH: graph.content}, card=card + _note(graph, precision),
        manifest=manifest,
    )  # fmt: skip


class _HalfDenoiser(nn.Module):
    """A denoiser's rounded copy between float32 states."""

    def __init__(self, denoiser: Denoiser, dtype: torch.dtype) -> None:
        super().__init__()
        self.config = denoiser.config
        self.dtype = dtype
        self.rounded = copy.deepcopy(denoiser).to(dtype)
        # The embedding of the time is worked out before it is rounded.
        self.rounded.frequencies = denoiser.frequencies.float()

    def encode(self, context: Tensor) -> Tensor:
        return self.rounded.encode(context.to(self.dtype))

    def forward(self, state: Tensor, times: float | Tensor, encoded: Tensor) -> Tensor:
        velocity: Tensor = self.rounded(state.to(self.dtype), times, encoded)
        return velocity.to(state.dtype)


def _run(content: bytes, precision: str, inputs: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    if precision == "bfloat16":
        (found,) = ReferenceEvaluator(onnx.load_from_string(content)).run(None, inputs)
    else:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _QUIET
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        (found,) = session.run(None, inputs)
    return np.asarray(found, dtype=np.float32)


def _judged(
    content: bytes, found: NDArray[np.float64], expected: NDArray[np.float64], precision: str
) -> HalfGraph:
    difference = found - expected
    error = float(np.abs(difference).max() / np.sqrt(np.square(expected).mean()))
    spread = np.sqrt(np.square(expected - expected.mean(axis=1, keepdims=True)).mean())
    if not error <= ERROR_BOUND[precision]:
        raise BundleError(
            f"in {precision} the scenarios differ from float32 by {error:.1e} relative (bound "
            f"{ERROR_BOUND[precision]:g}): keep float32",
            relative_error=error,
        )
    return HalfGraph(
        content=content,
        scenarios=expected.shape[0] * expected.shape[1],
        relative_error=error,
        share_of_spread=float(np.sqrt(np.square(difference).mean()) / spread),
    )


def _note(graph: HalfGraph, precision: str) -> str:
    return (
        f"\n## Precision\nThe network runs in {precision}. On {graph.scenarios} scenarios values differ from "
        f"float32 by at most {graph.relative_error:.1e} of their root mean square, and by "
        f"{graph.share_of_spread:.1e} of the scenarios' spread (root mean square), measured on a CPU.\n"
    )
