"""A registered model in half precision, by the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import typer
from typer.testing import CliRunner

from hedgecast.commands.export import export as command
from hedgecast.core.errors import ConfigError
from hedgecast.diffusion.generator import Generator
from hedgecast.registry.bundle import Bundle
from hedgecast.registry.export import Graphs, Parity
from hedgecast.registry.half import HalfGraph
from hedgecast.registry.store import ModelStore
from hedgecast.testing import make_tiny_model

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")

APP = typer.Typer(pretty_exceptions_enable=False)
APP.command()(command)


def test_the_folder_holds_the_model_in_float16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Graphs are traced, and their error is taken, in the tests of the registry: half a minute of them.
    same = Parity(1, 0.0)
    graphs = Graphs(b"whole", b"baseline", b"denoiser", scenarios_parity=same, denoiser_parity=same)
    monkeypatch.setattr("hedgecast.registry.package.export_graphs", lambda _generator, _context: graphs)
    tiny = make_tiny_model(tmp_path)
    registry, output = tmp_path / "registry", tmp_path / "half"
    version = ModelStore(registry).register(tiny.bundle)
    given = [str(tmp_path / "tiny.toml"), "--model", version.reference, "--registry", str(registry)]
    given += ["--output", str(output), "--json"]
    with pytest.raises(ConfigError, match="float8"):
        CliRunner().invoke(APP, [*given, "--precision", "float8"], catch_exceptions=False)
    assert not output.exists()
    seen = []

    def traced(_generator: Generator, context: torch.Tensor, precision: str) -> HalfGraph:
        seen.append((tuple(context.shape), precision))
        return HalfGraph(content=b"half", scenarios=200, relative_error=2e-3, share_of_spread=1e-4)

    monkeypatch.setattr("hedgecast.registry.half.half_graph", traced)
    result = CliRunner().invoke(APP, given, catch_exceptions=False)
    assert result.exit_code == 0
    record = json.loads(result.stdout)
    assert seen == [((10, tiny.generator.num_features), "float16")]
    assert Bundle.open(output).scenarios_graph.read_bytes() == b"half"
    made = Bundle.open(output).manifest
    assert made.generator.precision == "float16"
    assert record["model"] == version.reference
    assert record["float16_relative_error"] == made.metrics["float16_relative_error"] == 2e-3
    assert made.files["generator.npz"] == tiny.bundle.manifest.files["generator.npz"]
