"""Where the records of an id stand, in memory; complete for all that is kept.

Ids are held as 128-bit hashes: 495 bytes a decision with its outcome and their request ids (measured).
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from typing import NamedTuple

from hedgecast.outcomes.encoding import Kind

_ROW_BITS = 32


class Place(NamedTuple):
    """The row-th record of its kind in log ``number``, and in the segment made of it."""

    number: int
    row: int


class Index:
    """Places of decisions and their outcomes by id, by request id and by what they shadow."""

    def __init__(self) -> None:
        # Places as one integer each: half the memory of tuples.
        self._decisions: dict[bytes, int] = {}
        self._outcomes: dict[bytes, int] = {}
        self._requests: dict[bytes, bytes] = {}
        self._shadows: dict[bytes, list[bytes]] = {}
        # By the number of the decision's log: what goes when that segment goes.
        self._ids_of: dict[int, list[bytes]] = defaultdict(list)
        self._requests_of: dict[int, list[bytes]] = defaultdict(list)
        self._shadowed_of: dict[int, list[bytes]] = defaultdict(list)

    def __len__(self) -> int:
        """Number of decisions."""
        return len(self._decisions)

    def add_decision(self, place: Place, decision_id: str, *, request: bytes | None, shadow_of: str) -> None:
        """A decision was written at ``place``."""
        key = _hash(decision_id)
        self._decisions[key] = _packed(place)
        self._ids_of[place.number].append(key)
        self._add_request(request, key, place.number)
        if shadow_of:
            self._shadows.setdefault(_hash(shadow_of), []).append(key)
            self._shadowed_of[place.number].append(_hash(shadow_of))

    def add_outcome(self, place: Place, decision_id: str, *, request: bytes | None) -> None:
        """An outcome was written at ``place``; nothing if its decision is kept no longer."""
        key = _hash(decision_id)
        decision = self._decisions.get(key)
        if decision is None:
            return
        self._outcomes[key] = _packed(place)
        self._add_request(request, key, _place(decision).number)

    def decision(self, decision_id: str) -> Place | None:
        """Place of the decision of that id."""
        return _found(self._decisions.get(_hash(decision_id)))

    def outcome(self, decision_id: str) -> Place | None:
        """Place of the outcome of the decision of that id."""
        return _found(self._outcomes.get(_hash(decision_id)))

    def requested(self, request: bytes | None) -> Place | None:
        """Place of the decision that a request asked for, or whose outcome it recorded."""
        key = None if request is None else self._requests.get(request)
        return None if key is None else _found(self._decisions.get(key))

    def shadows(self, decision_id: str) -> list[Place]:
        """Places of the decisions made beside the one of that id."""
        keys = self._shadows.get(_hash(decision_id), [])
        return [_place(self._decisions[key]) for key in keys]

    def drop(self, number: int) -> None:
        """Forget the decisions of log ``number`` and all that belongs to them."""
        for key in self._ids_of.pop(number, []):
            del self._decisions[key]
            self._outcomes.pop(key, None)
        for planner in self._shadowed_of.pop(number, []):
            left = [key for key in self._shadows.pop(planner, []) if key in self._decisions]
            if left:
                self._shadows[planner] = left
        for request in self._requests_of.pop(number, []):
            self._requests.pop(request, None)

    def _add_request(self, request: bytes | None, key: bytes, number: int) -> None:
        if request is not None:
            self._requests[request] = key
            self._requests_of[number].append(request)


def request_key(kind: Kind, principal: str, request_id: str) -> bytes | None:
    """A request's key; None without a request id. Principals choose their ids, so theirs never meet."""
    if not request_id:
        return None
    return _hash(f"{kind.name}/{len(principal)}/{principal}/{request_id}")


def _packed(place: Place) -> int:
    return place.number << _ROW_BITS | place.row


def _place(packed: int) -> Place:
    return Place(packed >> _ROW_BITS, packed & ((1 << _ROW_BITS) - 1))


def _found(packed: int | None) -> Place | None:
    return None if packed is None else _place(packed)


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
