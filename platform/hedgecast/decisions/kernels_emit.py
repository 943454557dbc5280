"""Tapes into machine code: one function per pass, compiled for this machine's vector unit.

A generated function runs one pass over some tiles of eight scenarios. Tapes that differ by rows alone, in
steps of the same size, become one loop: components, or where these are too long their segments. Templates
that have more operations than `MOST_OPERATIONS` either way are left to the interpreted passes: they would
take seconds to compile (9,846: 3.5 s).
"""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import numpy.typing as npt
from llvmlite import ir

from hedgecast.decisions.kernels_pattern import Pattern
from hedgecast.decisions.kernels_segments import least_operations, phases
from hedgecast.decisions.kernels_tape import Operation
from hedgecast.decisions.kernels_writer import PASSES, tapes

LANES = 8
"""Scenarios of a tile: the doubles of one 512-bit register, two of 256 bits."""
COEFFICIENTS = ("V", "U", "W", "T", "Q", "R", "c", "h", "k")
TILED = (
    "w", "y", "z", "s", "dw", "dy", "work_z", "work_s", "inverse", "factor", "affine", "centering",
    "costs", "weight", "measure", "upstream",
)  # fmt: skip
"""Arrays (tiles, rows, lanes)."""
COMMON = (
    "x", "dx", "hessian", "dual_x", "affine_x", "centering_x", "second_x", "length", "floor", "barrier",
    "second_share", "primal", "dual", "product", "second", "ratio", "off_center", "regularization",
    "nodes", "gradient", "second_nodes",
)  # fmt: skip
"""Arrays (rows, lanes) that all tiles share."""
SUMS = ("primal", "dual", "product", "second", "ratio", "off_center")
"""Those of them with one row that tapes add to: they stay in registers, not to wait for the last store."""
ARRAYS = (*TILED, *COEFFICIENTS, *COMMON)
"""Order of the addresses that a generated function is given."""
MOST_OPERATIONS = 4_000

_DOUBLE, _INTEGER, _POINTER = ir.DoubleType(), ir.IntType(64), ir.PointerType()
_VECTOR = ir.VectorType(_DOUBLE, LANES)
_SIZE = f"llvm.fabs.v{LANES}f64"
# Contraction to fused multiply-adds; NaN and infinity keep their meaning.
_FLAGS = ("contract", "nsz")


@dataclasses.dataclass(frozen=True, slots=True)
class Loop:
    """One tape for several components: row = row of the tape + step * component."""

    operations: list[Operation]
    count: int
    steps: tuple[int, ...]
    """Of each operation; zero for those without a place."""


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Code:
    """Machine code of all passes of a template."""

    addresses: npt.NDArray[np.int64]
    """In the order of `hedgecast.decisions.kernels_writer.PASSES`."""
    engine: Any
    """Owns the code."""


def loops(found: list[list[Operation]]) -> list[Loop]:
    """Tapes of the same shape with evenly spaced rows, together."""
    shapes: dict[tuple[object, ...], list[list[Operation]]] = {}
    for operations in found:
        shapes.setdefault(tuple(operation.shape for operation in operations), []).append(operations)
    out = []
    for same in shapes.values():
        start = 0
        while start < len(same):
            count, steps = _run(same[start:])
            out.append(Loop(same[start], count, steps))
            start += count
    return out


def _rows(operations: list[Operation]) -> npt.NDArray[np.int64]:
    return np.array([operation.place[1] if operation.place else 0 for operation in operations])


def _run(same: list[list[Operation]]) -> tuple[int, tuple[int, ...]]:
    """How many tapes from the first on are evenly spaced, and their steps."""
    first = _rows(same[0])
    if len(same) == 1:
        return 1, tuple(0 * first)
    steps = _rows(same[1]) - first
    count = 2
    while count < len(same) and np.array_equal(_rows(same[count]), first + count * steps):
        count += 1
    return count, tuple(steps)


def generate(p: Pattern, varies: tuple[bool, ...]) -> Code | None:
    """Machine code of a template's passes; None where it would be too long.

    Parameters
    ----------
    p : Pattern
        The template.
    varies : tuple of bool
        Whether each of `COEFFICIENTS` differs between scenarios.
    """
    if least_operations(p) > MOST_OPERATIONS:
        return None
    for passes in (whole_components, in_segments):
        found = {name: passes(p, name) for name in PASSES}
        longest = max(sum(len(loop.operations) for loop in written) for written in found.values())
        if longest <= MOST_OPERATIONS:
            return assemble(p, varies, found)
    return None


