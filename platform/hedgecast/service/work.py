"""What a solver does for each kind of query, once its scenarios are drawn; for many at once where it pays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar, cast

from hedgecast.core.errors import HedgecastError
from hedgecast.service.answers import DecideAnswer
from hedgecast.service.batches import Batches, Limits
from hedgecast.service.budget import Budget
from hedgecast.service.decide import ServedModel
from hedgecast.service.evaluate import evaluate
from hedgecast.service.explain import explain
from hedgecast.service.generate import reduced
from hedgecast.service.queries import DecideQuery, EvaluateQuery, ExplainQuery, Query, ReduceQuery
from hedgecast.service.sample import Sample
from hedgecast.service.solve import Asked, solve_queries

A = TypeVar("A")
_Work = Callable[[Any, ServedModel, Sample, Budget], Any]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Job:
    """A query with its scenarios, ready to be answered."""

    query: Query[Any]
    model: ServedModel
    sample: Sample
    budget: Budget

    @property
    def asked(self) -> Asked:
        """Of a query for a decision."""
        assert isinstance(self.query, DecideQuery)
        return Asked(query=self.query, sample=self.sample, budget=self.budget)


def answer_queue(limits: Limits) -> Batches[Job, Any]:
    """The queue in front of a solver: decisions that can be solved together are, all else goes one by one."""
    return Batches(answers, _kind, lambda job: max(job.query.draw_count, job.query.scenario_count), limits)


def answers(jobs: Sequence[Job]) -> list[Any]:
    """The answer to each job, all of one kind, or our error in its place.

    SolveError: the program has no usable decision under these scenarios; DeadlineError: the budget ran out.
    """
    if isinstance(jobs[0].query, DecideQuery):
        found = solve_queries([job.asked for job in jobs])
        return [
            one
            if isinstance(one, HedgecastError)
            else DecideAnswer(model=job.model.description, solution=one)
            for job, one in zip(jobs, found, strict=True)
        ]
    return [_answer(job) for job in jobs]


def _answer(job: Job) -> Any:
    try:
        return _WORK[type(job.query)](job.query, job.model, job.sample, job.budget)
    except HedgecastError as error:
        return error


def _kind(job: Job) -> Hashable:
    return (job.model.description.full_name, job.asked.kind) if type(job.query) is DecideQuery else job


def unsolved(query: Query[A], model: ServedModel) -> A:
    """The answer to a query that was only to be checked."""
    assert isinstance(query, DecideQuery)
    return cast(A, DecideAnswer(model=model.description, solution=None))


_WORK: dict[type[Query[Any]], _Work] = {
    EvaluateQuery: evaluate,
    ExplainQuery: explain,
    ReduceQuery: reduced,
}
