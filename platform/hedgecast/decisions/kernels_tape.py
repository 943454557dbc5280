"""A tape: a straight list of vector operations, each on eight scenarios at once.

`hedgecast.decisions.kernels_writer` writes the passes of a template on tapes,
`hedgecast.decisions.kernels_emit` turns them into machine code.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

Value = int
"""Number of an operation on its tape."""
Place = tuple[str, int]
"""An array of `hedgecast.decisions.kernels_calls.ARRAYS` and a row in it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Operation:
    """One vector operation: its code, the operations it reads, the place it touches, its constant."""

    code: str
    reads: tuple[Value, ...] = ()
    place: Place | None = None
    constant: float = 0.0

    @property
    def shape(self) -> tuple[object, ...]:
        """All but the row: what two tapes must share to be one loop."""
        return self.code, self.reads, self.place[0] if self.place else None, self.constant


class Tape:
    """Operations in order; a place is read from memory once, and sums are written once, at the end."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self._loaded: dict[Place, Value] = {}
        self._stored: dict[Place, Value] = {}
        self._sums: dict[Place, tuple[str, Value]] = {}
        self._constants: dict[float, Value] = {}

    def load(self, array: str, row: int = 0) -> Value:
        """The value at a place, as last stored here."""
        place = (array, row)
        if place in self._stored:
            return self._stored[place]
        if place not in self._loaded:
            self._loaded[place] = self._put(Operation("load", (), place))
        return self._loaded[place]

    def store(self, array: str, row: int, value: Value) -> None:
        """Write a value."""
        self._stored[array, row] = value
        self._put(Operation("store", (value,), (array, row)))

    def add_to(self, array: str, row: int, value: Value) -> None:
        """Add to a sum over components, scenarios and tiles."""
        self._combine("add", (array, row), value)

    def raise_to(self, array: str, row: int, value: Value) -> None:
        """Take part in a maximum over components, scenarios and tiles."""
        self._combine("max", (array, row), value)

    def constant(self, value: float) -> Value:
        """The same number in every lane."""
        if value not in self._constants:
            self._constants[value] = self._put(Operation("constant", constant=value))
        return self._constants[value]

    def add(self, left: Value, right: Value) -> Value:
        """Sum of two values."""
        return self._put(Operation("add", (left, right)))

    def sub(self, left: Value, right: Value) -> Value:
        """Difference of two values."""
        return self._put(Operation("sub", (left, right)))

    def mul(self, left: Value, right: Value) -> Value:
        """Product of two values."""
        return self._put(Operation("mul", (left, right)))

    def inverse(self, value: Value) -> Value:
        """One over a value."""
        return self._put(Operation("inverse", (value,)))

    def negative(self, value: Value) -> Value:
        """A value with its sign changed."""
        return self._put(Operation("negative", (value,)))

    def size(self, value: Value) -> Value:
        """Absolute value."""
        return self._put(Operation("size", (value,)))

    def close(self) -> list[Operation]:
        """All operations, with the sums at the end."""
        for place, (code, value) in self._sums.items():
            self._put(Operation(f"{code} to", (value,), place))
        return self.operations

    def _combine(self, code: str, place: Place, value: Value) -> None:
        if place in self._sums:
            value = self._put(Operation(code, (self._sums[place][1], value)))
        self._sums[place] = (code, value)

    def _put(self, operation: Operation) -> Value:
        self.operations.append(operation)
        return len(self.operations) - 1


class Sums(Protocol):
    """What can be added to under an index."""

    def add(self, index: int, value: Value, /) -> None:
        """Add to one sum."""
        ...

    def sub(self, index: int, value: Value, /) -> None:
        """Subtract from one sum."""
        ...


class Terms:
    """Sums kept on a tape under an index.

    Parameters
    ----------
    tape : Tape
    array : str, optional
        What they begin with; without it what was never added to is zero.
    """

    def __init__(self, tape: Tape, array: str | None = None) -> None:
        self.tape, self.array = tape, array
        self.values: dict[int, Value] = {}

    def add(self, index: int, value: Value) -> None:
        """Add to one sum."""
        self.values[index] = self.tape.add(self[index], value) if self._begun(index) else value

    def sub(self, index: int, value: Value) -> None:
        """Subtract from one sum."""
        begun = self._begun(index)
        self.values[index] = self.tape.sub(self[index], value) if begun else self.tape.negative(value)

    def __getitem__(self, index: int) -> Value:
        if index not in self.values:
            if self.array is None:
                return self.tape.constant(0.0)
            # Once: what is stored there later is not this sum.
            self.values[index] = self.tape.load(self.array, index)
        return self.values[index]

    def _begun(self, index: int) -> bool:
        return self.array is not None or index in self.values


class Stored:
    """Sums in an array that several tapes add to, one after the other."""

    def __init__(self, tape: Tape, array: str) -> None:
        self.tape, self.array = tape, array

    def add(self, index: int, value: Value) -> None:
        """Add to one sum."""
        self.tape.add_to(self.array, index, value)

    def sub(self, index: int, value: Value) -> None:
        """Subtract from one sum."""
        self.tape.add_to(self.array, index, self.tape.negative(value))
