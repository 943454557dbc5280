"""Frozen configuration records that read plain dictionaries strictly.

A component nests ``class Config(core.config.Config)``: a frozen, keyword-only, slotted dataclass.
``from_dict`` refuses an unknown key and a wrong type and names the key's full path, the value found
and what would do; ``to_dict`` is what the registry logs.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from typing import Any, Self

from hedgecast.core.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Base of all configuration records."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, path: str = "") -> Self:
        """A record from plain values.

        Parameters
        ----------
        values : mapping
            Keys are field names; nested records are nested mappings.
        path : str
            Where ``values`` stand in the whole file, for messages.

        Raises
        ------
        ConfigError
            Unknown key, missing key, wrong type, or what ``__post_init__`` refuses.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        hints = typing.get_type_hints(cls)
        for key in values:
            if key not in fields:
                raise ConfigError(_unknown_key_message(key, path, list(fields)), key=_join(path, key))
        missing = [
            name
            for name, field in fields.items()
            if name not in values
            and field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        ]
        if missing:
            raise ConfigError(
                f"missing key {_join(path, missing[0])!r}: set it ({_type_name(hints[missing[0]])})",
                key=_join(path, missing[0]),
            )
        converted = {key: convert(value, hints[key], _join(path, key)) for key, value in values.items()}
        return cls(**converted)

    def to_dict(self) -> dict[str, Any]:
        """The record as plain values that TOML and JSON can hold; fields that are None are left out."""
        return {
            field.name: _plain(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if getattr(self, field.name) is not None
        }


def convert(value: Any, hint: Any, path: str) -> Any:
    """``value`` as the annotated type ``hint``.

    Integers are accepted where a float is asked, nothing else is converted silently. Lists become
    tuples where a tuple is asked.

    Raises
    ------
    ConfigError
        The value is of another type; the message names ``path``, the value and the type.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        return _convert_union(value, hint, arguments, path)
    if origin is typing.Literal:
        if value in arguments:
            return value
        raise ConfigError(f"{path} = {value!r}: must be one of {', '.join(map(repr, arguments))}", key=path)
    if isinstance(hint, type) and issubclass(hint, Config):
        if isinstance(value, Mapping):
            return hint.from_dict(value, path=path)
    elif origin in (tuple, list):
        if isinstance(value, list | tuple):
            items = (convert(item, arguments[0], f"{path}[{i}]") for i, item in enumerate(value))
            return tuple(items) if origin is tuple else list(items)
    elif origin in (dict, Mapping) or (origin is not None and issubclass(origin, Mapping)):
        if isinstance(value, Mapping):
            return {str(k): convert(v, arguments[1], _join(path, str(k))) for k, v in value.items()}
    elif hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    elif hint is int and isinstance(value, bool):
        pass
    elif isinstance(value, hint):
        return value
    raise ConfigError(f"{path} = {value!r} is a {type(value).__name__}: must be {_type_name(hint)}", key=path)


def _convert_union(value: Any, hint: Any, arguments: tuple[Any, ...], path: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    choices = [argument for argument in arguments if argument is not type(None)]
    if len(choices) == 1:
        return convert(value, choices[0], path)
    for choice in choices:
        try:
            return convert(value, choice, path)
        except ConfigError:
            continue
    raise ConfigError(f"{path} = {value!r} is a {type(value).__name__}: must be {_type_name(hint)}", key=path)


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _unknown_key_message(key: str, path: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"unknown key {_join(path, key)!r}: {hint}known keys here: {', '.join(known)}"


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return " or ".join(
            _type_name(argument) for argument in typing.get_args(hint) if argument is not type(None)
        )
    if isinstance(hint, type) and issubclass(hint, Config):
        return "a table"
    names = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}
    if hint in names:
        return names[hint]
    if typing.get_origin(hint) in (tuple, list):
        return f"a list of {_type_name(typing.get_args(hint)[0]).removeprefix('a ').removeprefix('an ')}s"
    return str(hint).removeprefix("typing.")
