"""The service as an application that Ray Serve deploys by name: ``hedgecast_workers.application:build``.

What is served stands in its arguments; settings come from the environment of the cluster's nodes. Serve keeps
both in the cluster's state, so no secret may be among them: secrets are files on the nodes.
"""

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from ray import serve

from hedgecast.core.errors import ConfigError
from hedgecast.service.models import BundleReference
from hedgecast.service.settings import load_settings
from hedgecast_workers.models import registered
from hedgecast_workers.plan import ServePlan
from hedgecast_workers.serve import application

# Not postponed: Serve makes a model of its arguments by the annotation's class.


class ApplicationArgs(BaseModel):
    """What is served."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    model: str | None = None
    """NAME, NAME@ALIAS or NAME@VERSION in the registry; an alias is followed
    (``HEDGECAST_TAKEOVER_SECONDS``)."""
    bundle: Path | None = None
    """Folder of a bundle on every node, instead of ``model``."""
    canary: str | None = None
    """NAME@ALIAS or NAME@VERSION of another version of ``model``, which answers a share of the requests
    (``HEDGECAST_CANARY_SHARE``) in the shadow."""
    registry: str | None = None
    """Directory or address of the registry; None: ``$HEDGECAST_HOME``."""
    threads: int = Field(default=1, ge=1)
    """Threads of one draw."""
    denoisers: bool = True
    """Whether replicas of their own draw; false: each solver draws for itself, a hop less."""

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if (self.model is None) == (self.bundle is None):
            raise ValueError("give either model (NAME@ALIAS) or bundle (a folder)")
        if self.canary is not None and self.model is None:
            raise ValueError("a canary is another version of model: give that, not bundle")
        return self


def build(args: ApplicationArgs) -> serve.Application:
    """The application; the same as ``hedgecast serve`` runs.

    Raises
    ------
    ConfigError
        A setting in the environment that is not allowed.
    ModelNotFoundError
        No such model, alias or version.
    """
    settings = load_settings()
    if settings.tokens is not None:
        raise ConfigError(
            "HEDGECAST_TOKENS would be kept in the cluster's state: put the lines into a file on the nodes "
            "and set HEDGECAST_TOKEN_FILE",
            key="tokens",
        )
    if args.bundle is not None:
        reference = BundleReference(folder=args.bundle)
    else:
        reference = registered(str(args.model), args.registry)
    second = None if args.canary is None else registered(args.canary, args.registry)
    plan = ServePlan(
        bundle=reference,
        canary=second,
        settings=settings,
        num_denoisers=int(args.denoisers),
        threads=args.threads,
    )
    return application(plan)
