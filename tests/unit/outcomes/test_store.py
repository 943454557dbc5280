"""Idempotence, conflicts, bounds, restarts and threads."""

import concurrent.futures
import dataclasses
import datetime
import os

import numpy as np
import pytest

from hedgecast.core.errors import (
    DataError,
    DecisionNotFoundError,
    OutcomeConflictError,
    OutcomeError,
    OverloadedError,
    ShapeError,
    UnavailableError,
)
from hedgecast.outcomes import Kind, OutcomeStore, Retention
from hedgecast.outcomes import log as log_module
from hedgecast.outcomes.encoding import same_decision, same_outcome
from hedgecast.outcomes.journal import Journal


def test_what_is_kept_is_found_in_the_log_in_a_segment_and_after_a_restart(
    tmp_path, decided, happened
) -> None:
    decision, outcome = decided(1), happened(decided(1))

    def check(store: OutcomeStore) -> None:
        assert same_decision(store.decision("d-1"), decision)
        found = store.outcome("d-1")
        assert same_outcome(found, outcome)
        assert (found.cost, found.regret, found.recorded_at) == (101.5, 2.5, outcome.recorded_at)
        assert len(store) == 1

    with OutcomeStore(tmp_path) as store:
        store.keep(decision)
        assert store.outcome("d-1") is None
        store.record("d-1", outcome)
        check(store)
    with OutcomeStore(tmp_path) as store:
        check(store)
        store.roll()
        check(store)
    with OutcomeStore(tmp_path) as store:
        check(store)


@pytest.mark.parametrize("rolled", [False, True])
def test_a_retry_gets_the_first_answer_and_writes_nothing(tmp_path, decided, happened, rolled) -> None:
    with OutcomeStore(tmp_path) as store:
        store.keep(decided(1))
        first = store.record("d-1", happened(decided(1)))
        if rolled:
            store.roll()
        later = first.recorded_at + datetime.timedelta(hours=1)
        kept = store.keep(decided(1, decision_id="new", issued_at=later))
        assert (kept.decision_id, kept.issued_at) == ("d-1", decided(1).issued_at)
        again = store.record("d-1", happened(decided(1), recorded_at=later, cost=7.0))
        assert (again.recorded_at, again.cost) == (first.recorded_at, 101.5)
        assert same_outcome(store.record("d-1", happened(decided(1), request_id="")), first)
        assert store.table(Kind.DECISION).num_rows == 1
        assert store.table(Kind.OUTCOME).num_rows == 1


def test_a_retry_may_end_on_other_last_digits(tmp_path, decided) -> None:
    first = decided(1)
    with OutcomeStore(tmp_path) as store:
        store.keep(first)
        moved = {name: array + 3e-7 * np.abs(array).max() for name, array in first.decision.items()}
        assert store.keep(decided(1, decision_id="new", decision=moved)).decision_id == "d-1"
        for decision in (
            {**first.decision, "order": first.decision["order"] + 1e-5},
            {**first.decision, "order": first.decision["order"][:3]},
            {"order": first.decision["order"]},
        ):
            with pytest.raises(OutcomeConflictError, match="request id 'r-1'") as caught:
                store.keep(decided(1, decision_id="new", decision=decision))
            assert caught.value.facts["same_question"] is True
        with pytest.raises(OutcomeConflictError) as caught:
            store.keep(decided(1, given={"price": np.array([1.0, 2.5]), "cap": np.array(3.0)}))
        assert caught.value.facts["same_question"] is False
        assert store.table(Kind.DECISION).num_rows == 1


def test_other_content_under_an_id_is_a_conflict(tmp_path, decided, happened) -> None:
    with OutcomeStore(tmp_path) as store:
        store.keep(decided(1))
        store.keep(decided(2))
        with pytest.raises(OutcomeConflictError, match="request id 'r-1'"):
            store.keep(decided(1, seed=99))
        with pytest.raises(OutcomeConflictError, match="decision id 'd-1'"):
            store.keep(decided(1, seed=99, request_id="new"))
        store.keep(decided(3, principal="other", request_id="r-1"))
        store.record("d-1", happened(decided(1)))
        with pytest.raises(OutcomeConflictError, match="has another outcome"):
            store.record("d-1", happened(decided(1), value=51.0))
        with pytest.raises(OutcomeConflictError, match="another decision"):
            store.record("d-2", happened(decided(2), request_id="o-d-1"))
        assert store.outcome("d-2") is None
        assert store.table(Kind.OUTCOME).num_rows == 1


