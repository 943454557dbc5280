"""Scenarios from a stream of Arrow: what both clients share.

Arrow itself is loaded when the first scenario comes, by name: the client must not load it, nor need it for
decisions.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hedgecast.core.errors import DataError, DependencyError, UnavailableError
from hedgecast.rpc.pieces import METHOD, Piece, piece_of
from hedgecast.rpc.v1 import decision_service_pb2 as decision_pb
from hedgecast.rpc.v1 import scenario_service_pb2 as scenario_pb
from hedgecast.scenarios.fingerprint import RunningFingerprint


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ReductionFigures:
    """How far few scenarios are from all."""

    kept: int
    """Scenarios, or leaves of the tree."""
    method: str
    """``FORWARD_SELECTION``, ``K_MEANS`` or ``QUANTILES``."""
    distance: float
    """Wasserstein distance of order 2, in standard deviations of each series; of a tree an upper bound, of
    quantiles a lower one."""
    relative_distance: float
    """Over that of the mean alone."""
    cost_error: float
    """What a decision on the kept ones costs more over all than the best one, in the program's currency."""
    relative_cost_error: float
    cost_optimism: float
    """What that decision costs more, over all, than the kept ones say."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratedScenarios:
    """Scenarios of one context, or a tree, as they came."""

    table: Any
    """pyarrow Table: one row a scenario, one column a series; or one row a node of the tree."""
    model: str
    """NAME@VERSION."""
    model_fingerprint: str
    seed: int
    drawn: int
    """Scenarios that were drawn; as many as there are, but for a reduction or a tree."""
    fingerprint: str
    """Of all that were drawn, as in a decision's answer."""
    reduction: ReductionFigures | None
    scenario_source: str
    """``MODEL`` or ``BASELINE``."""
    warnings: tuple[str, ...]
    request_id: str

    @property
    def names(self) -> tuple[str, ...]:
        """F series."""
        return tuple(json.loads(self.table.schema.metadata[b"hedgecast.series"]))

    @property
    def units(self) -> tuple[str, ...]:
        """F units."""
        fields = [self.table.schema.field(name) for name in self.names]
        return tuple((field.metadata or {}).get(b"unit", b"").decode() for field in fields)

    @property
    def times(self) -> NDArray[np.datetime64]:
        """(T,) start of each step, UTC; empty where the model names no times."""
        texts = json.loads(self.table.schema.metadata.get(b"hedgecast.times", b"[]"))
        return np.array([text.removesuffix("Z") for text in texts], "datetime64[ns]")

    @property
    def paths(self) -> NDArray[np.floating]:
        """(S, T, F) in the units of the series. Of one batch and series: read-only, without a copy."""
        if "node" in self.table.column_names:
            raise DataError("a tree has nodes, not paths: take its rows from to_table()")
        arrow = importlib.import_module("hedgecast.scenarios.arrow")
        parts = [arrow.paths_of(batch) for batch in self.table.to_batches()]
        found: NDArray[np.floating] = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return found

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """(S,) summing to 1; of a tree, one a node."""
        if "probability" not in self.table.column_names:
            return np.full(self.table.num_rows, 1.0 / self.table.num_rows)
        found: NDArray[np.float64] = self.table.column("probability").to_numpy()
        return found

    @property
    def indices(self) -> NDArray[np.int64]:
        """(S,) number of each scenario in the draw; empty where they are means of several."""
        if "scenario" in self.table.column_names:
            found: NDArray[np.int64] = self.table.column("scenario").to_numpy()
            return found
        return np.arange(0 if self.reduction is not None else self.table.num_rows)

    def to_table(self) -> Any:
        """The pyarrow Table."""
        return self.table

    def to_pandas(self) -> Any:
        """A pandas DataFrame with one row a scenario and step, indexed by both, and one column a series.

        Of a tree: its rows. Needs pandas.
        """
        if "node" in self.table.column_names:
            return self.table.to_pandas()
        pandas = importlib.import_module("pandas")
        paths, times = self.paths, self.times
        number, steps, series = paths.shape
        stamps = pandas.DatetimeIndex(times, tz="UTC") if len(times) else pandas.RangeIndex(steps)
        labels = self.indices if len(self.indices) else np.arange(number)
        index = pandas.MultiIndex.from_product(
            [labels, stamps], names=["scenario", "time" if len(times) else "step"]
        )
        return pandas.DataFrame(paths.reshape(-1, series), index=index, columns=list(self.names))

    def to_torch(self) -> Any:
        """A torch tensor (S, T, F) with memory of its own; needs torch."""
        return importlib.import_module("torch").from_numpy(np.array(self.paths))


