"""Curves of training in MLflow, read back with its own client."""

import math
from pathlib import Path

import pytest
from mlflow import MlflowClient

from hedgecast.registry.store import ModelStore
from hedgecast.testing import TinyModel, altered_bundle

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


def test_every_epoch_is_a_step_of_a_metric(trained: TinyModel, tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "home")
    long = [1.0 / (epoch + 1) for epoch in range(1200)]
    curves = {"noise_losses": [0.9, 0.8, 0.85], "joint_noise_multiplier": [math.inf, 2.0], "long": long}
    # A column's name and a list of columns as no parameter of MLflow's may be.
    data = {**trained.bundle.manifest.data, "units": {"load [GW]": "GW"}, "observed": ["wind"] * 2000}
    bundle = altered_bundle(trained.bundle, tmp_path / "odd", data=data)
    version = store.register(bundle, curves=curves)
    client = MlflowClient(tracking_uri=store.uri)
    (experiment,) = client.search_experiments(filter_string=f"name = '{version.name}'")
    (run,) = client.search_runs([experiment.experiment_id])

    def points(name: str) -> list[tuple[int, float]]:
        history = client.get_metric_history(run.info.run_id, f"training/{name}")
        return sorted((point.step, point.value) for point in history)

    assert points("noise_losses") == [(0, 0.9), (1, 0.8), (2, 0.85)]
    # What no database holds is left out, at its place.
    assert points("joint_noise_multiplier") == [(1, 2.0)]
    # More than MLflow takes at once.
    assert points("long") == list(enumerate(long))
    # How it was learned, by the keys of the study.
    learning = trained.study.learning
    assert run.data.params["learning.estimator"] == learning.estimator
    assert run.data.params["learning.generator.denoiser.hidden"] == str(learning.generator.denoiser.hidden)
    assert run.data.params["learning.method"] == trained.bundle.manifest.method
    assert run.data.params["program.parameters.ramp_limit"] == "4.0"
    assert run.data.params["data.history"] == "168"
    assert run.data.params["data.units.load _GW_"] == "GW"
    assert len(run.data.params["data.observed"]) == 6000
    assert run.data.metrics["coverage"] == trained.bundle.manifest.metrics["coverage"]
