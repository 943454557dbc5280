"""What is served and how large, as data that goes between processes."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from hedgecast.service.models import BundleReference
from hedgecast.service.settings import ServiceSettings


class ServePlan(BaseModel):
    """One model behind one gateway."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    bundle: BundleReference
    """The model."""
    canary: BundleReference | None = None
    """Another version of it, which answers a share of the requests in the shadow."""
    settings: ServiceSettings
    """Of the gateway."""
    num_denoisers: int = Field(default=0, ge=0)
    """Replicas that draw scenarios; 0: each solver draws for itself, a hop less."""
    num_solvers: int = Field(default=1, ge=1)
    """Replicas that solve."""
    threads: int = Field(default=1, ge=1)
    """Threads of one draw."""
