"""Log lines: one JSON object each, with the request's id, whatever the message holds."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import textwrap

import pytest

from hedgecast.client import Client
from hedgecast.core.errors import DataError
from hedgecast.rpc.codec import NamedRows
from hedgecast.service.background import background_server
from hedgecast.service.local import LocalBackend
from hedgecast.service.logs import REQUEST_ID, JsonFormatter
from hedgecast.service.settings import load_settings


def _record(message: str, **extra: object) -> logging.LogRecord:
    record = logging.makeLogRecord({"name": "hedgecast.x", "levelname": "INFO", "msg": message})
    vars(record).update(extra)
    return record


def test_a_line_is_one_object_and_nothing_forges_another() -> None:
    line = JsonFormatter().format(_record('x\n{"level": "ERROR"}\u2028y', code="OK"))
    assert "\n" not in line
    assert line.isascii()
    read = json.loads(line)
    assert read["message"].startswith("x\n")
    assert (read["level"], read["logger"], read["code"]) == ("INFO", "hedgecast.x", "OK")
    assert read["time"].endswith("+00:00")
    assert "request_id" not in read


def test_an_exception_stays_on_its_line() -> None:
    try:
        raise ValueError("inner")
    except ValueError:
        record = _record("failed", exc_info=sys.exc_info())
    line = JsonFormatter().format(record)
    assert "\n" not in line
    assert "ValueError: inner" in json.loads(line)["exception"]


def test_lines_of_a_call_carry_its_id(
    local_backend: LocalBackend, rows: NamedRows, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[tuple[str, str]] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append((record.name, REQUEST_ID.get()))

    caplog.set_level(logging.INFO, "hedgecast")
    handler = Keep()
    logging.getLogger("hedgecast").addHandler(handler)
    try:
        with background_server(local_backend, load_settings(port=0)) as address, Client(address) as client:
            client.decide("last_day", history=rows.columns, history_times=rows.times, request_id="mine")
            with pytest.raises(DataError):
                client.decide(
                    "last_day",
                    history={"x": rows.columns["load"]},
                    history_times=rows.times,
                    request_id="refused",
                )
            with pytest.raises(DataError):
                list(client.decide_until_certified("last_day", target_gap=1.0, request_id="staged"))
    finally:
        logging.getLogger("hedgecast").removeHandler(handler)
    ended = [record for record in caplog.records if record.name == "hedgecast.service.calls"]
    assert [(record.request_id, record.code, record.model) for record in ended] == [
        ("mine", "OK", "last_day@3"),
        ("refused", "INVALID_ARGUMENT", "last_day"),
        ("staged", "INVALID_ARGUMENT", "last_day"),
    ]
    refused = [request_id for name, request_id in seen if name == "hedgecast.service.interceptors"]
    assert refused == ["refused", "staged"]
    assert not any(name == "hedgecast.service.calls" and not request_id for name, request_id in seen)


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_process_writes_them_to_standard_error_once(form: str) -> None:
    program = f"""
        import logging
        from hedgecast.service.logs import configure_logs
        from hedgecast.service.settings import load_settings
        for _ in range(2):
            configure_logs(load_settings(log_format={form!r}))
        logging.getLogger("hedgecast.test").info("said %d", 1)
        logging.getLogger("other").info("not ours")
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True
    )
    (line,) = run.stderr.splitlines()
    assert (json.loads(line)["message"] if form == "json" else line).endswith("said 1")
