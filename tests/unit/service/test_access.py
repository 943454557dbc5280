"""Rights, rates and quotas by principal: the table, the books, and a real server that holds to them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from hedgecast.client import Client
from hedgecast.core import errors
from hedgecast.rpc import codec
from hedgecast.rpc.codec import NamedRows
from hedgecast.rpc.v1 import decision_service_pb2 as decision_pb
from hedgecast.rpc.v1 import decision_service_pb2_grpc as decision_grpc
from hedgecast.service.access import AccessBook, AccessTable, Grant
from hedgecast.service.background import background_server
from hedgecast.service.calls import Asked
from hedgecast.service.local import LocalBackend
from hedgecast.service.requests import certify_terms, decide_query
from hedgecast.service.settings import ServiceSettings, load_settings

TABLE = """
[principals.planner]
methods = ["Decide", "*Models"]
models = ["last_*@champion", "other"]

[principals.busy]
requests_per_second = 0.5
request_burst = 2

[principals.large]
scenarios_per_minute = 300.0

[default]
methods = ["ListModels"]
"""


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "access.toml"
    path.write_text(text)
    return path


def _table(tmp_path: Path, text: str = TABLE) -> AccessTable:
    return AccessTable.read(_file(tmp_path, text))


@pytest.mark.parametrize(
    ("reference", "allowed"),
    [
        ("last_day@champion", True),
        ("last_day@3", False),
        ("last_day", False),
        ("other", True),
        ("other@7", True),
        ("Other", False),
        ("others", False),
    ],
)
def test_model_patterns(tmp_path: Path, reference: str, allowed: bool) -> None:
    assert _table(tmp_path).grant("planner").allows_model(reference) is allowed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[principals.a]\nmethod = ['Decide']\n", r"principals\.a\.method"),
        ("[principals.a]\nrequests_per_second = 0\n", "greater than 0"),
        ("[principals.a\n", "no TOML"),
        ("[principal.a]\n", "principal"),
    ],
)
def test_a_bad_file_is_refused_with_its_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(errors.ConfigError, match=message):
        _table(tmp_path, text)


def test_without_a_default_the_unlisted_may_nothing() -> None:
    book = AccessBook(lambda: AccessTable(principals={"a": Grant()}))
    with pytest.raises(errors.PermissionDeniedError), book.call("b", "Decide"):
        pass


def test_accounts_are_apart_and_a_new_grant_begins_afresh() -> None:
    clock = Clock()
    tables = [AccessTable(principals={name: Grant(requests_per_second=1, request_burst=1) for name in "ab"})]
    book = AccessBook(lambda: tables[-1], clock)
    book.charge("a", [], 0)
    with pytest.raises(errors.RateLimitedError) as caught:
        book.charge("a", [], 0)
    assert caught.value.facts["retry_seconds"] == 1.0
    book.charge("b", [], 0)
    tables.append(AccessTable(principals={"a": Grant(requests_per_second=1, request_burst=2)}))
    book.charge("a", [], 0)
    book.charge("a", [], 0)


def test_unlisted_principals_share_one_account() -> None:
    """Names made up at will, in certificates say, are not a way round the default's rate."""
    book = AccessBook(
        lambda: AccessTable(default=Grant(requests_per_second=1, request_burst=3)), clock=Clock()
    )
    for number in range(3):
        book.charge(f"somebody {number}", [], 0)
    with pytest.raises(errors.RateLimitedError):
        book.charge("somebody else", [], 0)


def test_places_are_given_back() -> None:
    book = AccessBook(lambda: AccessTable(default=Grant(max_concurrent_requests=1)))
    for _ in range(3):
        with book.call("a", "Decide"), pytest.raises(errors.OverloadedError), book.call("a", "Decide"):
            pass
    with pytest.raises(ValueError, match="inner"), book.call("a", "Decide"):
        raise ValueError("inner")
    with book.call("a", "Decide"):
        pass


def _settings(tmp_path: Path) -> ServiceSettings:
    names = ("planner", "busy", "large", "unlisted")
    lines = "\n".join(f"{name} {hashlib.sha256(f'{name}-token'.encode()).hexdigest()}" for name in names)
    return load_settings(port=0, tokens=lines, access_file=_file(tmp_path, TABLE), reload_seconds=0.0)


def _request(
    rows: NamedRows, model: str = "last_day@champion", **fields: object
) -> decision_pb.DecideRequest:
    return decision_pb.DecideRequest(model=model, history=codec.encode_rows(rows), **fields)


