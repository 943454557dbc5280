"""Rules of every rendering: security of pods, images, resources, selectors, flows of the network."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from hedgecast.cli import _homes, build

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "hedgecast"
DEPLOYMENT = ROOT / "docs" / "deployment.md"
Render = Callable[..., Any]
Documents = list[dict[str, Any]]
STUDY = {"name": "mine", "model": "mine@2", "file": 'name = "mine"\n'}
# Everything that makes a pod or a policy.
EVERYTHING: dict[str, Any] = {
    "studies": [STUDY, {"name": "grid", "study": "german_grid", "model": "german_grid@champion"}],
    "gateway": {"access": "[default]\n"},
    "denoiser": {"accelerator": "gpu"},
    "registry": {"mode": "server"},
    "redis": {"enabled": True, "address": "redis:6379", "secretName": "redis"},
    "retraining": {"enabled": True},
    "monitoring": {"podMonitor": True, "dashboards": True},
    "networkPolicy": {"egress": [{"cidr": "10.1.0.0/16", "ports": [6379, 443]}]},
    "jobs": {
        "train": {"enabled": True},
        "backtest": {"enabled": True},
        "distill": {"enabled": True},
        "generate": {"enabled": True, "contexts": "s3://rows", "output": "s3://sets"},
    },
}


@pytest.fixture(params=["defaults", "everything", "laptop", "production-gpu", "tenants"])
def documents(request: pytest.FixtureRequest, render: Render) -> Documents:
    if request.param == "defaults":
        found: Documents = render().documents
    elif request.param == "everything":
        found = render(EVERYTHING).documents
    else:
        found = render(files=(request.param,)).documents
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


def _pods(documents: Documents) -> list[dict[str, Any]]:
    """Specs of all pods."""
    return [node for document in documents for node in _nodes(document) if "containers" in node]


def _containers(documents: Documents) -> list[dict[str, Any]]:
    return [
        container
        for pod in _pods(documents)
        for container in (*pod["containers"], *pod.get("initContainers", []))
    ]


def _selectors(documents: Documents) -> list[dict[str, str]]:
    found = []
    for document in documents:
        for node in _nodes(document):
            if "matchLabels" in node:
                found.append(node["matchLabels"])
        if document["kind"] == "Service":
            found.append(document["spec"]["selector"])
    return found


def _working(documents: Documents) -> set[str]:
    """Components of the first service that Serve deploys, in the chart's words."""
    service = next(document for document in documents if document["kind"] == "RayService")
    (application,) = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    found = {deployment["name"].lower() for deployment in application["deployments"]}
    assert found - {"denoiser"} == {"gateway", "solver"}
    return found


def test_no_pod_can_become_root_or_write_its_image(documents: Documents) -> None:
    pods = _pods(documents)
    # With the head and the test's pod.
    assert len(pods) >= len(_working(documents)) + 2
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] >= 1
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert not any("hostPath" in volume for volume in pod["volumes"])
        # KubeRay gives the autoscaler in the head's pod an account of its own.
        assert pod.get("automountServiceAccountToken") is False or "serviceAccountName" not in pod
    contexts = [container["securityContext"] for container in _containers(documents)]
    contexts += [
        node["autoscalerOptions"]["securityContext"]
        for document in documents
        for node in _nodes(document)
        if "autoscalerOptions" in node
    ]
    for context in contexts:
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not context.get("privileged")


def test_every_container_says_what_it_needs(documents: Documents) -> None:
    for container in _containers(documents):
        assert set(container["resources"]["requests"]) >= {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]


def test_every_image_has_a_version(documents: Documents) -> None:
    images = {container["image"] for container in _containers(documents)}
    assert images
    for image in images:
        name, _, tag = image.rpartition(":")
        assert name
        assert re.fullmatch(r"v?\d[\w.-]*", tag), image
    assert "latest" not in json.dumps(documents)


