"""The passes of long components in segments: one for each row and column, so that many become one loop.

A component of many rows, such as a day whose hours ramp limits chain, written out is thousands of operations
that run no faster than the interpreted lists: reading the code takes the time. Nearly all of them concern
rows, and rows of one constraint differ by places alone. So each row is a segment, a tape of its own that
adds to sums in memory, and rows of one kind become one loop; what elimination does remains one segment for
each component. Phases run one after the other; the segments of a phase may run in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from hedgecast.decisions.kernels_components import Component, components
from hedgecast.decisions.kernels_pattern import Pattern
from hedgecast.decisions.kernels_tape import Operation, Stored, Terms
from hedgecast.decisions.kernels_writer import Writer


class Segment(Writer):
    """Writes a part of a component, whose other parts come before and after it."""

    def move_columns(self) -> None:
        """Apply the last step to w and y, and zero the sums of nodes."""
        self._move()
        zero = self.tape.constant(0.0)
        for node in self.nodes:
            for array in ("factor", "affine", "centering"):
                self.tape.store(array, node, zero)
            for place, _ in self._entries(node):
                self.tape.store("factor", place, zero)

    def begin_columns(self) -> None:
        """What the costs bring; those of a column may have others in them."""
        dual_x = Terms(self.tape)
        gradient = self._cost_terms(Stored(self.tape, "factor"), dual_x)
        for col in self.columns:
            self.tape.store("gradient", col, gradient[col])
        self._scaled_by_measure(dual_x, "dual_x")

    def begin_rows(self) -> None:
        """Apply the last step to z and s, and what rows bring."""
        self._move()
        gradient, factor, affine, centering = (
            Stored(self.tape, array) for array in ("gradient", "factor", "affine", "centering")
        )
        in_x = [Terms(self.tape) for _ in range(4)]
        hessian, dual_x, affine_x, centering_x = in_x
        for row in self.rows:
            self._inequality(row, gradient, factor, affine, centering, hessian, dual_x, affine_x, centering_x)
        self._sums_in_x(*in_x)

    def begin_equalities(self) -> None:
        """What equality rows bring."""
        gradient, factor, affine = (Stored(self.tape, array) for array in ("gradient", "factor", "affine"))
        dual_x = Terms(self.tape)
        self._equality_rows(gradient, factor, affine, dual_x)
        self._scaled_by_measure(dual_x, "dual_x")

    def stationarity(self) -> None:
        """The right-hand side of columns, once their gradient is whole."""
        gradient = Terms(self.tape, "gradient")
        self._stationarity(gradient, Stored(self.tape, "factor"), Stored(self.tape, "affine"))

    def eliminate(self) -> None:
        """Factor, and forward elimination of the affine right-hand side."""
        factor, affine, centering = (Terms(self.tape, array) for array in ("factor", "affine", "centering"))
        hessian, affine_x, centering_x = (Terms(self.tape) for _ in range(3))
        self._eliminate(factor, affine, centering, hessian, affine_x, centering_x)
        self._sums_in_x(hessian, Terms(self.tape), affine_x, centering_x)

    def affine_nodes(self) -> None:
        """The affine step's nodes; the second-order sums are zero."""
        zero = self.tape.constant(0.0)
        nodes = self._back_substitute({node: self.tape.load("affine", node) for node in self.nodes})
        for node, value in nodes.items():
            self.tape.store("nodes", node, value)
            self.tape.store("second_nodes", node, zero)

    def affine_rows(self) -> None:
        """The affine step's rows, and their second-order terms."""
        second_x = Terms(self.tape)
        self._affine_rows(Terms(self.tape, "nodes"), Stored(self.tape, "second_nodes"), second_x)
        self._scaled_by_measure(second_x, "second_x")

    def second_order(self) -> None:
        """Forward elimination of the second-order terms."""
        second, second_x = Terms(self.tape, "second_nodes"), Terms(self.tape)
        self._forward(second, second_x)
        self._scaled_by_measure(second_x, "second_x")
        self._second_order(second)

    def corrected_nodes(self) -> None:
        """The corrected step's nodes."""
        for node, value in self._corrected_nodes().items():
            self.tape.store("nodes", node, value)

    def corrected_rows(self) -> None:
        """The corrected step's rows, and its length."""
        self._corrected_rows(Terms(self.tape, "nodes"))

    def adjoint_nodes(self) -> None:
        """The adjoint of w and y."""
        nodes = self._back_substitute({node: self.tape.load("affine", node) for node in self.nodes})
        self._store_nodes(nodes)
        for node, value in nodes.items():
            self.tape.store("nodes", node, value)

    def adjoint_rows(self) -> None:
        """The adjoint of inequality rows."""
        self._adjoint_rows(Terms(self.tape, "nodes"))


