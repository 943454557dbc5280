"""How many replicas of what there are and what each takes, said once for code and for config files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hedgecast.core.errors import ConfigError
from hedgecast.service.settings import ServiceSettings

Component = Literal["Denoiser", "Solver", "CanaryDenoiser", "CanarySolver", "Gateway"]
COMPONENTS: tuple[Component, ...] = get_args(Component)
# Of the version that answers in the shadow, where there is one.
_CANARY: tuple[Component, ...] = ("CanaryDenoiser", "CanarySolver")
_DENOISERS: tuple[Component, ...] = ("Denoiser", "CanaryDenoiser")
# Fractions: the replicas of one small machine share its cores, and Ray only counts.
_CPUS_A_REPLICA = 0.1
# Serve's own.
_LOOK_BACK_SECONDS = 30.0
# A gateway is given this much longer than its own drain before Serve kills it, in seconds.
_STOP_MARGIN_SECONDS = 5.0


class Replicas(BaseModel):
    """The replicas of one component."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    count: int = Field(default=1, ge=1)
    """Replicas; the least of them where `most` is set."""
    most: int | None = Field(default=None, ge=1)
    """Replicas at most, as many as requests under way ask for; None: always `count`."""
    target_requests: float = Field(default=1.0, gt=0)
    """Calls under way that each replica should have, where `most` is set; decisions may share one."""
    upscale_delay_seconds: float = Field(default=10.0, ge=0)
    """How long there must be too few before there are more, in seconds."""
    downscale_delay_seconds: float = Field(default=600.0, ge=0)
    """How long there must be too many before there are fewer, in seconds."""
    look_back_seconds: float = Field(default=_LOOK_BACK_SECONDS, gt=0)
    """Requests under way are averaged over so long, in seconds."""
    num_gpus: float = Field(default=0.0, ge=0)
    """GPUs of each, or a share of one."""
    resource: str | None = None
    """Name of a Ray resource that each takes one of: puts replicas on the nodes that have it."""

    @model_validator(mode="after")
    def _check_most(self) -> Self:
        if self.most is not None and self.most < self.count:
            raise ValueError(f"most = {self.most} is less than count = {self.count}")
        return self

    def options(self) -> dict[str, Any]:
        """What Serve is told about them."""
        actor: dict[str, Any] = {"num_cpus": _CPUS_A_REPLICA}
        if self.num_gpus:
            actor["num_gpus"] = self.num_gpus
        if self.resource is not None:
            actor["resources"] = {self.resource: 1.0}
        return {"ray_actor_options": actor, **self._numbers()}

    def _numbers(self) -> dict[str, Any]:
        if self.most is None:
            return {"num_replicas": self.count}
        scaling = {
            "min_replicas": self.count,
            "max_replicas": self.most,
            "target_ongoing_requests": self.target_requests,
            "upscale_delay_s": self.upscale_delay_seconds,
            "downscale_delay_s": self.downscale_delay_seconds,
        }
        if self.look_back_seconds != _LOOK_BACK_SECONDS:
            # Counted three times in it, as by default.
            scaling |= {
                "look_back_period_s": self.look_back_seconds,
                "metrics_interval_s": self.look_back_seconds / 3.0,
            }
        return {"autoscaling_config": scaling}


def deployment_options(
    settings: ServiceSettings,
    replicas: Mapping[Component, Replicas],
    *,
    canary: bool = False,
    denoisers: bool = True,
) -> dict[Component, dict[str, Any]]:
    """Serve's options of each component, as `ray.serve.deployment` and its config files take them.

    Parameters
    ----------
    settings : ServiceSettings
        Limits and times follow from them.
    replicas : mapping of Component to Replicas
        One of each that is not there.
    canary : bool
        Whether a second version is served.
    denoisers : bool
        Whether there are any; solvers draw for themselves otherwise.

    Raises
    ------
    ConfigError
        Replicas of a component that there is none of; solvers that would never be more, because further
        requests go together before as many are under way as they are scaled by.
    """
    limit = settings.max_concurrent_requests
    names = [
        name
        for name in COMPONENTS
        if (canary or name not in _CANARY) and (denoisers or name not in _DENOISERS)
    ]
    for name in replicas:
        if name not in names:
            raise ConfigError(
                f"replicas of {name}: nothing of it is served, only {', '.join(names)}", key=name
            )
    solvers = replicas.get("Solver", Replicas())
    if solvers.most is not None and solvers.target_requests >= settings.solver_calls:
        raise ConfigError(
            f"solvers are scaled by {solvers.target_requests:g} calls under way at each, and decisions share "
            f"calls from {settings.solver_calls} on: set HEDGECAST_SOLVER_CALLS to more than the target",
            key="solver_calls",
        )
    options = {
        name: {**replicas.get(name, Replicas()).options(), "max_ongoing_requests": limit} for name in names
    }
    for name in names:
        if name != "Gateway":
            options[name]["max_queued_requests"] = limit
    options["Gateway"]["graceful_shutdown_timeout_s"] = settings.drain_seconds + _STOP_MARGIN_SECONDS
    return options
