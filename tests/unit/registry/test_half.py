"""A bundle in half precision: what it is made of, the error it states, and where it may run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from hedgecast.core.errors import BundleError, ConfigError, DependencyError, ShapeError
from hedgecast.data.features import features
from hedgecast.diffusion.generator import Generator
from hedgecast.diffusion.noise import day_numbers, scenario_noise
from hedgecast.registry import half
from hedgecast.registry.bundle import (
    GENERATOR_WEIGHTS,
    MODEL_CARD,
    VALIDATION_DAYS,
    Bundle,
    Manifest,
    write_bundle,
)
from hedgecast.registry.checks import SCENARIO_PARITY
from hedgecast.registry.half import half_bundle, half_graph
from hedgecast.registry.session import ScenarioSession
from hedgecast.registry.weights import weights_of
from hedgecast.testing import TinyModel

TYPES = {"float16": onnx.TensorProto.FLOAT16, "bfloat16": onnx.TensorProto.BFLOAT16}


@pytest.fixture(scope="module")
def context(trained: TinyModel) -> torch.Tensor:
    return torch.from_numpy(features(trained.split.validation)[:10])


@pytest.fixture(scope="module")
def one_call(trained: TinyModel) -> Generator:
    """The tiny study's network in one call: its eight take eight times as long to trace."""
    plain = trained.generator.to_dict()
    config = {**plain["config"], "sampler": "euler", "sampler_steps": 1}
    found = Generator.from_dict({**plain, "config": config})
    found.load_state_dict(trained.generator.state_dict())
    return found.eval().float()


@pytest.fixture(scope="module")
def whole(trained: TinyModel, one_call: Generator, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of it; its own graph is not looked at."""
    kept, manifest = trained.bundle, trained.bundle.manifest.to_dict()
    files = {name: (kept.folder / name).read_bytes() for name in manifest.pop("files") if name != MODEL_CARD}
    del manifest["format"]
    folder = tmp_path_factory.mktemp("whole") / "bundle"
    return write_bundle(
        folder, files={**files, GENERATOR_WEIGHTS: weights_of(one_call)}, card="# tiny\n", manifest=manifest
    )


@pytest.fixture(scope="module")
def halved(
    whole: Bundle, context: torch.Tensor, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("half")
    return {name: half_bundle(whole, context, name, folder / name) for name in TYPES}


@pytest.mark.parametrize("precision", TYPES)
def test_the_network_alone_is_in_half(halved: dict[str, Bundle], precision: str) -> None:
    graph = onnx.load(halved[precision].scenarios_graph).graph
    for value in (*graph.input, *graph.output):
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    sizes = dict.fromkeys((TYPES[precision], onnx.TensorProto.FLOAT), 0)
    for weight in graph.initializer:
        sizes[weight.data_type] = sizes.get(weight.data_type, 0) + int(np.prod(weight.dims))
    # Nearly all weights are the network's; the whitening's are not.
    assert sizes[TYPES[precision]] > 100_000
    assert 24 * 24 <= sizes[onnx.TensorProto.FLOAT] < 60_000


@pytest.mark.parametrize("precision", TYPES)
def test_the_manifest_states_the_error(whole: Bundle, halved: dict[str, Bundle], precision: str) -> None:
    manifest, plain = halved[precision].manifest, whole.manifest
    assert manifest.generator == dataclasses.replace(plain.generator, precision=precision)
    error = manifest.metrics[f"{precision}_relative_error"]
    # Rounding to 11 and to 8 bits: neither nothing nor everything.
    digits = {"float16": 2.0**-11, "bfloat16": 2.0**-8}[precision]
    assert 0.05 * digits < error < 50 * digits
    assert manifest.metrics[SCENARIO_PARITY] == error
    assert 0 < manifest.metrics[f"{precision}_share_of_spread"] < error * 20
    assert manifest.fingerprint != plain.fingerprint
    assert f"runs in {precision}" in (halved[precision].folder / "README.md").read_text()
    same = set(plain.files) - {"scenarios.onnx", "README.md"}
    assert {name: manifest.files[name] for name in same} == {name: plain.files[name] for name in same}


def test_float16_runs_on_the_cpu_where_that_is_allowed(
    trained: TinyModel, one_call: Generator, halved: dict[str, Bundle], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(DependencyError, match="for GPUs"):
        ScenarioSession(halved["float16"])
    with caplog.at_level(logging.WARNING):
        session = ScenarioSession(halved["float16"], allow_fallback=True)
    assert "more slowly" in caplog.text
    days = trained.split.test
    numbers = day_numbers(days.days)[:5]
    drawn = session.draw(features(days)[:5], numbers, 40, seed=2)
    noise = torch.from_numpy(scenario_noise(2, numbers, 40, one_call.dim))
    with torch.no_grad():
        expected = one_call.sample(torch.from_numpy(features(days)[:5]), noise).numpy()
    difference = np.abs(drawn - expected).max() / np.sqrt(np.square(expected).mean())
    # Other days and noise than the stated error's; a maximum over as many values.
    stated = halved["float16"].manifest.metrics["float16_relative_error"]
    assert 0.1 * stated < difference < 5 * stated


def test_bfloat16_is_refused_on_the_cpu(halved: dict[str, Bundle]) -> None:
    with pytest.raises(DependencyError, match="float32") as caught:
        ScenarioSession(halved["bfloat16"], allow_fallback=True)
    assert "HEDGECAST_ALLOW" not in str(caught.value)


def test_wrong_use(
    trained: TinyModel, halved: dict[str, Bundle], context: torch.Tensor, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="float16, bfloat16"):
        half_graph(trained.generator, context, "float8")
    with pytest.raises(ConfigError, match="already"):
        half_bundle(halved["float16"], context, "float16", tmp_path / "twice")
    with pytest.raises(ShapeError, match="features"):
        half_graph(trained.generator, context[:, :-1], "float16")


def test_too_large_an_error_is_no_graph(
    one_call: Generator, halved: dict[str, Bundle], context: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = halved["float16"].scenarios_graph.read_bytes()
    monkeypatch.setattr(half, "export_graph", lambda *_: content)
    found = half_graph(one_call, context, "float16")
    assert found.relative_error == halved["float16"].manifest.metrics["float16_relative_error"]
    monkeypatch.setitem(half.ERROR_BOUND, "float16", 0.99 * found.relative_error)
    with pytest.raises(BundleError, match="keep float32"):
        half_graph(one_call, context, "float16")


def test_older_bundles_keep_their_fingerprint(trained: TinyModel) -> None:
    """As it was worked out when there was no precision in the manifest."""
    text = (trained.bundle.folder / "bundle.json").read_text(encoding="utf-8")
    content = json.loads(text)
    del content["generator"]["precision"]
    assert Manifest.from_dict(content) == trained.bundle.manifest
    for key in ("created_time", "metrics", "training"):
        del content[key]
    for name in (VALIDATION_DAYS, "README.md"):
        del content["files"][name]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    assert trained.bundle.manifest.fingerprint == digest
