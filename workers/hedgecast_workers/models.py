"""Models by name: which version is meant, and its bundle on the machine that needs it."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

from hedgecast.core.errors import BundleError, HedgecastError, UnavailableError, class_of
from hedgecast.data.datasets import cache_folder
from hedgecast.registry.graphs import MANIFEST
from hedgecast.service.models import CHAMPION, BundleReference

_SHOWN_LINES = 5


def registered(model: str, registry: str | None = None, folder: Path | None = None) -> BundleReference:
    """The version that NAME, NAME@ALIAS or NAME@VERSION means now; its bundle is not fetched yet.

    Parameters
    ----------
    model : str
    registry : str, optional
        A directory or the address of an MLflow server; None: the default home.
    folder : Path, optional
        Where bundles are kept; None: ``bundles`` in the cache folder.

    Raises
    ------
    ModelNotFoundError
        No such model, alias or version.
    """
    # MLflow takes seconds to import and is not needed for a bundle in a folder.
    from hedgecast.registry.store import ModelStore

    store = ModelStore(registry)
    version = store.resolve(model)
    named = model.partition("@")[2] or CHAMPION
    return BundleReference(
        folder=(folder or cache_folder() / "bundles") / f"{version.name}-{version.version}",
        name=version.name,
        version=str(version.version),
        aliases=version.aliases,
        registry=store.location,
        follows="" if named == str(version.version) else named,
    )


def present(reference: BundleReference, *, apart: bool = False) -> BundleReference:
    """The reference with its bundle in its folder on this machine, fetched from the registry if it was not.

    Parameters
    ----------
    reference : BundleReference
    apart : bool
        Fetch in a process of its own: a replica that imported MLflow would hold its 140 MB from then on.

    Raises
    ------
    BundleError
        Not here, and no registry is known to have it.
    HedgecastError
        What the registry says instead.
    """
    if reference.present:
        return reference
    if reference.registry is None:
        raise BundleError(f"{reference.folder} is no bundle: it has no {MANIFEST}")
    model = f"{reference.name}@{reference.version}"
    fetch = _fetched_apart if apart else _fetched
    return dataclasses.replace(reference, folder=fetch(reference.registry, model, reference.folder.parent))


def _fetched_apart(registry: str, model: str, folder: Path) -> Path:
    command = [sys.executable, "-m", __name__, registry, model, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        record = json.loads(done.stdout)
    except ValueError:
        last = "\n".join(done.stderr.strip().splitlines()[-_SHOWN_LINES:])
        raise UnavailableError(f"fetching {model} ended with status {done.returncode}: {last}") from None
    if "reason" in record:
        raise (class_of(record["reason"]) or HedgecastError)(record["message"])
    return Path(record["folder"])


def _fetched(registry: str, model: str, folder: Path) -> Path:
    """The bundle's folder."""
    from hedgecast.registry.store import ModelStore

    try:
        return ModelStore(registry).fetch(model, folder).folder
    except OSError:
        # Another replica on this machine was first.
        there = folder / model.replace("@", "-")
        if not (there / MANIFEST).is_file():
            raise
        return there


def _told(registry: str, model: str, folder: str) -> dict[str, str]:
    """What the process that asked reads."""
    try:
        return {"folder": str(_fetched(registry, model, Path(folder)))}
    except HedgecastError as error:
        return {"reason": error.reason, "message": str(error)}


if __name__ == "__main__":
    # What others print must not come between.
    said, sys.stdout = sys.stdout, sys.stderr
    print(json.dumps(_told(*sys.argv[1:])), file=said)