def scenario_call(channel: Any) -> Any:
    """GenerateScenarios on a channel, whose answers are pieces.

    Parameters
    ----------
    channel : grpc.Channel or grpc.aio.Channel
    """
    serialize = scenario_pb.GenerateScenariosRequest.SerializeToString
    return channel.unary_stream(METHOD, request_serializer=serialize, response_deserializer=piece_of)


class Assembly:
    """A stream while its messages come in, over as many calls as it takes.

    Parameters
    ----------
    request : GenerateScenariosRequest
        Of the first call; changed here for those that go on.
    """

    def __init__(self, request: scenario_pb.GenerateScenariosRequest) -> None:
        self.request = request
        self._arrow: Any = None
        self._schema: Any = None
        self._next = request.first_batch_index
        self._count = 0
        self._start: scenario_pb.GenerationStart | None = None
        self._end: scenario_pb.GenerationEnd | None = None

    def take(self, piece: Piece) -> Any:
        """The record batch that ``piece`` brings, in the memory it came in; None: it brings none that is new.

        Raises
        ------
        UnavailableError
            Another model answers than the one that began.
        DependencyError
            pyarrow is not installed.
        """
        message = piece.rest
        if message.HasField("start"):
            self._begin(message)
        if message.HasField("end"):
            self._end = message.end
        batch = self._batch(piece)
        if message.next_batch_index <= self._next:
            return None
        self._next = message.next_batch_index
        return batch

    @property
    def taken(self) -> int:
        """Batches so far."""
        return self._next

    def resume(self) -> None:
        """Make the request ask for what has not come yet."""
        if self._start is None:
            return
        model = self._start.model
        self.request.model = f"{model.name}@{model.version}"
        self.request.batch_scenario_count = self._start.batch_scenario_count
        # After the last batch only the call's status is missing: that batch comes again.
        self.request.first_batch_index = min(self._next, self._count - 1)

    def whole(self, batches: Sequence[Any]) -> GeneratedScenarios:
        """What came, once the stream has ended."""
        start, end = self._start, self._end
        assert start is not None
        assert end is not None
        reduction = _figures(end.reduction) if end.HasField("reduction") else None
        found = GeneratedScenarios(
            table=self._arrow.Table.from_batches(batches, self._schema),
            model=f"{start.model.name}@{start.model.version}",
            model_fingerprint=start.model.fingerprint,
            seed=start.seed,
            drawn=start.drawn_count,
            fingerprint=end.scenario_fingerprint,
            reduction=reduction,
            scenario_source=decision_pb.ScenarioOrigin.Source.Name(end.scenario_origin.source),
            warnings=tuple(f"{warning.reason}: {warning.message}" for warning in end.warnings),
            request_id=start.request_id,
        )
        if found.fingerprint or reduction is not None:
            return found
        # The service saw only what came after the break.
        return dataclasses.replace(found, fingerprint=_fingerprint(found))

    def _begin(self, message: scenario_pb.GenerateScenariosResponse) -> None:
        if self._start is not None and self._start.model.fingerprint != message.start.model.fingerprint:
            raise UnavailableError(
                f"{self._start.model.name}@{self._start.model.version} was replaced by another model in "
                "the middle: ask again"
            )
        if self._arrow is None:
            self._arrow = _pyarrow()
        self._start, self._count = message.start, message.batch_count

    def _batch(self, piece: Piece) -> Any:
        """The record batch of a message, which has the schema before it in the first one."""
        (arrow_ipc,) = piece.arrow_ipc
        ipc, batch = self._arrow.ipc, None
        for part in ipc.MessageReader.open_stream(self._arrow.py_buffer(arrow_ipc)):
            if part.type == "schema":
                self._schema = ipc.read_schema(part)
            else:
                batch = ipc.read_record_batch(part, self._schema)
        return batch


def _fingerprint(found: GeneratedScenarios) -> str:
    paths, times = found.paths, found.times
    digest = RunningFingerprint(
        (1, *paths.shape), found.names, found.units, times[None] if len(times) else None
    )
    digest.update(paths)
    return digest.hexdigest()


def _figures(report: scenario_pb.ReductionReport) -> ReductionFigures:
    return ReductionFigures(
        kept=report.kept_count,
        method=scenario_pb.ReductionMethod.Name(report.method),
        distance=report.distance,
        relative_distance=report.relative_distance,
        cost_error=report.cost_error,
        relative_cost_error=report.relative_cost_error,
        cost_optimism=report.cost_optimism,
    )


def _pyarrow() -> Any:
    try:
        importlib.import_module("pyarrow.ipc")
        return importlib.import_module("pyarrow")
    except ModuleNotFoundError as error:
        raise DependencyError(
            "scenarios come as Arrow and pyarrow is missing: pip install 'hedgecast[files]' brings it",
            package="pyarrow",
            extra="files",
        ) from error
