"""Calls from compiled loops into generated code: the table of addresses and the call itself."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from hedgecast.decisions.kernels_writer import PASSES

# Constants of the compiled loops: where each pass's address stands.
BEGIN, PREDICT, FINISH, COSTS, RIGHT_SIDE, FORWARD, BACKWARD = range(len(PASSES))


@intrinsic
def run(typing: Any, address: Any, table: Any, first: Any, last: Any) -> Any:
    """Run the pass at ``address`` on the tiles from ``first`` up to ``last``.

    ``table`` is the address of the arrays' addresses, in the order of
    `hedgecast.decisions.kernels_emit.ARRAYS`.
    """
    del typing, address, table, first, last
    signature = types.void(types.int64, types.int64, types.int64, types.int64)

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del signature
        where, *rest = arguments
        integer = ir.IntType(64)
        kind = ir.FunctionType(ir.VoidType(), [integer] * 3)
        builder.call(builder.inttoptr(where, kind.as_pointer()), rest)
        return context.get_dummy_value()

    return signature, write


@intrinsic
def borrowed(typing: Any, value: Any) -> Any:
    """The same array, or tuple of arrays, without a count of references: for use while the owner lives.

    A compiled function counts the arrays that it is given, two atomic operations each: 7 % of a solve.
    """
    del typing

    def write(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _without_owner(context, builder, signature.args[0], arguments[0])

    return value(value), write


def _without_owner(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    if isinstance(kind, types.Array):
        view = context.make_array(kind)(context, builder, value)
        view.meminfo = ir.Constant(view.meminfo.type, None)
        view.parent = ir.Constant(view.parent.type, None)
        return view._getvalue()
    if isinstance(kind, types.BaseTuple):
        for i, part in enumerate(kind.types):
            bare = _without_owner(context, builder, part, builder.extract_value(value, i))
            value = builder.insert_value(value, bare, i)
    return value
