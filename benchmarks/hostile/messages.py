"""Requests that are wrong by construction, from one that is right; every draw from a seeded generator."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import numpy as np

from hedgecast.rpc.v1 import decision_service_pb2 as decision_pb
from hedgecast.rpc.v1 import rows_pb2, tensor_pb2

Draws = np.random.Generator
_Spoil = Callable[[decision_pb.DecideRequest, Draws], None]
_NOT_FINITE = (float("nan"), float("inf"), float("-inf"))
_HUGE = (2**31 - 1, 2**31, 2**62, 2**63 - 1)


def random_bytes(draws: Draws) -> bytes:
    """Bytes that nobody chose, often short, at times with the look of a field."""
    content = draws.bytes(int(draws.integers(0, 400)))
    return bytes([int(draws.integers(0, 256)), int(draws.integers(0, 256))]) + content


def mutated(content: bytes, draws: Draws) -> bytes:
    """``content`` with one to eight bits, bytes or runs changed."""
    changed = bytearray(content)
    for _ in range(int(draws.integers(1, 9))):
        if not changed:
            break
        at = int(draws.integers(len(changed)))
        kind = int(draws.integers(6))
        if kind == 0:
            changed[at] ^= 1 << int(draws.integers(8))
        elif kind == 1:
            changed[at] = int(draws.integers(256))
        elif kind == 2:
            del changed[at : at + int(draws.integers(1, 64))]
        elif kind == 3:
            changed[at:at] = draws.bytes(int(draws.integers(1, 64)))
        elif kind == 4:
            # A length that promises far more than there is.
            changed[at : at + 1] = b"\xff\xff\xff\xff\x07"
        else:
            del changed[at:]
    return bytes(changed)


def spoiled(valid: decision_pb.DecideRequest, draws: Draws) -> bytes:
    """The valid request with one to three fields that no server may accept."""
    request = copy.deepcopy(valid)
    for index in draws.choice(len(_SPOILS), size=int(draws.integers(1, 4)), replace=False):
        _SPOILS[index](request, draws)
    return request.SerializeToString()


def extreme(valid: decision_pb.DecideRequest, draws: Draws) -> bytes:
    """The valid request with finite numbers that nobody has in a real series."""
    request = copy.deepcopy(valid)
    request.scenario_count = int(draws.integers(1, 4))
    column = request.history.columns[int(draws.integers(len(request.history.columns)))]
    size = float(draws.choice([1e-300, 1e-30, 1e12, 1e30, 1e100, 1e300, 1.7e308]))
    for index in draws.integers(len(column.values), size=int(draws.integers(1, 50))):
        column.values[index] = size * float(draws.choice([-1.0, 1.0]))
    request.seed = int(draws.choice([0, 1, 2**31, 2**53, 2**63 - 1]))
    return request.SerializeToString()


def allocation_bomb(draws: Draws, size: int) -> bytes:
    """A request of about ``size`` bytes that is millions of empty messages, or one promise of much more."""
    kind = int(draws.integers(4))
    if kind == 0:
        content = b"\x0a\x00" * (size // 2 - 16)
        return b"\x12" + _varint(len(content)) + content
    if kind == 1:
        column = b"\x12\x00" * (size // 2 - 16)
        return b"\x12" + _varint(len(column)) + column
    if kind == 2:
        entry = b"\x22\x05\x0a\x01a\x12\x00"
        return entry * (size // len(entry) - 4)
    shape = [2**40] * 3
    tensor = tensor_pb2.Tensor(shape=shape, data_type=tensor_pb2.Tensor.FLOAT64, data=bytes(64))
    return decision_pb.DecideRequest(model="tiny", given={"capacity": tensor}).SerializeToString()


def _varint(value: int) -> bytes:
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def _rows(request: decision_pb.DecideRequest, draws: Draws) -> rows_pb2.Rows:
    return request.history if draws.integers(2) else request.known


def _column(request: decision_pb.DecideRequest, draws: Draws) -> rows_pb2.Column:
    columns = _rows(request, draws).columns
    return columns[int(draws.integers(len(columns)))] if len(columns) else columns.add()


def _not_finite(request: decision_pb.DecideRequest, draws: Draws) -> None:
    column = _column(request, draws)
    if len(column.values) == 0:
        column.values.append(0.0)
    column.values[int(draws.integers(len(column.values)))] = draws.choice(_NOT_FINITE)


def _wrong_length(request: decision_pb.DecideRequest, draws: Draws) -> None:
    _column(request, draws).values.extend([0.0] * int(draws.integers(1, 5)))


def _wrong_names(request: decision_pb.DecideRequest, draws: Draws) -> None:
    names = ["", "no_such_column", "load_gw\x00", "\u202eload", "x" * 5000, "../../etc/passwd", "'; drop--"]
    _column(request, draws).name = names[int(draws.integers(len(names)))]


def _repeated_column(request: decision_pb.DecideRequest, _draws: Draws) -> None:
    request.history.columns.add().CopyFrom(request.history.columns[0])


def _missing_column(request: decision_pb.DecideRequest, draws: Draws) -> None:
    name = request.history.columns[int(draws.integers(len(request.history.columns)))].name
    # All of that name: another spoil may have repeated it.
    kept = [column for column in request.history.columns if column.name != name]
    del request.history.columns[:]
    request.history.columns.extend(kept)


def _wrong_times(request: decision_pb.DecideRequest, draws: Draws) -> None:
    times = _rows(request, draws).row_times
    if len(times) < 2:
        return  # Another spoil has left too few, which is wrong enough.
    at = int(draws.integers(1, len(times)))
    kind = int(draws.integers(4))
    if kind == 0:
        times[at].seconds = times[at - 1].seconds
    elif kind == 1:
        times[at].seconds = int(draws.choice([2**62, -(2**62), 2**63 - 1, -(2**63)]))
    elif kind == 2:
        times[at].nanos = int(draws.choice([-1, 10**9, 2**31 - 1, -(2**31)]))
    else:
        times[at].seconds += 1


def _too_few_rows(request: decision_pb.DecideRequest, draws: Draws) -> None:
    kept = int(draws.integers(0, 24))
    del request.history.row_times[kept:]
    for column in request.history.columns:
        del column.values[kept:]


def _hostile_tensor(request: decision_pb.DecideRequest, draws: Draws) -> None:
    tensor = request.given["capacity" if draws.integers(4) else "unknown" * int(draws.integers(1, 200))]
    tensor.data_type = int(draws.choice([0, 1, 2, 3, 4, 99, 2**31 - 1]))
    kind = int(draws.integers(6))
    if kind == 0:
        tensor.shape.extend(int(length) for length in draws.choice(_HUGE[2:], size=3))
    elif kind == 1:
        tensor.shape.extend([int(draws.choice([-1, 0, -(2**63)])), 24])
    elif kind == 2:
        tensor.shape.extend([1] * int(draws.integers(9, 2000)))
        tensor.data = bytes(8)
    elif kind == 3:
        tensor.shape.append(24)
        tensor.data = draws.bytes(24 * 8 + int(draws.integers(1, 9)))
    elif kind == 4:
        tensor.shape.append(24)
        tensor.data = np.full(24, draws.choice(_NOT_FINITE)).astype("<f8").tobytes()
        tensor.data_type = tensor_pb2.Tensor.FLOAT64
    else:
        tensor.shape.extend([2**32, 2**32, 2**32])
        tensor.data = b""


def _wrong_counts(request: decision_pb.DecideRequest, draws: Draws) -> None:
    if draws.integers(2):
        request.scenario_count = int(draws.choice([-1, -(2**31), 1001, 2**31 - 1]))
    else:
        request.seed = -int(draws.integers(1, 2**62))


def _wrong_risk(request: decision_pb.DecideRequest, draws: Draws) -> None:
    bad = float(draws.choice([*_NOT_FINITE, -0.5, 1.5, -1e308]))
    kind = int(draws.integers(3))
    if kind == 0:
        request.risk.cvar.alpha = bad
    elif kind == 1:
        request.risk.mixture.beta = bad
    else:
        request.risk.basis = int(draws.choice([-1, 77, 2**31 - 1]))


def _wrong_levels(request: decision_pb.DecideRequest, draws: Draws) -> None:
    kind = int(draws.integers(3))
    if kind == 0:
        request.quantile_levels.extend(draws.choice([*_NOT_FINITE, -0.1, 1.1], size=3))
    elif kind == 1:
        request.quantile_levels.extend([0.5] * int(draws.integers(102, 5000)))
    else:
        request.tail_level = float(draws.choice([*_NOT_FINITE, 1.0, -0.1, 1e300]))


def _wrong_texts(request: decision_pb.DecideRequest, draws: Draws) -> None:
    texts = ['a\n{"event": "call"}', "x" * 65, "\u2028", "a b", "\x00", "../../x", "\x1b[2J", "%s%n"]
    if draws.integers(2):
        request.request_id = texts[int(draws.integers(len(texts)))]
    else:
        names = [*texts, "", "@", "tiny@", "tiny@0", "@champion", "tiny\x00", "m" * 20_000]
        request.model = names[int(draws.integers(len(names)))]


_SPOILS: tuple[_Spoil, ...] = (
    _not_finite,
    _wrong_length,
    _wrong_names,
    _repeated_column,
    _missing_column,
    _wrong_times,
    _too_few_rows,
    _hostile_tensor,
    _wrong_counts,
    _wrong_risk,
    _wrong_levels,
    _wrong_texts,
)


def hostile_tokens(draws: Draws) -> Iterator[tuple[str, str | bytes]]:
    """Metadata that must not let anybody in."""
    kind = int(draws.integers(7))
    text = "".join(chr(int(code)) for code in draws.integers(33, 127, size=int(draws.integers(1, 200))))
    if kind == 0:
        yield "authorization", f"Bearer {text}"
    elif kind == 1:
        yield "authorization", text
    elif kind == 2:
        yield "authorization", "Bearer " + "x" * int(draws.integers(4000, 7000))
    elif kind == 3:
        for _ in range(int(draws.integers(2, 10))):
            yield "authorization", f"Bearer {text}"
    elif kind == 4:
        yield "authorization-bin", draws.bytes(int(draws.integers(1, 200)))
    elif kind == 5:
        yield "authorization", "bearer sesame"
        yield "x-request-id", text
        yield "traceparent", text
    # And none at all.
