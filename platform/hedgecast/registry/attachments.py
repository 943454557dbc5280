"""Files beside a registered bundle: what is found out about a version after it was registered."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hedgecast.core.errors import InputError
from hedgecast.registry.graphs import MANIFEST
from hedgecast.registry.store import ARTIFACT, ModelStore, client_of, quiet


def attach(store: ModelStore, reference: str, *files: Path) -> None:
    """Keep files beside the bundle of the version that ``reference`` names; others of their names go.

    `ModelStore.fetch` brings them, too. They stand outside the bundle's checksums. They come one by one, in
    order: first what others speak of.

    Raises
    ------
    ModelNotFoundError
        No such model, alias or version.
    InputError
        The bundle has a file of such a name; nothing was kept.
    """
    version = store.resolve(reference)
    with tempfile.TemporaryDirectory(prefix="hedgecast-") as folder:
        held = store.fetch(version.reference, Path(folder)).manifest.files
    for file in files:
        if file.name in held or file.name == MANIFEST:
            raise InputError(f"{version.reference} holds a {file.name} of its own", file=file.name)
    client = client_of(store.uri)
    run = client.get_model_version(version.name, str(version.version)).run_id
    with quiet():
        for file in files:
            client.log_artifact(run, str(file), ARTIFACT)