def whole_components(p: Pattern, name: str) -> list[Loop]:
    """A pass with each component written out."""
    return loops(tapes(p, name))


def in_segments(p: Pattern, name: str) -> list[Loop]:
    """The same with each component in segments, of which there are fewer kinds."""
    return [loop for phase in phases(p, name) for loop in loops(phase)]


def assemble(p: Pattern, varies: tuple[bool, ...], passes: dict[str, list[Loop]]) -> Code:
    """Machine code of passes that are written."""
    module = ir.Module(name="hedgecast")
    for name, found in passes.items():
        _Function(module, name, sizes(p), dict(zip(COEFFICIENTS, varies, strict=True)), found)
    engine = _compile(str(module))
    addresses = np.array([engine.get_function_address(name) for name in PASSES], dtype=np.int64)
    return Code(addresses, engine)


def sizes(p: Pattern) -> dict[str, int]:
    """Rows of each tiled array and of each coefficient."""
    rows = {
        **dict.fromkeys(("w", "dw", "c"), p.num_recourse),
        **dict.fromkeys(("y", "dy", "h"), p.num_equalities),
        **dict.fromkeys(("z", "s", "work_z", "work_s", "inverse", "k"), p.num_inequalities),
        **dict.fromkeys(("affine", "centering"), p.num_nodes),
        **dict.fromkeys(("costs", "weight", "measure", "upstream"), 1),
        "factor": p.num_nodes + p.num_entries,
    }
    entries = {"V": p.v_col, "U": p.u_col, "W": p.w_col, "T": p.t_col, "Q": p.q_col, "R": p.r_col}
    return rows | {name: len(cols) for name, cols in entries.items()}


