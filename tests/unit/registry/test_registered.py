"""A registered model as a method draws what the trained one drew."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from hedgecast.core.errors import BundleError
from hedgecast.learning.history import History
from hedgecast.learning.methods.diffusion import Diffusion
from hedgecast.learning.part import Part
from hedgecast.registry.registered import RegisteredModel
from hedgecast.testing import TinyModel


def test_it_draws_as_the_trained_model(trained: TinyModel) -> None:
    part = Part.of(trained.split.train).select(slice(0, 70))
    found = RegisteredModel(trained.bundle, trained.schema, "champion").scenarios(part, 6, seed=3)
    expected = Diffusion(trained.generator, History(), "diffusion", 0.0).scenarios(part, 6, 3)
    # 70 days are two chunks; float32 graphs of loads around 45 GW.
    torch.testing.assert_close(found.paths, expected.paths, rtol=1e-4, atol=1e-3)
    assert found.source == trained.bundle.manifest.fingerprint
    assert (found.names, found.units, found.seed) == (expected.names, expected.units, 3)


def test_days_of_other_features_are_refused(trained: TinyModel) -> None:
    other = dataclasses.replace(trained.schema, history=336)
    with pytest.raises(BundleError, match="reads other columns, history or slots"):
        RegisteredModel(trained.bundle, other, "champion")
