"""The client needs numpy and grpc, nothing heavy, and none of it is loaded on the side."""

from __future__ import annotations

import subprocess
import sys

HEAVY = (
    "torch",
    "cvxpy",
    "pandas",
    "pyarrow",
    "ray",
    "mlflow",
    "scipy",
    "onnxruntime",
    "pydantic",
    "matplotlib",
)


def test_importing_the_client_loads_nothing_heavy() -> None:
    code = f"""
import sys
import hedgecast, hedgecast.client, hedgecast.core.errors, hedgecast.rpc.codec
hedgecast.Client
print(",".join(name for name in {HEAVY!r} if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_importing_the_server_loads_no_solver() -> None:
    code = "import sys, hedgecast.service.server; print('torch' in sys.modules, 'cvxpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