Cut = Callable[[Pattern, Component], Iterable[Component]]


def _whole(p: Pattern, component: Component) -> Iterable[Component]:
    del p
    return [component]


def _by_node(p: Pattern, component: Component) -> Iterable[Component]:
    del p
    return [Component((node,), ()) for node in component.nodes]


def _by_rows(p: Pattern, component: Component) -> Iterable[Component]:
    """Rows of the same columns, and those of some of these, together: their sums are read once."""
    rows: dict[frozenset[int], list[int]] = {}
    with_column: dict[int, list[frozenset[int]]] = {}
    for row in component.rows:
        columns = frozenset(p.v_col[p.v_ptr[row] : p.v_ptr[row + 1]].tolist())
        if columns not in rows:
            for column in columns:
                with_column.setdefault(column, []).append(columns)
        rows.setdefault(columns, []).append(row)
    # The last that holds them: what constraints say of each step comes after what they say of neighbors.
    for columns in sorted(rows, key=len):
        wider = [other for other in with_column.get(min(columns, default=-1), ()) if columns < other]
        if wider:
            rows[wider[-1]] += rows.pop(columns)
    return [Component((), tuple(sorted(found))) for found in rows.values()]


PHASES: dict[str, tuple[tuple[Cut, Callable[[Segment], None]], ...]] = {
    "begin": (
        (_by_node, Segment.move_columns),
        (_by_node, Segment.begin_columns),
        (_by_rows, Segment.begin_rows),
        (_by_node, Segment.begin_equalities),
        (_by_node, Segment.stationarity),
        (_whole, Segment.eliminate),
    ),
    "predict": (
        (_whole, Segment.affine_nodes),
        (_by_rows, Segment.affine_rows),
        (_whole, Segment.second_order),
    ),
    "finish": ((_whole, Segment.corrected_nodes), (_by_rows, Segment.corrected_rows)),
    "costs": ((_whole, Segment.costs),),
    "adjoint_right_side": ((_by_node, Segment.adjoint_right_side),),
    "adjoint_forward": ((_whole, Segment.adjoint_forward),),
    "adjoint_backward": ((_whole, Segment.adjoint_nodes), (_by_rows, Segment.adjoint_rows)),
}
"""Of each pass of `hedgecast.decisions.kernels_writer.PASSES`."""


def least_operations(p: Pattern) -> int:
    """Fewer than any way of writing takes: elimination's, of the component that has most of it."""
    counts = np.diff(p.column_start)
    return max((4 * sum(1 + int(counts[node]) for node in part.nodes) for part in components(p)), default=0)


def phases(p: Pattern, name: str) -> list[list[list[Operation]]]:
    """The tapes of the named pass over all components, phase by phase."""
    parts = components(p)
    return [
        [tape for part in parts for piece in cut(p, part) if (tape := _written(p, piece, write))]
        for cut, write in PHASES[name]
    ]


def _written(p: Pattern, piece: Component, write: Callable[[Segment], None]) -> list[Operation]:
    segment = Segment(p, piece)
    write(segment)
    return segment.tape.close()
