"""A tree's table, read back by its columns alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from hedgecast.core.errors import ConfigError, ShapeError
from hedgecast.scenarios.arrow import Description
from hedgecast.scenarios.tree import ScenarioTree, scenario_tree
from hedgecast.scenarios.tree_table import tree_table

DESCRIBED = Description(
    names=("load", "price"), units=("GW", "EUR"), num_steps=5, source="model:2",
    times=np.datetime64("2024-01-01T00", "h") + np.arange(5),
)  # fmt: skip


def some_tree() -> ScenarioTree:
    paths = np.random.default_rng(0).normal(size=(60, 5, 2)).cumsum(axis=1)
    return scenario_tree(paths, stages=[0, 2], branching=[3, 2])


def test_paths_and_probabilities_are_in_the_rows(tmp_path: Path) -> None:
    tree = some_tree()
    pq.write_table(tree_table(tree, DESCRIBED), tmp_path / "tree.parquet")
    table = pq.read_table(tmp_path / "tree.parquet")
    rows = table.to_pylist()
    assert rows[0] == {
        "node": 0, "parent": -1, "name": "ROOT", "stage": 0, "first_step": 0, "probability": 1.0, "load": [],
        "price": [],
    }  # fmt: skip
    leaves = [row for row in rows if row["stage"] == 2]
    for leaf, path, share in zip(leaves, tree.paths, tree.leaf_probabilities, strict=True):
        parent = rows[leaf["parent"]]
        assert parent["node"] == leaf["parent"]
        assert (parent["first_step"], leaf["first_step"]) == (0, 2)
        assert leaf["name"].startswith(parent["name"])
        for place, name in enumerate(("load", "price")):
            assert parent[name] + leaf[name] == path[:, place].tolist()
        assert leaf["probability"] == share
    assert table.field("price").metadata[b"unit"] == b"EUR"
    assert float(table.schema.metadata[b"hedgecast.distance"]) == tree.distance
    assert json.loads(table.schema.metadata[b"hedgecast.times"])[1] == "2024-01-01T01:00:00Z"


def test_a_description_of_something_else_is_refused() -> None:
    tree = some_tree()
    with pytest.raises(ShapeError, match=r"\(5, 2\), its description \(4, 2\)"):
        tree_table(tree, Description(names=("load", "price"), units=("GW", "EUR"), num_steps=4))
    with pytest.raises(ConfigError, match="series 'stage'"):
        tree_table(tree, Description(names=("load", "stage"), units=("GW", "EUR"), num_steps=5))
