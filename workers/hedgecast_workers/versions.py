"""A replica's loaded versions of its model: the one that its alias names, and others still asked for.

Every replica looks for itself, so a new one comes up with what the alias names then, and there is nobody
whose loss would stop it. A version is loaded beside the others, while these answer, and only becomes the
current one when it is warm; the one before stays, for work that began with it. What cannot be loaded is not
taken over: the replica goes on with what it has and says so in the log.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from hedgecast.core.errors import HedgecastError, ModelNotFoundError
from hedgecast.registry.aliases import aliases_of
from hedgecast.service.canary import CANARY
from hedgecast.service.models import BundleReference, ModelDescription, resolve

V = TypeVar("V")
D = TypeVar("D", bound="Described")
_Key = tuple[Path, str]

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Version(Generic[V]):
    """A loaded version."""

    reference: BundleReference
    value: V


class Versions(Generic[V]):
    """Loads versions and follows an alias; used on one event loop.

    Parameters
    ----------
    first : BundleReference
        What the service was started with; what its alias names when the replica starts takes its place.
    load : callable
        Makes a version ready to answer, without holding up the loop.
    drop : callable
        Told of a version that is kept no longer.
    most : int
        Versions kept, the current one included; those used longest ago go first.
    seconds : float
        Time between two looks at the alias; 0: it is not followed.
    """

    def __init__(
        self,
        first: BundleReference,
        load: Callable[[BundleReference], Awaitable[V]],
        *,
        drop: Callable[[V], None] = lambda _: None,
        most: int = 2,
        seconds: float,
    ) -> None:
        self._load, self._drop, self._most = load, drop, most
        self._seconds = seconds if first.follows and first.registry is not None else 0.0
        self._first = first
        self._loading = asyncio.Lock()
        # The one used last at the end.
        self._kept: dict[_Key, Version[V]] = {}
        self._current: _Key | None = None
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Load the first version, then go on following the alias."""
        meant = self._first
        if self._seconds:
            try:
                meant = await asyncio.to_thread(named_now, meant)
            except HedgecastError as error:
                log.warning("starting with version %s: %s", meant.version, error)
        await self._take_over(meant)
        if self._seconds:
            self._following = asyncio.create_task(self._follow())

    @property
    def current(self) -> Version[V]:
        """The version that the alias names, as far as this replica knows and is ready for it."""
        assert self._current is not None
        return self._kept[self._current]

    @property
    def kept(self) -> tuple[Version[V], ...]:
        """All loaded versions, the current one first."""
        others = (one for key, one in self._kept.items() if key != self._current)
        return (self.current, *others)

    async def of(self, reference: BundleReference) -> V:
        """A given version, loaded where it is not yet."""
        key = _key(reference)
        if key not in self._kept:
            async with self._loading:
                if key not in self._kept:
                    self._keep(reference, await self._load(reference))
        self._kept[key] = self._kept.pop(key)
        return self._kept[key].value

    def numbered(self, version: str) -> BundleReference | None:
        """A registered version by its number, at hand or not; None: no such version can be fetched."""
        if self._first.registry is None or not version.isdigit():
            return None
        return _registered(self._first, version, ())

    async def look(self) -> None:
        """Take over what the alias names now.

        Raises
        ------
        HedgecastError
            The registry cannot be read, or the version cannot be loaded; nothing has changed.
        """
        if not self._seconds:
            return
        meant = await asyncio.to_thread(named_now, self.current.reference)
        if meant != self.current.reference:
            await self._take_over(meant)

    async def _take_over(self, meant: BundleReference) -> None:
        before = self._current
        value = await self.of(meant)
        self._current = _key(meant)
        # With its aliases of now.
        self._kept[self._current] = Version(meant, value)
        if before is not None and before != self._current:
            log.info("version %s of %s has taken over", meant.version, meant.name)

    def _keep(self, reference: BundleReference, value: V) -> None:
        new = _key(reference)
        self._kept[new] = Version(reference, value)
        others = [key for key in self._kept if key not in (self._current, new)]
        for key in others[: max(len(self._kept) - self._most, 0)]:
            self._drop(self._kept.pop(key).value)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._seconds)
            try:
                await self.look()
            except Exception:
                # Whatever is wrong with the other version, this one goes on.
                log.exception("staying with version %s", self.current.reference.version)


class Described(Protocol):
    """A loaded version that says what it is."""

    @property
    def description(self) -> ModelDescription:
        """Under the aliases of when it was loaded."""
        ...


def descriptions(versions: Versions[D]) -> tuple[ModelDescription, ...]:
    """What a replica has, the current version first and alone with its aliases, which are those of now."""
    current, *others = versions.kept
    described = dataclasses.replace(current.value.description, aliases=current.reference.aliases)
    return (
        described,
        *(dataclasses.replace(one.value.description, aliases=(), superseded=True) for one in others),
    )


async def meant(versions: Versions[D], name: str) -> Version[D]:
    """The version that NAME, NAME@ALIAS or NAME@VERSION means; one that is new here is looked for at once.

    Raises
    ------
    ModelNotFoundError
        There is none.
    HedgecastError
        The registry cannot be read, or the version cannot be loaded.
    """
    try:
        return _at_hand(versions, name)
    except ModelNotFoundError:
        await versions.look()
    try:
        return _at_hand(versions, name)
    except ModelNotFoundError:
        # The gateway lets only versions pass that it knows, this one from a replica that is older.
        reference = versions.numbered(name.partition("@")[2])
        if reference is None:
            raise
        return Version(reference, await versions.of(reference))


def _at_hand(versions: Versions[D], name: str) -> Version[D]:
    described = descriptions(versions)
    return versions.kept[described.index(resolve(described, name))]


def _key(reference: BundleReference) -> _Key:
    # Bundles that are registered nowhere all have the same version.
    return reference.folder, reference.version


def named_now(reference: BundleReference) -> BundleReference:
    """The version that the alias of ``reference`` names now; itself where the alias is gone.

    Raises
    ------
    UnavailableError
        The registry cannot be read.
    """
    assert reference.registry is not None
    named = aliases_of(reference.registry, reference.name)
    version = str(named.get(reference.follows, reference.version))
    aliases = tuple(sorted(alias for alias, number in named.items() if str(number) == version))
    # The registry knows nothing of who answers in the shadow.
    own = tuple(alias for alias in reference.aliases if alias == CANARY and alias not in aliases)
    return _registered(reference, version, (*aliases, *own))


def _registered(reference: BundleReference, version: str, aliases: tuple[str, ...]) -> BundleReference:
    folder = reference.folder.parent / f"{reference.name}-{version}"
    return dataclasses.replace(reference, version=version, folder=folder, aliases=aliases)
