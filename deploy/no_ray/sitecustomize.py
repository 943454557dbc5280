"""As where Ray is not installed: ``PYTHONPATH=deploy/no_ray`` blocks it in every process that starts below.

Python imports a module of this name when it starts, so that commands that tests start are bound by it,
too. Of ``make test-no-ray``: the library must work without its cluster.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType


class _NoRay:
    """Finds nothing, and refuses Ray."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del path, target
        if name.partition(".")[0] == "ray":
            raise ModuleNotFoundError("No module named 'ray' (blocked by deploy/no_ray)", name="ray")
        return None


sys.meta_path.insert(0, _NoRay())
