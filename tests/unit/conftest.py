"""A small real model for the service's tests: Gaussian scenarios around the last day, one program."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from hedgecast.rpc.codec import NamedRows
from hedgecast.service.local import LocalBackend, LocalModel
from hedgecast.testing_last_day import last_day_model, last_day_rows


@pytest.fixture(scope="session")
def local_model() -> LocalModel:
    return last_day_model()


@pytest.fixture
def local_backend(local_model: LocalModel) -> Iterator[LocalBackend]:
    older = dataclasses.replace(local_model.model.description, version="2", aliases=())
    backend = LocalBackend(
        [
            local_model,
            dataclasses.replace(local_model, model=dataclasses.replace(local_model.model, description=older)),
        ]
    )
    yield backend
    backend.close()


@pytest.fixture(scope="session")
def rows() -> NamedRows:
    return last_day_rows()
