from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from hedgecast.core.errors import ConfigError
from hedgecast.data.datasets import load_table
from hedgecast.data.features import features
from hedgecast.data.schema import FeatureSchema
from hedgecast.data.splits import Split, split_windows
from hedgecast.data.windows import build_windows
from hedgecast.diffusion.denoiser import Denoiser
from hedgecast.diffusion.generator import Generator
from hedgecast.learning.config import LearningConfig
from hedgecast.learning.methods import METHODS, check_method, fit_methods
from hedgecast.learning.methods.diffusion import Diffusion, fit_diffusion, training_report
from hedgecast.learning.methods.method import ScenarioMethod
from hedgecast.learning.methods.ridge import FEWEST_DAYS, SEASON_DAYS, Point, RidgeResidual, fit_baselines
from hedgecast.learning.part import Part
from hedgecast.learning.study import read_study
from hedgecast.programs.catalog.generation_scheduling import build
from hedgecast.testing import write_tiny_study

CONFIG = LearningConfig(
    generator=Generator.Config(denoiser=Denoiser.Config(hidden=16, num_blocks=1, encoding=8)),
    epochs=2,
    joint_epochs=1,
    samples_per_day=8,
    scenarios=10,
    smoothing=1e-2,
)


SINGLE = ("point", "dfl-point")


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    study = read_study(write_tiny_study(tmp_path_factory.mktemp("study")))
    table = load_table(study.data)
    return split_windows(build_windows(table, FeatureSchema.from_table(study.data, table)), study.split)


@pytest.fixture(scope="module")
def baselines(split: Split) -> tuple[Point, RidgeResidual]:
    return fit_baselines(Part.of(split.train))


@pytest.fixture(scope="module")
def trained(split: Split) -> dict[str, Diffusion]:
    parts = Part.of(split.train), Part.of(split.validation)
    return fit_diffusion(*parts, CONFIG, build(24, ramp_limit=1e3))


@pytest.fixture(scope="module")
def methods(
    split: Split, baselines: tuple[Point, RidgeResidual], trained: dict[str, Diffusion]
) -> dict[str, ScenarioMethod]:
    rest = [name for name in METHODS if name not in {"point", "ridge-residual", "diffusion", "diffusion-dfl"}]
    parts = Part.of(split.train), Part.of(split.validation)
    found = fit_methods(rest, *parts, CONFIG, build(24, ramp_limit=1e3))
    found |= {method.name: method for method in (*baselines, *trained.values())}
    return {name: found[name] for name in METHODS}


def test_every_method_gives_a_scenario_set_under_its_name(
    methods: dict[str, ScenarioMethod], split: Split
) -> None:
    regular = split.test.regular
    for name, method in methods.items():
        found = method.scenarios(Part.of(split.test), 12, 0)
        assert found.paths.shape == (len(split.test), 1 if name in SINGLE else 12, 24, 1)
        assert (found.names, found.units, found.source) == (("load_gw",), ("GW",), name)
        assert found.paths.dtype == torch.float64
        assert bool(torch.isfinite(found.paths).all())
        error = found.paths.mean(dim=1).numpy()[regular] - split.test.slots[regular]
        # What is trained on the decision alone lies as high as the costs ask for.
        assert float(np.abs(error).mean()) < (6.0 if name == "dfl-point" else 3.0)


def test_one_seed_trains_the_same_network(methods: dict[str, ScenarioMethod], split: Split) -> None:
    names = ("gaussian", "dfl-point", "dfl-gaussian", "scoring-rule")
    parts, test = (Part.of(split.train), Part.of(split.validation)), Part.of(split.test)
    again = fit_methods(names, *parts, CONFIG, build(24, ramp_limit=1e3))
    other = fit_methods(names, *parts, dataclasses.replace(CONFIG, seed=1), build(24, ramp_limit=1e3))
    for name in names:
        paths = methods[name].scenarios(test, 5, 0).paths
        assert torch.equal(paths, again[name].scenarios(test, 5, 0).paths)
        assert not torch.equal(paths, other[name].scenarios(test, 5, 0).paths)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in SINGLE])
def test_a_draw_depends_on_seed_and_day_alone(
    methods: dict[str, ScenarioMethod], split: Split, name: str
) -> None:
    method = methods[name]
    whole = method.scenarios(Part.of(split.test), 12, 0).paths
    assert torch.equal(whole, method.scenarios(Part.of(split.test), 12, 0).paths)
    assert not torch.equal(whole, method.scenarios(Part.of(split.test), 12, 1).paths)
    few = method.scenarios(Part.of(split.test).select(np.array([3, 7])), 12, 0).paths
    # Matrix products of other batch sizes differ in the last bits of float32.
    torch.testing.assert_close(few, whole[[3, 7]], rtol=1e-5, atol=1e-4)


