"""The Ray Serve application: solver replicas, denoiser replicas where there are any, and the gRPC gateway.

    planner --gRPC--> Gateway --> Solver --> Denoiser
                   |                     ^
                   +-- scenarios alone --+

Without denoisers a solver draws for itself, and everything is asked of it.

Only plain records and arrays pass between them, and only inside the cluster. The gateway is our own
grpc.aio server in a deployment rather than Serve's gRPC proxy, which has no TLS, no interceptors, no
grpc.health.v1, and sends tracebacks to callers.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
import uuid
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple, TypeVar, cast

from ray import serve
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from hedgecast.core.errors import HedgecastError, ModelNotFoundError
from hedgecast.service.budget import Budget
from hedgecast.service.canary import CANARY
from hedgecast.service.draw_queue import DrawFigures
from hedgecast.service.models import BundleReference, ModelDescription, resolve
from hedgecast.service.queries import DecideQuery, Query, ScenariosQuery
from hedgecast.service.server import DecisionServer
from hedgecast.service.settings import ServiceSettings
from hedgecast.service.tracing import carrier
from hedgecast_workers.company import Company, kind_of
from hedgecast_workers.denoiser import Denoiser
from hedgecast_workers.deployments import Component, Replicas, deployment_options
from hedgecast_workers.observed import observed
from hedgecast_workers.plan import ServePlan
from hedgecast_workers.replies import Reply, ask, with_time_left
from hedgecast_workers.solver import DrawingSolver, Solver

A = TypeVar("A")

APPLICATION = "hedgecast"
# Of Serve's own log lines; ours are written by `configure_logs`.
QUIET = {"log_level": "WARNING", "enable_access_log": False}
# A version that was taken over is known so long later; a replica asked for it sooner looks for itself.
_KNOWN_SECONDS = 1.0
# What solvers get to say that they are there.
_COUNT_SECONDS = 1.0

log = logging.getLogger(__name__)


def application(plan: ServePlan, replicas: Mapping[Component, Replicas] | None = None) -> serve.Application:
    """The application that `ray.serve.run` takes.

    Parameters
    ----------
    plan : ServePlan
    replicas : mapping of Component to Replicas, optional
        How many of what is named, and where, instead of the plan's numbers.
    """
    counts: dict[Component, Replicas] = {"Solver": Replicas(count=plan.num_solvers)}
    if plan.num_denoisers:
        counts["Denoiser"] = Replicas(count=plan.num_denoisers)
    counts |= replicas or {}
    options = deployment_options(
        plan.settings, counts, canary=plan.canary is not None, denoisers=plan.num_denoisers > 0
    )
    gateway = serve.deployment(Gateway, **options["Gateway"])
    pairs = [_pair(plan, plan.bundle, options)]
    if plan.canary is not None:
        second = dataclasses.replace(plan.canary, aliases=(*plan.canary.aliases, CANARY))
        pairs.append(_pair(plan, second, options, "Canary"))
    return cast(serve.Application, gateway.bind(plan.settings, *pairs))


def _pair(plan: ServePlan, bundle: BundleReference, options: Mapping[Any, Any], prefix: str = "") -> Pair:
    """The deployments that answer for a version, with names that begin with ``prefix``."""
    name = f"{prefix}Solver"
    if not plan.num_denoisers:
        alone = serve.deployment(DrawingSolver, name=name, **options[name])
        both = alone.bind(bundle, plan.threads, plan.settings)
        return Pair(both, both)
    other = f"{prefix}Denoiser"
    denoiser = serve.deployment(Denoiser, name=other, **options[other])
    source = denoiser.bind(bundle, plan.threads, plan.settings)
    solver = serve.deployment(Solver, name=name, **options[name])
    return Pair(solver.bind(bundle, source, plan.settings), source)


class Pair(NamedTuple):
    """The replicas that answer for a version of the model."""

    solver: DeploymentHandle
    denoiser: DeploymentHandle
    """Of the solver itself, where it draws."""


class HandleBackend:
    """The backend whose work is done by replicas: the model's, and a canary's beside them.

    Parameters
    ----------
    pairs : sequence of Pair
        The model's, then the canary's if there is one.
    settings : ServiceSettings
        How often work is begun again when the replica that did it went away, and what goes together.
    observe : callable
        Told of every request for scenarios that an answer took.
    """

    def __init__(
        self,
        *pairs: Pair,
        settings: ServiceSettings,
        observe: Callable[[DrawFigures], None] = lambda _: None,
    ) -> None:
        self._pairs, self.observe = pairs, observe
        self._retries, self._calls = settings.replica_retries, settings.solver_calls
        self._limits = settings.batch_limits
        self._name = uuid.uuid4().hex
        self._companies: dict[tuple[Pair, Hashable], Company] = {}
        self._num_solvers: dict[Pair, int] = {}
        self._known: dict[str, tuple[ModelDescription, Pair]] = {}
        self._asked = 0.0
        self._asking: asyncio.Task[None] | None = None

    async def models(self) -> tuple[ModelDescription, ...]:
        """All served models, as they were a second ago at most when calls come often."""
        if not self._known:
            await self._describe()
        elif time.monotonic() > self._asked + _KNOWN_SECONDS and self._asking is None:
            # Nobody waits for it.
            self._asking = asyncio.create_task(self._describe())
            self._asking.add_done_callback(self._described)
        return tuple(model for model, _ in self._known.values())

    async def missing_providers(self) -> tuple[str, ...]:
        """Execution providers that a denoiser does without."""
        found = await ask(self._pairs[0].denoiser.missing_providers.remote, retries=self._retries)
        return cast("tuple[str, ...]", found)

    async def answer(self, query: Query[A]) -> A:
        """The answer to ``query``; cancelling it cancels the replica's work."""
        budget = Budget(query.deadline_seconds)
        pair = await self._pair(query.model)
        kind = kind_of(query, self._limits)
        if kind is None:
            reply = await self._alone(query, pair, budget)
        else:
            calls = self._calls * self._num_solvers[pair]
            reply = await self._company(pair, kind, query).answer(cast(DecideQuery, query), budget, calls)
        for figures in reply.draws:
            self.observe(figures)
        if isinstance(reply.outcome, HedgecastError):
            raise reply.outcome
        return cast(A, reply.outcome)

    async def _alone(self, query: Query[Any], pair: Pair, budget: Budget) -> Reply:
        # Where nothing is to be solved, the solver would only pass on rows and scenarios.
        replicas = pair.denoiser if isinstance(query, ScenariosQuery) else pair.solver

        def send() -> DeploymentResponse:
            return replicas.answer.remote(with_time_left(query, budget), carrier())

        return cast(Reply, await ask(send, retries=self._retries))

    def _company(self, pair: Pair, kind: Hashable, query: Query[Any]) -> Company:
        found = self._companies.get((pair, kind))
        if found is None:
            most = min(self._limits.jobs, self._limits.weight // query.draw_count)
            found = Company(pair.solver, most=most, retries=self._retries, name=self._name)
            self._companies[pair, kind] = found
        return found

    async def _pair(self, name: str) -> Pair:
        try:
            meant = resolve(await self.models(), name)
        except ModelNotFoundError:
            # Perhaps it was taken over just now.
            await self._describe()
            meant = resolve(await self.models(), name)
        return self._known[meant.full_name][1]

    async def _describe(self) -> None:
        known: dict[str, tuple[ModelDescription, Pair]] = {}
        for pair in self._pairs:
            found = await ask(pair.solver.describe.remote, retries=self._retries)
            for model in cast("tuple[ModelDescription, ...]", found):
                # A canary that has become the champion is the first pair's to answer.
                known.setdefault(model.full_name, (model, pair))
            self._num_solvers[pair] = await self._count(pair)
        self._remember(known)
        self._companies = {key: one for key, one in self._companies.items() if not one.idle}
        self._known, self._asked = known, time.monotonic()

    async def _count(self, pair: Pair) -> int:
        """How many solvers there are."""
        try:
            found = await pair.solver.broadcast("describe").results_async(
                timeout_s=_COUNT_SECONDS, return_exceptions=True
            )
        except (TimeoutError, DeploymentUnavailableError):
            return self._num_solvers.get(pair, 1)
        return max(sum(not isinstance(one, Exception) for one in found), 1)

    def _remember(self, known: dict[str, tuple[ModelDescription, Pair]]) -> None:
        """Add the version before each, which a replica that came up after a takeover does not tell of."""
        for name, (model, pair) in self._known.items():
            before = {one.name for one, _ in known.values() if one.superseded}
            if name not in known and model.name not in before:
                known[name] = (dataclasses.replace(model, aliases=(), superseded=True), pair)

    def _described(self, task: asyncio.Task[None]) -> None:
        self._asking = None
        if not task.cancelled() and task.exception() is not None:
            log.warning("the models served are those of before: %s", task.exception())


class Gateway:
    """The gRPC server inside a replica; its health turns SERVING once a solver is warm."""

    async def __init__(self, settings: ServiceSettings, *pairs: Pair) -> None:  # type: ignore[misc]
        observed(settings, "gateway")
        backend = HandleBackend(*pairs, settings=settings)
        self._server = DecisionServer(backend, settings)
        backend.observe = self._server.metrics.drawn
        self._address = await self._server.start()
        self._warm = asyncio.create_task(self._wait_until_warm(backend))

    async def ready(self) -> str:
        """HOST:PORT, once the service is warm."""
        await asyncio.shield(self._warm)
        return self._address

    async def drain(self) -> None:
        """Let requests under way finish, then close the port."""
        self._warm.cancel()
        await self._server.stop()

    async def check_health(self) -> None:
        """Raise when this replica will never be warm; Serve then replaces it."""
        if self._warm.done() and not self._warm.cancelled():
            self._warm.result()

    async def __del__(self) -> None:
        await self.drain()

    async def _wait_until_warm(self, backend: HandleBackend) -> None:
        # Solvers answer only once they have drawn and solved.
        await backend.models()
        self._server.metrics.set_missing_providers(await backend.missing_providers())
        await self._server.set_ready()
