"""Scenarios for whoever decides elsewhere: as drawn, reduced to few, or as a tree."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from hedgecast.core.errors import InputError
from hedgecast.programs.reduction_error import reduction_error
from hedgecast.registry.session import Context
from hedgecast.scenarios.arrow import Description, record_batches
from hedgecast.scenarios.reduction import reduce_scenarios
from hedgecast.scenarios.scenario_set import ScenarioSet
from hedgecast.scenarios.tree import scenario_tree
from hedgecast.scenarios.tree_table import tree_table
from hedgecast.service.answers import ReduceAnswer, ScenariosAnswer
from hedgecast.service.budget import Budget
from hedgecast.service.decide import ServedModel
from hedgecast.service.queries import ReduceQuery
from hedgecast.service.safety import Judgement
from hedgecast.service.sample import TOLERANCE, Sample, to_numpy


def drawn(
    model: ServedModel, context: Context, paths: NDArray[np.float32], judgement: Judgement
) -> ScenariosAnswer:
    """The scenarios themselves: of paths (S, T, F) by wall-clock slot those of the period's real steps."""
    series = model.description.series
    return ScenariosAnswer(
        model=model.description,
        names=tuple(one.name for one in series),
        units=tuple(one.unit for one in series),
        times=context.step_times,
        paths=paths.take(context.step_slots, axis=1),
        made_by=model.source.made_by,
        source=judgement.source,
        warnings=judgement.warnings,
    )


def reduced(query: ReduceQuery, model: ServedModel, sample: Sample, budget: Budget) -> ReduceAnswer:
    """Few scenarios, or a tree, with what a decision on them costs more.

    Raises
    ------
    InputError
        The stages do not fit the steps, or a series has the name of a column of the table.
    DeadlineError
        The budget ran out.
    """
    budget.check("the reduction")
    few = _tree(query, model, sample) if query.stages else _kept(query, model, sample)
    budget.check("the reduction's error")
    costs = reduction_error(
        sample.program,
        sample.values,
        torch.from_numpy(few.paths).flatten(1)[None],
        sample.given,
        reduced_probabilities=torch.from_numpy(few.probabilities)[None],
        risk=query.risk,
        tolerance=TOLERANCE,
    )
    return ReduceAnswer(
        model=model.description,
        table=few.table,
        kept=int(few.probabilities.size),
        method=few.method,
        distance=few.distance,
        relative_distance=few.relative_distance,
        cost_error=float(costs.error[0]),
        relative_cost_error=float(costs.relative_error[0]),
        cost_optimism=float(costs.optimism[0]),
        scenario_fingerprint=sample.scenarios.fingerprint(),
        source=sample.judgement.source,
        warnings=sample.judgement.warnings,
    )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Few:
    """A reduced set, whatever its form."""

    table: pa.Table
    paths: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    distance: float
    relative_distance: float
    method: str


def _kept(query: ReduceQuery, model: ServedModel, sample: Sample) -> _Few:
    everything = sample.scenarios
    found = reduce_scenarios(
        to_numpy(everything.paths[0]), query.reduce_to, method=query.method, seed=query.seed
    )
    few = dataclasses.replace(
        everything,
        paths=torch.from_numpy(found.paths)[None],
        probabilities=torch.from_numpy(found.probabilities)[None],
    )
    described = _description(
        few, model, {"method": found.method, "distance": repr(found.distance), "order": str(found.order)}
    )
    batches = record_batches(few, description=described, indices=found.indices)
    return _Few(
        table=pa.Table.from_batches(batches),
        paths=found.paths,
        probabilities=found.probabilities,
        distance=found.distance,
        relative_distance=found.relative_distance,
        method=found.method,
    )


def _tree(query: ReduceQuery, model: ServedModel, sample: Sample) -> _Few:
    assert query.method != "quantiles", "refused with the request"
    method = query.method if query.method != "auto" else "k-means"
    paths = to_numpy(sample.scenarios.paths[0])
    if query.stages[-1] >= paths.shape[1]:
        raise InputError(
            f"tree.stage_starts end at {query.stages[-1]}: the decision period has {paths.shape[1]} steps",
            field="tree.stage_starts",
        )
    tree = scenario_tree(
        paths, stages=query.stages, branching=query.branching, method=method, seed=query.seed
    )
    described = _description(sample.scenarios, model, {"method": method}, fingerprint="")
    return _Few(
        table=tree_table(tree, described),
        paths=tree.paths,
        probabilities=tree.leaf_probabilities,
        distance=tree.distance,
        relative_distance=tree.relative_distance,
        method=method,
    )


def _description(few: ScenarioSet, model: ServedModel, extra: dict[str, str], **options: Any) -> Description:
    return Description.of(few, model_version=model.description.full_name, extra=extra, **options)
