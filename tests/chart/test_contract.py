"""The chart and the code agree: settings, Serve config, resources, metrics, versions, made files."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hedgecast.service.metrics import ServiceMetrics
from hedgecast.service.settings import ServiceSettings
from hedgecast.version import __version__
from hedgecast_workers.application import ApplicationArgs
from hedgecast_workers.deployments import Component, Replicas
from hedgecast_workers.local_service import NODE_ENVIRONMENT
from hedgecast_workers.serve_config import check_serve_config, serve_config

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "hedgecast"
Render = Callable[..., Any]
# Settings that the chart leaves alone, and why.
LEFT_OUT = {"HEDGECAST_TOKENS": "the chart mounts a file of tokens, which may change without a restart"}
# Values whose default in the chart is another than the code's, and why.
OTHERWISE = {
    "drainSeconds": "a pod's calls may take longer than those of a terminal",
    "maxConnectionAgeSeconds": "so that connections spread over new gateways",
}
EVERYTHING: dict[str, Any] = {
    "gateway": {
        "access": '[default]\nmethods = ["Decide"]\n',
        "outcomes": {"enabled": True},
        "replicas": 1,
    },
    "serve": {"upgradeStrategy": "None"},
    "denoiser": {"accelerator": "gpu"},
    "monitoring": {"traceEndpoint": "http://otel:4318/v1/traces"},
    "jobs": {"train": {"enabled": True}},
    "retraining": {"enabled": True},
}


def _services(documents: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each RayService and the data of its settings."""
    for service in documents:
        if service["kind"] == "RayService":
            name = f"{service['metadata']['name']}-settings"
            (settings,) = [d for d in documents if d["kind"] == "ConfigMap" and d["metadata"]["name"] == name]
            yield service, settings["data"]


def _environment(node: Any) -> Iterator[str]:
    """Names of environment variables in a document."""
    if isinstance(node, dict):
        for entry in node.get("env") or []:
            yield entry["name"]
        for value in node.values():
            yield from _environment(value)
    elif isinstance(node, list):
        for value in node:
            yield from _environment(value)


def _settings(monkeypatch: pytest.MonkeyPatch, data: dict[str, str]) -> ServiceSettings:
    """What the code makes of the settings on a pod."""
    for name, value in data.items():
        monkeypatch.setenv(name, value)
    return ServiceSettings()


def test_every_variable_of_the_chart_is_a_setting_and_the_other_way_round(render: Render) -> None:
    documents = render(EVERYTHING).documents
    rendered = {name for _, data in _services(documents) for name in data}
    plain = render({"gateway": {"tls": {"enabled": False}, "allowInsecure": True}}).documents
    rendered |= {name for _, data in _services(plain) for name in data}
    rendered |= {name for name in _environment([*documents, *plain]) if name.startswith("HEDGECAST_")}
    known = {f"HEDGECAST_{name.upper()}" for name in ServiceSettings.model_fields}
    for source in [*ROOT.glob("platform/**/*.py"), *ROOT.glob("workers/**/*.py")]:
        known |= set(re.findall(r"environ(?:\.get\(|\[)\"(HEDGECAST_\w+)\"", source.read_text()))
    assert rendered - known == set(), "the chart sets what nobody reads"
    missing = known - rendered - set(LEFT_OUT)
    assert missing == set(), (
        "the code reads what the chart cannot set: add it to gateway.settings in helm/hedgecast/values.yaml "
        "(in camelCase) and run deploy/chart_files.py, or say in LEFT_OUT why not"
    )
    assert set(LEFT_OUT) <= known - rendered


def test_defaults_are_the_codes_own(render: Render, monkeypatch: pytest.MonkeyPatch) -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())["gateway"]["settings"]
    for key, value in values.items():
        name = re.sub("([A-Z])", lambda match: f"_{match[1].lower()}", key)
        same = ServiceSettings.model_fields[name].default == value
        assert same != (key in OTHERWISE), f"gateway.settings.{key} = {value}"