def test_an_unknown_decision_and_a_wrong_outcome_are_refused(tmp_path, decided, happened) -> None:
    with OutcomeStore(tmp_path) as store:
        store.keep(decided(1))
        with pytest.raises(DecisionNotFoundError, match="'nowhere'") as caught:
            store.record("nowhere", happened(decided(1)))
        assert caught.value.facts["field"] == "decision_id"
        with pytest.raises(ShapeError, match="shape"):
            store.record("d-1", happened(decided(1, bands={}), realized={"load": np.ones(3)}))
        with pytest.raises(DataError, match="nan"):
            store.record("d-1", happened(decided(1), cost=float("nan")))
        assert store.outcome("d-1") is None


def test_a_planner_and_shadows_are_recorded_together_or_not_at_all(tmp_path, decided, happened) -> None:
    with OutcomeStore(tmp_path) as store:
        store.keep(decided(1))
        shadow = decided(2, request_id="", shadow_of="d-1", model_version="4")
        store.keep(shadow)
        assert [found.decision_id for found in store.shadows("d-1")] == ["d-2"]
        outcomes = {"d-1": happened(decided(1)), "d-2": happened(shadow, request_id="", cost=float("inf"))}
        with pytest.raises(DataError, match="inf"):
            store.record_all(outcomes)
        assert store.outcome("d-1") is None
        with pytest.raises(DataError, match="one request id"):
            store.record_all(dict.fromkeys(("d-1", "d-2"), happened(decided(1))))
        outcomes["d-2"] = happened(shadow, request_id="")
        assert set(store.record_all(outcomes)) == {"d-1", "d-2"}
        assert set(store.record_all(outcomes)) == {"d-1", "d-2"}
        assert store.table(Kind.OUTCOME).column("shadow_of").to_pylist() == ["", "d-1"]
    with OutcomeStore(tmp_path) as store:
        assert [found.decision_id for found in store.shadows("d-1")] == ["d-2"]
        store.record_all(outcomes)
        assert store.table(Kind.OUTCOME).num_rows == 2


def test_two_stores_do_not_share_a_folder(tmp_path) -> None:
    with OutcomeStore(tmp_path), pytest.raises(OutcomeError, match="one writer"):
        OutcomeStore(tmp_path)
    OutcomeStore(tmp_path).close()


def test_the_number_of_decisions_is_bounded_and_the_oldest_go(tmp_path, decided) -> None:
    with OutcomeStore(tmp_path, retention=Retention(max_decisions=16)) as store:

        def keep(number: int) -> None:
            try:
                store.keep(decided(number), durable=False)
            except OverloadedError:
                # The logs before are still being rolled, so nothing can go yet.
                store.roll()
                store.keep(decided(number), durable=False)

        for number in range(60):
            keep(number)
            assert len(store) <= 16
        store.decision("d-59")
        with pytest.raises(DecisionNotFoundError, match="older than the"):
            store.decision("d-0")
        assert store.table(Kind.DECISION, ["seed"]).num_rows == len(store) >= 14
        # What was forgotten may be asked again.
        keep(0)
    with OutcomeStore(tmp_path, retention=Retention(max_decisions=16)) as store:
        assert store.decision("d-0").seed == 0


def test_retention_by_days_holds_when_a_store_is_opened(tmp_path, now, decided, happened) -> None:
    with OutcomeStore(tmp_path, now=lambda: now) as store:
        store.keep(decided(1))
        store.record("d-1", happened(decided(1)))
        store.roll()
        store.keep(decided(2))
    later = now + datetime.timedelta(days=500)
    with OutcomeStore(tmp_path, now=lambda: later) as store:
        assert len(store) == 1
        assert store.decision("d-2").seed == 2


def test_threads_that_retry_each_other_write_every_record_once(tmp_path, decided, happened) -> None:
    retention = Retention(roll_bytes=60_000)
    numbers = [int(number) % 40 for number in np.random.default_rng(2).permutation(160)]
    with OutcomeStore(tmp_path, retention=retention) as store:

        def answer(number: int) -> float:
            kept = store.keep(decided(number))
            return store.record(kept.decision_id, happened(kept, regret=float(number))).regret

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            assert list(pool.map(answer, numbers)) == [float(number) for number in numbers]
        assert sorted(store.table(Kind.DECISION).column("seed").to_pylist()) == list(range(40))
        assert sorted(store.table(Kind.OUTCOME).column("regret").to_pylist()) == list(range(40))
    assert len(list((tmp_path / "segments").iterdir())) > 2