class _Function:
    """Writes one pass: for each tile, for each loop, for each component, the tape."""

    def __init__(
        self, module: ir.Module, name: str, rows: dict[str, int], varies: dict[str, bool], found: list[Loop]
    ) -> None:
        self.rows, self.varies = rows, varies
        self.size = module.globals.get(_SIZE) or ir.Function(
            module, ir.FunctionType(_VECTOR, [_VECTOR]), name=_SIZE
        )
        kind = ir.FunctionType(ir.VoidType(), [_POINTER, _INTEGER, _INTEGER])
        function = ir.Function(module, kind, name=name)
        self.table, first, last = function.args
        self.builder = ir.IRBuilder(function.append_basic_block("entry"))
        used = {operation.place[0] for loop in found for operation in loop.operations if operation.place}
        self.base = {array: self._address(array) for array in ARRAYS if array in used}
        self.sums = {array: self._load_vector(self.base[array]) for array in SUMS if array in used}
        self._repeat(first, last, lambda tile: self._tile(tile, found))
        for array, value in self.sums.items():
            self.builder.store(value, self.base[array], align=8)
        self.builder.ret_void()

    def _address(self, array: str) -> ir.Value:
        place = self.builder.gep(self.table, [_INTEGER(ARRAYS.index(array))], source_etype=_INTEGER)
        return self.builder.inttoptr(self.builder.load(place, typ=_INTEGER), _POINTER)

    def _repeat(self, first: ir.Value, last: ir.Value, body: Any) -> None:
        """``for index in range(first, last)``; sums go from one turn to the next."""
        builder = self.builder
        before = builder.block
        head, inside, after = (builder.append_basic_block(name) for name in ("head", "inside", "after"))
        builder.branch(head)
        builder.position_at_end(head)
        index = builder.phi(_INTEGER)
        index.add_incoming(first, before)
        kept = {array: builder.phi(_VECTOR) for array in self.sums}
        for array, phi in kept.items():
            phi.add_incoming(self.sums[array], before)
        self.sums = dict(kept)
        builder.cbranch(builder.icmp_signed("<", index, last), inside, after)
        builder.position_at_end(inside)
        body(index)
        index.add_incoming(builder.add(index, _INTEGER(1)), builder.block)
        for array, phi in kept.items():
            phi.add_incoming(self.sums[array], builder.block)
        self.sums = dict(kept)
        builder.branch(head)
        builder.position_at_end(after)

    def _load_vector(self, pointer: ir.Value) -> Any:
        return self.builder.load(pointer, typ=_VECTOR, align=8)

    def _tile(self, tile: ir.Value, found: list[Loop]) -> None:
        pointers = {array: self._tile_pointer(array, tile) for array in self.base}
        for loop in found:
            if loop.count == 1:
                self._tape(loop, None, pointers)
            else:
                self._repeat(
                    _INTEGER(0),
                    _INTEGER(loop.count),
                    lambda component, loop=loop: self._tape(loop, component, pointers),
                )

    def _tile_pointer(self, array: str, tile: ir.Value) -> ir.Value:
        if array in COMMON or (array in COEFFICIENTS and not self.varies[array]):
            return self.base[array]
        offset = self.builder.mul(tile, _INTEGER(self.rows[array] * LANES))
        return self.builder.gep(self.base[array], [offset], source_etype=_DOUBLE)

    def _tape(self, loop: Loop, component: ir.Value | None, pointers: dict[str, ir.Value]) -> None:
        values: list[Any] = []
        for operation, step in zip(loop.operations, loop.steps, strict=True):
            place = None
            if operation.place is not None:
                place = self._place(operation.place, step, component, pointers)
            values.append(self._write(operation, [values[i] for i in operation.reads], place))

    def _place(
        self, place: tuple[str, int], step: int, component: ir.Value | None, pointers: dict[str, ir.Value]
    ) -> ir.Value:
        array, row = place
        width = 1 if array in COEFFICIENTS and not self.varies[array] else LANES
        pointer = pointers[array]
        if component is not None and step:
            moved = self.builder.mul(component, _INTEGER(step * width))
            pointer = self.builder.gep(pointer, [moved], source_etype=_DOUBLE)
        return self.builder.gep(pointer, [_INTEGER(row * width)], source_etype=_DOUBLE)

    def _write(self, operation: Operation, reads: list[Any], place: ir.Value | None) -> Any:
        build = self.builder
        match operation.code:
            case "load":
                assert operation.place is not None
                array = operation.place[0]
                if array in COEFFICIENTS and not self.varies[array]:
                    return self._everywhere(build.load(place, typ=_DOUBLE))
                return self._load_vector(place)
            case "constant":
                return ir.Constant(_VECTOR, [operation.constant] * LANES)
            case "add":
                return build.fadd(*reads, flags=_FLAGS)
            case "sub":
                return build.fsub(*reads, flags=_FLAGS)
            case "mul":
                return build.fmul(*reads, flags=_FLAGS)
            case "negative":
                return build.fneg(*reads, flags=_FLAGS)
            case "inverse":
                return build.fdiv(ir.Constant(_VECTOR, [1.0] * LANES), *reads, flags=_FLAGS)
            case "size":
                return build.call(self.size, reads)
            case "max":
                return self._larger(*reads)
            case "store":
                return build.store(reads[0], place, align=8)
            case "add to":
                return self._combine(operation, place, lambda old: build.fadd(old, reads[0], flags=_FLAGS))
            case "max to":
                return self._combine(operation, place, lambda old: self._larger(reads[0], old))
        raise AssertionError(operation.code)

    def _combine(self, operation: Operation, place: ir.Value | None, combined: Any) -> Any:
        assert operation.place is not None
        array = operation.place[0]
        if array in self.sums:
            self.sums[array] = combined(self.sums[array])
            return self.sums[array]
        return self.builder.store(combined(self._load_vector(place)), place, align=8)

    def _everywhere(self, value: ir.Value) -> ir.Value:
        single = self.builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, _INTEGER(0))
        mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        return self.builder.shuffle_vector(single, ir.Constant(_VECTOR, ir.Undefined), mask)

    def _larger(self, left: ir.Value, right: ir.Value) -> ir.Value:
        return self.builder.select(self.builder.fcmp_ordered(">", left, right), left, right)


_LOCK = threading.Lock()


def _machine() -> Any:
    """A target of this machine; an engine takes its own."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features()
    # The passes are written in 512-bit vectors; halves of them would need twice the instructions.
    text = features.flatten() + ",-prefer-256-bit"
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=text, opt=3, jit=True)


def _compile(source: str) -> Any:
    # LLVM's bindings are not safe to enter from several threads.
    with _LOCK:
        module = llvm.parse_assembly(source)
        module.verify()
        engine = llvm.create_mcjit_compiler(module, _machine())
        engine.finalize_object()
        return engine
