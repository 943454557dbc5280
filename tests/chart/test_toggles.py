"""Each switch of the chart: what it brings, only when it is on, and that all of it is valid."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator

KUBERNETES = "1.37"
KUBERAY = Path(__file__).parents[3] / "shared" / "kuberay"
FILES = ("laptop", "production-gpu", "tenants")
Documents = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Toggle:
    """Values, and what is found with them and not without."""

    values: dict[str, Any]
    found: Callable[[Documents], Any]


def kind(name: str, ending: str = "") -> Callable[[Documents], bool]:
    return lambda documents: any(
        document["kind"] == name and document["metadata"]["name"].endswith(ending) for document in documents
    )


def text(pattern: str) -> Callable[[Documents], bool]:
    return lambda documents: re.search(pattern, json.dumps(documents)) is not None


def one(documents: Documents, name: str) -> dict[str, Any]:
    return next(document for document in documents if document["kind"] == name)


def cluster(documents: Documents) -> dict[str, Any]:
    found: dict[str, Any] = one(documents, "RayService")["spec"]["rayClusterConfig"]
    return found


def job(name: str) -> Callable[[Documents], bool]:
    return lambda documents: any(
        document["kind"] == "RayJob" and document["spec"]["entrypoint"].startswith(f"hedgecast {name} ")
        for document in documents
    )


CANARY: dict[str, Any] = {
    "studies": [{"name": "mine", "model": "mine@2", "canary": "mine@3"}],
    "gateway": {"replicas": 1, "outcomes": {"enabled": True}, "settings": {"canaryShare": 0.2}},
    "serve": {"upgradeStrategy": "None"},
}
TOGGLES: dict[str, Toggle] = {
    "plain": Toggle({"gateway": {"tls": {"enabled": False}, "allowInsecure": True}}, text("ALLOW_INSECURE")),
    "one-sided-tls": Toggle(
        {"gateway": {"tls": {"mutual": False}}}, lambda d: "HEDGECAST_TLS_CLIENT_CA" not in json.dumps(d)
    ),
    "no-tokens": Toggle(
        {"gateway": {"tokens": {"enabled": False}}}, lambda d: "HEDGECAST_TOKEN_FILE" not in json.dumps(d)
    ),
    "access": Toggle(
        {"gateway": {"access": '[default]\nmethods = ["Decide"]\n'}}, kind("ConfigMap", "-access")
    ),
    "no-audit": Toggle(
        {"gateway": {"audit": {"enabled": False}}}, lambda d: '"HEDGECAST_AUDIT_FILE"' not in json.dumps(d)
    ),
    "cert-manager": Toggle(
        {"gateway": {"tls": {"certManager": {"enabled": True, "issuerName": "ca"}}}}, kind("Certificate")
    ),
    "load-balancer": Toggle(
        {"gateway": {"service": {"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0/8"]}}},
        lambda d: one(d, "Service")["spec"]["type"] == "LoadBalancer",
    ),
    "headless": Toggle(
        {"gateway": {"service": {"headless": True}}}, lambda d: one(d, "Service")["spec"].get("clusterIP")
    ),
    "gpu": Toggle(
        {"denoiser": {"accelerator": "gpu", "tolerations": [{"key": "gpu", "operator": "Exists"}]}},
        lambda d: "nvidia.com/gpu" in json.dumps(d) and "hedgecast-ray-gpu:" in json.dumps(d),
    ),
    "other-gpu": Toggle(
        {"denoiser": {"accelerator": "gpu", "gpuResource": "amd.com/gpu"}}, text("amd.com/gpu")
    ),
    "solvers-that-draw": Toggle(
        {"denoiser": {"apart": False}},
        lambda d: (
            [group["groupName"] for group in cluster(d)["workerGroupSpecs"]] == ["gateway", "solver"]
            and not kind("PodDisruptionBudget", "-denoiser")(d)
        ),
    ),
    "fixed-numbers": Toggle(
        {"denoiser": {"maxReplicas": 1}, "solver": {"maxReplicas": 1}},
        lambda d: "autoscaling_config" not in json.dumps(d),
    ),
    "no-autoscaler": Toggle(
        {"autoscaler": {"enabled": False}}, lambda d: "enableInTreeAutoscaling" not in cluster(d)
    ),
    "no-upgrade": Toggle(
        {"serve": {"upgradeStrategy": "None"}},
        lambda d: one(d, "RayService")["spec"]["upgradeStrategy"]["type"] == "None",
    ),
    "no-ray-token": Toggle({"rayAuth": {"enabled": False}}, lambda d: "authOptions" not in cluster(d)),
    "redis": Toggle(
        {"redis": {"enabled": True, "address": "redis:6379", "secretName": "redis"}},
        lambda d: (
            cluster(d)["gcsFaultToleranceOptions"]["redisPassword"]["valueFrom"]["secretKeyRef"]
            == {"name": "redis", "key": "password"}
            if "gcsFaultToleranceOptions" in cluster(d)
            else False
        ),
    ),
    "registry-server": Toggle({"registry": {"mode": "server"}}, kind("Deployment", "-registry")),
    "registry-server-elsewhere": Toggle(
        {
            "registry": {
                "mode": "server",
                "server": {
                    "databaseSecretName": "db",
                    "artifacts": "s3://models/a",
                    "s3Endpoint": "https://s3",
                    "s3SecretName": "s3",
                },
            },
            "storage": {"enabled": False},
        },
        text("--artifacts-destination=s3://models/a"),
    ),
    "registry-external": Toggle(
        {"registry": {"mode": "external", "externalUrl": "https://mlflow"}}, text('registry: .{0,2}"https')
    ),
    "existing-claim": Toggle(
        {"storage": {"existingClaim": "mine"}}, lambda d: not kind("PersistentVolumeClaim")(d)
    ),
    "storage-class": Toggle({"storage": {"className": "fast"}}, text('"storageClassName": "fast"')),
    "train": Toggle({"jobs": {"train": {"enabled": True}}}, job("train")),
    "train-on-gpus": Toggle(
        {"jobs": {"train": {"enabled": True, "gpu": True, "arguments": ["--set", "learning.seed=3 4"]}}},
        text(r"--gpu --set 'learning.seed=3 4'"),
    ),
    "backtest": Toggle({"jobs": {"backtest": {"enabled": True}}}, job("backtest")),
    "distill": Toggle({"jobs": {"distill": {"enabled": True}}}, job("distill")),
    "generate": Toggle(
        {"jobs": {"generate": {"enabled": True, "contexts": "s3://rows/may", "output": "s3://sets"}}},
        job("generate"),
    ),
    "retraining": Toggle({"retraining": {"enabled": True}}, kind("CronJob", "-retrain")),
    "retraining-on-a-gpu": Toggle({"retraining": {"enabled": True, "gpu": True}}, text('"--gpu"')),
    "no-network-policies": Toggle(
        {"networkPolicy": {"enabled": False}}, lambda d: not kind("NetworkPolicy")(d)
    ),
    "callers": Toggle(
        {"networkPolicy": {"clients": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}}, text('"cidr": "10.0.0.0/8"')
    ),
    "egress": Toggle(
        {"networkPolicy": {"egress": [{"cidr": "10.1.0.0/16", "ports": [6379]}]}}, text("10.1.0.0/16")
    ),
    "no-metrics": Toggle({"monitoring": {"enabled": False}}, lambda d: "METRICS_PORT" not in json.dumps(d)),
    "pod-monitor": Toggle({"monitoring": {"podMonitor": True}}, kind("PodMonitor", "-ray")),
    "service-monitor": Toggle({"monitoring": {"serviceMonitor": True}}, kind("ServiceMonitor", "-gateways")),
    "dashboards": Toggle({"monitoring": {"dashboards": True}}, kind("ConfigMap", "-dashboards")),
    "traces": Toggle(
        {"monitoring": {"traceEndpoint": "http://otel:4318/v1/traces"}}, text("HEDGECAST_TRACE_ENDPOINT")
    ),
    "canary": Toggle(
        CANARY,
        lambda d: (
            [group["groupName"] for group in cluster(d)["workerGroupSpecs"]][3:]
            == ["canary-denoiser", "canary-solver"]
        ),
    ),
    "canary-that-draws": Toggle(
        {**CANARY, "denoiser": {"apart": False}},
        lambda d: (
            [group["groupName"] for group in cluster(d)["workerGroupSpecs"]]
            == ["gateway", "solver", "canary-solver"]
        ),
    ),
    "no-test": Toggle({"test": {"enabled": False}}, lambda d: not kind("Pod")(d)),
    "own-operator": Toggle({"kuberay": {"enabled": True}}, lambda d: "kuberay-system" not in json.dumps(d)),
    "own-study": Toggle(
        {
            "studies": [
                {
                    "name": "mine",
                    "model": "mine@2",
                    "file": 'name = "mine"\n',
                    "program": "x = 1\n",
                    "solver": {"replicas": 2},
                }
            ],
            "jobs": {"train": {"enabled": True}},
        },
        text("hedgecast train /etc/hedgecast/studies/mine.toml "),
    ),
    "image": Toggle(
        {"image": {"registry": "registry.local/", "tag": "9", "pullSecrets": ["pull"]}},
        text("registry.local/hedgecast-ray-cpu:9"),
    ),
    "labels": Toggle({"labels": {"team": "planning"}}, text('"team": "planning"')),
    "pod-annotations": Toggle({"podAnnotations": {"mesh": "off"}}, text('"mesh": "off"')),
    "identity": Toggle({"serviceAccount": {"annotations": {"role": "s3"}}}, text('"role": "s3"')),
}


def renderings(render: Callable[..., Any]) -> Iterator[tuple[str, Documents]]:
    """Every rendering of these tests by name."""
    yield "defaults", render().documents
    for name in FILES:
        yield name, render(files=(name,)).documents
    for name, toggle in TOGGLES.items():
        yield name, render(toggle.values).documents


@pytest.mark.parametrize("name", TOGGLES)
def test_a_switch_changes_what_it_says(render: Callable[..., Any], name: str) -> None:
    toggle = TOGGLES[name]
    assert not toggle.found(render().documents), "it is there without the switch"
    assert toggle.found(render(toggle.values).documents)


def test_there_are_enough_switches_for_every_group_of_values(render: Callable[..., Any]) -> None:
    assert len(TOGGLES) >= 20
    groups = {group for toggle in TOGGLES.values() for group in toggle.values}
    described = yaml.safe_load((Path(__file__).parents[2] / "helm/hedgecast/values.yaml").read_text())
    plain = {"nameOverride", "fullnameOverride", "rayVersion", "head", "podSecurity", "kuberay-operator"}
    assert set(described) - groups - plain == {"global"}


def test_all_of_it_is_valid_for_kubernetes(render: Callable[..., Any]) -> None:
    seen: set[str] = set()
    for name, documents in renderings(render):
        for document in documents:
            for part in (document, *_pods(document)):
                content = json.dumps(part, sort_keys=True)
                if content in seen or "." in part["apiVersion"].split("/")[0].replace(".k8s.io", ""):
                    continue
                seen.add(content)
                try:
                    kubernetes_validate.validate(part, KUBERNETES, strict=True)
                except kubernetes_validate.ValidationError as error:
                    pytest.fail(f"{name}: {part['kind']} {part['metadata'].get('name')}: {error}")
    assert len(seen) > 100
    broken = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"port": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, KUBERNETES, strict=True)


def test_all_of_it_is_valid_for_kuberay(render: Callable[..., Any]) -> None:
    if not KUBERAY.is_dir():
        pytest.skip(f"NEEDS KubeRay's CRDs in {KUBERAY}")
    seen: dict[str, str] = {}
    for name, documents in renderings(render):
        for document in documents:
            if document["kind"] in ("RayService", "RayJob"):
                seen.setdefault(json.dumps(document, sort_keys=True), name)
    assert len(seen) > 30
    for content, name in seen.items():
        document = json.loads(content)
        errors = [
            f"{'/'.join(map(str, error.absolute_path))}: {error.message[:200]}"
            for error in _validator(document["kind"]).iter_errors(document)
        ]
        assert not errors, f"{name}: {document['kind']}: {errors[:3]}"
    document = json.loads(next(iter(seen)))
    document["spec"]["rayClusterConfig"]["headGroupSpec"]["rayStartParam"] = {}
    assert not _validator("RayService").is_valid(document), "a field that KubeRay does not know was taken"


@functools.cache
def _validator(name: str) -> Draft202012Validator:
    text = (KUBERAY / f"{name.lower()}s.yaml").read_text(encoding="utf-8")
    definition = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (version,) = [v for v in definition["spec"]["versions"] if v["name"] == "v1"]
    schema = _strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return Draft202012Validator(schema)


def _strict(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a CRD for JSON schema, with unknown fields refused."""
    strict = {key: value for key, value in schema.items() if key not in ("format", "default")}
    if strict.pop("x-kubernetes-int-or-string", False):
        strict.pop("anyOf", None)
        strict["type"] = ["integer", "number", "string"]
    if "properties" in strict:
        strict["properties"] = {key: _strict(value) for key, value in strict["properties"].items()}
        if not strict.get("x-kubernetes-preserve-unknown-fields"):
            strict["additionalProperties"] = False
    elif isinstance(strict.get("additionalProperties"), dict):
        strict["additionalProperties"] = _strict(strict["additionalProperties"])
    if "items" in strict:
        strict["items"] = _strict(strict["items"])
    return strict


def _pods(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Pods that KubeRay will make of a document's templates."""
    spec = document.get("spec", {})
    config = spec.get("rayClusterConfig") or spec.get("rayClusterSpec")
    if config is None:
        return
    for group in (config["headGroupSpec"], *config["workerGroupSpecs"]):
        yield {"apiVersion": "v1", "kind": "Pod", **group["template"]}


def test_the_chart_is_clean_for_helm(helm: Path, chart: Path) -> None:
    for arguments in ((), *(("-f", str(chart / f"values-{name}.yaml")) for name in FILES)):
        command = [str(helm), "lint", "--strict", str(chart), *arguments]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout + result.stderr
