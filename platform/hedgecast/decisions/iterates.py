"""The variables of a batch under solution, what they violate, and what a solve ends with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from torch import Tensor


@dataclasses.dataclass(slots=True)
class Iterate:
    """Primal and dual variables of a batch, or a direction in them.

    Scenario multipliers are in the scenario's own units. The last five are None without risk.
    """

    x: Tensor
    """(B, n)."""
    w: Tensor
    """(m, B, S)."""
    equality: Tensor
    """(B, rows of A)."""
    multiplier: Tensor
    """(B, rows of G)."""
    slack: Tensor
    y: Tensor
    """(rows of W, B, S)."""
    z: Tensor
    """(rows of V, B, S)."""
    s: Tensor
    eta: Tensor | None = None
    """(B,): like u and t in scaled costs."""
    u: Tensor | None = None
    """(B, S): excess over eta; None also for the worst case, which has none."""
    t: Tensor | None = None
    """(B, S): slack of the epigraph row."""
    mu: Tensor | None = None
    """(B, S): multiplier of the epigraph row."""
    nu: Tensor | None = None
    """(B, S): multiplier of u >= 0."""

    def map(self, function: Callable[[Tensor, int], Tensor]) -> Iterate:
        """``function(value, member axis)`` of every variable."""
        changes: dict[str, Any] = {}
        for name in FIELDS:
            value = getattr(self, name)
            changes[name] = None if value is None else function(value, 1 if name in "wyzs" else 0)
        return Iterate(**changes)

    def select(self, members: Tensor) -> Iterate:
        """The variables of some members."""
        return self.map(lambda value, axis: value.index_select(axis, members))

    def iterate(self) -> Iterate:
        """Itself; other points build one."""
        return self

    def put(self, members: Tensor, part: Point) -> None:
        """Write the variables of some members into this iterate."""
        for name in FIELDS:
            value = getattr(self, name)
            if value is not None:
                value.index_copy_(1 if name in "wyzs" else 0, members, getattr(part, name))


FIELDS = tuple(field.name for field in dataclasses.fields(Iterate))


class Pair(NamedTuple):
    """A slack, its multiplier, and the measure that weights their product."""

    slack: str
    multiplier: str


class Residuals(NamedTuple):
    """Violation of each optimality condition; scenario entries in the scenario's own units."""

    x: Tensor
    w: Tensor
    equality: Tensor
    slack: Tensor
    y: Tensor
    s: Tensor
    eta: Tensor | None
    u: Tensor | None
    t: Tensor | None


class Quality(NamedTuple):
    """(B,) each: relative residuals, gap relative to 1 + |objective|, and the objective, unscaled."""

    primal: Tensor
    dual: Tensor
    gap: Tensor
    objective: Tensor


class Point(Protocol):
    """An `Iterate`, or what can be read as one."""

    @property
    def x(self) -> Tensor: ...  # noqa: D102
    @property
    def w(self) -> Tensor: ...  # noqa: D102
    @property
    def equality(self) -> Tensor: ...  # noqa: D102
    @property
    def multiplier(self) -> Tensor: ...  # noqa: D102
    @property
    def slack(self) -> Tensor: ...  # noqa: D102
    @property
    def y(self) -> Tensor: ...  # noqa: D102
    @property
    def z(self) -> Tensor: ...  # noqa: D102
    @property
    def s(self) -> Tensor: ...  # noqa: D102
    @property
    def eta(self) -> Tensor | None: ...  # noqa: D102
    @property
    def mu(self) -> Tensor | None: ...  # noqa: D102
    def select(self, members: Tensor) -> Point: ...  # noqa: D102
    def iterate(self) -> Iterate: ...  # noqa: D102
    def put(self, members: Tensor, part: Point) -> None: ...  # noqa: D102


class Outcome(NamedTuple):
    """What the iteration ends with."""

    iterate: Point
    central: Point | None
    """The central-path point at the smoothing barrier, where one was asked."""
    quality: Quality
    converged: Tensor
    """(B,) bool."""
    central_found: Tensor
    """(B,) bool."""
    iterations: Tensor
    """(B,) int64."""
    costs: Tensor | None = None
    """(B, S) scenario costs where the loop has computed them already."""
