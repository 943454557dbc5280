"""When a call is tried again."""

from __future__ import annotations

import time

import grpc
import pytest

from hedgecast.client.channel import RetryBudget, Terms, pause_before_retry
from hedgecast.core import errors


class _Refused(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "refused"

    def trailing_metadata(self) -> tuple[()]:
        return ()


TERMS = Terms(
    address="127.0.0.1:1", token=None, tls=None, deadline_seconds=60.0, retries=2, max_message_bytes=2**20
)


def test_the_pause_grows_and_the_last_try_raises() -> None:
    end, budget = time.monotonic() + 60.0, RetryBudget()
    refused = _Refused(grpc.StatusCode.UNAVAILABLE)
    pauses = [pause_before_retry(refused, attempt, end, TERMS, budget) for attempt in (0, 1)]
    assert 0.05 <= pauses[0] <= 0.15
    assert 0.1 <= pauses[1] <= 0.3
    with pytest.raises(errors.UnavailableError):
        pause_before_retry(refused, 2, end, TERMS, budget)
    with pytest.raises(errors.UnavailableError):
        pause_before_retry(refused, 0, time.monotonic() + 0.01, TERMS, budget)
    with pytest.raises(errors.ServiceError):
        pause_before_retry(_Refused(grpc.StatusCode.INTERNAL), 0, end, TERMS, budget)


def test_a_call_that_the_server_let_go_of_is_tried_again() -> None:
    let_go, end = _Refused(grpc.StatusCode.CANCELLED), time.monotonic() + 60.0
    assert pause_before_retry(let_go, 0, end, TERMS, RetryBudget()) > 0.0
    with pytest.raises(errors.UnavailableError, match="let go of the call; try again"):
        pause_before_retry(let_go, TERMS.retries, end, TERMS, RetryBudget())


def test_a_budget_is_used_up_and_earned_again() -> None:
    budget = RetryBudget()
    assert [budget.take() for _ in range(11)] == [True] * 10 + [False]
    for _ in range(11):
        budget.call()
    assert budget.take()
    assert not budget.take()
