"""One query's scenarios, in the form that a program takes them: the model's draw, or the caller's own."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hedgecast.programs.prices import PricedProgram
from hedgecast.programs.program import TwoStageProgram
from hedgecast.registry.session import Context
from hedgecast.scenarios.scenario_set import ScenarioSet
from hedgecast.service.answers import DecisionArray, Scenarios
from hedgecast.service.decide import ServedModel
from hedgecast.service.models import ProgramDescription
from hedgecast.service.queries import Query
from hedgecast.service.safety import Judgement

# Whoever recomputes an answer with another solver shall agree to 1e-6; about one iteration more than 1e-7.
TOLERANCE = 1e-8
# As many as a bundle's programs: one for each length of a day.
_PRICED_KEPT = 32


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """What one query is answered on."""

    scenarios: ScenarioSet
    """One context: the scenarios that the decision is made on."""
    fresh: ScenarioSet | None
    """The rest of the draw, independent of them; None: there is none."""
    program: TwoStageProgram
    """For as many steps as the scenarios have."""
    description: ProgramDescription
    """Names the units."""
    given: Mapping[str, Tensor]
    """(1, *shape)."""
    judgement: Judgement
    """Who made the scenarios, and what a reader must know of them."""
    seconds: float
    """What drawing took."""

    @property
    def values(self) -> Tensor:
        """(1, S, D) float64."""
        return self.scenarios.values.double()

    @property
    def weights(self) -> Tensor:
        """(1, S) float64."""
        return self.scenarios.weights().double()

    def arrays(self, values: Mapping[str, Tensor], member: int = 0) -> tuple[DecisionArray, ...]:
        """One member's decision variables with units and times."""
        units = {spec.name: spec.unit for spec in self.description.decision}
        times = None if self.scenarios.times is None else self.scenarios.times[0]
        arrays = []
        for name, tensor in values.items():
            value = to_numpy(tensor[member])
            stepwise = times is not None and value.ndim > 0 and value.shape[0] == len(times)
            arrays.append(
                DecisionArray(
                    name=name, unit=units.get(name, ""), values=value, times=times if stepwise else None
                )
            )
        return tuple(arrays)


def sample_of(
    query: Query[Any],
    model: ServedModel,
    context: Context | None,
    paths: NDArray[np.float32] | None,
    judgement: Judgement,
    *,
    drawn_seconds: float,
) -> Sample:
    """The sample of a query that has been prepared and drawn for.

    Parameters
    ----------
    query : Query
    model : ServedModel
    context, paths
        From `ServedModel.prepare`, and ``query.draw_count`` paths (S, T, F); None with the caller's own.
    judgement : Judgement
        What became of the query's safety.
    drawn_seconds : float
        What that took.
    """
    started = time.perf_counter()
    if query.own is not None:
        everything = own_set(query.own)
    else:
        assert context is not None
        assert paths is not None
        everything = model.source.scenario_set(context, paths, query.seed)
    count = query.scenario_count
    return Sample(
        scenarios=everything if count == everything.num_scenarios else everything.first(count),
        fresh=_rest(everything, count),
        program=model.program(everything.paths.shape[2]),
        description=model.description.program,
        given={name: torch.from_numpy(value)[None] for name, value in query.given.items()},
        judgement=judgement,
        seconds=drawn_seconds + time.perf_counter() - started,
    )


def own_set(own: Scenarios) -> ScenarioSet:
    """The caller's scenarios as one context."""
    return ScenarioSet(
        paths=torch.from_numpy(own.paths)[None],
        names=own.names,
        units=own.units,
        probabilities=None if own.probabilities is None else torch.from_numpy(own.probabilities)[None],
        times=None if own.times is None else own.times[None],
        source="caller",
    )


@functools.lru_cache(maxsize=_PRICED_KEPT)
def priced(program: TwoStageProgram) -> PricedProgram:
    """The program with prices, made once."""
    return PricedProgram(program)


def scenario_arrays(scenarios: ScenarioSet) -> Scenarios:
    """One context's scenarios as plain arrays."""
    probabilities = scenarios.probabilities
    return Scenarios(
        names=scenarios.names,
        units=scenarios.units,
        times=None if scenarios.times is None else scenarios.times[0],
        paths=to_numpy(scenarios.paths[0]),
        probabilities=None if probabilities is None else to_numpy(probabilities[0]),
    )


def to_numpy(tensor: Tensor) -> NDArray[np.float64]:
    """A float64 array of its own."""
    array: NDArray[np.float64] = tensor.detach().cpu().double().numpy()
    return array


def _rest(everything: ScenarioSet, count: int) -> ScenarioSet | None:
    if everything.num_scenarios == count:
        return None
    return dataclasses.replace(everything, paths=everything.paths[:, count:], probabilities=None)
