"""The Ray Serve application: denoiser replicas, solver replicas, and the gRPC gateway.

    planner --gRPC--> Gateway --> Solver --> Denoiser

Only plain records and arrays pass between them, and only inside the cluster. The gateway is our own
grpc.aio server in a deployment rather than Serve's gRPC proxy, which has no TLS, no interceptors, no
grpc.health.v1, and sends tracebacks to callers.
"""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import functools
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from hedgecast.core.errors import HedgecastError, OverloadedError, UnavailableError
from hedgecast.service.budget import Budget
from hedgecast.service.canary import CANARY
from hedgecast.service.logs import REQUEST_ID, configure_logs
from hedgecast.service.models import BundleReference, ModelDescription, resolve
from hedgecast.service.queries import Query
from hedgecast.service.server import DecisionServer
from hedgecast.service.settings import ServiceSettings
from hedgecast.service.tracing import carrier, configure_tracing, stage
from hedgecast_workers.deployments import Component, Replicas, deployment_options
from hedgecast_workers.models import present
from hedgecast_workers.plan import ServePlan

if TYPE_CHECKING:
    from hedgecast.registry.session import Context
    from hedgecast.service.safety import Judgement

A = TypeVar("A")

APPLICATION = "hedgecast"
# Of Serve's own log lines; ours are written by `configure_logs`.
QUIET = {"log_level": "WARNING", "enable_access_log": False}
_WARM_UP_SCENARIOS = 16


def application(plan: ServePlan) -> serve.Application:
    """The application that `ray.serve.run` takes."""
    counts: dict[Component, Replicas] = {
        "Denoiser": Replicas(count=plan.num_denoisers),
        "Solver": Replicas(count=plan.num_solvers),
    }
    options = deployment_options(plan.settings, counts, canary=plan.canary is not None)
    denoiser = serve.deployment(Denoiser, **options["Denoiser"])
    solver = serve.deployment(Solver, **options["Solver"])
    gateway = serve.deployment(Gateway, **options["Gateway"])
    source = denoiser.bind(plan.bundle, plan.threads, plan.settings)
    solvers = [solver.bind(plan.bundle, source, plan.settings)]
    if plan.canary is not None:
        second = dataclasses.replace(plan.canary, aliases=(*plan.canary.aliases, CANARY))
        shadow = serve.deployment(Denoiser, name="CanaryDenoiser", **options["CanaryDenoiser"])
        source = shadow.bind(second, plan.threads, plan.settings)
        solver = serve.deployment(Solver, name="CanarySolver", **options["CanarySolver"])
        solvers.append(solver.bind(second, source, plan.settings))
    return cast(serve.Application, gateway.bind(plan.settings, *solvers))


class Denoiser:
    """Draws scenarios with ONNX Runtime."""

    def __init__(self, bundle: BundleReference, threads: int, settings: ServiceSettings) -> None:
        _observed(settings, "denoiser")
        # Imported by the replicas that need torch and the solvers, not by the gateway and the driver.
        from hedgecast.registry.session import ScenarioSession

        self._session = ScenarioSession.open(
            present(bundle).folder,
            threads=threads,
            providers=settings.providers,
            allow_fallback=settings.allow_provider_fallback,
        )
        # ONNX Runtime plans its memory at the first run.
        features = np.zeros((1, self._session.bundle.manifest.generator.num_features))
        self._session.draw(features, [0], _WARM_UP_SCENARIOS, 0)
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="draw")

    async def draw(
        self,
        features: NDArray[np.float64],
        day_number: int,
        count: int,
        seed: int,
        start: int,
        baseline: bool,
        trace: Mapping[str, str],
    ) -> NDArray[np.float32]:
        """Paths (count, T, F) from scenario ``start`` of the seed by wall-clock slot, in units of the data.

        Of the network, or of the model's ``baseline``; ``trace`` names the caller's span.
        """
        with stage("denoiser.draw", trace):
            draw = functools.partial(self._session.draw, start=start, baseline=baseline)
            work = self._pool.submit(draw, features[None], [day_number], count, seed)
            paths = await asyncio.wrap_future(work)
        return cast("NDArray[np.float32]", paths[0])

    async def missing_providers(self) -> tuple[str, ...]:
        """Execution providers that were asked for and are not there."""
        return self._session.missing_providers


