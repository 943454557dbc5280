"""What the chart refuses, and that it says why and what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

STUDY = {"name": "grid", "model": "german_grid@champion"}


def _studies(*studies: dict[str, Any]) -> dict[str, Any]:
    return {"studies": list(studies)}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        # Unknown keys, at every depth.
        ({"gatway": {}}, "gatway"),
        ({"gateway": {"replica": 2}}, "replica"),
        ({"gateway": {"settings": {"maxScenario": 1}}}, "maxScenario"),
        ({"gateway": {"tls": {"certManager": {"issuer": "x"}}}}, "issuer"),
        ({"image": {"digest": "x"}}, "digest"),
        (_studies({**STUDY, "modle": "x"}), "modle"),
        (_studies({**STUDY, "solver": {"replica": 1}}), "replica"),
        ({"solver": {"resources": {"limits": None}}}, "limits"),
        ({"head": {"tolerations": [{"kye": "gpu"}]}}, "kye"),
        # Wrong types and values.
        ({"gateway": {"replicas": "two"}}, "replicas"),
        ({"gateway": {"replicas": 0}}, "replicas"),
        ({"gateway": {"port": 70000}}, "port"),
        ({"gateway": {"settings": {"retryDelaySeconds": 0}}}, "retryDelaySeconds"),
        ({"gateway": {"settings": {"maxScenarios": 1.5}}}, "maxScenarios"),
        ({"denoiser": {"accelerator": "tpu"}}, "accelerator"),
        ({"serve": {"upgradeStrategy": "Recreate"}}, "upgradeStrategy"),
        ({"registry": {"mode": "external", "externalUrl": "mlflow.example.com"}}, "externalUrl"),
        ({"retraining": {"schedule": "weekly"}}, "schedule"),
        ({"solver": {"resources": {"limits": {"memory": None}}}}, "memory"),
        ({"labels": {"team": 3}}, "labels"),
        (_studies(), "studies"),
        (_studies({"name": "grid"}), "model"),
        (_studies({**STUDY, "name": "Grid"}), "name"),
        (_studies({**STUDY, "model": "grid; rm"}), "model"),
        # An image that changes under a running release.
        ({"image": {"tag": "latest"}}, "tag"),
        ({"registry": {"server": {"tag": "latest"}}}, "tag"),
        # Values that do not go together.
        ({"gateway": {"tls": {"enabled": False}}}, "set gateway.allowInsecure"),
        (
            {"gateway": {"tls": {"enabled": False}, "allowInsecure": True, "service": {"type": "NodePort"}}},
            "NodePort without TLS",
        ),
        ({"gateway": {"service": {"type": "LoadBalancer"}}}, "loadBalancerSourceRanges"),
        ({"gateway": {"outcomes": {"enabled": True}}}, "set serve.upgradeStrategy None"),
        ({"denoiser": {"apart": False, "accelerator": "gpu"}}, "give denoisers pods of their own"),
        (
            {"gateway": {"outcomes": {"enabled": True}}, "serve": {"upgradeStrategy": "None"}},
            "set gateway.replicas to 1",
        ),
        ({"gateway": {"settings": {"canaryShare": 0.1}}}, "turn gateway.outcomes.enabled on"),
        (_studies({**STUDY, "canary": "german_grid"}), "canary"),
        (_studies({**STUDY, "canary": "german_grid@7"}), "gateway.settings.canaryShare"),
        (
            {
                **_studies({**STUDY, "canary": "other@7"}),
                "gateway": {
                    "outcomes": {"enabled": True},
                    "replicas": 1,
                    "settings": {"canaryShare": 0.1},
                },
                "serve": {"upgradeStrategy": "None"},
            },
            "canary other@7 must be another version of model german_grid@champion",
        ),
        (
            {
                "gateway": {
                    "service": {"type": "NodePort"},
                    "tokens": {"enabled": False},
                    "tls": {"mutual": False},
                }
            },
            "lets anybody in",
        ),
        ({"gateway": {"service": {"type": "NodePort", "headless": True}}}, "headless goes with"),
        ({"gateway": {"tls": {"certManager": {"enabled": True}}}}, "issuerName"),
        ({"gateway": {"healthPort": 50051}}, "must differ"),
        ({"monitoring": {"port": 50052}}, "must differ"),
        ({"rayAuth": {"enabled": False}, "networkPolicy": {"enabled": False}}, "can run code"),
        ({"redis": {"enabled": True}}, "redis.address"),
        ({"registry": {"mode": "external"}}, "registry.externalUrl"),
        ({"storage": {"enabled": False}}, "keeps models on the volume"),
        ({"serve": {"clusterDeletionDelaySeconds": 10}}, "would be cut off"),
        ({"jobs": {"generate": {"enabled": True}}}, "jobs.generate.contexts"),
        ({"monitoring": {"podMonitor": True, "serviceMonitor": True}}, "take one"),
        ({"monitoring": {"podMonitor": True, "enabled": False}}, "would find no metrics"),
        ({"denoiser": {"replicas": 5}}, "denoiser.maxReplicas 4 is less than replicas 5"),
        (_studies(STUDY, STUDY), "two have one name"),
        (_studies({**STUDY, "study": "german_grid", "file": "x = 1"}), "not both"),
        (_studies({**STUDY, "program": "x"}), "give file too"),
        ({**_studies(STUDY), "retraining": {"enabled": True}}, "jobs need study"),
        ({"fullnameOverride": "a-name-that-is-much-too-long-for-ray"}, "at most 47 characters"),
        ({"fullnameOverride": "4u"}, "begin with a letter"),
    ],
)
def test_what_is_refused(render: Callable[..., Any], values: dict[str, Any], message: str) -> None:
    rendered = render(values)
    assert rendered.returncode != 0, "it was taken"
    lines = [line for line in rendered.error.splitlines() if line.strip()]
    assert message in rendered.error, rendered.error
    assert len(lines) < 12, rendered.error
