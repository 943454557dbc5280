"""The parts of a scenario block that share nothing but x: hours of a schedule, products of an allocation."""

from __future__ import annotations

import dataclasses

import numpy as np

from hedgecast.decisions.kernels_pattern import Pattern


@dataclasses.dataclass(frozen=True, slots=True)
class Component:
    """Nodes and rows that elimination connects; all lists ascend."""

    nodes: tuple[int, ...]
    rows: tuple[int, ...]
    """Inequality rows."""


def components(p: Pattern) -> list[Component]:
    """The connected parts of a template's block; rows without recourse stand alone."""
    parent = np.arange(p.num_nodes)

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = int(parent[node])
        return node

    for j in range(p.num_nodes):
        for i in range(p.column_start[j], p.column_start[j + 1]):
            if p.entry_row[i] < p.num_nodes:
                parent[root(j)] = root(int(p.entry_row[i]))
    nodes: dict[int, list[int]] = {}
    for node in range(p.num_nodes):
        nodes.setdefault(root(node), []).append(node)
    rows: dict[int, list[int]] = {}
    alone = []
    for r in range(p.num_inequalities):
        if p.v_ptr[r] < p.v_ptr[r + 1]:
            rows.setdefault(root(int(p.position[p.v_col[p.v_ptr[r]]])), []).append(r)
        else:
            alone.append(Component((), (r,)))
    return [Component(tuple(nodes[at]), tuple(rows.get(at, ()))) for at in nodes] + alone
