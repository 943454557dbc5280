"""What one object of the chart says of another is there: ports, paths, secrets, names, labels."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer

from hedgecast.cli import build

Render = Callable[..., Any]
Documents = list[dict[str, Any]]
SECRETS = {
    "databaseSecretName": "db",
    "artifacts": "s3://models/a",
    "s3Endpoint": "https://s3",
    "s3SecretName": "s3",
}
JOBS = {
    "checkpoints": "s3://runs/x",
    "train": {"enabled": True},
    "backtest": {"enabled": True},
    "distill": {"enabled": True},
    "generate": {"enabled": True, "contexts": "s3://rows", "output": "s3://sets"},
}
SERVER: dict[str, Any] = {
    "gateway": {"access": "[default]\n", "tls": {"certManager": {"enabled": True, "issuerName": "ca"}}},
    "registry": {"mode": "server", "server": SECRETS},
    "jobs": JOBS,
    "retraining": {"enabled": True},
    "monitoring": {"serviceMonitor": True, "dashboards": True, "labels": {"release": "prometheus"}},
}
EMBEDDED: dict[str, Any] = {
    "studies": [{"name": "mine", "model": "mine@2", "file": 'name = "mine"\n'}],
    "jobs": JOBS,
    "retraining": {"enabled": True},
    "monitoring": {"podMonitor": True},
}


@pytest.fixture(params=["server", "embedded"])
def documents(request: pytest.FixtureRequest, render: Render) -> Documents:
    found: Documents = render({"server": SERVER, "embedded": EMBEDDED}[request.param]).documents
    return found


def _nodes(node: Any) -> Iterator[dict[str, Any]]:
    """All mappings in a document."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from _nodes(value)
    elif isinstance(node, list):
        for value in node:
            yield from _nodes(value)


def _pods(documents: Documents) -> Iterator[tuple[dict[str, str], dict[str, Any]]]:
    """Labels and spec of every pod."""
    for node in (node for document in documents for node in _nodes(document)):
        if "containers" in node.get("spec", {}):
            yield node["metadata"]["labels"], node["spec"]


def _of(documents: Documents, kind: str) -> Documents:
    return [document for document in documents if document["kind"] == kind]


def _container(documents: Documents, component: str) -> dict[str, Any]:
    """The container of a component's first pod."""
    return next(
        pod["containers"][0]
        for labels, pod in _pods(documents)
        if labels.get("app.kubernetes.io/component") == component
    )


def test_every_path_that_a_container_is_told_is_mounted(documents: Documents) -> None:
    maps = {d["metadata"]["name"]: d["data"] for d in _of(documents, "ConfigMap")}
    told = set[str]()
    for _, pod in _pods(documents):
        for container in pod["containers"]:
            words = [*container.get("args", []), *(str(e.get("value", "")) for e in container.get("env", []))]
            for source in container.get("envFrom", []):
                settings = maps.get(source.get("configMapRef", {}).get("name"), {})
                # Only a gateway listens; others are told what its settings are and open none of its files.
                if any(port["name"] == "grpc" for port in container.get("ports", [])):
                    words += settings.values()
            mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
            for path in re.findall(r"(?<![\w/])/(?:etc|run|tmp|var)/?[\w./-]*", " ".join(words)):
                assert any(f"{path}/".startswith(f"{mount}/") for mount in mounts), (container["name"], path)
                told.add(path)
    # Jobs are told on a command line of their own.
    for job in _of(documents, "RayJob"):
        (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        (container,) = group["template"]["spec"]["containers"]
        mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
        for path in re.findall(r"(?<![\w/:])/(?:etc|var)/[\w./-]*", job["spec"]["entrypoint"]):
            assert any(path.startswith(f"{mount}/") for mount in mounts), path
            told.add(path)
    assert {"/etc/hedgecast/tls/tls.crt", "/etc/hedgecast/tokens/tokens", "/run/hedgecast/drain"} <= told
    assert any(path.startswith("/var/lib/hedgecast/reports/") for path in told)


def test_every_port_that_is_named_is_opened_by_who_is_selected(documents: Documents) -> None:
    pods = list(_pods(documents))

    def opened(selector: dict[str, str]) -> list[set[str]]:
        # KubeRay opens `metrics` on all pods of Ray.
        return [
            {port["name"] for container in pod["containers"] for port in container.get("ports", [])}
            | {"metrics"}
            for labels, pod in pods
            if selector.items() <= labels.items()
        ]

    for service in _of(documents, "Service"):
        for port in service["spec"]["ports"]:
            found = opened(service["spec"]["selector"])
            assert found
            assert all(port["targetPort"] in names for names in found)
    for monitor in _of(documents, "PodMonitor"):
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            found = opened(monitor["spec"]["selector"]["matchLabels"])
            assert found
            assert all(endpoint["port"] in names for names in found)
        read = "metrics" if monitor["metadata"]["name"].endswith("-ray") else "decisions"
        assert [endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]] == [read]
    for monitor in _of(documents, "ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"].items()
        services = [s for s in _of(documents, "Service") if wanted <= s["metadata"]["labels"].items()]
        assert services
        for service in services:
            names = {port["name"] for port in service["spec"]["ports"]}
            assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= names
    monitors = [*_of(documents, "PodMonitor"), *_of(documents, "ServiceMonitor")]
    assert len(monitors) in (1, 2)
    gateway = _container(documents, "gateway")
    numbers = {port["name"]: port["containerPort"] for port in gateway["ports"]}
    assert numbers == {"grpc": 50051, "health": 50052, "decisions": 9464}
    assert {
        d["spec"]["ports"][0]["targetPort"]
        for d in _of(documents, "Service")
        if "-gateway" in d["metadata"]["name"]
    } == {"grpc"}


