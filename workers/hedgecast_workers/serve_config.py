"""The file that ``serve deploy`` and KubeRay's ``serveConfigV2`` take: made from settings, strictly checked.

What is served and how many replicas there are stands in it; the gateway's settings come from the
environment of the cluster's nodes, see `hedgecast_workers.application`.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from ray.serve.schema import ServeDeploySchema

from hedgecast.core.errors import ConfigError
from hedgecast.service.settings import ServiceSettings
from hedgecast_workers.application import ApplicationArgs
from hedgecast_workers.deployments import Component, Replicas, deployment_options
from hedgecast_workers.serve import APPLICATION, QUIET

IMPORT_PATH = "hedgecast_workers.application:build"


def serve_config(
    args: ApplicationArgs, settings: ServiceSettings, replicas: Mapping[Component, Replicas]
) -> dict[str, Any]:
    """The config as plain values.

    Parameters
    ----------
    args : ApplicationArgs
        What is served.
    settings : ServiceSettings
        As the nodes' environment has them: limits and times of the deployments follow from them.
    replicas : mapping of Component to Replicas
        How many, and where.
    """
    deployments = deployment_options(
        settings, replicas, canary=args.canary is not None, denoisers=args.denoisers
    )
    return {
        # The gateway listens itself; nothing is served over HTTP.
        "proxy_location": "Disabled",
        "logging_config": dict(QUIET),
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": None,
                "import_path": IMPORT_PATH,
                "args": args.model_dump(mode="json", exclude_none=True),
                "deployments": [{"name": name, **options} for name, options in deployments.items()],
            }
        ],
    }


def check_serve_config(config: Mapping[str, Any]) -> None:
    """Check a config as Serve does, and refuse keys that Serve would silently leave out.

    Raises
    ------
    ConfigError
        A wrong type or value, or an unknown key; the message names its path.
    """
    try:
        ServeDeploySchema.model_validate(config)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"serve config, {path}: {first['msg']}", key=path) from None
    _check_keys(ServeDeploySchema, config, "")
    for application in config["applications"]:
        if application["import_path"] == IMPORT_PATH:
            _check_args(application.get("args", {}))


def _check_args(values: Mapping[str, Any]) -> None:
    try:
        ApplicationArgs.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(("args", *(str(part) for part in first["loc"])))
        raise ConfigError(f"serve config, {path}: {first['msg']}", key=path) from None


def _check_keys(schema: type[BaseModel], values: Mapping[str, Any], path: str) -> None:
    for key, value in values.items():
        where = f"{path}.{key}".lstrip(".")
        if key not in schema.model_fields:
            raise ConfigError(
                f"serve config, {where}: no such key, Serve would leave it out silently; there are "
                f"{', '.join(schema.model_fields)}",
                key=where,
            )
        inner = next(_models(schema.model_fields[key].annotation), None)
        if inner is None:
            continue
        for number, member in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(member, Mapping):
                _check_keys(inner, member, f"{where}[{number}]" if isinstance(value, list) else where)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that an annotation mentions."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models(argument)
