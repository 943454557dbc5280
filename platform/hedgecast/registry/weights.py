"""The torch generator of a bundle as a file: what the graphs were traced from, so that it can be trained on.

A zip of plain arrays: one for each tensor, and the generator's plain data as JSON text. Nothing in it is
code: it is read with pickles refused.
"""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import numpy as np
import torch

from hedgecast.core.errors import BundleError, ConfigError
from hedgecast.diffusion.generator import Generator
from hedgecast.registry.bundle import GENERATOR_WEIGHTS, Bundle

_PLAIN = "generator"


def weights_of(generator: Generator) -> bytes:
    """The file's content; the same generator gives the same bytes."""
    plain = np.frombuffer(json.dumps(generator.to_dict(), sort_keys=True).encode(), dtype=np.uint8)
    arrays: dict[str, Any] = {_PLAIN: plain}
    arrays |= {f"state/{name}": value.cpu().numpy() for name, value in generator.state_dict().items()}
    buffer = io.BytesIO()
    # No allow_pickle: numpy 2.0 takes it for one more array. None of these has objects in it.
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def generator_of(bundle: Bundle) -> Generator:
    """The generator that the graphs of ``bundle`` were traced from.

    Raises
    ------
    BundleError
        The bundle was written before it held one, or the file cannot be read.
    """
    if GENERATOR_WEIGHTS not in bundle.manifest.files:
        raise BundleError(
            f"{bundle.folder} holds no {GENERATOR_WEIGHTS}: it was exported by an earlier version, which "
            "kept the graphs alone; train the model again",
            file=GENERATOR_WEIGHTS,
        )
    path = bundle.folder / GENERATOR_WEIGHTS
    try:
        return read_weights(path.read_bytes())
    except BundleError as error:
        raise BundleError(f"{path}: {error}", file=GENERATOR_WEIGHTS) from error


def read_weights(content: bytes) -> Generator:
    """The generator that `weights_of` wrote.

    Raises
    ------
    BundleError
        It did not write this.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            generator = Generator.from_dict(json.loads(arrays[_PLAIN].tobytes()))
            state = {
                name.removeprefix("state/"): torch.from_numpy(arrays[name])
                for name in arrays.files
                if name != _PLAIN
            }
        generator.load_state_dict(state)
    except (OSError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, ConfigError) as error:
        raise BundleError(f"the weights cannot be read: {error}", file=GENERATOR_WEIGHTS) from error
    return generator
