"""A scenario tree as one Arrow table, a row a node, that any Arrow library reads without us.

    node, parent  int32   the root is node 0, its parent -1; parents stand before their children
    name          string  as mpi-sppy has it: ROOT, ROOT_0, ROOT_0_1
    stage         int32   0 at the root
    first_step    int32   of the node's values within the horizon
    probability   double  of passing through the node
    <series>      list<double>  the values of its steps, in the units of the data; empty at the root

Field metadata has ``unit``; schema metadata is that of `hedgecast.scenarios.arrow`, and the tree's
``hedgecast.distance`` and ``hedgecast.relative_distance``.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from hedgecast.core.errors import ConfigError, ShapeError
from hedgecast.scenarios.arrow import Description
from hedgecast.scenarios.tree import ScenarioTree

COLUMNS = ("node", "parent", "name", "stage", "first_step", "probability")


def tree_table(tree: ScenarioTree, description: Description) -> pa.Table:
    """The table of a tree whose paths are those of ``description``.

    Raises
    ------
    ShapeError
        The description has other steps or series than the tree.
    ConfigError
        A series has the name of another column.
    """
    shape = (description.num_steps, len(description.names))
    if tree.scale.shape != shape:
        raise ShapeError(f"the tree has (steps, series) = {tree.scale.shape}, its description {shape}")
    taken = [name for name in description.names if name in COLUMNS]
    if taken:
        raise ConfigError(f"series {taken[0]!r}: names must differ from {', '.join(COLUMNS)}", key=taken[0])
    starts = np.array([0, *tree.starts])[tree.stage_of]
    columns = [
        pa.array(np.arange(tree.num_nodes), pa.int32()),
        pa.array(tree.parents, pa.int32()),
        pa.array(tree.names),
        pa.array(tree.stage_of, pa.int32()),
        pa.array(starts, pa.int32()),
        pa.array(tree.probabilities),
    ]
    # The root has no step; nodes stand stage by stage, as the values do.
    lengths = [0] + [stage.shape[1] for stage in tree.values for _ in range(stage.shape[0])]
    offsets = pa.array(np.cumsum([0, *lengths]), pa.int32())
    for place in range(shape[1]):
        flat = np.concatenate([stage[:, :, place].ravel() for stage in tree.values])
        columns.append(pa.ListArray.from_arrays(offsets, pa.array(flat)))
    fields = [
        pa.field(name, column.type, nullable=False) for name, column in zip(COLUMNS, columns, strict=False)
    ]
    fields += [
        pa.field(name, columns[-1].type, nullable=False, metadata={"unit": unit})
        for name, unit in zip(description.names, description.units, strict=True)
    ]
    stated = {
        "hedgecast.distance": repr(tree.distance),
        "hedgecast.relative_distance": repr(tree.relative_distance),
    }
    metadata = {**(description.schema().metadata or {}), **stated}
    return pa.Table.from_arrays(columns, schema=pa.schema(fields, metadata=metadata))
