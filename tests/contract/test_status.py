"""Every error of ours has its status, and nothing else leaves the server."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import TypeVar

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from google.rpc.status_pb2 import Status

from hedgecast.core import errors
from hedgecast.service.status import RULES, status_of

T = TypeVar("T", bound=Message)


def _tree(cls: type[errors.HedgecastError]) -> Iterator[type[errors.HedgecastError]]:
    yield cls
    for child in cls.__subclasses__():
        yield from _tree(child)


CLASSES = [cls for cls in _tree(errors.HedgecastError) if cls.__module__ == errors.__name__]


def _status(error: BaseException) -> Status:
    return status_of(error, incident="abc", retry_delay_seconds=0.5)


def _detail(status: Status, kind: type[T]) -> T | None:
    for detail in status.details:
        if detail.Is(kind.DESCRIPTOR):
            found = kind()
            detail.Unpack(found)
            return found
    return None


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_class_is_mapped_by_itself(cls: type[errors.HedgecastError]) -> None:
    assert cls in RULES, f"add {cls.__name__} to the table in hedgecast/service/status.py"


def test_the_table_holds_only_classes_that_exist() -> None:
    assert set(RULES) == set(CLASSES)


def test_reasons_are_unique_so_that_the_client_finds_the_class() -> None:
    assert len({cls.reason for cls in CLASSES}) == len(CLASSES)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_only_public_messages_leave(cls: type[errors.HedgecastError]) -> None:
    status = _status(cls("/srv/secret is wrong", field="history.columns[0]", folder="/srv/secret"))
    rule = RULES[cls]
    assert status.code == rule.code.value[0]
    info = _detail(status, error_details_pb2.ErrorInfo)
    assert info is not None
    assert info.domain == "hedgecast"
    assert info.metadata["incident"] == "abc"
    bad = _detail(status, error_details_pb2.BadRequest)
    if rule.public:
        assert info.reason == cls.reason
        assert status.message == "<path> is wrong"
        assert bad is not None
        assert bad.field_violations[0].field == "history.columns[0]"
    else:
        assert status.code == grpc.StatusCode.INTERNAL.value[0]
        assert bad is None
    assert "secret" not in str(status)
    assert (_detail(status, error_details_pb2.RetryInfo) is not None) == rule.retry


@pytest.mark.parametrize("error", [ValueError("/srv/secret"), KeyError("secret"), MemoryError("secret")])
def test_an_unexpected_error_sends_an_id_only(error: Exception) -> None:
    status = _status(error)
    assert status.code == grpc.StatusCode.INTERNAL.value[0]
    assert "secret" not in str(status)
    assert "abc" in status.message


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_no_stack_trace_and_no_path_leaves(cls: type[errors.HedgecastError]) -> None:
    try:
        raise ValueError("inner")
    except ValueError:
        trace = traceback.format_exc()
    status = _status(cls(f"reading '/etc/hedgecast/tokens:3' failed\n{trace}", where=f"({__file__})"))
    sent = status.SerializeToString().decode("utf-8", "replace")
    assert "Traceback" not in sent
    assert "inner" not in sent
    assert "/etc" not in sent
    assert __file__ not in sent


@pytest.mark.parametrize(
    "text", ["price is 3 EUR/MWh", "n/a", "rows / columns", "https://arxiv.org/abs/2206.00364", "a 1/2/3 b"]
)
def test_what_only_looks_like_a_path_stays(text: str) -> None:
    assert _status(errors.DataError(text)).message == text


def test_an_error_says_itself_how_long_to_wait() -> None:
    retry = _detail(_status(errors.RateLimitedError("x", retry_seconds=2.25)), error_details_pb2.RetryInfo)
    assert retry is not None
    assert (retry.retry_delay.seconds, retry.retry_delay.nanos) == (2, 250_000_000)
    never = _status(errors.RateLimitedError("x", retry_seconds=float("inf")))
    assert _detail(never, error_details_pb2.RetryInfo) is None


def test_a_subclass_elsewhere_goes_out_as_its_parent() -> None:
    class TooMany(errors.OverloadedError):
        reason = "TOO_MANY"

    status = _status(TooMany("queue is full"))
    info = _detail(status, error_details_pb2.ErrorInfo)
    assert status.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert info is not None
    assert info.reason == "TOO_MANY"


def test_a_status_fits_into_the_headers() -> None:
    facts = {f"fact_{i}": "x" * 5000 for i in range(50)}
    status = _status(errors.DataError("y" * 100_000, field="z" * 5000, **facts))
    # The message travels once more beside the status.
    assert status.ByteSize() + len(status.message) < 8192
