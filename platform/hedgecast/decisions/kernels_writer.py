"""The interior-point passes of one scenario block written out: a tape for each component.

`PASSES` writes each pass over one of the components that `hedgecast.decisions.kernels_components` finds.

The equations are those of `hedgecast.decisions.interior_point` without risk, the passes those of
`hedgecast.decisions.kernels_tile`, which interprets the same lists for blocks that are too long to be
written out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import numpy as np

from hedgecast.decisions.kernels_components import Component, components
from hedgecast.decisions.kernels_pattern import Pattern
from hedgecast.decisions.kernels_tape import Operation, Sums, Tape, Terms, Value


class Nodes(Protocol):
    """The solution at a component's nodes, by node."""

    def __getitem__(self, node: int, /) -> Value:
        """Its value."""
        ...


class Writer:
    """Writes the passes of one component on a tape."""

    def __init__(self, p: Pattern, component: Component) -> None:
        self.p, self.rows, self.nodes = p, component.rows, component.nodes
        self.tape = Tape()
        found = np.flatnonzero(np.isin(p.position, component.nodes)).tolist()
        self.columns = [index for index in found if index < p.num_recourse]
        self.equalities = [index - p.num_recourse for index in found if index >= p.num_recourse]

    # What the lists of the template say about this component.

    def _v(self, row: int) -> Iterable[tuple[int, int, int]]:
        """Entry, column and node of a row of V."""
        p = self.p
        for e in range(p.v_ptr[row], p.v_ptr[row + 1]):
            yield e, int(p.v_col[e]), int(p.position[p.v_col[e]])

    def _u(self, row: int) -> Iterable[tuple[int, int]]:
        p = self.p
        for e in range(p.u_ptr[row], p.u_ptr[row + 1]):
            yield e, int(p.u_col[e])

    def _entries(self, node: int) -> Iterable[tuple[int, int]]:
        """Place in the factor and row of each entry below a node's diagonal."""
        p = self.p
        for i in range(p.column_start[node], p.column_start[node + 1]):
            yield p.num_nodes + i, int(p.entry_row[i])

    def _scaled_by_measure(self, sums: Terms, array: str) -> None:
        for col, value in sums.values.items():
            self.tape.add_to(array, col, self.tape.mul(value, self.tape.load("measure")))

    # Passes.

    def begin(self) -> None:
        """Apply the last step; residuals, factor, forward elimination of the affine right-hand side."""
        t = self.tape
        factor, affine, centering = Terms(t), Terms(t), Terms(t)
        hessian, dual_x, affine_x, centering_x = Terms(t), Terms(t), Terms(t), Terms(t)
        self._move()
        gradient = self._cost_terms(factor, dual_x)
        for row in self.rows:
            self._inequality(row, gradient, factor, affine, centering, hessian, dual_x, affine_x, centering_x)
        self._equality_rows(gradient, factor, affine, dual_x)
        self._stationarity(gradient, factor, affine)
        self._eliminate(factor, affine, centering, hessian, affine_x, centering_x)
        self._sums_in_x(hessian, dual_x, affine_x, centering_x)

    def predict(self) -> None:
        """The affine step's length and products, and forward elimination of its second-order terms."""
        nodes = self._back_substitute({node: self.tape.load("affine", node) for node in self.nodes})
        second, second_x = Terms(self.tape), Terms(self.tape)
        self._affine_rows(nodes, second, second_x)
        self._forward(second, second_x)
        self._scaled_by_measure(second_x, "second_x")
        self._second_order(second)

    def finish(self) -> None:
        """The corrected step and its length."""
        self._corrected_rows(self._corrected_nodes())

    def costs(self) -> None:
        """The part of each scenario's cost that has w in it, unweighted."""
        t, half = self.tape, self.tape.constant(0.5)
        for col in self.columns:
            w = t.load("w", col)
            slope = t.load("c", col)
            for e, x in self._r(col):
                slope = t.add(slope, t.mul(t.load("R", e), t.load("x", x)))
            for e, other in self._q(col):
                slope = t.add(slope, t.mul(half, t.mul(t.load("Q", e), t.load("w", other))))
            t.add_to("costs", 0, t.mul(slope, w))

    def adjoint_right_side(self) -> None:
        """Minus the costs' gradient times what comes from above, into ``affine``; R'w's part in x."""
        t, share = self.tape, self.tape.load("upstream")
        in_x = Terms(t)
        for col in self.columns:
            slope = self._cost_slope(col)
            t.store("affine", int(self.p.position[col]), t.negative(t.mul(share, slope)))
            for e, x in self._r(col):
                in_x.sub(x, t.mul(share, t.mul(t.load("R", e), t.load("w", col))))
        for row in self.equalities:
            t.store("affine", int(self.p.position[self.p.num_recourse + row]), t.constant(0.0))
        self._scaled_by_measure(in_x, "second_x")

    def adjoint_forward(self) -> None:
        """Forward elimination of the right-hand side in ``affine``; x's part is added to ``second_x``."""
        t = self.tape
        values, in_x = Terms(t), Terms(t)
        for node in self.nodes:
            values.add(node, t.load("affine", node))
        self._forward(values, in_x)
        self._scaled_by_measure(in_x, "second_x")
        for node in self.nodes:
            t.store("affine", node, values[node])

    def adjoint_backward(self) -> None:
        """The adjoint of w and y in ``dw`` and ``dy``, of the inequality rows in ``work_z``; dx known."""
        nodes = self._back_substitute({node: self.tape.load("affine", node) for node in self.nodes})
        self._store_nodes(nodes)
        self._adjoint_rows(nodes)

    # Parts of passes.

    def _move(self) -> None:
        t = self.tape
        length = t.load("length")
        pairs = [("w", "dw", self.columns), ("y", "dy", self.equalities)]
        pairs += [("z", "work_z", list(self.rows)), ("s", "work_s", list(self.rows))]
        for array, change, rows in pairs:
            for row in rows:
                moved = t.add(t.load(array, row), t.mul(length, t.load(change, row)))
                t.store(array, row, moved)

    def _q(self, col: int) -> Iterable[tuple[int, int]]:
        for e in np.flatnonzero(self.p.q_row == col):
            yield int(e), int(self.p.q_col[e])

    def _r(self, col: int) -> Iterable[tuple[int, int]]:
        for e in np.flatnonzero(self.p.r_row == col):
            yield int(e), int(self.p.r_col[e])

    def _cost_slope(self, col: int) -> Value:
        """Gradient of the unweighted cost in one recourse column."""
        t = self.tape
        slope = t.load("c", col)
        for e, other in self._q(col):
            slope = t.add(slope, t.mul(t.load("Q", e), t.load("w", other)))
        for e, x in self._r(col):
            slope = t.add(slope, t.mul(t.load("R", e), t.load("x", x)))
        return slope

    def _cost_terms(self, factor: Sums, dual_x: Terms) -> Terms:
        t, p = self.tape, self.p
        gradient = Terms(t)
        weight = t.load("weight")
        for col in self.columns:
            gradient.add(col, t.mul(self._cost_slope(col), weight))
            for e, x in self._r(col):
                value = t.mul(t.load("R", e), weight)
                factor.add(int(p.r_target[e]), value)
                dual_x.add(x, t.mul(value, t.load("w", col)))
        inside = np.isin(p.q_row[p.q_source], self.columns)
        for target, e in zip(p.q_target[inside].tolist(), p.q_source[inside].tolist(), strict=True):
            factor.add(target, t.mul(t.load("Q", e), weight))
        return gradient

    def _inequality(
        self,
        row: int,
        gradient: Sums,
        factor: Sums,
        affine: Sums,
        centering: Sums,
        hessian: Sums,
        dual_x: Sums,
        affine_x: Sums,
        centering_x: Sums,
    ) -> None:
        t, p = self.tape, self.p
        s, z = t.load("s", row), t.load("z", row)
        residual = t.sub(s, t.load("k", row))
        for e, col, _ in self._v(row):
            residual = t.add(residual, t.mul(t.load("V", e), t.load("w", col)))
        for e, col in self._u(row):
            residual = t.add(residual, t.mul(t.load("U", e), t.load("x", col)))
        product = t.mul(s, z)
        q = t.inverse(product)
        inverse_s = t.mul(q, z)
        ratio = t.mul(z, inverse_s)
        aim = t.add(t.sub(t.mul(ratio, residual), z), t.mul(t.load("floor"), inverse_s))
        # The step of z and s is spent: its places take the row's residual.
        t.store("work_z", row, residual)
        t.store("inverse", row, q)
        t.raise_to("primal", 0, t.size(residual))
        t.add_to("product", 0, t.mul(product, t.load("measure")))
        t.raise_to("off_center", 0, t.size(t.sub(product, t.load("floor"))))
        for e, col, node in self._v(row):
            value = t.load("V", e)
            gradient.add(col, t.mul(value, z))
            affine.sub(node, t.mul(value, aim))
            centering.sub(node, t.mul(value, inverse_s))
        for e, col in self._u(row):
            value = t.load("U", e)
            dual_x.add(col, t.mul(value, z))
            affine_x.sub(col, t.mul(value, aim))
            centering_x.sub(col, t.mul(value, inverse_s))
        for table, pointer, left_array, right_array, sums in (
            (p.inner, p.inner_ptr, "V", "V", factor),
            (p.cross, p.cross_ptr, "V", "U", factor),
            (p.outer, p.outer_ptr, "U", "U", hessian),
        ):
            for target, left, right in table[pointer[row] : pointer[row + 1]].tolist():
                pair = t.mul(t.load(left_array, left), t.load(right_array, right))
                sums.add(target, t.mul(pair, ratio))

    def _equality_rows(self, gradient: Sums, factor: Sums, affine: Sums, dual_x: Sums) -> None:
        t, p = self.tape, self.p
        for row in self.equalities:
            y = t.load("y", row)
            residual = t.negative(t.load("h", row))
            for e in range(p.w_ptr[row], p.w_ptr[row + 1]):
                col, value = int(p.w_col[e]), t.load("W", e)
                residual = t.add(residual, t.mul(value, t.load("w", col)))
                gradient.add(col, t.mul(value, y))
                factor.add(int(p.w_target[e]), value)
            for e in range(p.t_ptr[row], p.t_ptr[row + 1]):
                col, value = int(p.t_col[e]), t.load("T", e)
                residual = t.add(residual, t.mul(value, t.load("x", col)))
                factor.add(int(p.t_target[e]), value)
                dual_x.add(col, t.mul(value, y))
            node = int(p.position[p.num_recourse + row])
            affine.sub(node, residual)
            factor.sub(node, t.load("regularization"))
            t.raise_to("primal", 0, t.size(residual))

    def _eliminate(
        self,
        factor: Terms,
        affine: Terms,
        centering: Terms,
        hessian: Terms,
        affine_x: Terms,
        centering_x: Terms,
    ) -> None:
        t, p = self.tape, self.p
        size = p.num_nodes + p.num_entries
        for j in self.nodes:
            inverse = t.inverse(factor[j])
            t.store("factor", j, inverse)
            at = int(p.pair_ptr[j])
            column = list(self._entries(j))
            scaled = {place: t.mul(factor[place], inverse) for place, _ in column}
            for i, (place, row) in enumerate(column):
                for other, _ in column[: i + 1]:
                    target = int(p.pair_target[at])
                    at += 1
                    product = t.mul(factor[place], scaled[other])
                    (factor if target < size else hessian).sub(
                        target if target < size else target - size, product
                    )
                to_nodes = row < p.num_nodes
                index = row if to_nodes else row - p.num_nodes
                (affine if to_nodes else affine_x).sub(index, t.mul(scaled[place], affine[j]))
                (centering if to_nodes else centering_x).sub(index, t.mul(scaled[place], centering[j]))
                t.store("factor", place, scaled[place])
        for node in self.nodes:
            t.store("affine", node, affine[node])
            t.store("centering", node, centering[node])

    def _stationarity(self, gradient: Terms, factor: Sums, affine: Sums) -> None:
        t = self.tape
        for col in self.columns:
            node = int(self.p.position[col])
            affine.sub(node, gradient[col])
            factor.add(node, t.load("regularization"))
            t.raise_to("dual", 0, t.size(gradient[col]))

    def _sums_in_x(self, hessian: Terms, dual_x: Terms, affine_x: Terms, centering_x: Terms) -> None:
        for sums, array in (
            (hessian, "hessian"), (dual_x, "dual_x"), (affine_x, "affine_x"), (centering_x, "centering_x"),
        ):  # fmt: skip
            self._scaled_by_measure(sums, array)

    def _affine_rows(self, nodes: Nodes, second: Sums, second_x: Sums) -> None:
        t, one = self.tape, self.tape.constant(1.0)
        for row in self.rows:
            z, q = t.load("z", row), t.load("inverse", row)
            ds = t.negative(t.add(t.load("work_z", row), self._row_change(row, nodes)))
            relative = t.mul(ds, t.mul(q, z))
            relative_z = t.sub(t.mul(t.load("floor"), q), t.add(one, relative))
            product = t.mul(relative, relative_z)
            t.store("work_s", row, product)
            t.raise_to("ratio", 0, t.negative(relative))
            t.raise_to("ratio", 0, t.negative(relative_z))
            t.add_to("second", 0, t.mul(t.mul(t.mul(ds, z), relative_z), t.load("measure")))
            scaled = t.mul(z, product)
            for e, _, node in self._v(row):
                second.add(node, t.mul(t.load("V", e), scaled))
            for e, col in self._u(row):
                second_x.add(col, t.mul(t.load("U", e), scaled))

    def _second_order(self, second: Terms) -> None:
        t, share = self.tape, self.tape.load("second_share")
        for node in self.nodes:
            t.store("affine", node, t.add(t.load("affine", node), t.mul(second[node], share)))

    def _corrected_nodes(self) -> dict[int, Value]:
        t, barrier = self.tape, self.tape.load("barrier")
        start = {
            node: t.add(t.load("affine", node), t.mul(barrier, t.load("centering", node)))
            for node in self.nodes
        }
        nodes = self._back_substitute(start)
        self._store_nodes(nodes)
        return nodes

    def _corrected_rows(self, nodes: Nodes) -> None:
        t, one = self.tape, self.tape.constant(1.0)
        target, share = t.add(t.load("floor"), t.load("barrier")), t.load("second_share")
        for row in self.rows:
            z, q = t.load("z", row), t.load("inverse", row)
            ds = t.negative(t.add(t.load("work_z", row), self._row_change(row, nodes)))
            relative = t.mul(ds, t.mul(q, z))
            aim = t.sub(t.mul(target, q), t.mul(share, t.load("work_s", row)))
            relative_z = t.sub(aim, t.add(one, relative))
            t.store("work_z", row, t.mul(z, relative_z))
            t.store("work_s", row, ds)
            t.raise_to("ratio", 0, t.negative(relative))
            t.raise_to("ratio", 0, t.negative(relative_z))

    def _adjoint_rows(self, nodes: Nodes) -> None:
        t = self.tape
        for row in self.rows:
            z = t.load("z", row)
            ratio = t.mul(z, t.mul(z, t.load("inverse", row)))
            t.store("work_z", row, t.mul(ratio, self._row_change(row, nodes)))

    def _forward(self, values: Terms, in_x: Terms) -> None:
        t, p = self.tape, self.p
        for j in self.nodes:
            for place, row in self._entries(j):
                product = t.mul(t.load("factor", place), values[j])
                if row < p.num_nodes:
                    values.sub(row, product)
                else:
                    in_x.sub(row - p.num_nodes, product)

    def _back_substitute(self, values: dict[int, Value]) -> dict[int, Value]:
        t, p = self.tape, self.p
        for j in reversed(self.nodes):
            value = t.mul(values[j], t.load("factor", j))
            for place, row in self._entries(j):
                other = values[row] if row < p.num_nodes else t.load("dx", row - p.num_nodes)
                value = t.sub(value, t.mul(t.load("factor", place), other))
            values[j] = value
        return values

    def _row_change(self, row: int, nodes: Nodes) -> Value:
        t = self.tape
        terms = [t.mul(t.load("V", e), nodes[node]) for e, _, node in self._v(row)]
        terms += [t.mul(t.load("U", e), t.load("dx", col)) for e, col in self._u(row)]
        total = terms[0] if terms else t.constant(0.0)
        for term in terms[1:]:
            total = t.add(total, term)
        return total

    def _store_nodes(self, nodes: dict[int, Value]) -> None:
        for col in self.columns:
            self.tape.store("dw", col, nodes[int(self.p.position[col])])
        for row in self.equalities:
            self.tape.store("dy", row, nodes[int(self.p.position[self.p.num_recourse + row])])


PASSES: dict[str, Callable[[Writer], None]] = {
    "begin": Writer.begin,
    "predict": Writer.predict,
    "finish": Writer.finish,
    "costs": Writer.costs,
    "adjoint_right_side": Writer.adjoint_right_side,
    "adjoint_forward": Writer.adjoint_forward,
    "adjoint_backward": Writer.adjoint_backward,
}


def tapes(p: Pattern, name: str) -> list[list[Operation]]:
    """The named pass over every component."""
    found = []
    for component in components(p):
        writer = Writer(p, component)
        PASSES[name](writer)
        found.append(writer.tape.close())
    return found
