"""Which model a reference means."""

from __future__ import annotations

import dataclasses

import pytest

from hedgecast.core.errors import ModelNotFoundError
from hedgecast.service.local import LocalModel
from hedgecast.service.models import ModelDescription, resolve


@pytest.fixture
def models(local_model: LocalModel) -> tuple[ModelDescription, ...]:
    champion = local_model.model.description
    return champion, dataclasses.replace(champion, version="2", aliases=())


@pytest.mark.parametrize(
    ("reference", "version"), [("last_day", "3"), ("last_day@champion", "3"), ("last_day@2", "2")]
)
def test_name_alias_and_version(models: tuple[ModelDescription, ...], reference: str, version: str) -> None:
    assert resolve(models, reference).version == version


def test_a_bare_name_is_the_only_version(models: tuple[ModelDescription, ...]) -> None:
    assert resolve(models[1:], "last_day").version == "2"


@pytest.mark.parametrize(
    "reference", ["", "@", "last_day@", "last_day@4", "@champion", "last_day@3@3", "last"]
)
def test_anything_else_is_not_found(models: tuple[ModelDescription, ...], reference: str) -> None:
    for served in (models, models[1:], ()):
        with pytest.raises(ModelNotFoundError, match="is not served"):
            resolve(served, reference)
