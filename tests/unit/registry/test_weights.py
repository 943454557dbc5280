import dataclasses
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from hedgecast.core.errors import BundleError
from hedgecast.registry.bundle import GENERATOR_WEIGHTS, Bundle
from hedgecast.registry.weights import generator_of, weights_of
from hedgecast.testing import TinyModel


def planted(trained: TinyModel, folder: Path, content: bytes) -> Bundle:
    """The trained bundle with another weights file, past its checksums."""
    (folder / GENERATOR_WEIGHTS).write_bytes(content)
    return dataclasses.replace(trained.bundle, folder=folder)


def test_the_generator_of_a_bundle_draws_what_was_exported(trained: TinyModel) -> None:
    found = generator_of(trained.bundle)
    draws = torch.Generator().manual_seed(3)
    context = torch.randn(2, found.num_features, generator=draws)
    noise = torch.randn(2, 5, found.dim, generator=draws)
    with torch.no_grad():
        assert torch.equal(found.sample(context, noise), trained.generator.sample(context, noise))
    assert found.config == trained.generator.config


def test_the_same_generator_gives_the_same_bytes(trained: TinyModel) -> None:
    assert weights_of(trained.generator) == weights_of(generator_of(trained.bundle))


def test_a_bundle_of_an_earlier_version_says_so(trained: TinyModel) -> None:
    files = {name: text for name, text in trained.bundle.manifest.files.items() if name != GENERATOR_WEIGHTS}
    earlier = dataclasses.replace(
        trained.bundle, manifest=dataclasses.replace(trained.bundle.manifest, files=files)
    )
    with pytest.raises(BundleError, match=r"exported by an earlier version.* train the model again"):
        generator_of(earlier)


def test_a_file_that_is_no_archive_is_refused(trained: TinyModel, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot be read"):
        generator_of(planted(trained, tmp_path, b"no zip"))


def test_code_in_the_file_is_not_run(trained: TinyModel, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    # An array of objects is a pickle inside the archive.
    np.savez(buffer, generator=np.array([{"a": 1}], dtype=object))
    with pytest.raises(BundleError, match=r"cannot be read: .*allow_pickle"):
        generator_of(planted(trained, tmp_path, buffer.getvalue()))


def test_missing_weights_are_refused(trained: TinyModel, tmp_path: Path) -> None:
    content, changed = io.BytesIO(weights_of(trained.generator)), io.BytesIO()
    with zipfile.ZipFile(content) as source, zipfile.ZipFile(changed, "w") as target:
        for name in source.namelist():
            if name != "state/denoiser.exit.bias.npy":
                target.writestr(name, source.read(name))
    with pytest.raises(BundleError, match=r"(?s)cannot be read: .*denoiser\.exit\.bias"):
        generator_of(planted(trained, tmp_path, changed.getvalue()))
