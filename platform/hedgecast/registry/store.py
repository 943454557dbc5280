"""The model registry: bundles under a name, numbered versions, and two aliases.

MLflow keeps them. The embedded default is a sqlite file and an artifact folder under one home
directory; in production the same code speaks to an MLflow server. ``candidate`` names the newest
version, ``champion`` the version that is served; ``champion`` moves only through `promote`.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hedgecast.core.errors import GateRefusedError, InputError, ModelNotFoundError
from hedgecast.registry.bundle import SETTINGS, Bundle, Manifest
from hedgecast.registry.checks import Check, Rule, gate_checks, rule_for
from hedgecast.registry.descent import descent_of
from hedgecast.registry.evidence import ValidationDays

if TYPE_CHECKING:
    from mlflow import MlflowClient

CANDIDATE = "candidate"
CHAMPION = "champion"
ARTIFACT = "bundle"
"""Where MLflow keeps a version's bundle, below its run."""
# MLflow's limits of one request.
_METRICS_AT_ONCE, _PARAMETERS_AT_ONCE = 1000, 100
_LONGEST_PARAMETER = 6000


@dataclasses.dataclass(frozen=True, slots=True)
class ModelVersion:
    """One registered version of a model."""

    name: str
    version: int
    aliases: tuple[str, ...]
    source: str
    """Where the registry keeps the bundle."""
    tags: Mapping[str, str]

    @property
    def reference(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"


@dataclasses.dataclass(frozen=True, slots=True)
class Promotion:
    """A promotion that was allowed, and why."""

    version: ModelVersion
    """The champion."""
    checks: tuple[Check, ...]
    """All hold."""
    replaced: ModelVersion | None
    """The champion before it; None: it is the first."""
    rule: Rule
    """What it was held to."""


@dataclasses.dataclass(frozen=True, slots=True)
class Judgment:
    """What the promotion gate says of a version."""

    rule: Rule
    checks: tuple[Check, ...]


def default_home() -> Path:
    """The directory of the embedded registry: ``$HEDGECAST_HOME``, else the user's data directory."""
    if home := os.environ.get("HEDGECAST_HOME"):
        return Path(home)
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "hedgecast"


class ModelStore:
    """Bundles kept by MLflow.

    Parameters
    ----------
    location : Path or str
        A directory (embedded sqlite, made when missing), or the ``http(s)://`` address of a server.

    Attributes
    ----------
    location : str
        The same, with a directory's full path.
    """

    def __init__(self, location: Path | str | None = None) -> None:
        location = default_home() if location is None else location
        self._artifacts: str | None = None
        if str(location).startswith(("http://", "https://")):
            self.uri = self.location = str(location)
        else:
            home = Path(location).expanduser().resolve()
            home.mkdir(parents=True, exist_ok=True)
            self.location = str(home)
            self.uri = f"sqlite:///{home / 'mlflow.db'}"
            self._artifacts = (home / "artifacts").as_uri()
        self._client = client_of(self.uri)

    def register(
        self,
        bundle: Bundle,
        name: str | None = None,
        *,
        curves: Mapping[str, Sequence[float]] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> ModelVersion:
        """The new version that now holds ``bundle``, under the alias ``candidate``.

        Parameters
        ----------
        bundle : Bundle
        name : str, optional
            Of the model; the bundle's if left out.
        curves : mapping, optional
            Figures of training by name, one for each epoch: logged as metrics with their step.
        tags : mapping, optional
            Of the version, beside ``fingerprint`` and ``program``.
        """
        name = bundle.manifest.name if name is None else name
        run = self._client.create_run(
            self._experiment(name), run_name=f"{name} {bundle.manifest.fingerprint[:12]}"
        )
        run_id = run.info.run_id
        for key, value in bundle.manifest.metrics.items():
            self._client.log_metric(run_id, key, value)
        self._log_settings(run_id, bundle.manifest)
        self._log_curves(run_id, curves or {})
        self._client.log_artifacts(run_id, str(bundle.folder), ARTIFACT)
        self._client.set_terminated(run_id)
        if not self._exists(name):
            self._client.create_registered_model(name)
        created = self._client.create_model_version(
            name,
            source=f"{run.info.artifact_uri}/{ARTIFACT}",
            run_id=run_id,
            tags={
                **(tags or {}),
                "fingerprint": bundle.manifest.fingerprint,
                "program": bundle.manifest.program.name or "",
            },
        )
        self._client.set_registered_model_alias(name, CANDIDATE, str(created.version))
        return self.resolve(f"{name}@{created.version}")

    def judge(self, reference: str) -> Judgment:
        """The promotion gate for the version that ``reference`` names, against the present champion.

        Raises
        ------
        ModelNotFoundError
            No such model, alias or version.
        BundleError
            One of both bundles is damaged or keeps no validation days.
        InputError
            The version is champion already.
        """
        version, champion = self.resolve(reference), self._champion(reference)
        if champion is not None and champion.version == version.version:
            raise InputError(
                f"{version.reference} is champion already: name another version, or {CANDIDATE}",
                model=version.reference,
            )
        with tempfile.TemporaryDirectory(prefix="hedgecast-") as folder:
            bundle = self.fetch(version.reference, Path(folder))
            days = ValidationDays.of(bundle)
            present = descent = None
            if champion is not None:
                reigning = self.fetch(champion.reference, Path(folder))
                # As training let it decide the candidate's days, else as it was validated itself.
                measured = days.of_champion(reigning.manifest.fingerprint)
                present = ValidationDays.of(reigning) if measured is None else measured
                descent = descent_of(bundle, reigning)
        return Judgment(
            rule_for(days, present, descent),
            tuple(gate_checks(bundle.manifest.metrics, days, present, descent)),
        )

    def promote(self, reference: str) -> Promotion:
        """The version that is now ``champion``, and the checks that it passed.

        Parameters
        ----------
        reference : str
            ``name@candidate`` or ``name@version``.

        Raises
        ------
        GateRefusedError
            A check failed; names each, its figure and its bound. ``facts["checks"]`` are all that were made,
            ``facts["rule"]`` is what it was held to.
        ModelNotFoundError, BundleError, InputError
            As `judge`.
        """
        version, replaced = self.resolve(reference), self._champion(reference)
        judgment = self.judge(version.reference)
        failed = [check for check in judgment.checks if not check.passed]
        if failed:
            raise GateRefusedError(
                f"{version.reference} stays {', '.join(version.aliases) or 'without alias'}: "
                f"{'; '.join(str(check) for check in failed)}",
                model=version.reference,
                failed=[check.name for check in failed],
                checks=judgment.checks,
                rule=judgment.rule,
            )
        self._client.set_registered_model_alias(version.name, CHAMPION, str(version.version))
        return Promotion(self.resolve(version.reference), judgment.checks, replaced, judgment.rule)

    def champion(self, name: str, folder: Path) -> Bundle | None:
        """The bundle of the champion of model ``name``, copied into ``folder``; None: there is none."""
        version = self._champion(name)
        return None if version is None else self.fetch(version.reference, folder)

    def resolve(self, reference: str) -> ModelVersion:
        """The version that ``reference`` names.

        Parameters
        ----------
        reference : str
            ``name@champion``, another alias, or ``name@version``; a bare name means ``champion``.

        Raises
        ------
        ModelNotFoundError
            No such model, alias or version; the message lists what there is.
        """
        name, _, suffix = reference.partition("@")
        suffix = suffix or CHAMPION
        known = {version.version: version for version in self.versions(name)}
        if not known:
            names = sorted({version.name for version in self.versions()})
            raise ModelNotFoundError(
                f"no model {name!r} in {self.uri}: known models: {', '.join(names) or 'none'}", model=name
            )
        for version in known.values():
            if suffix in version.aliases or suffix == str(version.version):
                return version
        aliases = sorted({alias for version in known.values() for alias in version.aliases})
        raise ModelNotFoundError(
            f"model {name!r} has no alias or version {suffix!r}: versions {sorted(known)}, "
            f"aliases {', '.join(aliases) or 'none'}",
            model=reference,
        )

    def versions(self, name: str | None = None) -> list[ModelVersion]:
        """All versions, or those of one model, oldest first."""
        filter_string = None if name is None else f"name = '{_checked(name)}'"
        models = self._client.search_registered_models(filter_string=filter_string)
        found: list[ModelVersion] = []
        for model in models:
            aliases: dict[int, list[str]] = {}
            for alias, version in model.aliases.items():
                aliases.setdefault(int(version), []).append(alias)
            entries = self._client.search_model_versions(f"name = '{_checked(model.name)}'")
            found.extend(
                ModelVersion(
                    name=model.name,
                    version=int(entry.version),
                    aliases=tuple(sorted(aliases.get(int(entry.version), []))),
                    source=str(entry.source),
                    tags=dict(entry.tags),
                )
                for entry in entries
            )
        return sorted(found, key=lambda version: (version.name, version.version))

    def fetch(self, reference: str, folder: Path) -> Bundle:
        """A checked copy of the bundle that ``reference`` names, in ``folder / name-version``."""
        import mlflow.artifacts

        version = self.resolve(reference)
        target = folder / f"{version.name}-{version.version}"
        if target.exists():
            return Bundle.open(target)
        folder.mkdir(parents=True, exist_ok=True)
        # Others of this process may fetch it too.
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=folder))
        try:
            with quiet():
                got = mlflow.artifacts.download_artifacts(
                    artifact_uri=version.source, dst_path=str(partial), tracking_uri=self.uri
                )
            bundle = Bundle.open(Path(got))
            Path(got).rename(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return dataclasses.replace(bundle, folder=target)

    def _champion(self, reference: str) -> ModelVersion | None:
        """The champion of the model that ``reference`` names a version of."""
        known = self.versions(reference.partition("@")[0])
        return next((version for version in known if CHAMPION in version.aliases), None)

    def _log_curves(self, run_id: str, curves: Mapping[str, Sequence[float]]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        points = [
            Metric(f"training/{name}", value, now, epoch)
            for name, values in curves.items()
            for epoch, value in enumerate(values)
            # A multiplier may be infinite, which a database does not hold.
            if math.isfinite(value)
        ]
        for begin in range(0, len(points), _METRICS_AT_ONCE):
            self._client.log_batch(run_id, metrics=points[begin : begin + _METRICS_AT_ONCE])

    def _log_settings(self, run_id: str, manifest: Manifest) -> None:
        """What was chosen beforehand as parameters by dotted key, so that runs can be compared by them."""
        from mlflow.entities import Param

        tables = {
            "data": manifest.data,
            "program": manifest.program.to_dict(),
            SETTINGS: {
                **manifest.training.get(SETTINGS, {}),
                "method": manifest.method,
                "seed": manifest.seed,
            },
        }
        # Columns may have any name and number; MLflow takes neither.
        found = [
            Param(re.sub(r"[^\w./: -]", "_", key), str(value)[:_LONGEST_PARAMETER])
            for key, value in _flat(tables)
            if str(value)
        ]
        for begin in range(0, len(found), _PARAMETERS_AT_ONCE):
            self._client.log_batch(run_id, params=found[begin : begin + _PARAMETERS_AT_ONCE])

    def _exists(self, name: str) -> bool:
        return bool(self._client.search_registered_models(filter_string=f"name = '{_checked(name)}'"))

    def _experiment(self, name: str) -> str:
        experiment = self._client.get_experiment_by_name(name)
        if experiment is not None:
            return str(experiment.experiment_id)
        return str(self._client.create_experiment(name, artifact_location=self._artifacts))


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values of nested tables by dotted key."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _checked(name: str) -> str:
    # The name goes into MLflow's filter language, which has no quoting.
    if not name or not all(character.isalnum() or character in "-_." for character in name):
        raise InputError(
            f"model name {name!r}: use letters, digits, hyphens, underscores and dots only", name=name
        )
    return name


def client_of(uri: str) -> MlflowClient:
    """MLflow's client of a registry."""
    # A decision service has no business calling home.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # Importing sets the level of MLflow's loggers, so it comes first.
    from mlflow import MlflowClient

    with quiet():
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_registered_models(max_results=1)  # makes the tables now, not at the first request
    return client


@contextmanager
def quiet() -> Iterator[None]:
    """MLflow's and alembic's progress notes kept off the terminal."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
