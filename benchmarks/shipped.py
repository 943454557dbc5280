"""The shipped programs as benchmarks decide them on sets of their default history."""

from __future__ import annotations

from collections.abc import Callable

from hedgecast.programs.catalog import (
    battery_storage,
    freight_routing,
    generation_scheduling,
    portfolio,
    product_allocation,
)
from hedgecast.programs.program import TwoStageProgram

SHIPPED: dict[str, tuple[str, str, Callable[[], TwoStageProgram]]] = {
    "schedule": (
        "generation_scheduling",
        "expectation",
        lambda: generation_scheduling.build(ramp_limit=4.5, capacity=75.0),
    ),
    "products": ("product_allocation", "expectation", product_allocation.build),
    "freight": ("freight_routing", "expectation", freight_routing.build),
    "battery": ("battery_storage", "cvar:0.9", battery_storage.build),
    "portfolio": ("portfolio", "cvar:0.9", lambda: portfolio.build(objective="mean-cvar")),
}
"""What a case is called: program, risk measure, how it is made."""
