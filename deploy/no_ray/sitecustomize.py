"""As where Ray is not installed: ``PYTHONPATH=.../deploy/no_ray`` hides it from every process below.

Python imports a module of this name when it starts, so that commands that tests start are bound by it,
too; the path must be absolute, since these start in folders of their own. Of ``make test-no-ray``: the
library must work without its cluster.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import DistributionFinder, PathDistribution
from types import ModuleType


class _WithoutRay(PathFinder):
    """Finds what lies on the path, but no Ray, neither for an import nor for who only looks."""

    @classmethod
    def find_spec(
        cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.partition(".")[0] == "ray":
            return None
        return super().find_spec(fullname, path, target)

    @classmethod
    def find_distributions(cls, context: DistributionFinder.Context) -> Iterable[PathDistribution]:  # type: ignore[override]
        if (context.name or "").lower() == "ray":
            return ()
        return super().find_distributions(context)


sys.meta_path[sys.meta_path.index(PathFinder)] = _WithoutRay
