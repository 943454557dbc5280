"""Models by name: which version is meant, and its bundle on the machine that needs it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from hedgecast.core.errors import BundleError
from hedgecast.data.datasets import cache_folder
from hedgecast.service.models import CHAMPION, BundleReference


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

    Raises
    ------
    BundleError
        Not here, and no registry is known to have it.
    """
    if (reference.folder / "bundle.json").is_file():
        return reference
    if reference.registry is None:
        raise BundleError(f"{reference.folder} is no bundle: it has no bundle.json")
    from hedgecast.registry.store import ModelStore

    store, model = ModelStore(reference.registry), f"{reference.name}@{reference.version}"
    try:
        folder = store.fetch(model, reference.folder.parent).folder
    except OSError:
        # Another replica on this machine was first.
        if not (reference.folder / "bundle.json").is_file():
            raise
        folder = reference.folder
    return dataclasses.replace(reference, folder=folder)
