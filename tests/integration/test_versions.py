"""A replica takes over what its alias names, when it is ready for it and not before."""

from __future__ import annotations

import asyncio
import dataclasses
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from hedgecast.core.errors import BundleError, ModelNotFoundError
from hedgecast.service.canary import CANARY
from hedgecast.service.decide import ServedModel
from hedgecast.service.models import BundleReference
from hedgecast.testing_last_day import last_day_model
from hedgecast_workers.versions import Versions, meant, named_now


class Registry:
    """A table of aliases as MLflow has it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "mlflow.db"
        with sqlite3.connect(self.file) as database:
            database.execute("CREATE TABLE registered_model_aliases (alias, version, name)")
        database.close()
        self.name("champion", 1)

    def name(self, alias: str, version: int | None) -> None:
        with sqlite3.connect(self.file) as database:
            database.execute("DELETE FROM registered_model_aliases WHERE alias = ?", (alias,))
            if version is not None:
                database.execute(
                    "INSERT INTO registered_model_aliases VALUES (?, ?, 'tiny')", (alias, version)
                )
        database.close()

    def reference(self, follows: str = "champion", version: str = "1") -> BundleReference:
        return BundleReference(
            folder=self.folder / f"tiny-{version}",
            name="tiny",
            version=version,
            aliases=("champion",) if version == "1" else (),
            registry=str(self.folder),
            follows=follows,
        )


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path)


class Loads:
    """Loads a version as its folder's name; waits and fails where it is told to."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.loaded: list[str] = []
        self.dropped: list[str] = []
        self.error: Exception | None = None

    async def load(self, reference: BundleReference) -> str:
        await self.open.wait()
        if self.error is not None:
            raise self.error
        self.loaded.append(reference.version)
        return reference.folder.name

    def versions(self, first: BundleReference, *, most: int = 2, seconds: float = 3600.0) -> Versions[str]:
        return Versions(first, self.load, drop=self.dropped.append, most=most, seconds=seconds)


def _run(test: Callable[[Loads], Awaitable[None]]) -> None:
    async def main() -> None:
        await test(Loads())

    asyncio.run(main())


def test_the_other_version_is_loaded_beside_the_current_one(registry: Registry) -> None:
    async def test(loads: Loads) -> None:
        versions = loads.versions(registry.reference())
        await versions.start()
        registry.name("champion", 2)
        loads.open.clear()
        look = asyncio.create_task(versions.look())
        await asyncio.sleep(0.1)
        assert versions.current.value == "tiny-1", "it answers until the other one is ready"
        loads.open.set()
        await look
        assert [one.value for one in versions.kept] == ["tiny-2", "tiny-1"]
        assert versions.current.reference.aliases == ("champion",)
        # Back again: it is still there.
        registry.name("champion", 1)
        await versions.look()
        assert [one.value for one in versions.kept] == ["tiny-1", "tiny-2"]
        assert loads.loaded == ["1", "2"]
        for version in (3, 4):
            registry.name("champion", version)
            await versions.look()
        assert [one.value for one in versions.kept] == ["tiny-4", "tiny-3"]
        assert loads.dropped == ["tiny-2", "tiny-1"]

    _run(test)


def test_a_version_that_cannot_be_loaded_is_not_taken_over(registry: Registry) -> None:
    async def test(loads: Loads) -> None:
        versions = loads.versions(registry.reference(), seconds=0.01)
        await versions.start()
        loads.error = BundleError("damaged")
        registry.name("champion", 2)
        with pytest.raises(BundleError):
            await versions.look()
        await asyncio.sleep(0.1)
        assert versions.current.value == "tiny-1"
        loads.error = None
        limit = asyncio.get_running_loop().time() + 60.0
        while versions.current.value != "tiny-2":
            assert asyncio.get_running_loop().time() < limit, "it goes on trying"
            await asyncio.sleep(0.01)

    _run(test)