def test_what_serves_has_probes_and_time_to_finish(documents: Documents) -> None:
    for service in (d for d in documents if d["kind"] == "RayService"):
        config = service["spec"]["rayClusterConfig"]
        assert config["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        for group in (config["headGroupSpec"], *config["workerGroupSpecs"]):
            (container,) = group["template"]["spec"]["containers"]
            assert {"livenessProbe", "readinessProbe"} <= set(container)
            spread = group["template"]["spec"]["topologySpreadConstraints"]
            assert [one["topologyKey"].rpartition("/")[2] for one in spread] == ["hostname", "zone"]
        gateway = config["workerGroupSpecs"][0]["template"]["spec"]
        (container,) = gateway["containers"]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        assert container["readinessProbe"]["grpc"]["port"] == ports["health"] != ports["grpc"]
        (wait,) = re.findall(r"sleep (\d+)", " ".join(container["lifecycle"]["preStop"]["exec"]["command"]))
        (settings,) = [
            d["data"]
            for d in documents
            if d["kind"] == "ConfigMap" and d["metadata"]["name"] == f"{service['metadata']['name']}-settings"
        ]
        drain = float(settings["HEDGECAST_DRAIN_SECONDS"])
        assert drain < int(wait) < gateway["terminationGracePeriodSeconds"]
        assert service["spec"]["rayClusterDeletionDelaySeconds"] > drain
        touched = container["lifecycle"]["preStop"]["exec"]["command"][-1]
        assert f"touch {settings['HEDGECAST_DRAIN_FILE']} " in touched
        budgets = {
            d["spec"]["selector"]["matchLabels"]["app.kubernetes.io/component"]
            for d in documents
            if d["kind"] == "PodDisruptionBudget"
        }
        assert budgets >= {"head", *_working(documents)}
        assert "denoiser" in _working(documents) or "denoiser" not in budgets


def test_mounts_and_references_are_there(documents: Documents) -> None:
    for pod in _pods(documents):
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in (*pod["containers"], *pod.get("initContainers", [])):
            mounts = {mount["name"] for mount in container["volumeMounts"]}
            assert mounts <= volumes
    maps = {d["metadata"]["name"] for d in documents if d["kind"] == "ConfigMap"}
    for node in (node for document in documents for node in _nodes(document)):
        for reference in (node.get("configMapRef"), node.get("configMap")):
            if reference:
                assert reference["name"] in maps


def test_a_cache_begins_with_the_loops_of_its_image(documents: Documents) -> None:
    pods = [pod for pod in _pods(documents) if "/var/cache/hedgecast" in json.dumps(pod)]
    for pod in pods:
        (filling,) = pod["initContainers"]
        (container,) = pod["containers"]
        assert filling["image"] == container["image"]
        (mount,) = filling["volumeMounts"]
        assert {**mount, "mountPath": "/var/cache/hedgecast"} in container["volumeMounts"]
        assert f"/var/cache/hedgecast/. {mount['mountPath']}/" in filling["command"][-1]
    # With the head, and where there are any jobs and retraining.
    assert len(pods) >= len(_working(documents)) + 1


def test_every_selector_finds_something(render: Render) -> None:
    documents = render(EVERYTHING).documents
    labeled = [
        node["metadata"]["labels"]
        for document in documents
        for node in _nodes(document)
        if "labels" in node.get("metadata", {})
    ]
    own = [s for s in _selectors(documents) if "app.kubernetes.io/name" in s]
    assert len(own) > 60
    for selector in own:
        assert any(selector.items() <= labels.items() for labels in labeled), selector


def test_selectors_stay_through_upgrades(render: Render, helm: Path, chart: Path, tmp_path: Path) -> None:
    newer = tmp_path / "hedgecast"
    shutil.copytree(chart, newer)
    meta = yaml.safe_load((newer / "Chart.yaml").read_text())
    meta |= {"version": "9.9.9", "appVersion": "9.9.9"}
    (newer / "Chart.yaml").write_text(yaml.safe_dump(meta))
    changed = {**EVERYTHING, "labels": {"team": "planning"}, "podAnnotations": {"a": "b"}}
    values = tmp_path / "values.json"
    values.write_text(json.dumps(changed))
    command = [str(helm), "template", "hc", str(newer), "--namespace", "planning", "-f", str(values)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    upgraded = [d for d in yaml.load_all(result.stdout, Loader=yaml.CSafeLoader) if d]
    before = render(EVERYTHING).documents
    assert "9.9.9" in result.stdout
    assert _selectors(upgraded) == _selectors(before)
    names = [(d["kind"], d["metadata"]["name"]) for d in before]
    assert [(d["kind"], d["metadata"]["name"]) for d in upgraded] == names
    assert "9.9.9" not in json.dumps(_selectors(upgraded))


def test_jobs_are_commands_that_there_are(render: Render) -> None:
    documents = render(EVERYTHING).documents
    lines = [shlex.split(d["spec"]["entrypoint"]) for d in documents if d["kind"] == "RayJob"]
    lines += [
        [*container["command"], *container["args"]]
        for container in _containers(documents)
        if container.get("command") == ["hedgecast"]
    ]
    assert {line[0] for line in lines} == {"hedgecast"}
    assert {line[1] for line in lines} >= {"train", "backtest", "distill", "generate", "probe"}
    for program, name, *arguments in lines:
        assert (program, name in _homes()) == ("hedgecast", True), name
        command = typer.main.get_group(build([name])).commands[name]
        # Parses, and runs nothing: a wrong option or type raises.
        with command.make_context(name, list(arguments)) as context:
            assert context.params


def test_arguments_reach_a_job_as_they_are(render: Render) -> None:
    spoiled = {"jobs": {"train": {"enabled": True, "arguments": ["--set", "a=$(rm -rf /)'; rm x"]}}}
    (job,) = render(spoiled).of_kind("RayJob")
    assert shlex.split(job["spec"]["entrypoint"])[-2:] == ["--set", "a=$(rm -rf /)'; rm x"]
    # Not on the head: what it takes one of only workers have.
    assert json.loads(job["spec"]["entrypointResources"]) == {"hedgecast_job": 1}
    cluster = job["spec"]["rayClusterSpec"]
    assert "resources" not in cluster["headGroupSpec"]["rayStartParams"]
    (group,) = cluster["workerGroupSpecs"]
    assert json.loads(group["rayStartParams"]["resources"].strip("'")) == {"hedgecast_job": 1}


def _clusters(documents: Documents) -> Iterator[tuple[str, dict[str, Any]]]:
    """Kind and cluster of everything that has a Ray cluster."""
    for document in documents:
        spec = document.get("spec", {})
        cluster = spec.get("rayClusterConfig") or spec.get("rayClusterSpec")
        if cluster:
            yield document["kind"], cluster


def test_pods_go_where_the_values_of_their_kind_say(render: Render) -> None:
    kinds = ("head", "gateway", "denoiser", "solver", "jobs")
    places: dict[str, Any] = {
        kind: {"nodeSelector": {"pool": kind}, "tolerations": [{"key": kind, "operator": "Exists"}]}
        for kind in kinds
    }
    values = {**EVERYTHING, **{kind: {**EVERYTHING.get(kind, {}), **places[kind]} for kind in kinds}}
    documents = render(values).documents
    pods = [("jobs", d["spec"]["jobTemplate"]["spec"]) for d in documents if d["kind"] == "CronJob"]
    for _, cluster in _clusters(documents):
        pods.append(("head", cluster["headGroupSpec"]))
        pods += [
            ("jobs" if group["groupName"] == "worker" else group["groupName"], group)
            for group in cluster["workerGroupSpecs"]
        ]
    assert {kind for kind, _ in pods} == set(kinds)
    for kind, group in pods:
        pod = group["template"]["spec"]
        assert {key: pod[key] for key in ("nodeSelector", "tolerations")} == places[kind]
        (container,) = pod["containers"]
        for amounts in container["resources"].values():
            assert amounts.get("nvidia.com/gpu", 0) == (kind == "denoiser")


def test_clusters_scale_with_the_second_autoscaler(documents: Documents) -> None:
    for kind, cluster in _clusters(documents):
        if cluster.get("enableInTreeAutoscaling"):
            assert cluster["autoscalerOptions"]["version"] == "v2", kind
    assert list(_clusters(documents))


def test_a_budget_lets_one_pod_of_a_kind_go(documents: Documents) -> None:
    for service in (d for d in documents if d["kind"] == "RayService"):
        study = service["metadata"]["labels"]["hedgecast.io/study"]
        budgets = {
            d["metadata"]["labels"]["app.kubernetes.io/component"]: d["spec"]["minAvailable"]
            for d in documents
            if d["kind"] == "PodDisruptionBudget"
            and d["metadata"]["labels"].get("hedgecast.io/study") == study
        }
        cluster = service["spec"]["rayClusterConfig"]
        least = {group["groupName"]: group["minReplicas"] - 1 for group in cluster["workerGroupSpecs"]}
        # A head whose state is in Redis comes back; another one's service would end.
        least["head"] = 0 if "gcsFaultToleranceOptions" in cluster else 1
        assert budgets == least


def _asked(group: dict[str, Any]) -> tuple[float, float]:
    """CPUs and MiB that a group's pods ask for."""
    units = {"": 1.0, "m": 1e-3, "Mi": 1.0, "Gi": 1024.0}
    amounts = [0.0, 0.0]
    for container in group["template"]["spec"]["containers"]:
        for place, name in enumerate(("cpu", "memory")):
            ((digits, unit),) = re.findall(r"^([\d.]+)(\w*)$", str(container["resources"]["requests"][name]))
            amounts[place] += group.get("replicas", 1) * float(digits) * units[unit]
    return amounts[0], amounts[1]


@pytest.mark.parametrize("job", ["train", "backtest", "distill", "generate"])
def test_a_laptop_has_room_for_what_it_serves_beside_a_job_or_an_upgrade(render: Render, job: str) -> None:
    places = {"contexts": "/rows", "output": "/sets"} if job == "generate" else {}
    documents = render({"jobs": {job: {"enabled": True, **places}}}, files=("laptop",)).documents
    said = (CHART / "values-laptop.yaml").read_text(encoding="utf-8")
    ((cpus, gib),) = re.findall(r"One node with (\d+) CPUs and (\d+) GiB", said)
    # What the pods of kind and of the operator ask for: 1.05 CPUs and 0.8 GiB.
    room = (float(cpus) - 1.1, (float(gib) - 1.0) * 1024)
    sizes = {}
    for kind, cluster in _clusters(documents):
        asked = [_asked(group) for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
        sizes[kind] = [sum(amounts) for amounts in zip(*asked, strict=True)]
    for beside in ("RayJob", "RayService"):
        for served, other, left in zip(sizes["RayService"], sizes[beside], room, strict=True):
            assert served + other <= left, sizes


def test_pods_have_the_time_to_hand_over(documents: Documents) -> None:
    (service, *_) = [document for document in documents if document["kind"] == "RayService"]
    groups = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert {group["groupName"] for group in groups} == _working(documents)
    (application,) = yaml.safe_load(service["spec"]["serveConfigV2"])["applications"]
    drains = {d["name"].lower(): d.get("graceful_shutdown_timeout_s", 20) for d in application["deployments"]}
    for group in groups:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        environment = {entry["name"]: entry["value"] for entry in container["env"]}
        moving = int(environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
        # Kubernetes counts the hook, too.
        hook = " ".join(container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", []))
        asleep = int(re.findall(r"sleep (\d+)", hook)[0]) if hook else 0
        assert pod["terminationGracePeriodSeconds"] > asleep + moving
        # Serve lets a replica on a marked node go on until its own time to stop is left.
        assert bool(hook) or moving > drains[group["groupName"]]


def test_secrets_are_only_named(documents: Documents) -> None:
    assert not [d for d in documents if d["kind"] == "Secret"]
    for node in (node for document in documents for node in _nodes(document)):
        for entry in node.get("env") or []:
            if re.search("TOKEN|PASSWORD|SECRET|KEY", entry["name"]):
                assert "value" not in entry, entry


def test_only_what_the_page_draws_may_flow(render: Render) -> None:
    drawn = {
        tuple(cell.strip().strip("`") for cell in line.strip("|").split("|")[:3])
        for line in DEPLOYMENT.read_text(encoding="utf-8").split("<!-- flows -->")[1].splitlines()
        if line.startswith("|") and not line.startswith(("|--", "| from"))
    }
    rendered = set(_flows(render(EVERYTHING).of_kind("NetworkPolicy")))
    assert rendered == drawn


def test_everything_is_denied_by_default(render: Render) -> None:
    default = render(EVERYTHING).one("NetworkPolicy", "-default")["spec"]
    assert default["podSelector"]["matchLabels"] == {
        "app.kubernetes.io/name": "hedgecast",
        "app.kubernetes.io/instance": "hc",
    }
    assert default["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in default


def _flows(policies: Documents) -> Iterator[tuple[str, str, str]]:
    """(from, to, ports) of each rule."""
    for policy in policies:
        here = _place({"podSelector": policy["spec"]["podSelector"]})
        for rule in policy["spec"].get("ingress") or []:
            for peer in rule.get("from", [{}]):
                yield _place(peer), here, _ports(rule)
        for rule in policy["spec"].get("egress") or []:
            for peer in rule.get("to", [{}]):
                yield here, _place(peer), _ports(rule)


def _ports(rule: dict[str, Any]) -> str:
    return ", ".join(str(port) for port in dict.fromkeys(p["port"] for p in rule.get("ports", []))) or "all"


def _place(peer: dict[str, Any]) -> str:
    if "ipBlock" in peer:
        return "networkPolicy.egress"
    if "namespaceSelector" in peer:
        return f"namespace {peer['namespaceSelector']['matchLabels']['kubernetes.io/metadata.name']}"
    if "podSelector" not in peer:
        return "anywhere"
    labels = peer["podSelector"].get("matchLabels")
    if labels is None:
        return "namespace of the release"
    cluster = "cluster of a job" if labels.get("hedgecast.io/workload", "serve") != "serve" else "cluster"
    component = labels.get("app.kubernetes.io/component")
    if component is None:
        return f"Ray {cluster}" if "hedgecast.io/workload" in labels else "every pod of the release"
    return f"{component} of a job" if component == "head" and "job" in cluster else str(component)