class Solver:
    """Reads rows, asks a denoiser for scenarios, solves; a replica runs once it is warm."""

    async def __init__(  # type: ignore[misc]
        self, bundle: BundleReference, denoiser: DeploymentHandle, settings: ServiceSettings
    ) -> None:
        from hedgecast.service.bundles import served_model, warm_up, warm_up_context
        from hedgecast.service.work import conclude, unsolved

        _observed(settings, "solver")
        self._conclude, self._unsolved = conclude, unsolved
        self._model = served_model(present(bundle))
        self._denoiser = denoiser
        # A solve uses its cores well; two at once would only take turns.
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="solve")
        context = warm_up_context(self._model)
        paths = await self._draw(context, _WARM_UP_SCENARIOS, 0, 0, baseline=False)
        await self._run(warm_up, self._model, context, paths)

    async def describe(self) -> ModelDescription:
        """The model."""
        return self._model.description

    async def missing_providers(self) -> tuple[str, ...]:
        """Execution providers that a denoiser does without."""
        return cast("tuple[str, ...]", await _result(self._denoiser.missing_providers.remote()))

    async def answer(self, query: Query[Any], trace: Mapping[str, str]) -> Any:
        """The answer, or our error as a value: a raised one Serve would log as a failure of this replica."""
        REQUEST_ID.set(query.request_id)
        budget = Budget(query.deadline_seconds)
        try:
            with stage("solver.answer", trace):
                return await self._answer(query, budget)
        except HedgecastError as error:
            return error
        except asyncio.CancelledError:
            budget.cancel()
            raise

    async def _answer(self, query: Query[Any], budget: Budget) -> Any:
        started = time.perf_counter()
        context = await self._run(self._model.prepare, query)
        if query.validate_only:
            return self._unsolved(query, self._model)
        judged = self._model.before(query, context)
        paths = None
        if context is not None:
            budget.check("drawing scenarios")
            paths, judged = await self._judged_draw(query, context, judged)
        finish = functools.partial(self._conclude, drawn_seconds=time.perf_counter() - started)
        return await self._run(finish, query, self._model, context, paths, judged, budget)

    async def _judged_draw(
        self, query: Query[Any], context: Context, judged: Judgement
    ) -> tuple[NDArray[np.float32], Judgement]:
        draw = functools.partial(self._draw, context, query.draw_count, query.seed, query.draw_start)
        paths = await draw(baseline=judged.baseline)
        checked = self._model.after(judged, paths)
        if checked.baseline and not judged.baseline:
            paths = await draw(baseline=True)
            checked = self._model.after(checked, paths)
        return paths, checked

    async def _draw(
        self, context: Context, count: int, seed: int, start: int, *, baseline: bool
    ) -> NDArray[np.float32]:
        response = self._denoiser.draw.remote(
            context.features, context.day_number, count, seed, start, baseline, carrier()
        )
        return cast("NDArray[np.float32]", await _result(response))

    async def _run(self, function: Any, *arguments: Any) -> Any:
        run = contextvars.copy_context().run
        return await asyncio.wrap_future(self._pool.submit(run, function, *arguments))


class HandleBackend:
    """The backend whose work is done by solver replicas: the model's, and a canary's beside them."""

    def __init__(self, *solvers: DeploymentHandle) -> None:
        self._solvers = solvers
        self._known: dict[str, tuple[ModelDescription, DeploymentHandle]] = {}

    async def models(self) -> tuple[ModelDescription, ...]:
        """All served models."""
        if not self._known:
            found = [cast(ModelDescription, await _result(one.describe.remote())) for one in self._solvers]
            self._known = {
                model.full_name: (model, solver) for model, solver in zip(found, self._solvers, strict=True)
            }
        return tuple(model for model, _ in self._known.values())

    async def missing_providers(self) -> tuple[str, ...]:
        """Execution providers that a denoiser does without."""
        return cast("tuple[str, ...]", await _result(self._solvers[0].missing_providers.remote()))

    async def answer(self, query: Query[A]) -> A:
        """The answer to ``query``; cancelling it cancels the replica's work."""
        meant = resolve(await self.models(), query.model)
        _, solver = self._known[meant.full_name]
        outcome = await _result(solver.answer.remote(query, carrier()))
        if isinstance(outcome, HedgecastError):
            raise outcome
        return cast(A, outcome)


class Gateway:
    """The gRPC server inside a replica; its health turns SERVING once a solver is warm."""

    async def __init__(self, settings: ServiceSettings, *solvers: DeploymentHandle) -> None:  # type: ignore[misc]
        _observed(settings, "gateway")
        backend = HandleBackend(*solvers)
        self._server = DecisionServer(backend, settings)
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


def _observed(settings: ServiceSettings, component: str) -> None:
    """Logs and spans of this replica's process go where the settings say."""
    configure_logs(settings)
    configure_tracing(settings.trace_endpoint, component)


async def _result(response: DeploymentResponse) -> Any:
    """What a replica returned; a cancelled wait cancels the replica's work."""
    try:
        return await response
    except asyncio.CancelledError:
        response.cancel()
        raise
    except BackPressureError as error:
        raise OverloadedError("every replica's queue is full: try again later") from error
    except (RayActorError, DeploymentUnavailableError) as error:
        raise UnavailableError("the replica that worked on this went away: try again") from error