@pytest.mark.parametrize("name", ["", "laptop", "production-gpu", "tenants"])
def test_pods_take_their_settings(render: Render, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    documents = render(files=(name,) if name else ()).documents
    for _, data in _services(documents):
        with monkeypatch.context() as patch:
            settings = _settings(patch, data)
        assert settings.secure
        assert not settings.allow_insecure
        assert (settings.port, settings.health_port, settings.host) == (50051, 50052, "0.0.0.0")


def test_large_numbers_reach_the_code_as_they_are(render: Render, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"gateway": {"settings": {"maxInputEntries": 123456789, "retryDelaySeconds": 0.25}}}
    ((_, data),) = _services(render(values).documents)
    settings = _settings(monkeypatch, data)
    assert (settings.max_input_entries, settings.retry_delay_seconds) == (123456789, 0.25)


DEFAULT: dict[Component, Replicas] = {
    "Denoiser": Replicas(count=1, most=4, target_requests=2, resource="hedgecast_denoiser"),
    "Solver": Replicas(count=1, most=4, target_requests=2, resource="hedgecast_solver"),
    "Gateway": Replicas(count=2, resource="hedgecast_gateway"),
}


@pytest.mark.parametrize(
    ("values", "args", "replicas"),
    [
        ({}, {"model": "german_grid@champion", "threads": 2}, {}),
        (
            {"gateway": {"settings": {"maxConcurrentRequests": 9, "drainSeconds": 3}}},
            {"model": "german_grid@champion", "threads": 2},
            {},
        ),
        (
            {"registry": {"mode": "server"}, "denoiser": {"threads": 5}},
            {"model": "german_grid@champion", "threads": 5, "registry": "http://hc-hedgecast-registry:5000"},
            {},
        ),
        (
            {"registry": {"mode": "external", "externalUrl": "https://mlflow"}},
            {"model": "german_grid@champion", "threads": 2, "registry": "https://mlflow"},
            {},
        ),
        (
            {"denoiser": {"apart": False, "threads": 1}},
            {"model": "german_grid@champion", "threads": 1, "denoisers": False},
            {},
        ),
        (
            {
                "studies": [
                    {
                        "name": "mine",
                        "model": "mine@2",
                        "solver": {"replicas": 3, "maxReplicas": 3},
                        "gateway": {"replicas": 4},
                    }
                ]
            },
            {"model": "mine@2", "threads": 2},
            {
                "Solver": Replicas(count=3, resource="hedgecast_solver"),
                "Gateway": Replicas(count=4, resource="hedgecast_gateway"),
            },
        ),
        (
            {
                "studies": [{"name": "mine", "model": "mine@2", "canary": "mine@3"}],
                "gateway": {
                    "replicas": 1,
                    "outcomes": {"enabled": True},
                    "settings": {"canaryShare": 0.2},
                },
                "denoiser": {"accelerator": "gpu"},
                "serve": {"upgradeStrategy": "None"},
            },
            {"model": "mine@2", "canary": "mine@3", "threads": 2},
            {
                "Gateway": Replicas(count=1, resource="hedgecast_gateway"),
                "Denoiser": Replicas(
                    count=1, most=4, target_requests=2, num_gpus=1, resource="hedgecast_denoiser"
                ),
                "CanaryDenoiser": Replicas(num_gpus=1, resource="hedgecast_canary_denoiser"),
                "CanarySolver": Replicas(resource="hedgecast_canary_solver"),
            },
        ),
        (
            {
                "denoiser": {
                    "accelerator": "gpu",
                    "replicas": 2,
                    "maxReplicas": 5,
                    "targetRequests": 1.5,
                },
                "serve": {"upscaleDelaySeconds": 1, "downscaleDelaySeconds": 2},
            },
            {"model": "german_grid@champion", "threads": 2},
            {
                "Denoiser": Replicas(
                    count=2,
                    most=5,
                    target_requests=1.5,
                    num_gpus=1,
                    resource="hedgecast_denoiser",
                    upscale_delay_seconds=1,
                    downscale_delay_seconds=2,
                ),
                "Solver": Replicas(
                    count=1,
                    most=4,
                    target_requests=2,
                    resource="hedgecast_solver",
                    upscale_delay_seconds=1,
                    downscale_delay_seconds=2,
                ),
            },
        ),
    ],
)
def test_the_serve_config_is_the_codes_own(
    render: Render,
    monkeypatch: pytest.MonkeyPatch,
    values: dict[str, Any],
    args: dict[str, Any],
    replicas: dict[Component, Replicas],
) -> None:
    ((service, data),) = _services(render(values).documents)
    rendered = yaml.safe_load(service["spec"]["serveConfigV2"])
    check_serve_config(rendered)
    settings = _settings(monkeypatch, data)
    given = {**DEFAULT, **replicas}
    if args.get("denoisers") is False:
        del given["Denoiser"]
    assert rendered == serve_config(ApplicationArgs(**args), settings, given)


@pytest.mark.parametrize("name", ["laptop", "production-gpu", "tenants"])
def test_serve_takes_the_config_of_every_file(render: Render, name: str) -> None:
    for service, _ in _services(render(files=(name,)).documents):
        check_serve_config(yaml.safe_load(service["spec"]["serveConfigV2"]))


@pytest.mark.parametrize("name", ["", "laptop", "production-gpu", "tenants"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_ray_has_a_pod_for_every_replica(render: Render, name: str) -> None:
    # What Ray's own autoscaler reads from the cluster.
    from ray.autoscaler._private.kuberay import autoscaling_config

    for service, _ in _services(render(files=(name,) if name else ()).documents):
        config = service["spec"]["rayClusterConfig"]
        cluster = {"metadata": {"name": "x", "namespace": "planning"}, "spec": config}
        groups = autoscaling_config._derive_autoscaling_config_from_ray_cr(cluster)["available_node_types"]
        assert groups["headgroup"]["resources"]["CPU"] == 0
        (application,) = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
        for deployment in application["deployments"]:
            group = groups[deployment["name"].lower()]
            scaling = deployment.get("autoscaling_config") or dict.fromkeys(
                ("min_replicas", "max_replicas"), deployment.get("num_replicas")
            )
            assert (group["min_workers"], group["max_workers"]) == tuple(
                scaling[key] for key in ("min_replicas", "max_replicas")
            )
            wanted = deployment["ray_actor_options"]
            held = group["resources"]
            # One replica a pod, and the pod has all that the replica takes.
            assert wanted["resources"] == {f"hedgecast_{deployment['name'].lower()}": 1}
            assert held[f"hedgecast_{deployment['name'].lower()}"] == 1
            assert held["CPU"] >= wanted["num_cpus"]
            assert held.get("GPU", 0) == wanted.get("num_gpus", 0)


def test_another_model_or_setting_makes_another_cluster_and_a_number_does_not(render: Render) -> None:
    def pods(values: dict[str, Any]) -> list[str]:
        ((service, _),) = _services(render(values).documents)
        groups = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
        return [json.dumps(group["template"], sort_keys=True) for group in groups]

    study = {"name": "german-grid", "study": "german_grid", "model": "german_grid@7"}
    assert pods({"studies": [study]}) != pods({})
    assert pods({"gateway": {"settings": {"maxScenarios": 5}}}) != pods({})
    assert pods({"denoiser": {"replicas": 3}}) == pods({})
    assert pods({"gateway": {"access": "[default]\n"}}) != pods({})
    # Tenants' rights are read again without a restart.
    assert pods({"gateway": {"access": "[default]\n"}}) == pods({"gateway": {"access": "[principals]\n"}})


def test_ray_behaves_as_on_one_machine(render: Render) -> None:
    ((service, _),) = _services(render().documents)
    for group in service["spec"]["rayClusterConfig"]["workerGroupSpecs"]:
        (container,) = group["template"]["spec"]["containers"]
        environment = {entry["name"]: entry["value"] for entry in container["env"]}
        assert NODE_ENVIRONMENT.items() <= environment.items()


def test_dashboards_ask_for_metrics_that_there_are(render: Render) -> None:
    known: set[str] = set()
    for metric in ServiceMetrics().registry.collect():
        endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(metric.type, ("",))
        known |= {f"{metric.name}{ending}" for ending in endings}
    (dashboards,) = [
        d
        for d in render({"monitoring": {"dashboards": True}}).of_kind("ConfigMap")
        if d["metadata"]["name"].endswith("-dashboards")
    ]
    asked: set[str] = set()
    for text in dashboards["data"].values():
        for panel in json.loads(text)["panels"]:
            for target in panel.get("targets", []):
                asked |= set(re.findall(r"\bhedgecast_\w+", target["expr"]))
    assert asked
    assert asked <= known


def test_versions_are_one(render: Render) -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)
    pins = (ROOT / "deploy" / "constraints.txt").read_text()
    assert f"ray=={yaml.safe_load((CHART / 'values.yaml').read_text())['rayVersion']}\n" in pins


def test_files_made_from_the_values_are_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("chart_files", ROOT / "deploy" / "chart_files.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main(["--check"]) == 0
    with pytest.raises(ValueError, match=r"a\.c has no comment"):
        module.schema("a:\n  # -- Said.\n  b: 1\n  c: 2\n")