def test_a_closed_store_takes_nothing(tmp_path, decided) -> None:
    store = OutcomeStore(tmp_path)
    store.close()
    store.close()
    with pytest.raises(UnavailableError, match="closed"):
        store.keep(decided(1))


def test_nothing_is_acknowledged_before_it_is_on_the_disk(tmp_path, decided, happened, monkeypatch) -> None:
    on_disk: list[int] = []
    sync_file = log_module._sync_file

    def sync(descriptor: int) -> None:
        sync_file(descriptor)
        on_disk.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(log_module, "_sync_file", sync)
    with OutcomeStore(tmp_path) as store:
        path = tmp_path / "log" / "00000001.log"
        store.keep(decided(1))
        assert on_disk[-1] == path.stat().st_size
        store.keep(decided(2), durable=False)
        assert on_disk[-1] < path.stat().st_size
        # The answer to a retry says that the record is kept: it waits too.
        store.keep(decided(2))
        assert on_disk[-1] == path.stat().st_size
        store.record("d-2", happened(decided(2)))
        assert on_disk[-1] == path.stat().st_size
        syncs = len(on_disk)
        store.record("d-2", happened(decided(2)))
        assert len(on_disk) == syncs


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_any_order_of_calls_answers_as_a_dictionary_would(tmp_path, decided, happened, seed) -> None:
    rng = np.random.default_rng(seed)
    retention = Retention(roll_bytes=30_000)
    decisions: dict[str, int] = {}
    outcomes: dict[str, float] = {}
    store = OutcomeStore(tmp_path, retention=retention)
    for _ in range(150):
        number, other = int(rng.integers(12)), bool(rng.random() < 0.2)
        name, value = f"d-{number}", 51.0 if other else 50.0
        step = rng.choice(["keep", "record", "read", "roll", "reopen"], p=[0.35, 0.35, 0.2, 0.05, 0.05])
        if step == "keep":
            seed_kept = decisions.setdefault(name, 100 + other)
            if seed_kept == 100 + other:
                assert store.keep(decided(number, seed=100 + other)).seed == seed_kept
            else:
                with pytest.raises(OutcomeConflictError):
                    store.keep(decided(number, seed=100 + other))
        elif step == "record" and name not in decisions:
            with pytest.raises(DecisionNotFoundError):
                store.record(name, happened(decided(number)))
        elif step == "record":
            if outcomes.setdefault(name, value) == value:
                kept = store.record(name, happened(decided(number), value=value))
                assert np.all(kept.realized["load"] == value)
            else:
                with pytest.raises(OutcomeConflictError):
                    store.record(name, happened(decided(number), value=value))
        elif step == "roll":
            store.roll()
        elif step == "reopen":
            store.close()
            store = OutcomeStore(tmp_path, retention=retention)
        assert len(store) == len(decisions)
        found = store.outcome(name)
        assert (None if found is None else float(found.realized["load"][0, 0])) == outcomes.get(name)
    assert store.table(Kind.DECISION).num_rows == len(decisions)
    assert store.table(Kind.OUTCOME).num_rows == len(outcomes) > 5
    found = store.figures()["power", "3"]
    store.close()
    # Numbers follow the order of issue; what was noted as it came is what a later opening reads.
    numbers = sorted(int(name[2:]) for name in outcomes)
    assert found.expected_cost.tolist() == [100.0 + number for number in numbers]
    with OutcomeStore(tmp_path, retention=retention) as store:
        np.testing.assert_equal(dataclasses.asdict(store.figures()["power", "3"]), dataclasses.asdict(found))


def test_figures_follow_what_is_kept_and_read_nothing(tmp_path, now, decided, happened, monkeypatch) -> None:
    time = now
    with OutcomeStore(tmp_path, retention=Retention(days=10.0), latest=2, now=lambda: time) as store:
        # The second and the third are settled first, and go first.
        for number in (2, 3, 1, 4):
            store.keep(decided(number))
            recorded_at = now + datetime.timedelta(days=4 if number in (2, 3) else 12)
            store.record(f"d-{number}", happened(decided(number), recorded_at=recorded_at))
            if number == 3:
                store.roll()
        with monkeypatch.context() as reading:
            reading.setattr(Journal, "tables", None)
            figures = store.figures()["power", "3"]
        assert (figures.total, figures.expected_cost.tolist()) == (4, [103.0, 104.0])
        time = now + datetime.timedelta(days=15)
        store.roll()
        figures = store.figures()["power", "3"]
        assert (figures.total, figures.expected_cost.tolist()) == (2, [101.0, 104.0])
