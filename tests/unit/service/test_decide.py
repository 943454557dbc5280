"""A query is checked against its model before anything is drawn."""

from __future__ import annotations

import dataclasses

import cvxpy as cp
import numpy as np
import pytest

from hedgecast.core.errors import DataError, DeadlineError, ModelNotFoundError, ShapeError, UnavailableError
from hedgecast.programs.program import TwoStageProgram
from hedgecast.programs.risk import Risk
from hedgecast.registry.ladder import MeasuredStep
from hedgecast.rpc.codec import EMPTY_ROWS, NamedRows
from hedgecast.service.answers import Scenarios
from hedgecast.service.budget import Budget
from hedgecast.service.local import LocalModel
from hedgecast.service.models import resolve
from hedgecast.service.queries import DecideQuery
from hedgecast.service.safety import MODEL
from hedgecast.service.sample import sample_of
from hedgecast.service.work import Job, answers


@pytest.fixture
def query(rows: NamedRows) -> DecideQuery:
    return DecideQuery(
        model="last_day",
        history=rows,
        known=EMPTY_ROWS,
        given={},
        own=None,
        scenario_count=40,
        seed=1,
        risk=Risk(),
        quantile_levels=(0.5,),
        tail_level=0.9,
        return_scenarios=False,
        gap_replications=0,
        gap_confidence=0.95,
        request_id="r",
        deadline_seconds=60.0,
    )


def test_columns_must_be_the_models(query: DecideQuery, local_model: LocalModel) -> None:
    load = query.history.columns["load"]
    for columns, message in (
        ({"laod": load}, "did you mean 'load'"),
        ({}, "lacks column 'load'"),
        ({"load": load, "price": load}, "'price', which the model does not read"),
    ):
        history = NamedRows(query.history.times, columns)
        with pytest.raises(DataError, match=message):
            local_model.model.prepare(dataclasses.replace(query, history=history))
    known = NamedRows(query.history.times, {"load": load})
    with pytest.raises(DataError, match="known has column"):
        local_model.model.prepare(dataclasses.replace(query, known=known))


def test_a_cheaper_answer_needs_figures_of_this_very_model(
    query: DecideQuery, local_model: LocalModel
) -> None:
    cost = MeasuredStep(
        rungs=("fewer_scenarios",), regret_increase=3.0, lower_bound=1.0, upper_bound=5.0, confidence=0.95,
        reference_regret=40.0, num_days=84, first_day="2021-07-01", last_day="2021-09-22", num_scenarios=20,
        reference_scenarios=200, measured_time="2021-10-01T00:00:00Z",
    )  # fmt: skip
    asked = dataclasses.replace(query, rungs=cost.kinds, degradation=cost)
    other = dataclasses.replace(cost, regret_increase=2.0)
    described = local_model.model.description
    for known in ((), (other,)):
        model = dataclasses.replace(
            local_model.model, description=dataclasses.replace(described, ladder=known)
        )
        with pytest.raises(UnavailableError, match="last_day@3 was replaced by another model"):
            model.prepare(asked)
    own = dataclasses.replace(described, ladder=(other, cost))
    assert dataclasses.replace(local_model.model, description=own).prepare(asked) is not None


def test_own_scenarios_of_too_many_steps_build_no_program(
    query: DecideQuery, local_model: LocalModel
) -> None:
    def own(num_steps: int) -> DecideQuery:
        paths = np.ones((1, num_steps, 1))
        scenarios = Scenarios(names=("load",), units=("GW",), times=None, paths=paths, probabilities=None)
        return dataclasses.replace(query, history=EMPTY_ROWS, own=scenarios, scenario_count=1)

    built = []

    def program(num_steps: int) -> TwoStageProgram:
        built.append(num_steps)
        return local_model.model.program(num_steps)

    model = dataclasses.replace(local_model.model, program=program)
    with pytest.raises(ShapeError, match="100000 steps: at most 12") as caught:
        model.prepare(own(100_000))
    assert caught.value.facts["field"] == "own_scenarios.paths.shape"
    assert built == []
    model.prepare(own(12))
    assert built == [12]


def test_given_parameters_must_be_the_programs(query: DecideQuery, local_model: LocalModel) -> None:
    for given, message in (
        ({"capacity": np.ones(2)}, r"shape \[2\]: newsvendor needs \[\]"),
        ({"size": np.ones(())}, "known here: capacity"),
    ):
        with pytest.raises(ShapeError, match=message):
            local_model.model.prepare(dataclasses.replace(query, given=given))


def test_a_given_parameter_of_the_wrong_sign_is_refused(query: DecideQuery, local_model: LocalModel) -> None:
    z, y = cp.Variable(6, name="z"), cp.Parameter(6, name="y")
    limit, credit = cp.Parameter(nonneg=True, name="limit"), cp.Parameter(2, nonpos=True, name="credit")
    program = TwoStageProgram(
        name="signs",
        decision=z,
        uncertain=y,
        given=[limit, credit],
        constraints=[z <= limit, z[:2] >= credit],
        recourse_cost=cp.sum(cp.abs(y - z)),
    )
    model = dataclasses.replace(local_model.model, program=lambda _: program)
    model.prepare(dataclasses.replace(query, given={"limit": np.zeros(()), "credit": np.zeros(2)}))
    for given, message in (
        ({"limit": np.array(-0.5)}, r"entry -0\.5: signs takes none that is negative"),
        ({"credit": np.array([-1.0, 2.0])}, "entry 2: signs takes none that is positive"),
    ):
        with pytest.raises(DataError, match=message):
            model.prepare(dataclasses.replace(query, given=given))


def _job(query: DecideQuery, local_model: LocalModel, budget: Budget) -> Job:
    model = local_model.model
    context = model.prepare(query)
    assert context is not None
    sample = sample_of(query, model, context, local_model.draw(context, 40, 1), MODEL, drawn_seconds=0.0)
    return Job(query=query, model=model, sample=sample, budget=budget)


def test_a_spent_budget_stops_before_the_next_stage(query: DecideQuery, local_model: LocalModel) -> None:
    (spent,) = answers([_job(query, local_model, Budget(0.0))])
    assert isinstance(spent, DeadlineError)
    assert "before the solve" in str(spent)
    cancelled = Budget(60.0)
    cancelled.cancel()
    (nobody,) = answers([_job(query, local_model, cancelled)])
    assert isinstance(nobody, DeadlineError)
    assert "cancelled before the solve" in str(nobody)


def test_a_thin_tail_is_said(query: DecideQuery, local_model: LocalModel) -> None:
    for level, reasons in ((0.8, []), (0.9, ["THIN_TAIL"])):
        asked = dataclasses.replace(query, tail_level=level)
        (answer,) = answers([_job(asked, local_model, Budget(60.0))])
        assert answer.solution is not None
        assert [reason for reason, _ in answer.solution.warnings] == reasons


def test_names_aliases_and_versions(local_model: LocalModel) -> None:
    newest = local_model.model.description
    older = dataclasses.replace(newest, version="2", aliases=())
    both = (older, newest)
    assert resolve(both, "last_day") is newest
    assert resolve(both, "last_day@champion") is newest
    assert resolve(both, "last_day@2") is older
    assert resolve((older,), "last_day") is older
    for reference in ("last_day@4", "last_day@candidate", "other", "@2", ""):
        with pytest.raises(ModelNotFoundError, match="served: last_day@2, last_day@3"):
            resolve(both, reference)