def _retry(error: grpc.RpcError) -> float | None:
    for detail in rpc_status.from_call(error).details:
        if detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            found = error_details_pb2.RetryInfo()
            detail.Unpack(found)
            return codec.decode_duration(found.retry_delay)
    return None


def test_a_server_holds_its_callers_to_the_table(
    local_backend: LocalBackend, rows: NamedRows, tmp_path: Path
) -> None:
    settings = _settings(tmp_path)

    def client(name: str) -> Client:
        return Client(address, token=f"{name}-token", retries=0)

    with background_server(local_backend, settings) as address:
        ask = {"history": rows.columns, "history_times": rows.times}
        with client("planner") as planner:
            assert planner.decide("last_day@champion", **ask).model == "last_day@3"
            with pytest.raises(errors.PermissionDeniedError, match="may not use model 'last_day@2'"):
                planner.decide("last_day@2", **ask)
            with pytest.raises(errors.PermissionDeniedError, match="may not call GetModel"):
                planner.model("last_day@champion")
        with client("unlisted") as unlisted:
            assert unlisted.models()
            with pytest.raises(errors.PermissionDeniedError, match="may not call Decide"):
                unlisted.decide("last_day@champion", **ask)


@pytest.mark.parametrize(
    ("fields", "max_scenarios", "charged"),
    [
        ({"scenario_count": 100}, 600, 600),
        ({"scenario_count": 100}, 599, 100),
        ({"scenario_count": 100, "gap_replication_count": 2}, 599, 300),
        ({}, 1200, 1200),
        ({}, 150, 150),
    ],
)
def test_charged_is_what_is_drawn_below_the_default_limit(
    rows: NamedRows, fields: dict[str, int], max_scenarios: int, charged: int
) -> None:
    request = _request(rows, **fields)
    assert Asked.of(request, max_scenarios).scenarios == charged
    query = decide_query(request, ServiceSettings(max_scenarios=max_scenarios), deadline_seconds=10.0)
    assert query.draw_count == charged


def test_a_certified_decision_is_charged_with_what_it_may_draw(rows: NamedRows) -> None:
    for max_scenarios, charged in ((10_000, 10_000), (150, 1_500)):
        message = decision_pb.DecideUntilCertifiedRequest(request=_request(rows), target_gap=1.0)
        assert Asked.of(message, max_scenarios).scenarios == charged
        settings = ServiceSettings(max_scenarios=max_scenarios)
        assert certify_terms(message, settings, deadline_seconds=10.0)[1].draw_limit == charged


def test_rate_and_quota_come_with_their_delay(
    local_backend: LocalBackend, rows: NamedRows, tmp_path: Path
) -> None:
    with (
        background_server(local_backend, _settings(tmp_path)) as address,
        grpc.insecure_channel(address) as channel,
    ):
        stub = decision_grpc.DecisionServiceStub(channel)

        def decide(name: str, **fields: object) -> object:
            metadata = (("authorization", f"Bearer {name}-token"),)
            return stub.Decide(_request(rows, **fields), metadata=metadata, timeout=20)

        for _ in range(2):
            decide("busy", validate_only=True)
        with pytest.raises(grpc.RpcError) as caught:
            decide("busy", validate_only=True)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert 0.5 < _retry(caught.value) <= 2.0
        decide("large", scenario_count=100, gap_replication_count=0)
        decide("large", gap_replication_count=0)
        with pytest.raises(grpc.RpcError, match="too many scenarios a minute") as caught:
            decide("large", scenario_count=100, gap_replication_count=0)
        assert 10.0 < _retry(caught.value) <= 20.0
        decide("large", validate_only=True, scenario_count=100)
        with pytest.raises(grpc.RpcError, match="never granted") as caught:
            decide("large", scenario_count=301, gap_replication_count=0)
        assert _retry(caught.value) is None


def test_a_changed_table_counts_without_a_restart(local_backend: LocalBackend, tmp_path: Path) -> None:
    settings = _settings(tmp_path)
    with (
        background_server(local_backend, settings) as address,
        Client(address, token="unlisted-token", retries=0) as client,
    ):
        assert client.models()
        assert settings.access_file is not None
        settings.access_file.write_text("[principals.planner]\n")
        with pytest.raises(errors.PermissionDeniedError):
            client.models()
