"""What a solver does for each kind of query, once its scenarios are drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from hedgecast.core.errors import HedgecastError
from hedgecast.registry.session import Context
from hedgecast.service.answers import DecideAnswer
from hedgecast.service.budget import Budget
from hedgecast.service.decide import ServedModel
from hedgecast.service.evaluate import evaluate
from hedgecast.service.explain import explain
from hedgecast.service.generate import drawn, reduced
from hedgecast.service.queries import (
    DecideQuery,
    EvaluateQuery,
    ExplainQuery,
    Query,
    ReduceQuery,
    ScenariosQuery,
)
from hedgecast.service.safety import Judgement
from hedgecast.service.sample import Sample, sample_of
from hedgecast.service.solve import Asked, solve_queries

A = TypeVar("A")
_Work = Callable[[Any, ServedModel, Sample, Budget], Any]


def conclude(
    query: Query[A],
    model: ServedModel,
    context: Context | None,
    paths: NDArray[np.float32] | None,
    judgement: Judgement,
    budget: Budget,
    *,
    drawn_seconds: float,
) -> A:
    """The answer of ``model`` once the paths are drawn; see `sample_of`.

    Raises
    ------
    SolveError
        The program has no usable decision under these scenarios.
    DeadlineError
        The budget ran out.
    """
    sample = sample_of(query, model, context, paths, judgement, drawn_seconds=drawn_seconds)
    return cast(A, _WORK[type(query)](query, model, sample, budget))


def unsolved(query: Query[A], model: ServedModel) -> A:
    """The answer to a query that was only to be checked."""
    assert isinstance(query, DecideQuery)
    return cast(A, DecideAnswer(model=model.description, solution=None))


def _decide(query: DecideQuery, model: ServedModel, sample: Sample, budget: Budget) -> DecideAnswer:
    (found,) = solve_queries([Asked(query=query, sample=sample, budget=budget)])
    if isinstance(found, HedgecastError):
        raise found
    return DecideAnswer(model=model.description, solution=found)


_WORK: dict[type[Query[Any]], _Work] = {
    DecideQuery: _decide,
    EvaluateQuery: evaluate,
    ExplainQuery: explain,
    ScenariosQuery: drawn,
    ReduceQuery: reduced,
}
