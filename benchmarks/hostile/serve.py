"""The server under attack, in a process of its own: a real bundle, tokens, mutual TLS, small limits.

    python benchmarks/hostile/serve.py FOLDER

FOLDER holds certificates (ca.pem, server.pem, server.key); valid.bin, a request that is right, is
written there. One JSON line says where the server listens; it ends with its standard input.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from pathlib import Path

from hedgecast.rpc import codec
from hedgecast.rpc.v1.decision_service_pb2 import DecideRequest
from hedgecast.service.background import background_server
from hedgecast.service.bundles import local_model, warm_up, warm_up_context
from hedgecast.service.local import LocalBackend
from hedgecast.service.models import BundleReference
from hedgecast.service.settings import load_settings
from hedgecast.testing import TinyModel, make_tiny_model

TOKEN = "sesame"
MESSAGE_BYTES = 4 * 2**20
DEADLINE_SECONDS = 3.0


def main() -> None:
    """Serve until the end of standard input."""
    folder = Path(sys.argv[1])
    (folder / "model").mkdir()
    with contextlib.redirect_stdout(sys.stderr):
        # The exporter prints; standard output has one line, ours.
        tiny = make_tiny_model(folder / "model")
    local = local_model(BundleReference(folder=tiny.bundle.folder))
    context = warm_up_context(local.model)
    warm_up(local.model, context, local.draw(context, 16, 0))
    backend = LocalBackend([local])
    (folder / "valid.bin").write_bytes(_valid(tiny).SerializeToString())
    limits = {
        "port": 0,
        "max_message_bytes": MESSAGE_BYTES,
        "max_scenarios": 1000,
        "max_input_entries": 20_000,
        "default_deadline_seconds": DEADLINE_SECONDS,
        "handshake_seconds": 2.0,
        "drain_seconds": 2.0,
        "audit_bytes": 2**20,
        "audit_files": 2,
    }
    plain = load_settings(
        **limits,
        tokens=f"attacker {hashlib.sha256(TOKEN.encode()).hexdigest()}",
        audit_file=folder / "audit.jsonl",
        metrics_port=0,
    )
    secure = load_settings(
        **limits,
        tls_certificate=folder / "server.pem",
        tls_key=folder / "server.key",
        tls_client_ca=folder / "ca.pem",
    )
    with background_server(backend, plain) as address, background_server(backend, secure) as secured:
        print(json.dumps({"plain": address, "secure": secured}), flush=True)
        sys.stdin.read()
    backend.close()


def _valid(tiny: TinyModel) -> DecideRequest:
    history, known = tiny.day_rows()
    return DecideRequest(
        model="tiny",
        history=codec.encode_rows(history),
        known=codec.encode_rows(known),
        scenario_count=3,
        seed=5,
        request_id="valid",
    )


if __name__ == "__main__":
    main()
