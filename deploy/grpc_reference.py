"""Write docs/grpc.md from protos/: every service, method, message and field with its comment.

    python deploy/grpc_reference.py            # writes it
    python deploy/grpc_reference.py --check    # compares

Comments are read from a descriptor set, as protoc keeps them; buf lint sees to it that each element has one.
"""

from __future__ import annotations

import argparse
import importlib.resources
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)
from grpc_tools import protoc  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "grpc.md"
PACKAGE = ".hedgecast.rpc.v1."
_HEAD = """# gRPC reference

Package `hedgecast.rpc.v1`, generated from `protos/` by `python deploy/grpc_reference.py`. The same
descriptions are in the protos, and reflection gives the protos to any client of a running service.
[Operating the service](operations.md) and [Security](security.md) say how it behaves around these calls.
"""
# Numbers of the fields of a descriptor, which paths of comments are made of.
_MESSAGE, _ENUM, _SERVICE = 4, 5, 6
_FIELD, _NESTED, _NESTED_ENUM, _ONEOF, _METHOD, _VALUE = 2, 3, 4, 8, 2, 2

Place = tuple[int, ...]


def files() -> list[FileDescriptorProto]:
    """Our proto files in the order of their names, with comments.

    Raises
    ------
    RuntimeError
        protoc refused them; its messages are on standard error.
    """
    sources = sorted((ROOT / "protos").rglob("*.proto"))
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    with tempfile.TemporaryDirectory(prefix="hedgecast-") as folder:
        target = Path(folder) / "set.pb"
        paths = [f"--proto_path={ROOT / 'protos'}", f"--proto_path={well_known}"]
        options = ["--include_source_info", f"--descriptor_set_out={target}"]
        code = protoc.main(["protoc", *paths, *options, *map(str, sources)])
        if code != 0:
            raise RuntimeError(f"protoc ended with status {code}")
        found = FileDescriptorSet.FromString(target.read_bytes())
    return sorted(found.file, key=lambda file: file.name)


def page() -> str:
    """The whole page, services first."""
    found = files()
    pages = [_File(file) for file in found]
    services = [line for one in pages for line in one.services()]
    rest = [line for one in pages for line in one.messages_and_enums()]
    return "\n".join([_HEAD, *services, *rest]).rstrip() + "\n"


class _File:
    """One proto file and its comments by place."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._file = file
        self._comments = {
            tuple(location.path): location.leading_comments or location.trailing_comments
            for location in file.source_code_info.location
        }

    def services(self) -> Iterator[str]:
        for index, service in enumerate(self._file.service):
            yield from self._service(service, (_SERVICE, index))

    def messages_and_enums(self) -> Iterator[str]:
        for index, message in enumerate(self._file.message_type):
            yield from self._message(message, (_MESSAGE, index), "")
        for index, enum in enumerate(self._file.enum_type):
            yield from self._enum(enum, (_ENUM, index), "")

    def _service(self, service: ServiceDescriptorProto, place: Place) -> Iterator[str]:
        yield f"## {service.name}\n\n{self._text(place)}\n"
        for index, method in enumerate(service.method):
            asked = ("stream of " if method.client_streaming else "") + _link(method.input_type)
            given = ("stream of " if method.server_streaming else "") + _link(method.output_type)
            yield f"### {service.name}.{method.name}\n\n{asked} to {given}\n"
            yield self._text((*place, _METHOD, index)) + "\n"

    def _message(self, message: DescriptorProto, place: Place, outer: str) -> Iterator[str]:
        if message.options.map_entry:
            return
        name = outer + message.name
        yield f"## {name}\n\n{self._text(place)}\n"
        if message.field:
            yield "| field | type | |\n|---|---|---|"
            for index, field in enumerate(message.field):
                text = _in_cell(self._text((*place, _FIELD, index)) + self._choice(message, field))
                yield f"| `{field.name}` = {field.number} | {_type(message, field)} | {text} |"
            yield ""
        for index, nested in enumerate(message.nested_type):
            yield from self._message(nested, (*place, _NESTED, index), f"{name}.")
        for index, enum in enumerate(message.enum_type):
            yield from self._enum(enum, (*place, _NESTED_ENUM, index), f"{name}.")

    def _enum(self, enum: EnumDescriptorProto, place: Place, outer: str) -> Iterator[str]:
        yield f"## {outer}{enum.name}\n\n{self._text(place)}\n"
        yield "| value | |\n|---|---|"
        for index, value in enumerate(enum.value):
            yield f"| `{value.name}` = {value.number} | {_in_cell(self._text((*place, _VALUE, index)))} |"
        yield ""

    def _text(self, place: Place) -> str:
        lines = self._comments.get(place, "").strip().splitlines()
        return _escaped("\n".join(line.strip() for line in lines))

    @staticmethod
    def _choice(message: DescriptorProto, field: FieldDescriptorProto) -> str:
        if not field.HasField("oneof_index") or field.proto3_optional:
            return ""
        return f" One of `{message.oneof_decl[field.oneof_index].name}`."


def _type(message: DescriptorProto, field: FieldDescriptorProto) -> str:
    entries = {entry.name: entry for entry in message.nested_type if entry.options.map_entry}
    entry = entries.get(field.type_name.rpartition(".")[2])
    if entry is not None:
        key, value = entry.field
        return f"map of {_one_type(key)} to {_one_type(value)}"
    prefix = "repeated " if field.label == FieldDescriptorProto.LABEL_REPEATED else ""
    return prefix + ("optional " if field.proto3_optional else "") + _one_type(field)


def _one_type(field: FieldDescriptorProto) -> str:
    if field.type_name:
        return _link(field.type_name)
    return FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()


def _link(type_name: str) -> str:
    if not type_name.startswith(PACKAGE):
        return f"`{type_name.lstrip('.')}`"
    name = type_name.removeprefix(PACKAGE)
    return f"[{name}](#{re.sub(r'[^a-z0-9_-]', '', name.lower())})"


def _escaped(text: str) -> str:
    # Markdown would take them for tags and links.
    return text.replace("<", "&lt;").replace("[", "\\[")


def _in_cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page, or compare with it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    text = page()
    if not parser.parse_args(arguments).check:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    print("docs/grpc.md is stale: python deploy/grpc_reference.py", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
