"""Models by name: which version is meant, and its bundle on the machine that needs it."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

from hedgecast.core.errors import BundleError, HedgecastError, UnavailableError, class_of
from hedgecast.data.datasets import cache_folder
from hedgecast.service.models import CHAMPION, BundleReference

_MANIFEST = "bundle.json"
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


def present(reference: BundleReference) -> BundleReference:
    """The reference with its bundle in its folder on this machine, fetched from the registry if it was not.

    A process of its own fetches: a replica that imported MLflow would hold its 140 MB from then on.

    Raises
    ------
    BundleError
        Not here, and no registry is known to have it.
    HedgecastError
        What the registry says instead.
    """
    if (reference.folder / _MANIFEST).is_file():
        return reference
    if reference.registry is None:
        raise BundleError(f"{reference.folder} is no bundle: it has no {_MANIFEST}")
    model = f"{reference.name}@{reference.version}"
    command = [sys.executable, "-m", __name__, reference.registry, model, str(reference.folder.parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        record = json.loads(done.stdout)
    except ValueError:
        last = done.stderr.strip().splitlines()[-_SHOWN_LINES:]
        raise UnavailableError(
            f"fetching {model} ended with status {done.returncode}: {chr(10).join(last)}"
        ) from None
    if "reason" in record:
        raise (class_of(record["reason"]) or HedgecastError)(record["message"])
    return dataclasses.replace(reference, folder=Path(record["folder"]))


def _fetched(registry: str, model: str, folder: Path) -> dict[str, str]:
    from hedgecast.registry.store import ModelStore

    store = ModelStore(registry)
    try:
        return {"folder": str(store.fetch(model, folder).folder)}
    except HedgecastError as error:
        return {"reason": error.reason, "message": str(error)}
    except OSError:
        # Another replica on this machine was first.
        there = folder / model.replace("@", "-")
        if not (there / _MANIFEST).is_file():
            raise
        return {"folder": str(there)}


if __name__ == "__main__":
    # What others print must not come between.
    said, sys.stdout = sys.stdout, sys.stderr
    print(json.dumps(_fetched(sys.argv[1], sys.argv[2], Path(sys.argv[3]))), file=said)
