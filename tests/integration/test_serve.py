"""``hedgecast serve`` with a real local Ray and a real gRPC channel, from start to the last process."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hedgecast.client import Client, DecisionAnswer
from hedgecast.core import errors
from hedgecast.data.datasets import load_table
from hedgecast.data.tables import SeriesTable
from hedgecast.registry.store import ModelStore
from hedgecast.service.background import background_server
from hedgecast.service.bundles import local_model
from hedgecast.service.local import LocalBackend
from hedgecast.service.models import BundleReference
from hedgecast.service.settings import load_settings
from hedgecast.testing import TinyModel, make_tiny_model
from hedgecast_workers.local_service import local_service
from hedgecast_workers.models import present, registered

HOURS_BACK = 200


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return make_tiny_model(tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="module")
def address(tiny: TinyModel) -> Iterator[str]:
    command = [str(Path(sys.executable).parent / "hedgecast"), "serve", "--port", "0", "--json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--bundle", str(tiny.bundle.folder)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())["address"]
        family = [process, *psutil.Process(process.pid).children(recursive=True)]
        folders = {argument for member in family[1:] for argument in member.cmdline() if "/hc-" in argument}
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
        assert len(family) > 6, "Ray ran in these processes"
        left = [member for member in family[1:] if member.is_running()]
        assert not left, f"still there after SIGTERM: {left}"
        assert not any(Path(folder).exists() for folder in folders if folder.startswith("/"))
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
        process.stdout.close()


@pytest.fixture(scope="module")
def table(tiny: TinyModel) -> SeriesTable:
    return load_table(tiny.study.data)


def _decide(client: Client, table: SeriesTable, day: str, **options: object) -> DecisionAnswer:
    """The plan of a local winter day, which begins at 23:00 UTC the day before."""
    start = int(np.searchsorted(table.times, np.datetime64(day, "ns") - np.timedelta64(1, "h")))
    past, ahead = slice(start - HOURS_BACK, start), slice(start, start + 24)
    return client.decide(
        "tiny",
        history={name: table.columns[name][past] for name in ("load_gw", "holiday")},
        history_times=table.times[past],
        known={"holiday": table.columns["holiday"][ahead]},
        known_times=table.times[ahead],
        **options,  # type: ignore[arg-type]
    )


def test_the_service_answers_as_the_bundle_does_in_this_process(
    address: str, tiny: TinyModel, table: SeriesTable
) -> None:
    backend = LocalBackend([local_model(BundleReference(folder=tiny.bundle.folder))])
    with (
        background_server(backend, load_settings(port=0)) as here,
        Client(address) as remote,
        Client(here) as local,
    ):
        options: dict[str, object] = {"seed": 5, "scenario_count": 100, "return_scenarios": True}
        served = _decide(remote, table, "2021-02-10", risk="cvar:0.8", **options)
        expected = _decide(local, table, "2021-02-10", risk="cvar:0.8", **options)
    backend.close()
    assert served.scenario_fingerprint == expected.scenario_fingerprint
    assert served.scenarios is not None
    assert served.scenarios.paths.shape == (100, 24, 1)
    np.testing.assert_allclose(served.decision["schedule"], expected.decision["schedule"], rtol=1e-6)
    assert served.expected_regret == pytest.approx(expected.expected_regret, rel=1e-6)
    assert served.times[0] == np.datetime64("2021-02-09T23:00", "ns")
    assert served.units == {"schedule": "GW"}
    assert served.model_fingerprint == tiny.bundle.manifest.fingerprint
    # The plan keeps the ramp limit of the study.
    assert np.abs(np.diff(served.decision["schedule"])).max() <= 4.0 + 1e-6


def test_health_and_models(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service="hedgecast.rpc.v1.DecisionService")
        assert stub.Check(request, timeout=5).status == health_pb2.HealthCheckResponse.SERVING
    with Client(address) as client:
        (model,) = client.models()
        assert model.name == "tiny@local"
        assert model.known_columns == {"holiday": ""}
        assert set(model.given) == {"ramp_limit", "capacity"}


def test_errors_keep_their_class_across_the_cluster(address: str, table: SeriesTable) -> None:
    with Client(address) as client:
        with pytest.raises(errors.ModelNotFoundError, match="tiny@local"):
            client.model("tiny@7")
        with pytest.raises(errors.DataError, match="decisions are issued at 00:00"):
            client.decide(
                "tiny",
                history={name: table.columns[name][:300] for name in ("load_gw", "holiday")},
                history_times=table.times[:300],
                known={"holiday": table.columns["holiday"][300:324]},
                known_times=table.times[300:324],
            )
        with pytest.raises(errors.ShapeError, match="capacity"):
            _decide(client, table, "2021-02-10", given={"capacity": 1.0})
        with pytest.raises(errors.DataError, match="takes none that is negative"):
            _decide(client, table, "2021-02-10", given={"capacity": np.full(24, -1.0)})
        with pytest.raises(errors.DeadlineError):
            _decide(client, table, "2021-02-10", scenario_count=2000, deadline_seconds=0.02)


def test_concurrent_requests_are_not_mixed(address: str, table: SeriesTable) -> None:
    days = ["2021-02-10", "2021-02-11", "2021-02-12", "2021-02-13"]
    with Client(address) as client, ThreadPoolExecutor(8) as pool:
        alone = {day: _decide(client, table, day, scenario_count=50) for day in days}
        calls = [(day, pool.submit(_decide, client, table, day, scenario_count=50)) for day in days * 3]
        for day, call in calls:
            answer = call.result(timeout=60)
            assert answer.scenario_fingerprint == alone[day].scenario_fingerprint
            np.testing.assert_array_equal(answer.decision["schedule"], alone[day].decision["schedule"])
    assert len({answer.scenario_fingerprint for answer in alone.values()}) == len(days)


def test_only_loopback_or_authenticated_ports_are_open(address: str) -> None:
    gateway = int(address.rpartition(":")[2])
    listening: dict[str, set[str]] = {}
    for member in psutil.Process().children(recursive=True):
        for connection in member.net_connections(kind="inet"):
            if connection.status == psutil.CONN_LISTEN:
                host = connection.laddr.ip.removeprefix("::ffff:")
                listening.setdefault(host, set()).add(" ".join(member.cmdline())[:24])
                assert connection.laddr.port != gateway or host == "127.0.0.1"
    assert "127.0.0.1" in listening
    # Serve binds its replicas' own port to every address; it takes no call without this run's token.
    others = {name for host, names in listening.items() if host != "127.0.0.1" for name in names}
    assert all(name.startswith("ray::ServeReplica") for name in others), others


def test_a_folder_without_a_bundle_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(errors.BundleError, match="is no bundle"), local_service(tmp_path):
        pass


def test_nothing_stays_when_the_command_is_killed_while_it_starts(tiny: TinyModel) -> None:
    command = [str(Path(sys.executable).parent / "hedgecast"), "serve", "--port", "0"]
    process = subprocess.Popen([*command, "--bundle", str(tiny.bundle.folder)], stdout=subprocess.DEVNULL)
    started: list[psutil.Process] = []
    end = time.monotonic() + 60
    while len(started) < 4 and time.monotonic() < end:
        time.sleep(0.2)
        started = psutil.Process(process.pid).children(recursive=True)
    folder = Path(next(argument for argument in started[0].cmdline() if "/hc-" in argument))
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(started, timeout=60)
    assert len(started) >= 4
    assert not alive
    assert not folder.exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_bundle_is_fetched_by_the_machine_that_needs_it(tiny: TinyModel, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "registry")
    store.register(tiny.bundle)
    reference = registered("tiny@candidate", str(tmp_path / "registry"), tmp_path / "bundles")
    assert (reference.name, reference.version, reference.aliases) == ("tiny", "1", ("candidate",))
    assert not reference.folder.exists()
    here = present(reference)
    assert here == reference
    assert (here.folder / "bundle.json").is_file()
    # It is taken as it lies there: the registry may be gone.
    store_gone = BundleReference(folder=here.folder, name="tiny", registry=str(tmp_path / "gone"))
    assert present(store_gone) == store_gone
    with pytest.raises(errors.ModelNotFoundError, match="tiny"):
        registered("tiny@champion", str(tmp_path / "registry"))
    with pytest.raises(errors.BundleError, match="is no bundle"):
        present(BundleReference(folder=tmp_path / "elsewhere"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_another_process_fetches_and_its_errors_are_raised_here(
    tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Here it would import MLflow, and the replica would keep its memory.
    ModelStore(tmp_path / "registry").register(tiny.bundle)
    monkeypatch.setattr(ModelStore, "fetch", lambda *_: pytest.fail("fetched in this process"))
    reference = registered("tiny@candidate", str(tmp_path / "registry"), tmp_path / "bundles")
    missing = dataclasses.replace(reference, version="7", folder=tmp_path / "bundles" / "tiny-7")
    with pytest.raises(errors.ModelNotFoundError, match="tiny"):
        present(missing)
    assert present(reference) == reference
    assert (reference.folder / "bundle.json").is_file()


def test_a_process_that_ends_is_told_with_its_last_words(
    tiny: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As the host: it removes its folder, the third argument, in which its log is.
    broken = tmp_path / "python"
    broken.write_text('#!/bin/sh\necho "what went wrong" >&2\nrm -r "$3"\nexit 1\n')
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(errors.UnavailableError, match="what went wrong"), local_service(tiny.bundle.folder):
        pass