def test_a_replica_begins_with_what_the_alias_names_then(registry: Registry) -> None:
    async def test(loads: Loads) -> None:
        registry.name("champion", 7)
        versions = loads.versions(registry.reference())
        await versions.start()
        assert versions.current.reference.version == "7"
        assert loads.loaded == ["7"]
        # Without a registry it begins with what the service was started with.
        registry.file.unlink()
        other = loads.versions(registry.reference())
        await other.start()
        assert other.current.reference.version == "1"

    _run(test)


@pytest.mark.parametrize(("follows", "seconds"), [("", 0.01), ("champion", 0.0)])
def test_a_version_that_is_fixed_stays(registry: Registry, follows: str, seconds: float) -> None:
    async def test(loads: Loads) -> None:
        versions = loads.versions(registry.reference(follows), seconds=seconds)
        await versions.start()
        registry.name("champion", 2)
        await versions.look()
        await asyncio.sleep(0.1)
        assert versions.current.value == "tiny-1"

    _run(test)


def test_versions_that_are_asked_for_are_loaded_once_and_the_current_one_is_kept(registry: Registry) -> None:
    async def test(loads: Loads) -> None:
        versions = loads.versions(registry.reference(), most=3)
        await versions.start()
        second = registry.reference(version="2")
        assert await asyncio.gather(*(versions.of(second) for _ in range(3))) == ["tiny-2"] * 3
        assert loads.loaded == ["1", "2"]
        await versions.of(registry.reference(version="3"))
        await versions.of(second)
        await versions.of(registry.reference(version="4"))
        assert loads.dropped == ["tiny-3"], "the one that was used longest ago"
        assert versions.current.value == "tiny-1"

    _run(test)


def test_a_registered_version_is_named_by_its_number(registry: Registry) -> None:
    async def test(loads: Loads) -> None:
        versions = loads.versions(registry.reference())
        await versions.start()
        found = versions.numbered("7")
        assert found is not None
        assert (found.folder, found.version, found.aliases) == (registry.folder / "tiny-7", "7", ())
        assert await versions.of(found) == "tiny-7"
        assert versions.current.reference.version == "1"
        assert versions.numbered("champion") is None
        unregistered = dataclasses.replace(registry.reference(), registry=None)
        assert loads.versions(unregistered).numbered("7") is None

    _run(test)


def test_a_replica_loads_the_version_that_another_one_told_the_gateway_of(registry: Registry) -> None:
    async def test(loads: Loads) -> None:
        async def load(reference: BundleReference) -> ServedModel:
            await loads.load(reference)
            model = last_day_model().model
            described = dataclasses.replace(model.description, name="tiny", version=reference.version)
            return dataclasses.replace(model, description=described)

        versions: Versions[ServedModel] = Versions(registry.reference(), load, seconds=3600.0)
        await versions.start()
        found = await meant(versions, "tiny@2")
        assert (found.reference.version, found.value.description.version) == ("2", "2")
        assert (await meant(versions, "tiny")).reference.version == "1"
        await meant(versions, "tiny@2")
        assert loads.loaded == ["1", "2"], "once each"
        with pytest.raises(ModelNotFoundError):
            await meant(versions, "tiny@challenger")

    _run(test)


def test_bundles_that_are_registered_nowhere_are_told_apart(registry: Registry) -> None:
    async def test(loads: Loads) -> None:
        first = BundleReference(folder=registry.folder / "one")
        versions = loads.versions(first)
        await versions.start()
        other = dataclasses.replace(first, folder=registry.folder / "other")
        assert [await versions.of(one) for one in (other, first)] == ["other", "one"]

    _run(test)


def test_aliases_are_those_of_now_and_a_shadow_stays_one(registry: Registry) -> None:
    registry.name("candidate", 2)
    registry.name("champion", 2)
    moved = named_now(registry.reference())
    assert moved == dataclasses.replace(
        registry.reference(),
        version="2",
        folder=registry.folder / "tiny-2",
        aliases=("candidate", "champion"),
    )
    shadow = dataclasses.replace(registry.reference("candidate", "2"), aliases=("candidate", CANARY))
    assert named_now(shadow).aliases == ("candidate", "champion", CANARY)
    registry.name("champion", None)
    assert named_now(registry.reference()).version == "1", "an alias that is gone moves nothing"
