"""The benchmark's tasks by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

CLOSED = ("ridge-residual", "ridge-residual-scaled")
JOINT = ("diffusion", "diffusion-dfl")
ALL = ("point", *CLOSED, "gaussian", "dfl-point", "dfl-gaussian", "scoring-rule", *JOINT)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One task: a file with ``task(**arguments)``, a study, or a script with results of its own form."""

    title: str
    file: str = ""
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    study: str | None = None
    script: str | None = None
    """``module:function`` that takes the number of seeds."""
    oracle: str | None = None
    """``module:function`` of the same arguments: what deciding with the truth costs."""
    tables: tuple[str, ...] = ()
    """Benchmark tables that it reads; a study reads the one there is as its data."""
    methods: tuple[str, ...] = (*CLOSED, *JOINT)
    besides: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Another task on the same test days to a method of it that is shown too, as METHOD@TASK."""
    counts: tuple[int, ...] = (25, 200, 1000)
    drawn: int | None = None
    """For each day, where decisions are on few that stand for them."""
    seeds: int = 2
    baseline: str = "ridge-residual"
    block_days: int = 7
    """Rows that the bootstrap draws together: a week of days, or a few weekly decisions."""


ENTRIES = {
    "pjm-chosen": Entry(
        title="PJM power scheduling, of 149 features the groups that help on validation days",
        file="pjm.py",
        arguments={"features": "chosen"},
        tables=("pjm_load.parquet",),
        seeds=5,
    ),
    "pjm-chosen-25": Entry(
        title="PJM power scheduling, the same features, trained for decisions on 25 scenarios",
        file="pjm.py",
        arguments={"features": "chosen", "decided_on": 25},
        tables=("pjm_load.parquet",),
        counts=(25,),
        seeds=5,
    ),
    "pjm-chosen-few": Entry(
        title="PJM power scheduling, the same features, decided on few scenarios that stand for 1,000",
        file="pjm.py",
        arguments={"features": "chosen"},
        tables=("pjm_load.parquet",),
        counts=(25, 50, 200, 1000),
        drawn=1000,
        seeds=5,
    ),
    "pjm-chosen-slices": Entry(
        title="PJM power scheduling, the same features, trained on few scenarios that stand for 200",
        file="pjm.py",
        arguments={"features": "chosen", "slices": True},
        tables=("pjm_load.parquet",),
        methods=("ridge-residual", *JOINT),
        seeds=5,
    ),
    "pjm-149": Entry(
        title="PJM power scheduling, all 149 features as published",
        file="pjm.py",
        arguments={"features": "published"},
        tables=("pjm_load.parquet",),
        seeds=5,
    ),
    "pjm-149-still": Entry(
        title="PJM power scheduling, all 149 features, trained on days whose temperature stands still too",
        file="pjm.py",
        arguments={"features": "published", "still": True},
        tables=("pjm_load.parquet",),
        besides={"pjm-149": "ridge-residual"},
        seeds=5,
    ),
    "pjm-29": Entry(
        title="PJM power scheduling, the 29 published features that are no temperature",
        file="pjm.py",
        arguments={"features": "no-temperature"},
        tables=("pjm_load.parquet",),
        seeds=5,
    ),
    "battery": Entry(
        title="battery on German day-ahead prices, mean-CVaR",
        file="battery.py",
        tables=("epf_prices.parquet",),
        methods=ALL,
    ),
    "freight": Entry(
        title="freight of a health supply chain, weekly",
        file="freight.py",
        tables=("scms_deliveries.parquet",),
        methods=ALL,
        counts=(25, 200),
        seeds=5,
        block_days=4,
    ),
    "retail": Entry(
        title="stock of five products of an online shop",
        file="retail.py",
        tables=("retail_demand.parquet",),
        methods=ALL,
    ),
    "exponential": Entry(
        title="product allocation with exponential utility, synthetic", script="exponential:run", seeds=3
    ),
    "portfolio": Entry(title="portfolio of 20 stocks, mean-CVaR", script="portfolio:run", seeds=3),
    **{
        f"synthetic-{shape}": Entry(
            title=f"schedule with {shape} residuals, truth known",
            file="synthetic.py",
            arguments={"shape": shape},
            oracle="synthetic:oracle",
            block_days=1,
        )
        for shape in ("normal", "asymmetric", "bimodal", "heavy-tailed")
    },
    "german-grid": Entry(title="schedule of the German grid's residual load", study="german_grid", seeds=3),
    "vic-elec": Entry(
        title="schedule of Victoria's load in half hours",
        study="vic_elec",
        tables=("vic_elec.parquet",),
        seeds=3,
    ),
    "training-cost": Entry(
        title="what training costs", script="training_cost:run", tables=("pjm_load.parquet",), seeds=1
    ),
}
