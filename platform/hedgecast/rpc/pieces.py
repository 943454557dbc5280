"""A message of GenerateScenarios around Arrow bytes: copied once on the way out, not at all on the way in.

Protobuf copies a ``bytes`` field when it is set, when the message is made into bytes, when it is read from
bytes and when the field is read: four times a mebibyte of paths. On the wire a message is its fields one
after another, in any order, so that here the field is written and found by hand and protobuf sees the other
fields alone:

    0x0A   length of arrow_ipc (varint)   arrow_ipc   the other fields

Any protobuf library reads it, and what it writes is read here.

Source: https://protobuf.dev/programming-guides/encoding/; Arrow Flight does the same with its ``data_body``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from hedgecast.rpc.v1 import scenario_service_pb2 as scenario_pb

METHOD = "/hedgecast.rpc.v1.ScenarioService/GenerateScenarios"
# Field 1, of known length.
_TAG = 0x0A
_MORE, _SEVEN_BITS = 0x80, 0x7F
# 2**28 bytes, more than any limit lets pass.
_LONGEST_VARINT = 5

Response = scenario_pb.GenerateScenariosResponse


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """A ``GenerateScenariosResponse`` in two parts."""

    rest: Response
    """All fields but ``arrow_ipc``."""
    arrow_ipc: Sequence[Any]
    """Blocks of contiguous bytes that make up the field."""

    def to_bytes(self) -> bytes:
        """The message on the wire."""
        blocks = [memoryview(block).cast("B") for block in self.arrow_ipc]
        size = sum(block.nbytes for block in blocks)
        return b"".join((bytes((_TAG, *_varint(size))), *blocks, self.rest.SerializeToString()))


def piece_of(content: bytes) -> Piece:
    """The message that ``content`` is; its ``arrow_ipc`` shares the memory of ``content``.

    Raises
    ------
    google.protobuf.message.DecodeError
        It is none.
    """
    begin, end = _place(content)
    if begin < end <= len(content):
        rest = Response.FromString(content[end:])
        # Of two values of a field the last one counts.
        if not rest.arrow_ipc:
            return Piece(rest, (memoryview(content)[begin:end],))
    whole = Response.FromString(content)
    arrow_ipc = whole.arrow_ipc
    whole.ClearField("arrow_ipc")
    return Piece(whole, (memoryview(arrow_ipc),))


def _place(content: bytes) -> tuple[int, int]:
    """Where ``arrow_ipc`` begins and ends; (0, 0): it does not come first."""
    if not content or content[0] != _TAG:
        return 0, 0
    size = 0
    for place, byte in enumerate(content[1 : 1 + _LONGEST_VARINT]):
        size |= (byte & _SEVEN_BITS) << (7 * place)
        if not byte & _MORE:
            return place + 2, place + 2 + size
    return 0, 0


def _varint(number: int) -> list[int]:
    """``number`` in groups of seven bits, the lowest first."""
    groups = []
    while number > _SEVEN_BITS:
        groups.append(number & _SEVEN_BITS | _MORE)
        number >>= 7
    return [*groups, number]
