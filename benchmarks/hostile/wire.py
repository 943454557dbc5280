"""HTTP/2 by hand, to say what no gRPC library would say."""

from __future__ import annotations

import socket
import struct

import numpy as np

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS, _HEADERS, _DATA, _PING, _CONTINUATION, _WINDOW = 4, 1, 0, 6, 9, 8
_END_STREAM, _END_HEADERS = 1, 4
_METHOD = "/hedgecast.rpc.v1.DecisionService/Decide"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One HTTP/2 frame (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def headers(token: str, **more: str) -> bytes:
    """A gRPC request's headers as HPACK literals without an index (RFC 7541, section 6.2.2)."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": _METHOD,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
        "authorization": f"Bearer {token}",
        **{name.replace("_", "-"): value for name, value in more.items()},
    }
    return b"".join(b"\x00" + _text(name) + _text(value) for name, value in fields.items())


def message(content: bytes, *, compressed: int = 0, length: int | None = None) -> bytes:
    """A length-prefixed gRPC message, with a length and a flag that need not be true."""
    return struct.pack(">BI", compressed, len(content) if length is None else length) + content


def opened(address: str, *, timeout: float = 5.0) -> socket.socket:
    """A connection."""
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=timeout)


def conversation(draws: np.random.Generator, token: str) -> tuple[str, bytes]:
    """A name and the bytes that a hostile client sends on a new connection."""
    kind = int(draws.integers(12))
    begin = PREFACE + frame(_SETTINGS, 0, 0, b"")
    asked = begin + frame(_HEADERS, _END_HEADERS, 1, headers(token))
    junk = draws.bytes(int(draws.integers(1, 2000)))
    if kind == 0:
        return "noise", junk
    if kind == 1:
        return "http1", b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n"
    if kind == 2:
        return "noise after preface", begin + junk
    if kind == 3:
        return "noise as headers", begin + frame(_HEADERS, _END_HEADERS, 1, junk)
    if kind == 4:
        promised = message(b"", length=2**32 - 1)
        return "promise of 4 GiB", asked + frame(_DATA, 0, 1, promised + junk)
    if kind == 5:
        coded = begin + frame(_HEADERS, _END_HEADERS, 1, headers(token, grpc_encoding="gzip"))
        return "no gzip", coded + frame(_DATA, _END_STREAM, 1, message(junk, compressed=1))
    if kind == 6:
        coded = begin + frame(_HEADERS, _END_HEADERS, 1, headers(token, grpc_encoding="made-up"))
        return "unknown coding", coded + frame(_DATA, _END_STREAM, 1, message(junk, compressed=1))
    if kind == 7:
        return "truncated message", asked + frame(_DATA, _END_STREAM, 1, message(junk, length=len(junk) + 9))
    if kind == 8:
        return "no message", asked + frame(_DATA, _END_STREAM, 1, b"")
    if kind == 9:
        parts = b"".join(frame(_CONTINUATION, 0, 1, b"\x00\x01a\x01b" * 500) for _ in range(30))
        return "headers without end", begin + frame(_HEADERS, 0, 1, headers(token)) + parts
    if kind == 10:
        return "pings", begin + frame(_PING, 0, 0, bytes(8)) * 2000
    return "windows", asked + frame(_WINDOW, 0, 1, struct.pack(">I", 2**31 - 1)) * 5


def _text(text: str) -> bytes:
    content = text.encode()
    if len(content) < 127:
        return bytes([len(content)]) + content
    # RFC 7541, section 5.1: the rest in sevens.
    rest = len(content) - 127
    parts = [127]
    while rest > 127:
        parts.append(rest & 127 | 128)
        rest >>= 7
    return bytes([*parts, rest]) + content
