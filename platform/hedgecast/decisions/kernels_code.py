"""The decorator of the compiled loops, whose code processes keep on the disk and share.

Numba numbers the files of a function's signatures in an index beside them. Two processes that compile two
signatures of one function at once take the same number, and one index then names the code of the other,
which is called with arguments that it was not made for: a crash, or worse, numbers (numba 0.68, class
``IndexDataCacheFile``). Here a file is named by all that its code depends on, so there is no index.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba import njit
from numba.core.caching import IndexDataCacheFile

F = TypeVar("F", bound=Callable[..., Any])

# Reassociation and contraction only: NaN and infinity keep their meaning.
_OPTIONS: dict[str, Any] = {
    "cache": True,
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"contract", "reassoc", "arcp", "nsz"},
}


def compiled(function: F) -> F:
    """``function`` compiled at its first call with each signature, once for all processes of this machine."""
    loop: F = njit(**_OPTIONS)(function)
    cache = getattr(loop, "_cache", None)
    # None under NUMBA_DISABLE_JIT.
    if cache is not None:
        cache._cache_file = CodeFiles(
            cache_path=cache._cache_path, filename_base=cache._impl.filename_base, source_stamp=sources()
        )
    return loop


@functools.cache
def sources() -> str:
    """Digest of the loops' modules: code has what it calls compiled into it, and that may be in another."""
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(Path(__file__).parent.glob("kernels_*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class CodeFiles(IndexDataCacheFile):  # type: ignore[misc]
    """Files of one function's code, one of each signature and kind of processor."""

    def save(self, key: tuple[Any, ...], data: object) -> None:
        """Write the code whole: whoever finds the file finds all of it."""
        self._save_data(self._named(key), data)

    def load(self, key: tuple[Any, ...]) -> object | None:
        """The code that was saved; None: it was not."""
        try:
            return self._load_data(self._named(key))  # type: ignore[no-any-return]
        except FileNotFoundError:
            return None

    def flush(self) -> None:
        """Nothing: what is no longer asked for by any name is not found."""

    def _named(self, key: tuple[Any, ...]) -> str:
        digest = hashlib.sha256(f"{self._source_stamp} {key!r}".encode()).hexdigest()
        return str(self._data_name(int(digest[:32], 16)))
