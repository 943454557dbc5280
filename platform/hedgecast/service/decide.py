"""What happens before a solve: a query checked against its model, rows made a context."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hedgecast.core.errors import ConfigError, DataError, ShapeError, UnavailableError
from hedgecast.programs.program import TwoStageProgram
from hedgecast.registry.graphs import BASELINE_GRAPH, SCENARIOS_GRAPH
from hedgecast.registry.ladder import Rung
from hedgecast.registry.session import Context
from hedgecast.rpc.codec import NamedRows
from hedgecast.scenarios.scenario_set import ScenarioSet
from hedgecast.service.answers import Scenarios, ScenarioSource
from hedgecast.service.models import ColumnSpec, ModelDescription
from hedgecast.service.queries import DecideQuery, EvaluateQuery, Query
from hedgecast.service.safety import MODEL, OWN, Judgement, Safety

# Own scenarios may be of a longer day, or of another one altogether.
_MOST_PERIODS = 2


class ContextSource(Protocol):
    """What makes contexts of raw rows, and scenarios of drawn paths: a bundle's reader, say."""

    made_by: str
    """Source of its sets."""

    def read(self, history: NamedRows, known: NamedRows) -> Context:
        """The context of the decision period that follows ``history``; DataError where there is none."""
        ...

    def scenario_set(self, context: Context, paths: NDArray[np.float32], seed: int) -> ScenarioSet:
        """Paths (S, T, F) by wall-clock slot as scenarios of the period's real steps."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ServedModel:
    """A model with all that deciding takes but the network that draws."""

    description: ModelDescription
    source: ContextSource
    program: Callable[[int], TwoStageProgram]
    """The program for a number of steps; keeps what it has built."""
    safety: Safety | None = None
    """What follows when an answer would rest on what the model has not seen; None: nothing is looked at."""

    def prepare(self, query: Query[Any]) -> Context | None:
        """The context of a query that fits this model; None where it brings scenarios of its own.

        Raises
        ------
        UnavailableError
            It is to be answered cheaper by figures that are not this model's.
        DataError
            A column is missing or unknown, or the rows make no context.
        ShapeError
            A given parameter, or a candidate's variable, is unknown or of another shape.
        """
        self._check_measured(query)
        if query.own is not None:
            check_own(query.own, self.description.series, self.description.step_seconds)
            self._check_length(query.own)
            self._check_program(query, query.own.paths.shape[1])
            return None
        check_columns(query.history, self.description.history_columns, "history")
        check_columns(query.known, self.description.known_columns, "known")
        context = self.source.read(query.history, query.known)
        self._check_program(query, len(context.step_times))
        return context

    def before(self, query: Query[Any], context: Context | None) -> Judgement:
        """What an answer to a prepared query would rest on; see `Safety.before`."""
        if context is None:
            return OWN
        judged = MODEL if self.safety is None else self.safety.before(query, context)
        rungs = query.rungs if isinstance(query, DecideQuery) else frozenset()
        if Rung.BASELINE_SCENARIOS in rungs:
            return dataclasses.replace(judged, source=ScenarioSource.BASELINE)
        if Rung.STUDENT_SAMPLER in rungs and judged.source is ScenarioSource.MODEL:
            return dataclasses.replace(judged, source=ScenarioSource.STUDENT)
        return judged

    def graph(self, judged: Judgement) -> str:
        """Name of the graph that draws what an answer rests on."""
        if judged.source is ScenarioSource.STUDENT:
            assert self.description.student is not None
            return self.description.student.graph
        return BASELINE_GRAPH if judged.baseline else SCENARIOS_GRAPH

    def after(self, judged: Judgement, paths: NDArray[np.float32]) -> Judgement:
        """The same once the scenarios are there, or another source to draw from; see `Safety.after`."""
        return judged if self.safety is None else self.safety.after(judged, paths)

    def _check_measured(self, query: Query[Any]) -> None:
        cost = query.degradation if isinstance(query, DecideQuery) else None
        if cost is not None and cost not in self.description.ladder:
            raise UnavailableError(
                f"{self.description.full_name} was replaced by another model of this version, of which it is "
                f"not known what {' and '.join(cost.rungs)} costs: try again"
            )

    def _check_length(self, own: Scenarios) -> None:
        # A program is built for as many steps, whose memory grows with their square: 1,000 take 0.7 GB.
        steps, most = own.paths.shape[1], _MOST_PERIODS * self.description.horizon_steps
        if steps > most:
            raise ShapeError(
                f"{own.field}.paths has {steps} steps: at most {most}, twice an ordinary decision period",
                field=f"{own.field}.paths.shape",
                limit=most,
            )

    def _check_program(self, query: Query[Any], num_steps: int) -> None:
        field = "history" if query.own is None else f"{query.own.field}.paths"
        try:
            program = self.program(num_steps)
        except ConfigError as error:
            raise DataError(f"no program for {num_steps} steps: {error}", field=field) from error
        if program.num_uncertain != num_steps * len(self.description.series):
            raise ShapeError(
                f"{num_steps} steps of {len(self.description.series)} series make "
                f"{num_steps * len(self.description.series)} numbers: {program.name} takes "
                f"{program.num_uncertain}",
                field=field,
            )
        check_given(query, program)
        if isinstance(query, EvaluateQuery):
            check_candidates(query, program)


def check_columns(rows: NamedRows, wanted: Iterable[ColumnSpec], field: str) -> None:
    """Check that ``rows`` have the wanted columns and no others.

    Raises
    ------
    DataError
        A column is unknown (a misspelt name is never ignored) or missing.
    """
    names = [column.name for column in wanted]
    for index, name in enumerate(rows.columns):
        if name not in names:
            raise DataError(
                f"{field} has column {name!r}, which the model does not read: {_known_names(name, names)}",
                field=f"{field}.columns[{index}].name",
            )
    missing = [name for name in names if name not in rows.columns]
    if missing:
        raise DataError(
            f"{field} lacks column {missing[0]!r}: the model needs {', '.join(names)}",
            field=f"{field}.columns",
        )


def check_own(own: Scenarios, series: tuple[ColumnSpec, ...], step_seconds: float) -> None:
    """Check the caller's scenarios against the model's series.

    Raises
    ------
    ShapeError
        Other series, or in another order.
    DataError
        Another unit, or times that are not the model's step apart.
    """
    names = tuple(spec.name for spec in series)
    if own.names != names:
        raise ShapeError(
            f"{own.field} has series {', '.join(own.names)}: the model has {', '.join(names)}, in this order",
            field=f"{own.field}.series",
        )
    for index, (unit, spec) in enumerate(zip(own.units, series, strict=True)):
        if unit != spec.unit:
            raise DataError(
                f"{own.field}.units[{index}] is {unit!r}: {spec.name} is in {spec.unit!r}",
                field=f"{own.field}.units[{index}]",
            )
    if own.times is not None:
        steps = np.diff(own.times.astype("datetime64[ns]").astype(np.int64)).astype(np.float64) / 1e9
        if np.any(np.abs(steps - step_seconds) > 1e-6):
            raise DataError(
                f"{own.field}.step_times are {steps.min():g} to {steps.max():g} s apart: the model's step "
                f"is {step_seconds:g} s",
                field=f"{own.field}.step_times",
            )


def check_candidates(query: EvaluateQuery, program: TwoStageProgram) -> None:
    """Check names and shapes of the candidates' variables against the program's.

    Raises
    ------
    ShapeError
        One is unknown, missing, or of another shape.
    """
    wanted = {variable.name(): tuple(variable.shape) for variable in program.decision}
    for index, candidate in enumerate(query.candidates):
        field = f"candidates[{index}].values"
        for name, value in candidate.values.items():
            if name not in wanted:
                raise ShapeError(
                    f"{field}[{name}] is no decision variable: {_known_names(name, wanted)}", field=field
                )
            if value.shape != wanted[name]:
                raise ShapeError(
                    f"{field}[{name}] has shape {list(value.shape)}: {program.name} needs "
                    f"{list(wanted[name])}",
                    field=f"{field}[{name}]",
                )
        missing = [name for name in wanted if name not in candidate.values]
        if missing:
            raise ShapeError(f"{field} lacks {missing[0]!r}: a plan has {', '.join(wanted)}", field=field)


def check_given(query: Query[Any], program: TwoStageProgram) -> None:
    """Check names, shapes and signs of the query's given parameters against the program's.

    Raises
    ------
    ShapeError
        One is unknown, or of another shape.
    DataError
        One has the wrong sign.
    """
    parameters = {parameter.name(): parameter for parameter in program.given}
    for name, value in query.given.items():
        field = f"given[{name}]"
        if name not in parameters:
            raise ShapeError(
                f"{field} is not a given parameter: {_known_names(name, parameters)}", field=field
            )
        parameter = parameters[name]
        if value.shape != tuple(parameter.shape):
            raise ShapeError(
                f"{field} has shape {list(value.shape)}: {program.name} needs {list(parameter.shape)}",
                field=field,
            )
        if (parameter.is_nonneg() and value.min() < 0) or (parameter.is_nonpos() and value.max() > 0):
            sign = "negative" if parameter.is_nonneg() else "positive"
            worst = value.min() if parameter.is_nonneg() else value.max()
            raise DataError(
                f"{field} has an entry {worst:g}: {program.name} takes none that is {sign}", field=field
            )


def _known_names(name: str, known: Iterable[str]) -> str:
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known here: {', '.join(names) or 'none'}"
