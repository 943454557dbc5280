"""Aliases read without MLflow are those that MLflow has."""

from __future__ import annotations

import http.server
import json
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from hedgecast.core.errors import UnavailableError
from hedgecast.registry.aliases import aliases_of
from hedgecast.registry.store import ModelStore
from hedgecast.testing import TinyModel


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_directory_says_what_the_store_says(trained: TinyModel, tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    store.register(trained.bundle)
    store.register(trained.bundle)
    client = MlflowClient(store.uri, store.uri)
    for alias, version in (("champion", "1"), ("canary", "2"), ("champion", "2")):
        client.set_registered_model_alias("tiny", alias, version)
        named = {alias: one.version for one in store.versions("tiny") for alias in one.aliases}
        assert aliases_of(store.location, "tiny") == named
    assert named == {"champion": 2, "canary": 2, "candidate": 2}
    assert aliases_of(store.location, "other") == {}


def test_a_registry_that_is_not_there_is_unavailable_and_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="which version of tiny"):
        aliases_of(str(tmp_path / "gone"), "tiny")
    assert not (tmp_path / "gone").exists()


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """Answers as MLflow documents it, to a token; and the names that were asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            where = urllib.parse.urlparse(self.path)
            (name,) = urllib.parse.parse_qs(where.query)["name"]
            asked.append(name)
            allowed = self.headers["Authorization"] == "Bearer sesame"
            found = where.path == "/api/2.0/mlflow/registered-models/get" and name == "a/b c"
            self.send_response(200 if allowed and found else 404 if allowed else 401)
            self.end_headers()
            aliases = [{"alias": "champion", "version": "12"}]
            body = {"registered_model": {"name": name, **({"aliases": aliases} if found else {})}}
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=served.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{served.server_port}", asked
    served.shutdown()
    served.server_close()
    thread.join()


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_server_is_asked_with_its_token(
    server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, asked = server
    with pytest.raises(UnavailableError, match="401"):
        aliases_of(address, "a/b c")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "sesame")
    assert aliases_of(address + "/", "a/b c") == {"champion": 12}
    assert aliases_of(address, "other") == {}
    assert asked == ["a/b c", "a/b c", "other"]
