"""From a message that asks for scenarios to the query and how its answer is cut into batches."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any

from hedgecast.core.errors import InputError
from hedgecast.rpc.v1 import scenario_service_pb2 as scenario_pb
from hedgecast.service.models import ModelDescription
from hedgecast.service.queries import ReduceQuery, ScenariosQuery
from hedgecast.service.question import question_of
from hedgecast.service.settings import ServiceSettings

if TYPE_CHECKING:
    # It loads torch, which no gateway needs.
    from hedgecast.scenarios.reduction import Method

BATCH_BYTES = 2**20
"""Of a batch whose size the caller leaves open."""
# Node, parent, name, stage, first step, probability of a tree's node; a name has 4 letters a stage.
_NODE_BYTES = 64
_METHODS: dict[int, Method] = {
    scenario_pb.REDUCTION_METHOD_UNSPECIFIED: "auto",
    scenario_pb.FORWARD_SELECTION: "forward-selection",
    scenario_pb.K_MEANS: "k-means",
    scenario_pb.QUANTILES: "quantiles",
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """What is to be generated."""

    query: ScenariosQuery | ReduceQuery
    """For all scenarios; names the model with its version, so that batches are of one."""
    batch_rows: int
    """Rows of each batch but the last."""
    first_batch: int
    """Batches before it are left out."""
    fingerprint: bool = True
    """Whether that of all scenarios is wanted."""


def generation(
    message: scenario_pb.GenerateScenariosRequest,
    model: ModelDescription,
    settings: ServiceSettings,
    *,
    deadline_seconds: float,
) -> Generation:
    """What ``message`` asks of ``model``, with the defaults that the protos state.

    Raises
    ------
    InputError
        A field that cannot be used; the fact ``field`` is its path.
    """
    fewer = bool(message.reduce_to) or message.HasField("tree")
    most = settings.max_scenarios if fewer else settings.max_streamed_scenarios
    question = question_of(message, settings, deadline_seconds, most_scenarios=most)
    question["model"] = model.full_name
    steps = question["known"].num_rows or model.horizon_steps
    numbers = steps * len(model.series)
    row_bytes = 8 * numbers + _NODE_BYTES if fewer else 4 * numbers
    batch = _batch_rows(message.batch_scenario_count, row_bytes, settings.max_message_bytes // 2)
    first = message.first_batch_index
    if not fewer:
        _check_alone(message)
        check_first(first, -(-question["scenario_count"] // batch))
        return Generation(
            query=ScenariosQuery(**question),
            batch_rows=batch,
            first_batch=first,
            fingerprint=not message.leave_out_fingerprint,
        )
    query = ReduceQuery(**question, **_reduction(message, question["scenario_count"]))
    return Generation(query=query, batch_rows=batch, first_batch=max(first, 0))


def check_first(first: int, batches: int) -> None:
    """Check ``first_batch_index`` against the number of batches.

    Raises
    ------
    InputError
        There is no such batch.
    """
    if not 0 <= first < batches:
        raise InputError(
            f"first_batch_index is {first}: there are {batches} batches, from 0 to {batches - 1}",
            field="first_batch_index",
        )


def _batch_rows(asked: int, row_bytes: int, most_bytes: int) -> int:
    limit = max(most_bytes // row_bytes, 1)
    if not 0 <= asked <= limit:
        raise InputError(
            f"batch_scenario_count is {asked}: must be from 1 to {limit}, half the largest message, or 0",
            field="batch_scenario_count",
            limit=limit,
        )
    return asked or min(max(BATCH_BYTES // row_bytes, 1), limit)


def _check_alone(message: scenario_pb.GenerateScenariosRequest) -> None:
    """Nothing is read silently that has no effect."""
    for field, given in (
        ("reduction_method", message.reduction_method != scenario_pb.REDUCTION_METHOD_UNSPECIFIED),
        ("given", bool(message.given)),
        ("risk", message.HasField("risk")),
    ):
        if given:
            raise InputError(f"{field} is set without reduce_to and tree: leave it out", field=field)


def _reduction(message: scenario_pb.GenerateScenariosRequest, count: int) -> dict[str, Any]:
    if message.reduction_method not in _METHODS:
        raise InputError(
            f"reduction_method is {message.reduction_method}: must be FORWARD_SELECTION, K_MEANS or "
            "QUANTILES",
            field="reduction_method",
        )
    chosen = {"method": _METHODS[message.reduction_method], "reduce_to": message.reduce_to}
    if not message.HasField("tree"):
        if not 1 <= message.reduce_to <= count:
            raise InputError(
                f"reduce_to is {message.reduce_to}: must be from 1 to {count}, the scenarios that are drawn",
                field="reduce_to",
            )
        return chosen
    if message.reduce_to:
        raise InputError(
            f"reduce_to is {message.reduce_to} with a tree: leave one of them out", field="reduce_to"
        )
    if chosen["method"] == "quantiles":
        raise InputError(
            "reduction_method is QUANTILES with a tree: take FORWARD_SELECTION or K_MEANS",
            field="reduction_method",
        )
    return {**chosen, **_shape(message.tree)}


def _shape(tree: scenario_pb.TreeShape) -> dict[str, tuple[int, ...]]:
    stages, branching = tuple(tree.stage_starts), tuple(tree.branching)
    rising = all(early < late for early, late in itertools.pairwise(stages))
    if not stages or stages[0] != 0 or not rising:
        raise InputError(
            f"tree.stage_starts is {list(stages)}: must be first steps, from 0 on and rising",
            field="tree.stage_starts",
        )
    if len(branching) != len(stages) or min(branching) < 1:
        raise InputError(
            f"tree.branching is {list(branching)}: must have one number for each of {len(stages)} stages, "
            "each at least 1",
            field="tree.branching",
        )
    return {"stages": stages, "branching": branching}
