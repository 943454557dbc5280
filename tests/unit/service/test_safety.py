"""Policies on a real server: warned, based elsewhere, refused; never silent."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from hedgecast.client import Client, ScenarioArrays
from hedgecast.core.errors import UntrustedError
from hedgecast.registry.graphs import BASELINE_GRAPH, SCENARIOS_GRAPH
from hedgecast.registry.session import Context
from hedgecast.rpc.codec import NamedRows
from hedgecast.scenarios.envelope import Envelope, SafetyConfig
from hedgecast.service.background import background_server
from hedgecast.service.local import LocalBackend, LocalModel
from hedgecast.service.safety import Safety
from hedgecast.service.settings import ServiceSettings
from hedgecast.testing_last_day import last_day_envelope

STEPS = 6


@contextmanager
def _served(
    local_model: LocalModel, envelope: Envelope, config: SafetyConfig, *, broken: bool = False
) -> Iterator[Client]:
    """A server; where ``broken``, its network gives everything ten times too wide, its baseline does not."""

    def draw(
        context: Context, count: int, seed: int, start: int = 0, *, graph: str = SCENARIOS_GRAPH
    ) -> np.ndarray:
        paths = local_model.draw(context, count, seed, start)
        if not broken or graph == BASELINE_GRAPH:
            return paths
        center = context.features[None, :, None].astype(np.float32)
        return center + 10.0 * (paths - center)

    clock = datetime.datetime(2020, 6, 1, 15, tzinfo=datetime.UTC)
    model = dataclasses.replace(local_model.model, safety=Safety(envelope, config, lambda: clock))
    backend = LocalBackend([LocalModel(model=model, draw=draw)])
    with background_server(backend, ServiceSettings(port=0)) as address, Client(address) as client:
        yield client
    backend.close()


def _ask(rows: NamedRows, shift: float = 0.0) -> dict[str, object]:
    columns = {"load": rows.columns["load"] + shift}
    return {"history": columns, "history_times": rows.times, "scenario_count": 120}


def test_what_was_seen_is_answered_without_a_word(local_model: LocalModel, rows: NamedRows) -> None:
    with _served(local_model, last_day_envelope(rows), SafetyConfig()) as client:
        answer = client.decide("last_day", **_ask(rows))
        assert (answer.scenario_source, answer.warnings) == ("MODEL", ())
        assert client.evaluate("last_day", {"a": {"schedule": np.zeros(STEPS)}}, **_ask(rows)).warnings == ()
        explained = client.explain("last_day", **_ask(rows))
        assert (explained.scenario_source, explained.warnings) == ("MODEL", ())


def test_a_context_outside_training_by_each_policy(local_model: LocalModel, rows: NamedRows) -> None:
    far = _ask(rows, 3.0)
    with _served(local_model, last_day_envelope(rows), SafetyConfig(context="warn")) as client:
        answer = client.decide("last_day", **far)
        assert answer.scenario_source == "MODEL"
        (warning,) = answer.warnings
        assert warning.startswith("CONTEXT_OUTSIDE_TRAINING: 6 of 6 features")
        plans = client.evaluate("last_day", {"a": {"schedule": np.zeros(STEPS)}}, **far)
        assert plans.warnings == (warning,)
        (stage, *_) = client.decide_until_certified("last_day", **far, target_gap=100.0)
        assert warning in stage.best.warnings
    with _served(local_model, last_day_envelope(rows), SafetyConfig(context="baseline")) as client:
        answer = client.decide("last_day", **far)
        assert answer.scenario_source == "BASELINE"
        reasons = [warning.partition(":")[0] for warning in answer.warnings]
        assert reasons == ["CONTEXT_OUTSIDE_TRAINING", "BASELINE_SCENARIOS"]
    refusing = SafetyConfig(context="refuse")
    with _served(local_model, last_day_envelope(rows), refusing) as client:
        with pytest.raises(UntrustedError, match="refuses to answer on that") as caught:
            client.decide("last_day", **far)
        assert caught.value.facts["finding"] == "CONTEXT_OUTSIDE_TRAINING"


def test_a_history_that_is_too_old_or_stands_still(local_model: LocalModel, rows: NamedRows) -> None:
    # The last row is of 11 o'clock, the clock says 15.
    with _served(local_model, last_day_envelope(rows), SafetyConfig(max_age_hours=3.0)) as client:
        (warning,) = client.decide("last_day", **_ask(rows)).warnings
        assert warning == "STALE_HISTORY: the last row of history is 4.0 h old, allowed are 3 h"
    wide = {"feature_low": (0.0,) * STEPS, "feature_high": (99.0,) * STEPS}
    still = {**_ask(rows), "history": {"load": np.full(2 * STEPS, 40.0)}}
    config = SafetyConfig(history="refuse")
    with (
        _served(local_model, last_day_envelope(rows, **wide), config) as client,
        pytest.raises(UntrustedError, match="stood at 40"),
    ):
        client.decide("last_day", **still)


def test_a_network_that_went_wrong_gives_way_to_its_baseline(
    local_model: LocalModel, rows: NamedRows
) -> None:
    with _served(local_model, last_day_envelope(rows), SafetyConfig()) as client:
        right = client.decide("last_day", **_ask(rows))
    with _served(local_model, last_day_envelope(rows), SafetyConfig(), broken=True) as client:
        answer = client.decide("last_day", **_ask(rows))
    assert answer.scenario_source == "BASELINE"
    assert [warning.partition(":")[0] for warning in answer.warnings] == [
        "UNREALISTIC_SCENARIOS",
        "BASELINE_SCENARIOS",
    ]
    # Here the baseline is what the network should have been.
    assert answer.scenario_fingerprint == right.scenario_fingerprint
    with (
        _served(
            local_model, last_day_envelope(rows), SafetyConfig(scenarios="refuse"), broken=True
        ) as client,
        pytest.raises(UntrustedError, match="spread by"),
    ):
        client.decide("last_day", **_ask(rows))


def test_a_baseline_that_is_no_better_is_refused(local_model: LocalModel, rows: NamedRows) -> None:
    nowhere = last_day_envelope(rows, series_low=(0.0,), series_high=(1.0,))
    with (
        _served(local_model, nowhere, SafetyConfig()) as client,
        pytest.raises(UntrustedError, match="load reaches"),
    ):
        client.decide("last_day", **_ask(rows))


def test_the_callers_own_scenarios_are_the_callers(local_model: LocalModel, rows: NamedRows) -> None:
    own = ScenarioArrays(
        series=("load",), units=("GW",), times=np.empty(0, "datetime64[ns]"),
        paths=np.full((2, STEPS, 1), 1e6), probabilities=np.full(2, 0.5),
    )  # fmt: skip
    config = SafetyConfig(context="refuse", history="refuse", scenarios="refuse")
    with _served(local_model, last_day_envelope(rows), config) as client:
        assert client.decide("last_day", own_scenarios=own).scenario_source == "CALLER"
