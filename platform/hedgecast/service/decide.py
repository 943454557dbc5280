"""What happens before a solve: a query checked against its model, rows made a context."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hedgecast.core.errors import DataError, ShapeError
from hedgecast.programs.program import TwoStageProgram
from hedgecast.registry.session import Context
from hedgecast.rpc.codec import NamedRows
from hedgecast.scenarios.scenario_set import ScenarioSet
from hedgecast.service.backend import ColumnSpec, DecideQuery, ModelDescription


class ContextSource(Protocol):
    """What makes contexts of raw rows, and scenarios of drawn paths: a bundle's reader, say."""

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

    def prepare(self, query: DecideQuery) -> Context:
        """The context of a query that fits this model.

        Raises
        ------
        DataError
            A column is missing or unknown, or the rows make no context.
        ShapeError
            A given parameter is unknown or of another shape.
        """
        check_columns(query.history, self.description.history_columns, "history")
        check_columns(query.known, self.description.known_columns, "known")
        context = self.source.read(query.history, query.known)
        check_given(query, self.program(len(context.step_times)))
        return context


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


def check_given(query: DecideQuery, program: TwoStageProgram) -> None:
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
