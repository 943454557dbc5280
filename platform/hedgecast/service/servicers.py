"""The gRPC servicers: convert, call, convert."""

from __future__ import annotations

import logging
import time
from typing import TypeVar

import grpc.aio

from hedgecast.core.errors import InputError
from hedgecast.rpc.v1 import decision_service_pb2 as decision_pb
from hedgecast.rpc.v1 import decision_service_pb2_grpc as decision_grpc
from hedgecast.rpc.v1 import model_service_pb2 as model_pb
from hedgecast.rpc.v1 import model_service_pb2_grpc as model_grpc
from hedgecast.service.backend import DecisionBackend
from hedgecast.service.interceptors import deadline_seconds
from hedgecast.service.models import resolve
from hedgecast.service.queries import Query
from hedgecast.service.requests import decide_query, evaluate_query, explain_query
from hedgecast.service.responses import decide_response, evaluate_response, explain_response, model_of
from hedgecast.service.settings import ServiceSettings

_PAGE_SIZE = 100
_LARGEST_PAGE = 1000

A = TypeVar("A")

log = logging.getLogger(__name__)


class DecisionServicer(decision_grpc.DecisionServiceServicer):
    """Answers decision requests with a backend."""

    def __init__(self, backend: DecisionBackend, settings: ServiceSettings) -> None:
        self._backend = backend
        self._settings = settings

    async def Decide(  # noqa: N802 - the stub's name
        self, request: decision_pb.DecideRequest, context: grpc.aio.ServicerContext
    ) -> decision_pb.DecideResponse:
        """The decision for ``request``."""
        query = decide_query(request, self._settings, deadline_seconds=self._seconds(context))
        answer, seconds = await self._answer(query)
        return decide_response(query, answer, total_seconds=seconds)

    async def EvaluateDecisions(  # noqa: N802 - the stub's name
        self, request: decision_pb.EvaluateDecisionsRequest, context: grpc.aio.ServicerContext
    ) -> decision_pb.EvaluateDecisionsResponse:
        """The caller's plans, ranked."""
        query = evaluate_query(request, self._settings, deadline_seconds=self._seconds(context))
        answer, seconds = await self._answer(query)
        return evaluate_response(query, answer, total_seconds=seconds)

    async def ExplainDecision(  # noqa: N802 - the stub's name
        self, request: decision_pb.ExplainDecisionRequest, context: grpc.aio.ServicerContext
    ) -> decision_pb.ExplainDecisionResponse:
        """What drives the decision."""
        query = explain_query(request, self._settings, deadline_seconds=self._seconds(context))
        answer, seconds = await self._answer(query)
        return explain_response(query, answer, total_seconds=seconds)

    def _seconds(self, context: grpc.aio.ServicerContext) -> float:
        return deadline_seconds(context, self._settings)

    async def _answer(self, query: Query[A]) -> tuple[A, float]:
        """The backend's answer and the seconds that it took."""
        started = time.perf_counter()
        answer = await self._backend.answer(query)
        seconds = time.perf_counter() - started
        log.info("request %s: %s answered in %.1f ms", query.request_id, query.model, 1e3 * seconds)
        return answer, seconds


class ModelServicer(model_grpc.ModelServiceServicer):
    """Describes the models of a backend."""

    def __init__(self, backend: DecisionBackend) -> None:
        self._backend = backend

    async def ListModels(  # noqa: N802 - the stub's name
        self, request: model_pb.ListModelsRequest, _context: grpc.aio.ServicerContext
    ) -> model_pb.ListModelsResponse:
        """A page of models, sorted by full name; the token is the last name of the page before."""
        if request.page_size < 0:
            raise InputError(f"page_size is {request.page_size}: must not be negative", field="page_size")
        size = min(request.page_size or _PAGE_SIZE, _LARGEST_PAGE)
        models = sorted(await self._backend.models(), key=lambda model: model.full_name)
        rest = [model for model in models if model.full_name > request.page_token]
        token = rest[size - 1].full_name if len(rest) > size else ""
        return model_pb.ListModelsResponse(models=map(model_of, rest[:size]), next_page_token=token)

    async def GetModel(  # noqa: N802 - the stub's name
        self, request: model_pb.GetModelRequest, _context: grpc.aio.ServicerContext
    ) -> model_pb.Model:
        """The model that is meant."""
        return model_of(resolve(await self._backend.models(), request.name))
