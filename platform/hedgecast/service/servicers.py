"""The gRPC servicers: convert, call, convert."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
import uuid
from collections.abc import AsyncIterator
from typing import TypeAlias, TypeVar

import grpc.aio

from hedgecast.core.errors import HedgecastError, InputError
from hedgecast.rpc.pieces import Piece
from hedgecast.rpc.v1 import decision_service_pb2 as decision_pb
from hedgecast.rpc.v1 import decision_service_pb2_grpc as decision_grpc
from hedgecast.rpc.v1 import model_service_pb2 as model_pb
from hedgecast.rpc.v1 import model_service_pb2_grpc as model_grpc
from hedgecast.rpc.v1 import scenario_service_pb2 as scenario_pb
from hedgecast.rpc.v1 import scenario_service_pb2_grpc as scenario_grpc
from hedgecast.service.backend import DecisionBackend
from hedgecast.service.calls import CURRENT_CALL
from hedgecast.service.canary import Canary, canary_of
from hedgecast.service.certify import certified
from hedgecast.service.generation import generated
from hedgecast.service.interceptors import Refused, deadline_seconds, require_sendable
from hedgecast.service.ladder import Ladder, worked_seconds
from hedgecast.service.models import resolve
from hedgecast.service.outcomes import OutcomeBook
from hedgecast.service.queries import Query
from hedgecast.service.question import request_id_of
from hedgecast.service.requests import (
    certify_terms,
    decide_query,
    evaluate_query,
    explain_query,
    realized_of,
    stream_question,
)
from hedgecast.service.responses import (
    certificate_response,
    decide_response,
    evaluate_response,
    explain_response,
    model_of,
)
from hedgecast.service.scenario_requests import generation
from hedgecast.service.settings import ServiceSettings
from hedgecast.service.settled import canary_message, performance_message, settled_response, stream_error
from hedgecast.service.status import rule_of
from hedgecast.service.streams import answered

_Context: TypeAlias = grpc.aio.ServicerContext
_PAGE_SIZE = 100
_LARGEST_PAGE = 1000
# More than the ids of a decision and of its request in a stream take.
_ENVELOPE_BYTES = 256

A = TypeVar("A")

log = logging.getLogger(__name__)


class DecisionServicer(decision_grpc.DecisionServiceServicer):
    """Answers decision requests with a backend."""

    def __init__(
        self, backend: DecisionBackend, settings: ServiceSettings, book: OutcomeBook, ladder: Ladder
    ) -> None:
        self._backend = backend
        self._settings = settings
        self._book = book
        self._ladder = ladder
        self._canary = Canary(backend, book, settings.canary_share)

    async def Decide(  # noqa: N802 - the stub's name
        self, request: decision_pb.DecideRequest, context: _Context
    ) -> decision_pb.DecideResponse:
        """The decision for ``request``."""
        return await self._decide(request, context)

    async def EvaluateDecisions(  # noqa: N802 - the stub's name
        self, request: decision_pb.EvaluateDecisionsRequest, context: _Context
    ) -> decision_pb.EvaluateDecisionsResponse:
        """The caller's plans, ranked."""
        query = evaluate_query(request, self._settings, deadline_seconds=self._seconds(context))
        answer, seconds = await self._answer(query)
        response = evaluate_response(query, answer, total_seconds=seconds)
        self._book.warn(answer.model.full_name, response.warnings)
        return response

    async def ExplainDecision(  # noqa: N802 - the stub's name
        self, request: decision_pb.ExplainDecisionRequest, context: _Context
    ) -> decision_pb.ExplainDecisionResponse:
        """What drives the decision."""
        query = explain_query(request, self._settings, deadline_seconds=self._seconds(context))
        answer, seconds = await self._answer(query)
        response = explain_response(query, answer, total_seconds=seconds)
        self._book.warn(answer.model.full_name, response.warnings)
        return response

    async def DecideUntilCertified(  # noqa: N802 - the stub's name
        self, request: decision_pb.DecideUntilCertifiedRequest, context: _Context
    ) -> AsyncIterator[decision_pb.DecideUntilCertifiedResponse]:
        """The best decision after each stage."""
        query, terms = certify_terms(request, self._settings, deadline_seconds=self._seconds(context))
        started = time.perf_counter()
        async with contextlib.aclosing(certified(query, terms, self._backend.answer)) as stages:
            async for stage in stages:
                seconds = time.perf_counter() - started
                response = certificate_response(stage, terms.confidence, total_seconds=seconds)
                self._book.warn(stage.best.model.full_name, response.best.warnings)
                yield response

    async def DecideStream(  # noqa: N802 - the stub's name
        self, request_iterator: AsyncIterator[decision_pb.DecideStreamRequest], context: _Context
    ) -> AsyncIterator[decision_pb.DecideStreamResponse]:
        """The decisions for a stream of requests, as they are ready."""

        async def one(
            request: decision_pb.DecideStreamRequest | Refused,
        ) -> tuple[str, decision_pb.DecideStreamResponse]:
            refusal = request.error if isinstance(request, Refused) else None
            message = request.message if isinstance(request, Refused) else request
            return message.request.model, await self._one_of_many(message, refusal, context)

        answers = answered(request_iterator, one, most=self._settings.max_stream_requests)
        async with contextlib.aclosing(answers):
            async for asked_model, answer in answers:
                CURRENT_CALL.get().answers_next(asked_model)
                yield answer

    async def RecordOutcome(  # noqa: N802 - the stub's name
        self, request: decision_pb.RecordOutcomeRequest, context: _Context
    ) -> decision_pb.RecordOutcomeResponse:
        """What the decision was worth under what came true, once that is on the disk."""
        request_id = request_id_of(request.request_id)
        settled = await self._book.settle(
            request.decision_id,
            realized_of(request, self._settings),
            principal=CURRENT_CALL.get().principal,
            request_id=request_id,
            deadline_seconds=self._seconds(context),
            backend=self._backend,
        )
        return settled_response(settled, request_id)

    async def _decide(
        self, request: decision_pb.DecideRequest, context: _Context
    ) -> decision_pb.DecideResponse:
        query = decide_query(request, self._settings, deadline_seconds=self._seconds(context))
        query = dataclasses.replace(query, keep=self._book.keeping and query.own is None)
        if self._ladder.step is not None:
            model = resolve(await self._backend.models(), query.model)
            query = self._ladder.applied(query, model, refuses=request.refuse_degradation)
        answer, seconds = await self._answer(query)
        response = decide_response(query, answer, total_seconds=seconds)
        self._book.warn(answer.model.full_name, response.warnings)
        # Before it is kept, and for one of many, where it must fail alone.
        field = {"field": "return_scenarios"} if query.return_scenarios else {}
        require_sendable(response, self._settings.max_message_bytes - _ENVELOPE_BYTES, **field)
        principal = CURRENT_CALL.get().principal
        response.decision_id = await self._book.keep(query, answer, principal)
        if not query.rungs:
            # Pairs of two versions are of full answers.
            await self._canary.follow(query, answer.model, response.decision_id, principal)
        return response

    async def _one_of_many(
        self, message: decision_pb.DecideStreamRequest, refusal: HedgecastError | None, context: _Context
    ) -> decision_pb.DecideStreamResponse:
        started = time.perf_counter()
        try:
            if refusal is not None:
                raise refusal
            response = await self._decide(stream_question(message), context)
        except Exception as error:  # noqa: BLE001 - the boundary of one request among many
            return self._failed(message.correlation_id, error)
        # A call by itself has its own line.
        milliseconds = 1e3 * (time.perf_counter() - started)
        log.info("request %s of a stream answered in %.1f ms", response.request_id, milliseconds)
        return decision_pb.DecideStreamResponse(correlation_id=message.correlation_id, response=response)

    async def finish(self) -> None:
        """Wait for what nobody waits for: shadows under way."""
        await self._canary.finish()

    def _failed(self, correlation_id: str, error: Exception) -> decision_pb.DecideStreamResponse:
        incident = uuid.uuid4().hex
        public = rule_of(error).public
        log.log(
            logging.INFO if public else logging.ERROR,
            "request %s of a stream failed, incident %s: %s",
            correlation_id[:64],
            incident,
            error,
            exc_info=None if public else error,
        )
        delay = self._settings.retry_delay_seconds
        return decision_pb.DecideStreamResponse(
            correlation_id=correlation_id, error=stream_error(error, incident, retry_delay_seconds=delay)
        )

    def _seconds(self, context: _Context) -> float:
        return deadline_seconds(context, self._settings)

    async def _answer(self, query: Query[A]) -> tuple[A, float]:
        """The backend's answer and the seconds that it took."""
        started = time.perf_counter()
        with self._ladder.question() as question:
            answer = await self._backend.answer(query)
            seconds = time.perf_counter() - started
            question.waited = seconds - worked_seconds(answer)
        return answer, seconds


