"""The planner's clients: numpy and grpc only, pandas where it is there.

with Client("127.0.0.1:50051") as client:
    answer = client.decide("german_grid@champion", history=columns, history_times=times)
    print(answer.decision["schedule"], answer.expected_regret)

async with AsyncClient("127.0.0.1:50051") as client:
    answer = await client.decide("german_grid@champion", history=table)
"""

from hedgecast.client.answers import (
    CertifiedDecision,
    ConstraintPrice,
    DecisionAnswer,
    Degradation,
    Difference,
    EvaluationAnswer,
    ExplanationAnswer,
    GapBound,
    ModelInfo,
    PlanEvaluation,
    RecordedOutcome,
    ScenarioArrays,
    ScenarioInfluence,
    SolverVerdict,
    Violation,
)
from hedgecast.client.asynchronous import AsyncClient
from hedgecast.client.blocking import Client
from hedgecast.client.channel import TlsFiles
from hedgecast.client.performance import (
    CanaryFigures,
    CoverageFigures,
    DriftFigures,
    ModelPerformance,
    OutcomeMean,
)
from hedgecast.client.requests import (
    CertifyOptions,
    DecideOptions,
    EvaluateOptions,
    ExplainOptions,
    Question,
    ScenarioOptions,
)
from hedgecast.client.scenarios import GeneratedScenarios, ReductionFigures

__all__ = [
    "AsyncClient",
    "CanaryFigures",
    "CertifiedDecision",
    "CertifyOptions",
    "Client",
    "ConstraintPrice",
    "CoverageFigures",
    "DecideOptions",
    "DecisionAnswer",
    "Degradation",
    "Difference",
    "DriftFigures",
    "EvaluateOptions",
    "EvaluationAnswer",
    "ExplainOptions",
    "ExplanationAnswer",
    "GapBound",
    "GeneratedScenarios",
    "ModelInfo",
    "ModelPerformance",
    "OutcomeMean",
    "PlanEvaluation",
    "Question",
    "RecordedOutcome",
    "ReductionFigures",
    "ScenarioArrays",
    "ScenarioInfluence",
    "ScenarioOptions",
    "SolverVerdict",
    "TlsFiles",
    "Violation",
]
