"""Counter-based standard normal noise: scenario i of a context is a pure function of three numbers.

    key     = (seed, context)            the 128-bit key of Philox4x64-10
    counter = i * blocks .. (i + 1) * blocks - 1,    blocks = ceil(dim / 8)

Each counter value yields four 64-bit words, each word two normals by Box-Muller. So the first 100
of 10,000 scenarios are the 100, a chunk can start anywhere, and neither the other contexts of a
batch nor their order matters. Raw bits of a bit generator are what numpy promises to keep between
releases; ``Generator.standard_normal`` is not (NEP 19), hence Box-Muller here.

The server uses this module: numpy only.

Source: Salmon et al. (2011), "Parallel random numbers: as easy as 1, 2, 3", section 3.3; Box and
Muller (1958), https://doi.org/10.1214/aoms/1177706645.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hedgecast.core.errors import ShapeError

_NORMALS_PER_COUNTER = 8
_WORD_MASK = (1 << 64) - 1


def scenario_noise(
    seed: int, contexts: Sequence[int] | npt.NDArray[np.integer], count: int, dim: int, *, start: int = 0
) -> npt.NDArray[np.float32]:
    """Noise (B, count, dim) of scenarios ``start`` to ``start + count`` of each context.

    Parameters
    ----------
    seed : int
        Of the whole draw; taken modulo 2**64.
    contexts : sequence of int
        B numbers that identify the contexts themselves, not their place in the batch: the days since
        1970-01-01, say. Taken modulo 2**64, so negative ones are fine.
    count : int
        Scenarios of each context.
    dim : int
        Normals of one scenario, T*F.
    start : int
        First scenario.

    Raises
    ------
    ShapeError
        Unless ``count >= 1``, ``dim >= 1`` and ``start >= 0``.
    """
    if count < 1 or dim < 1 or start < 0:
        raise ShapeError(
            f"noise for {count} scenarios of {dim} entries from scenario {start}: "
            "counts must be at least 1 and the start at least 0",
            count=count,
            dim=dim,
            start=start,
        )
    noise = np.empty((len(contexts), count, dim), dtype=np.float32)
    for row, context in enumerate(contexts):
        noise[row] = _context_noise(seed, int(context), count, dim, start)
    return noise


def day_numbers(days: npt.NDArray[np.datetime64]) -> npt.NDArray[np.int64]:
    """Days since 1970-01-01, the context numbers of daily decisions."""
    return days.astype("datetime64[D]").astype(np.int64)


def _context_noise(seed: int, context: int, count: int, dim: int, start: int) -> npt.NDArray[np.float32]:
    blocks = -(-dim // _NORMALS_PER_COUNTER)
    key = (seed & _WORD_MASK) | ((context & _WORD_MASK) << 64)
    words = np.random.Philox(key=key, counter=start * blocks).random_raw(4 * blocks * count)
    # 32 bits for each uniform: the tail ends at 6.7 standard deviations, beyond any float32 use.
    radius = np.sqrt(-2.0 * np.log(((words >> np.uint64(32)).astype(np.float64) + 0.5) * 2.0**-32))
    angle = (words & np.uint64(0xFFFFFFFF)).astype(np.float64) * (2.0 * np.pi * 2.0**-32)
    normals = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return normals.reshape(count, -1)[:, :dim].astype(np.float32)