class ScenarioServicer(scenario_grpc.ScenarioServiceServicer):
    """Sends a backend's scenarios."""

    def __init__(self, backend: DecisionBackend, settings: ServiceSettings, book: OutcomeBook) -> None:
        self._backend = backend
        self._settings = settings
        self._book = book

    # Pieces are messages that the guard writes out its own way.
    async def GenerateScenarios(  # type: ignore[override]  # noqa: N802 - the stub's name
        self, request: scenario_pb.GenerateScenariosRequest, context: _Context
    ) -> AsyncIterator[Piece]:
        """The pieces of one Arrow stream."""
        if not request.model:
            raise InputError("model is empty: name one, for example german_grid@champion", field="model")
        model = resolve(await self._backend.models(), request.model)
        seconds = deadline_seconds(context, self._settings)
        asked = generation(request, model, self._settings, deadline_seconds=seconds)
        async with contextlib.aclosing(generated(asked, self._backend.answer)) as pieces:
            async for piece in pieces:
                if piece.rest.HasField("end"):
                    self._book.warn(model.full_name, piece.rest.end.warnings)
                yield piece


class ModelServicer(model_grpc.ModelServiceServicer):
    """Describes the models of a backend."""

    def __init__(self, backend: DecisionBackend, book: OutcomeBook) -> None:
        self._backend = backend
        self._book = book

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

    async def GetModelPerformance(  # noqa: N802 - the stub's name
        self, request: model_pb.GetModelPerformanceRequest, _context: grpc.aio.ServicerContext
    ) -> model_pb.ModelPerformance:
        """What the model's decisions were worth."""
        models = await self._backend.models()
        model = resolve(models, request.name)
        found = performance_message(model, await self._book.performance(model))
        second = canary_of(model, models)
        if second is not None:
            found.canary.CopyFrom(canary_message(second, await self._book.recommendation(model, second)))
        return found
