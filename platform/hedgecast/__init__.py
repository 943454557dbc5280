"""Forecast to hedge: scenarios by diffusion, trained on the regret of the decision they induce."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hedgecast.version import __version__

if TYPE_CHECKING:
    from hedgecast.client import Client
    from hedgecast.programs.program import TwoStageProgram
    from hedgecast.programs.risk import Risk
    from hedgecast.scenarios.scenario_set import ScenarioSet

# Loaded on first use, so that the client needs neither torch nor cvxpy.
_HOMES = {
    "Client": "hedgecast.client",
    "Risk": "hedgecast.programs.risk",
    "ScenarioSet": "hedgecast.scenarios.scenario_set",
    "TwoStageProgram": "hedgecast.programs.program",
}

__all__ = ["Client", "Risk", "ScenarioSet", "TwoStageProgram", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hedgecast' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