def test_the_first_scenarios_of_the_diffusion_do_not_depend_on_their_number(
    methods: dict[str, ScenarioMethod], split: Split
) -> None:
    few, many = (methods["diffusion"].scenarios(Part.of(split.test), count, 3).paths for count in (10, 100))
    torch.testing.assert_close(few, many[:, :10], rtol=1e-5, atol=1e-4)


def test_residual_scenarios_are_the_mean_plus_training_days_of_the_season(
    baselines: tuple[Point, RidgeResidual], split: Split
) -> None:
    point, ridge = baselines
    # One day repeated over three years, so that the season can be seen; the residual of a day is its number.
    days = np.arange("2018-01-01", "2021-01-01", dtype="datetime64[D]")
    numbers = torch.arange(len(days), dtype=torch.float64)[:, None].expand(-1, 24)
    seasonal = dataclasses.replace(ridge, residuals=numbers, days=days)
    mean = point.scenarios(Part.of(split.test), 1, 0).values
    drawn = (seasonal.scenarios(Part.of(split.test), 80, 4).values - mean).round()
    assert bool((drawn == drawn[..., :1]).all())
    for row, day in enumerate(split.test.days):
        chosen = days[drawn[row, :, 0].long().numpy()]
        assert len(np.unique(chosen)) == 80
        gap = np.abs((chosen - day).astype(int)) % 365
        # Leap days move a season by one.
        assert np.all(np.minimum(gap, 365 - gap) <= SEASON_DAYS + 1)


def test_residual_days_come_from_the_nearest_season_where_training_lacks_the_own(
    baselines: tuple[Point, RidgeResidual], split: Split
) -> None:
    point, ridge = baselines
    residuals = (
        ridge.scenarios(Part.of(split.test), 20, 4).values - point.scenarios(Part.of(split.test), 1, 0).values
    )
    distance = torch.cdist(residuals[0], ridge.residuals)
    assert float(distance.min(dim=1).values.max()) < 1e-5
    used = ridge.days[distance.argmin(dim=1).numpy()]
    # Training ends over 45 days earlier in the year: its last days are the nearest.
    assert np.all(used >= ridge.days[-FEWEST_DAYS])


def test_the_two_stage_model_is_untouched_by_the_joint_phase(
    split: Split, trained: dict[str, Diffusion]
) -> None:
    alone = fit_diffusion(Part.of(split.train), Part.of(split.validation), CONFIG, None)
    assert set(alone) == {"diffusion"}
    first, second = (found["diffusion"].generator.state_dict() for found in (alone, trained))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_statistics_come_from_training_days_only(split: Split, trained: dict[str, Diffusion]) -> None:
    center = trained["diffusion"].generator.whitening.center
    expected = features(split.train).mean(axis=0)
    np.testing.assert_allclose(center.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_the_report_of_training_says_what_was_kept(split: Split, trained: dict[str, Diffusion]) -> None:
    parts = Part.of(split.train), Part.of(split.validation)
    report = training_report(trained["diffusion-dfl"], *parts)
    assert report["training_days"] == len(split.train)
    assert report["validation_cost"] <= report["validation_cost_pretrained"]
    assert -1.0 <= report["gradient_cosine"] <= 1.0
    assert report["unsolved_days"] == 0
    assert "validation_cost" not in training_report(trained["diffusion"], *parts)
    history = dataclasses.replace(
        trained["diffusion"].history, first_noise_loss=0.9, noise_losses=[1.2, 0.95, 1.1]
    )
    for best, loss in ((0, 0.9), (2, 0.95)):
        method = dataclasses.replace(
            trained["diffusion"], history=dataclasses.replace(history, best_epoch=best)
        )
        assert training_report(method, *parts)["validation_noise_matching"] == loss


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ConfigError, match="no method 'difusion': choose from point"):
        check_method("difusion")


def test_a_method_that_trains_on_the_decision_needs_the_program(split: Split) -> None:
    with pytest.raises(ConfigError, match="diffusion-dfl trains on the decision"):
        fit_methods(("diffusion-dfl",), Part.of(split.train), Part.of(split.validation), CONFIG)


def test_arrays_give_the_same_scenarios_as_the_windows_they_came_from(split: Split) -> None:
    windows = split.train
    arrays = Part.of_arrays(
        features(windows),
        windows.slots,
        days=windows.days,
        names=windows.schema.targets,
        units=windows.schema.target_units,
        groups=windows.schema.groups,
    )
    test = Part.of(split.test)
    for one, other in zip(fit_baselines(Part.of(windows)), fit_baselines(arrays), strict=True):
        assert torch.equal(one.scenarios(test, 9, 1).paths, other.scenarios(test, 9, 1).paths)
