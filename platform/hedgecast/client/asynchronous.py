"""The planner's client for programs that run on asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any, Self, Unpack

import grpc
import grpc.aio
from numpy.typing import ArrayLike

from hedgecast.client.answers import (
    CertifiedDecision,
    DecisionAnswer,
    EvaluationAnswer,
    ExplanationAnswer,
    ModelInfo,
    RecordedOutcome,
    ScenarioArrays,
)
from hedgecast.client.channel import RetryBudget, Terms, TlsFiles, pause_before_retry, typed
from hedgecast.client.performance import ModelPerformance, model_performance
from hedgecast.client.reading import (
    certified_decision,
    decision_answer,
    evaluation_answer,
    explanation_answer,
    model_info,
    recorded_outcome,
)
from hedgecast.client.requests import (
    CertifyOptions,
    DecideOptions,
    EvaluateOptions,
    ExplainOptions,
    ScenarioOptions,
    batches_request,
    certify_request,
    decide_request,
    evaluate_request,
    explain_request,
    generate_request,
    outcome_request,
)
from hedgecast.client.scenarios import Assembly, GeneratedScenarios, scenario_call
from hedgecast.client.stream import AsyncDecisionStreams
from hedgecast.rpc.v1 import decision_service_pb2_grpc as decision_grpc
from hedgecast.rpc.v1 import model_service_pb2 as model_pb
from hedgecast.rpc.v1 import model_service_pb2_grpc as model_grpc


class AsyncClient(AsyncDecisionStreams):
    """A connection to a hedgecast service from an event loop; an async context manager.

    Many calls may be under way at once. Parameters and errors are those of `Client`.
    """

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        tls: TlsFiles | None = None,
        deadline_seconds: float = 60.0,
        retries: int = 2,
        max_message_bytes: int = 64 * 2**20,
    ) -> None:
        self._terms = Terms(
            address=address,
            token=token,
            tls=tls,
            deadline_seconds=deadline_seconds,
            retries=retries,
            max_message_bytes=max_message_bytes,
        )
        self._budget = RetryBudget()
        self._channel = _open_channel(self._terms)
        self._decisions = decision_grpc.DecisionServiceStub(self._channel)
        self._models = model_grpc.ModelServiceStub(self._channel)
        self._scenarios = scenario_call(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls under way are cancelled."""
        await self._channel.close()

    async def decide(self, model: str, **options: Unpack[DecideOptions]) -> DecisionAnswer:
        """The decision of least risk over scenarios that the model draws for this context.

        Parameters
        ----------
        model : str
            NAME, NAME@ALIAS or NAME@VERSION.
        **options
            See `DecideOptions`.

        Raises
        ------
        HedgecastError
            The service's error, of the same class as where it was raised.
        """
        request = decide_request(model, options)
        return decision_answer(
            await self._call(self._decisions.Decide, request, options.get("deadline_seconds"))
        )

    async def evaluate(
        self, model: str, plans: Mapping[str, Mapping[str, ArrayLike]], **options: Unpack[EvaluateOptions]
    ) -> EvaluationAnswer:
        """Plans ranked over common scenarios, with intervals of what they cost more than the best one.

        Parameters
        ----------
        model : str
            NAME, NAME@ALIAS or NAME@VERSION.
        plans : mapping
            Label to decision variable to values.
        **options
            See `EvaluateOptions`.

        Raises
        ------
        HedgecastError
            As `decide`.
        """
        request = evaluate_request(model, plans, options)
        answer = await self._call(self._decisions.EvaluateDecisions, request, options.get("deadline_seconds"))
        return evaluation_answer(answer)

    async def explain(self, model: str, **options: Unpack[ExplainOptions]) -> ExplanationAnswer:
        """Which scenarios drive the decision, and the plan without hedge.

        Parameters
        ----------
        model : str
            NAME, NAME@ALIAS or NAME@VERSION.
        **options
            See `ExplainOptions`.

        Raises
        ------
        HedgecastError
            As `decide`.
        """
        request = explain_request(model, options)
        answer = await self._call(self._decisions.ExplainDecision, request, options.get("deadline_seconds"))
        return explanation_answer(answer)

    async def decide_until_certified(
        self, model: str, **options: Unpack[CertifyOptions]
    ) -> AsyncIterator[CertifiedDecision]:
        """The best decision after each of ever larger samples, until its bound is as small as asked for.

        Ending the iteration early stops the work; the last one that came is good. Not tried again: a second
        try would begin anew.

        Parameters
        ----------
        model : str
            NAME, NAME@ALIAS or NAME@VERSION.
        **options
            See `CertifyOptions`.

        Raises
        ------
        HedgecastError
            As `decide`.
        """
        request = certify_request(model, options)
        seconds = options.get("deadline_seconds") or self._terms.deadline_seconds
        call = self._decisions.DecideUntilCertified(request, timeout=seconds, metadata=self._terms.metadata)
        try:
            async for message in call:
                yield certified_decision(message)
        except grpc.RpcError as error:
            raise typed(error, self._terms.address) from error
        finally:
            call.cancel()

    async def scenarios(self, model: str, **options: Unpack[ScenarioOptions]) -> GeneratedScenarios:
        """Scenarios that the model draws for this context, reduced or as a tree where asked for.

        A call that breaks goes on where it broke, as often as other calls are tried again without progress.

        Parameters
        ----------
        model : str
            NAME, NAME@ALIAS or NAME@VERSION.
        **options
            See `ScenarioOptions`.

        Raises
        ------
        DependencyError
            pyarrow is not installed.
        HedgecastError
            As `decide`.
        """
        assembly = Assembly(generate_request(model, options))
        return assembly.whole([batch async for batch in self._batches(assembly, options)])

    async def scenario_batches(
        self, model: str, **options: Unpack[ScenarioOptions]
    ) -> AsyncGenerator[Any, None]:
        """The same as pyarrow record batches, as they come: nothing is held that was taken.

        A slow reader is not drawn for; ending the iteration stops the work.

        Parameters
        ----------
        model : str
            NAME, NAME@ALIAS or NAME@VERSION.
        **options
            See `ScenarioOptions`.

        Raises
        ------
        HedgecastError
            As `scenarios`.
        """
        batches = self._batches(Assembly(batches_request(model, options)), options)
        async with contextlib.aclosing(batches):
            async for batch in batches:
                yield batch

    async def record_outcome(
        self,
        decision_id: str,
        realized: ScenarioArrays,
        *,
        request_id: str | None = None,
        deadline_seconds: float | None = None,
    ) -> RecordedOutcome:
        """What a decision was worth under what came true; on the server's disk when this returns.

        Parameters
        ----------
        decision_id : str
            Of the decision's answer.
        realized : ScenarioArrays
            One path (1, T, F) of the model's series.
        request_id : str, optional
            The same outcome again gives the same answer.
        deadline_seconds : float, optional
            Time for this call.

        Raises
        ------
        DecisionNotFoundError, OutcomeConflictError
            No such decision is kept, or it has another outcome.
        HedgecastError
            As `decide`.
        """
        request = outcome_request(decision_id, realized, request_id)
        return recorded_outcome(await self._call(self._decisions.RecordOutcome, request, deadline_seconds))

    async def models(self) -> tuple[ModelInfo, ...]:
        """All served models, sorted by name and version."""
        found: list[ModelInfo] = []
        token = ""
        while True:
            request = model_pb.ListModelsRequest(page_token=token)
            page: model_pb.ListModelsResponse = await self._call(self._models.ListModels, request, None)
            found.extend(map(model_info, page.models))
            token = page.next_page_token
            if not token:
                return tuple(found)

    async def model(self, name: str) -> ModelInfo:
        """The model that NAME, NAME@ALIAS or NAME@VERSION means."""
        return model_info(await self._call(self._models.GetModel, model_pb.GetModelRequest(name=name), None))

    async def performance(self, name: str) -> ModelPerformance:
        """What decisions of the version that NAME, NAME@ALIAS or NAME@VERSION means were worth.

        Raises
        ------
        DecisionNotFoundError
            No outcome of it is recorded.
        NotOfferedError
            The service keeps no outcomes.
        """
        request = model_pb.GetModelPerformanceRequest(name=name)
        return model_performance(await self._call(self._models.GetModelPerformance, request, None))

    async def _batches(self, assembly: Assembly, options: ScenarioOptions) -> AsyncGenerator[Any, None]:
        seconds = options.get("deadline_seconds") or self._terms.deadline_seconds
        end = time.monotonic() + seconds
        self._budget.call()
        attempt = 0
        while True:
            before = assembly.taken
            left = max(end - time.monotonic(), 0.0)
            call = self._scenarios(assembly.request, timeout=left, metadata=self._terms.metadata)
            try:
                async for message in call:
                    batch = assembly.take(message)
                    if batch is not None:
                        yield batch
                return
            except grpc.RpcError as error:
                # What came is not lost: tries are counted from there.
                attempt = attempt if assembly.taken == before else 0
                pause = pause_before_retry(error, attempt, end, self._terms, self._budget)
            finally:
                call.cancel()
            await asyncio.sleep(pause)
            attempt += 1
            assembly.resume()

    async def _call(self, method: Callable[..., Any], request: Any, deadline_seconds: float | None) -> Any:
        seconds = self._terms.deadline_seconds if deadline_seconds is None else deadline_seconds
        end = time.monotonic() + seconds
        self._budget.call()
        for attempt in range(self._terms.retries + 1):
            left = max(end - time.monotonic(), 0.0)
            try:
                return await method(request, timeout=left, metadata=self._terms.metadata)
            except grpc.RpcError as error:
                pause = pause_before_retry(error, attempt, end, self._terms, self._budget)
                await asyncio.sleep(pause)
        raise AssertionError("the last attempt returns or raises")


def _open_channel(terms: Terms) -> grpc.aio.Channel:
    credentials = terms.credentials()
    if credentials is None:
        return grpc.aio.insecure_channel(terms.address, terms.options)
    return grpc.aio.secure_channel(terms.address, credentials, terms.options)
