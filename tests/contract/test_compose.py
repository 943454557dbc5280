"""The compose files: read strictly, hardened, and only with settings that the service knows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from hedgecast import cli
from hedgecast.service.settings import ServiceSettings
from hedgecast.version import __version__

DEPLOY = Path(__file__).parents[2] / "deploy"
FILES = ("compose.yaml", "compose.tls.yaml")
TOP = {"name", "services", "secrets", "volumes"}
SERVICE_KEYS = {
    *("build", "cap_drop", "command", "environment", "healthcheck", "image", "init", "mem_limit", "ports"),
    *("profiles", "read_only", "restart", "secrets", "security_opt", "shm_size", "stop_grace_period"),
    *("tmpfs", "user", "volumes"),
}


class OnceLoader(yaml.SafeLoader):
    """Refuses a key that stands twice: the later one would win silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.value != "<<"]
        assert len(keys) == len(set(keys)), f"{node.start_mark}: a key stands twice"
        return super().construct_mapping(node, deep)


# Compose's own: this list replaces the one below it instead of adding to it.
OnceLoader.add_constructor("!override", yaml.SafeLoader.construct_sequence)  # type: ignore[type-var]


def _read(name: str) -> dict[str, Any]:
    found = yaml.load((DEPLOY / name).read_text(encoding="utf-8"), Loader=OnceLoader)
    assert isinstance(found, dict)
    return found


def _merged() -> dict[str, Any]:
    """The service with the TLS file over it, as compose merges them."""
    service = dict(_read("compose.yaml")["services"]["service"])
    over = _read("compose.tls.yaml")["services"]["service"]
    service["environment"] = {**service["environment"], **over["environment"]}
    service["secrets"] = [*service["secrets"], *over["secrets"]]
    return service


@pytest.mark.parametrize("name", FILES)
def test_only_known_keys(name: str) -> None:
    found = _read(name)
    assert {key for key in found if not key.startswith("x-")} <= TOP
    for service in found["services"].values():
        assert set(service) <= SERVICE_KEYS


def test_a_key_that_stands_twice_is_refused() -> None:
    with pytest.raises(AssertionError, match="twice"):
        yaml.load("a: 1\na: 2\n", Loader=OnceLoader)


def test_every_reference_has_its_definition() -> None:
    base, over = _read("compose.yaml"), _read("compose.tls.yaml")
    secrets = {**base["secrets"], **over["secrets"]}
    for service in [*base["services"].values(), _merged()]:
        assert set(service.get("secrets", [])) <= set(secrets)
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source in base["volumes"] or (DEPLOY / source).exists(), volume
    mounted = {value for value in _merged()["environment"].values() if value.startswith("/run/secrets/")}
    assert {Path(path).name for path in mounted} <= set(secrets)


def test_what_is_published_stays_on_this_machine_unless_it_has_tls() -> None:
    for service in _read("compose.yaml")["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    environment = _merged()["environment"]
    published = _read("compose.tls.yaml")["services"]["service"]["ports"]
    assert published == ["50051:50051"], "the port of the metrics has no TLS"
    assert {"HEDGECAST_TLS_CERTIFICATE", "HEDGECAST_TLS_KEY", "HEDGECAST_TOKEN_FILE"} <= set(environment)


@pytest.mark.parametrize("name", ["service", "train"])
def test_our_containers_are_hardened(name: str) -> None:
    service = _read("compose.yaml")["services"][name]
    assert service["read_only"] is True
    assert service["user"] == "1000:1000"
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]


def test_images_are_pinned_and_ours_has_the_version() -> None:
    for service in _read("compose.yaml")["services"].values():
        tag = service["image"].removesuffix("}").rpartition(":")[2]
        assert re.search(r"\d+\.\d+\.\d+$", tag), service["image"]
    for dockerfile in DEPLOY.glob("Dockerfile.*"):
        assert f":{__version__} ." in dockerfile.read_text(encoding="utf-8")
    assert _read("compose.yaml")["services"]["service"]["image"].endswith(f":{__version__}}}")


def test_settings_are_the_services_own_and_are_accepted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    known = {f"HEDGECAST_{name.upper()}" for name in ServiceSettings.model_fields}
    for environment in (
        _read("compose.yaml")["services"]["service"]["environment"],
        _merged()["environment"],
    ):
        assert set(environment) <= known
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        settings = ServiceSettings()
        assert settings.metrics_port == 9464
        assert settings.token_file == Path("/run/secrets/tokens")
        assert settings.allow_insecure is not settings.secure, "what is open to others has TLS"
        check = _read("compose.yaml")["services"]["service"]["healthcheck"]["test"]
        assert check[-1] == f"--address=127.0.0.1:{settings.health_port}"
        grace = _read("compose.yaml")["services"]["service"]["stop_grace_period"]
        assert float(grace.removesuffix("s")) >= settings.drain_seconds + 10


def test_commands_are_commands_of_ours() -> None:
    for name in ("service", "train"):
        program, command, *words = _read("compose.yaml")["services"][name]["command"]
        assert program == "hedgecast"
        group = typer.main.get_command(cli.build(["serve", "train"]))
        flags = {flag for parameter in group.commands[command].params for flag in parameter.opts}  # type: ignore[attr-defined]
        assert {word for word in words if word.startswith("--")} <= flags


def test_prometheus_reads_the_port_that_the_service_opens() -> None:
    environment = _read("compose.yaml")["services"]["service"]["environment"]
    (job,) = _read("prometheus.yaml")["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"service:{environment['HEDGECAST_METRICS_PORT']}"]}]


def test_compose_itself_accepts_them() -> None:
    """Where Docker's compose is installed; elsewhere the tests above are what there is."""
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True).returncode != 0:
        pytest.skip("NEEDS docker compose")
    command = [
        docker,
        "compose",
        "-f",
        "compose.yaml",
        "-f",
        "compose.tls.yaml",
        "config",
        "--format",
        "json",
    ]
    result = subprocess.run(command, cwd=DEPLOY, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["services"]["service"]["read_only"] is True
