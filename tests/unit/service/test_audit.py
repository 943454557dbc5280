"""The audit log: what it holds, what it never holds, and that no call waits for it."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import threading
from pathlib import Path

import grpc
import pytest

from hedgecast.client import Client
from hedgecast.core import errors
from hedgecast.rpc import codec
from hedgecast.rpc.codec import NamedRows
from hedgecast.rpc.v1 import decision_service_pb2 as decision_pb
from hedgecast.rpc.v1 import decision_service_pb2_grpc as decision_grpc
from hedgecast.service.audit import AuditLog
from hedgecast.service.background import background_server
from hedgecast.service.calls import Call
from hedgecast.service.local import LocalBackend
from hedgecast.service.settings import load_settings


def _lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _ended(number: int) -> Call:
    return Call(method="Decide", service="s", request_id=str(number), incident="i")


def _log(path: Path, **changes: object) -> AuditLog:
    options: dict[str, object] = {"max_bytes": 2**20, "max_files": 3, "on_drop": lambda: None, **changes}
    return AuditLog(path, **options)  # type: ignore[arg-type]


def test_a_server_writes_who_what_and_the_outcome_and_no_payload(
    local_backend: LocalBackend, rows: NamedRows, tmp_path: Path
) -> None:
    path = tmp_path / "audit.jsonl"
    tokens = f"planner {hashlib.sha256(b'sesame').hexdigest()}"
    settings = load_settings(port=0, audit_file=path, tokens=tokens)
    with background_server(local_backend, settings) as address:
        ask = {"history": rows.columns, "history_times": rows.times}
        with Client(address, token="sesame", retries=0) as client:
            answer = client.decide("last_day", **ask, scenario_count=50, gap_replications=0, request_id="one")
            with pytest.raises(errors.ModelNotFoundError):
                client.decide("no_model", **ask, request_id="two")
        with Client(address, token="wrong", retries=0) as client, pytest.raises(errors.UnauthenticatedError):
            client.models()
    good, missing, stranger = _lines(path)
    assert (good["principal"], good["method"], good["outcome"]) == ("planner", "Decide", "OK")
    assert (good["model"], good["request_id"], good["scenario_count"]) == ("last_day@3", "one", 50)
    assert good["fingerprint"] == answer.scenario_fingerprint
    assert good["model_fingerprint"] == "f" * 64
    assert 0.0 < float(str(good["duration_seconds"])) < 60.0
    assert (missing["outcome"], missing["reason"], missing["model"]) == (
        "NOT_FOUND",
        "MODEL_NOT_FOUND",
        "no_model",
    )
    assert (stranger["principal"], stranger["outcome"]) == ("", "UNAUTHENTICATED")
    text = path.read_text()
    assert "sesame" not in text
    assert "wrong" not in text
    assert "load" not in text, "no column of the request"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_every_answer_of_a_stream_has_its_line(
    local_backend: LocalBackend, rows: NamedRows, tmp_path: Path
) -> None:
    path, table = tmp_path / "audit.jsonl", tmp_path / "access.toml"
    table.write_text('[default]\nmodels = ["last_day", "no_model"]\n')

    def request(name: str, model: str) -> decision_pb.DecideStreamRequest:
        question = {
            "model": model,
            "scenario_count": 20,
            "gap_replication_count": 0,
            "request_id": f"q{model}",
        }
        history = codec.encode_rows(rows)
        return decision_pb.DecideStreamRequest(
            correlation_id=name,
            request=decision_pb.DecideRequest(history=history, **question),  # type: ignore[arg-type]
        )

    # One id for two requests must not hide what one of them asked for.
    requests = [
        request("a", "last_day"),
        request("a", "secret"),
        request("b", "no_model"),
        request("l" * 999, "last_day"),
        decision_pb.DecideStreamRequest(correlation_id="c"),
    ]
    settings = load_settings(port=0, audit_file=path, access_file=table)
    with background_server(local_backend, settings) as address, grpc.insecure_channel(address) as channel:
        stub = decision_grpc.DecisionServiceStub(channel)
        metadata = (("x-request-id", "the-call"),)
        answers = list(stub.DecideStream(iter(requests), timeout=60, metadata=metadata))
    *lines, last = _lines(path)
    assert (last["event"], last["outcome"], last["answer_count"]) == ("call", "OK", len(requests))
    told = {(line["correlation_id"], line["model"], line["outcome"], line["reason"]) for line in lines}
    assert told == {
        ("a", "last_day@3", "OK", ""),
        ("a", "secret", "PERMISSION_DENIED", "PERMISSION_DENIED"),
        ("b", "no_model", "NOT_FOUND", "MODEL_NOT_FOUND"),
        ("l" * 64, "last_day", "INVALID_ARGUMENT", "INVALID_INPUT"),
        ("c", "", "INVALID_ARGUMENT", "INVALID_INPUT"),
    }
    assert all(
        (line["event"], line["method"], line["principal"], line["request_id"])
        == ("stream_answer", "DecideStream", "anonymous", "the-call")
        for line in lines
    )
    assert [line["incident"] for line in lines] == [answer.error.incident_id for answer in answers]
    (decided,) = [answer.response for answer in answers if answer.HasField("response")]
    (good,) = [line for line in lines if line["outcome"] == "OK"]
    assert (good["model_fingerprint"], good["fingerprint"]) == ("f" * 64, decided.scenario_fingerprint)
    total = codec.decode_duration(decided.durations.total_duration)
    assert good["duration_seconds"] == pytest.approx(total, abs=1e-6)
    assert {line["duration_seconds"] for line in lines if line is not good} == {None}
    assert "load" not in path.read_text(), "no column of a request"


def test_full_files_are_put_aside_and_old_ones_go(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    written = _log(path, max_bytes=4096, max_files=2)
    for number in range(100):
        written.ended(_ended(number))
    written.close()
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2"]
    assert all((tmp_path / name).stat().st_size <= 4096 for name in names)
    kept = [line["request_id"] for name in reversed(names) for line in _lines(tmp_path / name)]
    assert kept == [str(number) for number in range(100 - len(kept), 100)], "the last ones, in order"


def test_it_goes_on_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    for number in range(2):
        written = _log(path)
        written.ended(_ended(number))
        written.close()
    assert [line["request_id"] for line in _lines(path)] == ["0", "1"]


def test_nobody_waits_for_a_disk_that_hangs_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    """A pipe that nobody empties blocks its writer, as a network disk that hangs does."""
    pipe = tmp_path / "audit.jsonl"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    dropped: list[int] = []
    written = _log(pipe, queue_length=16, on_drop=lambda: dropped.append(1), max_bytes=2**40)
    for number in range(2000):
        written.ended(_ended(number))
    assert len(dropped) > 1000, "the pipe holds 64 KiB, the queue 16 records: the rest was not waited for"
    os.set_blocking(reader, True)
    held: list[bytes] = []

    def empty() -> None:
        with os.fdopen(reader, "rb") as file:
            held.append(file.read())

    thread = threading.Thread(target=empty)
    thread.start()
    written.ended(_ended(2000))
    written.close()
    thread.join()
    lines = [json.loads(line) for line in held[0].splitlines()]
    calls = [line for line in lines if line["event"] == "call"]
    left_out = sum(line["count"] for line in lines if line["event"] == "records_left_out")
    assert left_out in (len(dropped), len(dropped) - 1), "told with the next line that is written"
    assert len(calls) + len(dropped) == 2001


def test_a_file_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigError, match=r"audit_file .* cannot be written: No such file"):
        _log(tmp_path / "no folder" / "audit.jsonl")


def test_calls_from_several_threads_are_all_there(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    written = _log(path)
    threads = [
        threading.Thread(target=lambda start=start: [written.ended(_ended(start + i)) for i in range(100)])
        for start in range(0, 400, 100)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    written.close()
    assert sorted(int(str(line["request_id"])) for line in _lines(path)) == list(range(400))