def test_labels_that_others_look_for_are_there(render: Render) -> None:
    documents = render(SERVER).documents
    (monitor,) = _of(documents, "ServiceMonitor")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    (dashboards,) = [d for d in _of(documents, "ConfigMap") if d["metadata"]["name"].endswith("-dashboards")]
    assert dashboards["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_the_test_pod_reaches_the_gateway_as_a_client(documents: Documents) -> None:
    container = _container(documents, "test")
    words = dict(word.removeprefix("--").partition("=")[::2] for word in container["args"][1:])
    host, _, port = words["address"].rpartition(":")
    (service,) = [d for d in _of(documents, "Service") if d["metadata"]["name"].endswith("-gateway")]
    assert host == f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
    assert port == str(service["spec"]["ports"][0]["port"])
    # The default: mutual TLS and a token.
    assert {"authorities", "certificate", "key"} <= set(words)
    assert [entry["name"] for entry in container["env"] if "valueFrom" in entry] == ["HEDGECAST_TOKEN"]
    for certificate in _of(documents, "Certificate"):
        assert {host, service["metadata"]["name"]} <= set(certificate["spec"]["dnsNames"])
        mounted = [
            pod["volumes"]
            for labels, pod in _pods(documents)
            if labels.get("app.kubernetes.io/component") == "gateway"
        ]
        names = {v["secret"]["secretName"] for volumes in mounted for v in volumes if v["name"] == "tls"}
        assert names == {certificate["spec"]["secretName"]}


def test_mutual_tls_asks_for_the_clients_authority(render: Render) -> None:
    (settings,) = [
        d["data"] for d in _of(render().documents, "ConfigMap") if d["metadata"]["name"].endswith("-settings")
    ]
    ends = {
        name: settings[f"HEDGECAST_TLS_{name}"].rpartition("/")[2]
        for name in ("CERTIFICATE", "KEY", "CLIENT_CA")
    }
    assert ends == {"CERTIFICATE": "tls.crt", "KEY": "tls.key", "CLIENT_CA": "ca.crt"}


def test_the_registry_server_has_its_database_and_its_store(render: Render) -> None:
    documents = render(SERVER).documents
    server = _container(documents, "registry")
    environment = {entry["name"]: entry for entry in server["env"]}
    assert environment["DATABASE"]["valueFrom"]["secretKeyRef"] == {"name": "db", "key": "uri"}
    assert environment["MLFLOW_S3_ENDPOINT_URL"]["value"] == "https://s3"
    assert server["envFrom"] == [{"secretRef": {"name": "s3"}}]
    words = dict(word.removeprefix("--").partition("=")[::2] for word in server["args"])
    assert words["backend-store-uri"] == "$(DATABASE)"
    assert words["artifacts-destination"] == "s3://models/a"
    # MLflow answers to the names that it is told, by which its clients and its probes call it.
    called = {
        re.findall(r"--registry http://(\S+)", job["spec"]["entrypoint"])[0]
        for job in _of(documents, "RayJob")
        if "--registry" in job["spec"]["entrypoint"]
    }
    called |= {
        probe["httpGet"]["httpHeaders"][0]["value"]
        for probe in (server["livenessProbe"], server["readinessProbe"])
    }
    assert called <= set(words["allowed-hosts"].split(","))
    (deployment,) = _of(documents, "Deployment")
    assert "strategy" not in deployment["spec"]
    # One sqlite file has one writer.
    (deployment,) = _of(render({"registry": {"mode": "server"}}).documents, "Deployment")
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}


def test_the_volume_of_models_outlives_the_release(render: Render) -> None:
    (claim,) = _of(render().documents, "PersistentVolumeClaim")
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}


def test_ray_takes_no_call_without_the_token_of_the_secret(documents: Documents) -> None:
    clusters = [node for document in documents for node in _nodes(document) if "headGroupSpec" in node]
    assert len(clusters) == 1 + 4
    for cluster in clusters:
        assert cluster["authOptions"] == {"mode": "token", "secretName": "hedgecast-ray"}


def test_jobs_end_with_their_clusters_and_go_on_from_checkpoints(documents: Documents) -> None:
    jobs = {shlex.split(d["spec"]["entrypoint"])[1]: d["spec"] for d in _of(documents, "RayJob")}
    assert set(jobs) == {"train", "backtest", "distill", "generate"}
    for spec in jobs.values():
        assert spec["shutdownAfterJobFinishes"] is True
        assert spec["submissionMode"] == "HTTPMode"
        assert (spec["ttlSecondsAfterFinished"], spec["activeDeadlineSeconds"], spec["backoffLimit"]) == (
            3600,
            86400,
            2,
        )
    (cron,) = _of(documents, "CronJob")
    assert cron["spec"]["concurrencyPolicy"] == "Forbid"
    retraining = _container(documents, "retraining")
    trained = [shlex.split(jobs["train"]["entrypoint"])[1:], retraining["args"]]
    command = typer.main.get_group(build(["train"])).commands["train"]
    for words in trained:
        with command.make_context("train", words[1:]) as context:
            assert context.params["storage"] == "s3://runs/x"
            assert context.params["run_name"] in ("$(JOB_NAME)", "german-grid-1", "mine-1")
    # The gate decides who is champion: nothing turns it off.
    assert not [word for words in trained for word in words if "promote" in word]
    (name,) = [entry for entry in retraining["env"] if entry["name"] == "JOB_NAME"]
    assert "job-name" in name["valueFrom"]["fieldRef"]["fieldPath"]
    # Ray's object store, which Kubernetes gives 64 MiB.
    mounts = {mount["mountPath"]: mount["name"] for mount in retraining["volumeMounts"]}
    assert mounts["/dev/shm"] == "shm"
