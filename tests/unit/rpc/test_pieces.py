"""What is written by hand is what protobuf reads, and what protobuf writes is read by hand."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf.message import DecodeError

from hedgecast.rpc.pieces import METHOD, Piece, piece_of
from hedgecast.rpc.v1 import scenario_service_pb2 as scenario_pb

Response = scenario_pb.GenerateScenariosResponse
# About where a length takes one byte more.
SIZES = [0, 1, 127, 128, 16_383, 16_384, 2**21 - 1, 2**21]


def _content(size: int) -> bytes:
    return np.random.default_rng(size).bytes(size)


def _rest(size: int) -> scenario_pb.GenerateScenariosResponse:
    return Response(
        next_batch_index=size % 7,
        batch_count=3,
        start=scenario_pb.GenerationStart(seed=-1, request_id="q"),
        end=scenario_pb.GenerationEnd(scenario_fingerprint="f"),
    )


@pytest.mark.parametrize("size", SIZES)
def test_protobuf_reads_what_is_written(size: int) -> None:
    content, rest = _content(size), _rest(size)
    third = size // 3
    # Blocks of other types than bytes: a view, and numbers.
    blocks = (memoryview(content)[:third], np.frombuffer(content[third:], np.uint8))
    found = Response.FromString(Piece(rest, blocks).to_bytes())
    expected = _rest(size)
    expected.arrow_ipc = content
    assert found == expected


@pytest.mark.parametrize("size", SIZES)
def test_what_protobuf_writes_is_read(size: int) -> None:
    message = _rest(size)
    message.arrow_ipc = _content(size)
    found = piece_of(message.SerializeToString())
    (arrow_ipc,) = found.arrow_ipc
    assert bytes(arrow_ipc) == message.arrow_ipc
    assert found.rest == _rest(size)


def test_the_memory_is_that_of_the_message() -> None:
    written = Piece(_rest(1), (_content(1000),)).to_bytes()
    (arrow_ipc,) = piece_of(written).arrow_ipc
    assert np.shares_memory(np.frombuffer(arrow_ipc, np.uint8), np.frombuffer(written, np.uint8))


def test_fields_in_another_order() -> None:
    first, second = (
        Response(batch_count=5).SerializeToString(),
        Response(arrow_ipc=b"abc").SerializeToString(),
    )
    found = piece_of(first + second)
    assert (bytes(found.arrow_ipc[0]), found.rest) == (b"abc", Response(batch_count=5))


def test_of_two_values_the_last_counts() -> None:
    twice = Response(arrow_ipc=b"early").SerializeToString() + Response(arrow_ipc=b"late").SerializeToString()
    assert bytes(piece_of(twice).arrow_ipc[0]) == b"late"


@pytest.mark.parametrize("content", [b"\x0a", b"\x0a\x05abc", b"\x0a\xff\xff\xff\xff\xff\xff", b"\x0b\x00"])
def test_what_is_no_message(content: bytes) -> None:
    with pytest.raises(DecodeError):
        piece_of(content)


def test_the_method_is_the_service_s() -> None:
    service = scenario_pb.DESCRIPTOR.services_by_name["ScenarioService"]
    method = service.methods_by_name["GenerateScenarios"]
    assert f"/{service.full_name}/{method.name}" == METHOD
    assert method.output_type.fields_by_name["arrow_ipc"].number == 1
