"""What `helm install` says: everything that it waits for, and commands for this release."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Render = Callable[..., Any]
NAMESPACE = "planning"
# Which values ask for each secret; all at once.
MORE: dict[str, Any] = {
    "redis": {"enabled": True, "address": "redis:6379", "secretName": "redis", "secretKey": "word"},
    "registry": {
        "mode": "server",
        "server": {"databaseSecretName": "db", "artifacts": "s3://models/a", "s3SecretName": "s3"},
    },
}
LESS: dict[str, Any] = {
    "gateway": {"tls": {"enabled": False}, "allowInsecure": True, "tokens": {"enabled": False}},
    "rayAuth": {"enabled": False},
    "test": {"enabled": False},
}
# Nothing to make, with all that may ask for a secret on.
NONE: dict[str, Any] = {
    "gateway": {
        "tls": {"mutual": False, "certManager": {"enabled": True, "issuerName": "ca"}},
        "tokens": {"enabled": False},
    },
    "rayAuth": {"enabled": False},
    "redis": {"enabled": True, "address": "redis:6379"},
    "registry": {"mode": "server"},
    "test": {"enabled": False},
}


def _notes(helm: Path, chart: Path, values: dict[str, Any], name: str, folder: Path) -> str:
    """What an installation would print; no cluster is asked."""
    file = folder / "values.json"
    file.write_text(json.dumps(values), encoding="utf-8")
    named = ["-f", str(chart / f"values-{name}.yaml")] if name else []
    command = [str(helm), "install", "hc", str(chart), "--namespace", NAMESPACE, "--dry-run=client", *named]
    result = subprocess.run([*command, "-f", str(file)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.partition("\nNOTES:\n")[2]


def _secrets(node: Any) -> Iterator[str]:
    """Names of the secrets that documents refer to."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("secretKeyRef", "secretRef"):
                yield value["name"]
            elif key == "secretName":
                yield value
            else:
                yield from _secrets(value)
    elif isinstance(node, list):
        for value in node:
            yield from _secrets(value)


@pytest.mark.parametrize(
    ("name", "values"),
    [("", {}), ("laptop", {}), ("production-gpu", {}), ("tenants", {}), ("", MORE), ("", LESS), ("", NONE)],
    ids=["defaults", "laptop", "production-gpu", "tenants", "more", "less", "none"],
)
def test_every_secret_is_made_by_a_command(
    helm: Path, chart: Path, render: Render, tmp_path: Path, name: str, values: dict[str, Any]
) -> None:
    notes = _notes(helm, chart, values, name, tmp_path)
    documents = render(values, files=(name,) if name else ()).documents
    # cert-manager writes those of its certificates.
    written = {d["spec"]["secretName"] for d in documents if d["kind"] == "Certificate"}
    made = re.findall(rf"kubectl -n {NAMESPACE} create secret generic (\S+) --from", notes)
    assert sorted(made) == sorted(set(_secrets(documents)) - written)
    assert bool(made) == ("pods wait" in notes) == (values not in (LESS, NONE))
    for line in re.findall(r"^ +(?:kubectl|helm) .*", notes, re.MULTILINE):
        assert f" -n {NAMESPACE} " in line
    for service in (d for d in documents if d["kind"] == "RayService"):
        assert f"port-forward svc/{service['metadata']['name']}-gateway 50051" in notes


def test_it_warns_of_what_will_not_work(helm: Path, chart: Path, tmp_path: Path) -> None:
    said = _notes(helm, chart, {}, "", tmp_path)
    assert "networkPolicy.egress must let it" in said
    assert "WARNING" not in said
    open_egress = {"networkPolicy": {"egress": [{"cidr": "0.0.0.0/0", "ports": [443]}]}}
    assert "networkPolicy.egress" not in _notes(helm, chart, open_egress, "", tmp_path)
    said = _notes(helm, chart, LESS, "", tmp_path)
    assert "WARNING: gateways serve without TLS." in said
    assert "WARNING: Ray's ports take calls without a token" in said
