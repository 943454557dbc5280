"""The generated code equals protos/, and the protos keep the house rules."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from google.protobuf.descriptor import FieldDescriptor

from hedgecast.rpc.v1 import (
    decision_service_pb2,
    model_service_pb2,
    risk_pb2,
    rows_pb2,
    scenario_service_pb2,
    tensor_pb2,
)

ROOT = Path(__file__).resolve().parents[2]
FILES = (decision_service_pb2, model_service_pb2, risk_pb2, rows_pb2, scenario_service_pb2, tensor_pb2)


def _run(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT / "protos", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_generated_code_is_that_of_the_protos() -> None:
    _run(sys.executable, str(ROOT / "deploy" / "generate_protos.py"), "--check")


def test_buf_finds_nothing() -> None:
    buf = str(Path(sys.executable).parent / "buf")
    _run(buf, "lint")
    _run(buf, "format", "--diff", "--exit-code")


def _fields() -> list[FieldDescriptor]:
    stack = [message for file in FILES for message in file.DESCRIPTOR.message_types_by_name.values()]
    fields = []
    while stack:
        message = stack.pop()
        fields.extend(message.fields)
        stack.extend(message.nested_types)
    return fields


def test_names_follow_the_aips() -> None:
    unsigned = (
        FieldDescriptor.CPPTYPE_UINT32,
        FieldDescriptor.CPPTYPE_UINT64,
    )
    for field in _fields():
        where = f"{field.containing_type.full_name}.{field.name}"
        assert field.cpp_type not in unsigned, f"{where}: no unsigned integers (AIP-141)"
        assert not field.name.startswith("num_"), f"{where}: counts end in _count (AIP-141)"
        message = field.message_type.full_name if field.message_type else ""
        if field.name.endswith(("_time", "_times")):
            assert message == "google.protobuf.Timestamp", f"{where}: AIP-142"
        if field.name.endswith("_duration"):
            assert message == "google.protobuf.Duration", f"{where}: AIP-142"
