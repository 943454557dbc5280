"""What the soak asks: finitely many distinct requests, each recomputed once and compared often."""

from __future__ import annotations

import dataclasses
import uuid
from typing import Any

import numpy as np
from google.protobuf.message import Message
from numpy.typing import NDArray

from hedgecast.data.config import DataConfig
from hedgecast.data.datasets import load_table
from hedgecast.rpc import codec
from hedgecast.rpc.codec import NamedRows
from hedgecast.rpc.v1 import decision_service_pb2 as decision_pb
from hedgecast.rpc.v1 import decision_service_pb2_grpc as decision_grpc
from hedgecast.rpc.v1 import scenario_service_pb2 as scenario_pb
from hedgecast.rpc.v1 import scenario_service_pb2_grpc as scenario_grpc

MODEL = "tiny"
HORIZON = 24
# Local winter days; each begins at 23:00 UTC the day before.
DAYS = ("2021-02-10", "2021-02-11", "2021-02-12", "2021-02-13")
COUNTS = (50, 200, 1000)
_HOURS_BACK = 200
_STREAMED = 6
# Weights: what planners do most comes most.
KINDS = {
    "Decide": 0.44,
    "EvaluateDecisions": 0.12,
    "ExplainDecision": 0.08,
    "DecideStream": 0.1,
    "GenerateScenarios": 0.12,
    "RecordOutcome": 0.14,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Stubs:
    """The services on one channel."""

    decisions: Any
    scenarios: Any

    @classmethod
    def on(cls, channel: Any) -> Stubs:
        """Of a channel, blocking or not."""
        return cls(decision_grpc.DecisionServiceStub(channel), scenario_grpc.ScenarioServiceStub(channel))

    def method(self, kind: str) -> Any:
        """The callable of a method by its name."""
        return getattr(self.scenarios if kind == "GenerateScenarios" else self.decisions, kind)


class Questions:
    """Requests about a few days of one table.

    Parameters
    ----------
    data : DataConfig
        The table that they are about.
    seeds : int
        Distinct draws of each day and count.
    """

    def __init__(self, data: DataConfig, *, seeds: int = 8) -> None:
        self._table = load_table(data)
        self._rows = {day: self._rows_of(day) for day in DAYS}
        self._seeds = seeds

    def ask(self, kind: str, draws: np.random.Generator) -> list[Message]:
        """The message, or those of a stream, of one random call."""
        if kind == "DecideStream":
            return [
                decision_pb.DecideStreamRequest(correlation_id=f"c{number}", request=self._decide(draws))
                for number in range(_STREAMED)
            ]
        make = {
            "Decide": self._decide,
            "EvaluateDecisions": self._evaluate,
            "ExplainDecision": self._explain,
            "GenerateScenarios": self._generate,
        }
        return [make[kind](draws)]

    def outcome(self, decision_id: str, day: int, variant: int) -> decision_pb.RecordOutcomeRequest:
        """What came true on a day: its load, give or take what the variant adds."""
        return decision_pb.RecordOutcomeRequest(
            decision_id=decision_id, realized=self.realized(day, variant), request_id=str(uuid.uuid4())
        )

    def realized(self, day: int, variant: int) -> decision_pb.ScenarioSet:
        """The path of a day, one of a few."""
        start = self._start(DAYS[day])
        load: NDArray[np.float64] = self._table.columns["load_gw"][start : start + HORIZON] + 0.5 * variant
        return decision_pb.ScenarioSet(
            series=["load_gw"], units=["GW"], paths=codec.encode_tensor(load.reshape(1, HORIZON, 1))
        )

    def day_of(self, request: decision_pb.DecideRequest) -> int:
        """Which of the days a request is about."""
        return next(index for index, (_, known) in enumerate(self._rows.values()) if known == request.known)

    def _decide(self, draws: np.random.Generator) -> decision_pb.DecideRequest:
        request = decision_pb.DecideRequest(
            **self._common(draws), scenario_count=int(draws.choice(COUNTS, p=(0.5, 0.4, 0.1)))
        )
        if draws.random() < 0.3:
            request.risk.cvar.alpha = 0.8
        elif request.scenario_count > COUNTS[0]:
            request.gap_replication_count = 0
        return request

    def _evaluate(self, draws: np.random.Generator) -> decision_pb.EvaluateDecisionsRequest:
        request = decision_pb.EvaluateDecisionsRequest(**self._common(draws), scenario_count=50)
        for number in range(3):
            flat = np.full(HORIZON, 42.0 + 4.0 * number)
            request.candidates.add(label=f"flat {number}").values["schedule"].CopyFrom(
                codec.encode_tensor(flat)
            )
        return request

    def _explain(self, draws: np.random.Generator) -> decision_pb.ExplainDecisionRequest:
        return decision_pb.ExplainDecisionRequest(
            **self._common(draws), scenario_count=50, top_scenario_count=3
        )

    def _generate(self, draws: np.random.Generator) -> scenario_pb.GenerateScenariosRequest:
        return scenario_pb.GenerateScenariosRequest(
            **self._common(draws), scenario_count=600, batch_scenario_count=200
        )

    def _common(self, draws: np.random.Generator) -> dict[str, Any]:
        history, known = self._rows[str(draws.choice(DAYS))]
        return {
            "model": MODEL,
            "history": history,
            "known": known,
            "seed": int(draws.integers(self._seeds)),
            "request_id": str(uuid.uuid4()),
        }

    def _rows_of(self, day: str) -> tuple[Any, Any]:
        start = self._start(day)
        past, ahead = slice(start - _HOURS_BACK, start), slice(start, start + HORIZON)
        history = {name: self._table.columns[name][past] for name in ("load_gw", "holiday")}
        known = {"holiday": self._table.columns["holiday"][ahead]}
        return (
            codec.encode_rows(NamedRows(times=self._table.times[past], columns=history)),
            codec.encode_rows(NamedRows(times=self._table.times[ahead], columns=known)),
        )

    def _start(self, day: str) -> int:
        return int(np.searchsorted(self._table.times, np.datetime64(day, "ns") - np.timedelta64(1, "h")))
