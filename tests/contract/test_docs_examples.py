"""Examples of the documentation that need something running: a service, a registry, mpi-sppy.

Blocks run as they are printed, over the names that the page takes for granted.
Only the address, the place of the registry and very large numbers are others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pytest
import torch

from hedgecast.client import Client
from hedgecast.programs.catalog import generation_scheduling
from hedgecast.programs.mpi_sppy_export import ScenarioModels
from hedgecast.registry.store import ModelStore, client_of
from hedgecast.rpc import codec
from hedgecast.rpc.v1.scenario_service_pb2 import GenerateScenariosRequest
from hedgecast.rpc.v1.scenario_service_pb2_grpc import ScenarioServiceStub
from hedgecast.scenarios.arrow import record_batches
from hedgecast.scenarios.scenario_set import ScenarioSet
from hedgecast.service.background import background_server
from hedgecast.service.local import LocalBackend
from hedgecast.service.settings import ServiceSettings
from hedgecast.testing_last_day import last_day_model, last_day_rows

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Run by test_docs.py, all blocks but those that ask a service.
BY_THEMSELVES = {"README.md", "program.md"}
ROWS = last_day_rows()
Space = dict[str, Any]


def _blocks(page: str) -> list[str]:
    (path,) = [path for path in PAGES if path.name == page]
    blocks = re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [block for block in blocks if page not in BY_THEMSELVES or "Client" in block]


def _run(text: str, page: str, space: Space) -> Space:
    exec(compile(text, page, "exec"), space)
    return space


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A service of a model that is called as the pages call theirs."""
    local = last_day_model()
    description = dataclasses.replace(local.model.description, name="german_grid")
    backend = LocalBackend(
        [dataclasses.replace(local, model=dataclasses.replace(local.model, description=description))]
    )
    with background_server(backend, ServiceSettings(port=0)) as found:
        yield found
    backend.close()


def test_every_block_of_every_page_is_run_somewhere() -> None:
    here = {"README.md": 1, "scenarios.md": 4, "serve.md": 2, "upgrade.md": 1}
    assert {page.name: len(_blocks(page.name)) for page in PAGES if _blocks(page.name)} == here


@pytest.mark.parametrize("page", ["README.md", "serve.md"])
def test_asking_the_service(page: str, address: str, capsys: pytest.CaptureFixture[str]) -> None:
    # The second block of serve.md is run beside the clients' tests (test_client_page.py).
    block = _blocks(page)[0]
    assert "127.0.0.1:50051" in block
    space = {"columns": ROWS.columns, "times": ROWS.times}
    answer = _run(block.replace("127.0.0.1:50051", address), page, space)["answer"]
    printed = capsys.readouterr().out
    assert answer.model == "german_grid@3"
    assert str(answer.expected_regret) in printed
    assert answer.decision["schedule"].shape == (6,)


def test_scenarios_over_grpc_and_from_a_file(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pandas = pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    from_file, from_client, from_stub, _ = _blocks("scenarios.md")

    paths = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 30, 4, 1)))
    times = (np.datetime64("2020-01-01T00", "ns") + np.arange(4).astype("timedelta64[h]"))[None]
    made = ScenarioSet(paths=paths, names=("load_gw",), units=("GW",), times=times, source="made up")
    batches = list(record_batches(made))
    with pa.OSFile("day.arrows", "wb") as file, pa.ipc.new_stream(file, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    space = _run(from_file, "scenarios.md", {})
    np.testing.assert_allclose(space["load"], paths[0, :, :, 0].numpy())

    table = pandas.DataFrame(ROWS.columns, index=pandas.DatetimeIndex(ROWS.times, tz="UTC"))
    smaller = from_client.replace("127.0.0.1:50051", address)
    smaller = smaller.replace("10_000", "300").replace("1_000_000", "400")
    space = _run(smaller, "scenarios.md", {"Client": Client, "table": table})
    assert (space["found"].paths.shape, space["found"].drawn) == ((50, 6, 1), 300)
    assert space["batch"].schema.names == ["load"]

    with grpc.insecure_channel(address) as channel:
        request = GenerateScenariosRequest(
            model="german_grid", history=codec.encode_rows(ROWS), scenario_count=250, seed=4
        )
        names = {"ScenarioServiceStub": ScenarioServiceStub, "channel": channel, "request": request}
        space = _run(from_stub, "scenarios.md", {**names, "pa": pa, "io": io})
    assert space["table"].num_rows == 250


def test_a_program_in_mpi_sppy() -> None:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            sppy = importlib.import_module("mpisppy.opt.ef")
    except ImportError as error:
        message = f"NEEDS mpi-sppy and Pyomo ({error}): pip install 'hedgecast[sppy]'"
        if os.environ.get("CI"):
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    block = _blocks("scenarios.md")[3]
    loads = 6 + torch.randn(1, 8, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    space: Space = {
        "ScenarioModels": ScenarioModels,
        "ExtensiveForm": sppy.ExtensiveForm,
        "program": generation_scheduling.build(6, quadratic_cost=0.0),
        "scenarios": loads,
        "probabilities": torch.full((1, 8), 1 / 8, dtype=torch.float64),
    }
    # The last line is an expression, whose value its comment shows.
    _run(block.replace("models.decision(", "decided = models.decision("), "scenarios.md", space)
    assert list(space["decided"])[:2] == ["schedule[0]", "schedule[1]"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_moving_the_alias_back_past_the_gate(tmp_path: Path) -> None:
    registry = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = client_of(registry)
    client.create_registered_model("german_grid")
    for _ in range(7):
        client.create_model_version("german_grid", source=str(tmp_path))
    client.set_registered_model_alias("german_grid", "champion", "7")
    store = ModelStore(tmp_path)
    assert store.resolve("german_grid@champion").version == 7
    (block,) = _blocks("upgrade.md")
    _run(block, "upgrade.md", {"registry": registry})
    assert store.resolve("german_grid@champion").version == 6
