import math

import numpy as np
import pytest

from hedgecast.scenarios.realism import covered, crps


def test_crps_of_a_normal_law_is_its_closed_form() -> None:
    # Gneiting and Raftery (2007), eq. 5, for the standard normal.
    generator = np.random.default_rng(0)
    paths = generator.normal(size=(200, 400, 1))
    realized = generator.normal(size=(200, 1))
    density = np.exp(-0.5 * realized**2) / np.sqrt(2 * np.pi)
    below = 0.5 * (1 + np.vectorize(math.erf)(realized / np.sqrt(2)))
    exact = realized * (2 * below - 1) + 2 * density - 1 / np.sqrt(np.pi)
    found = crps(paths, realized)
    error = found - exact
    # The fair estimator is unbiased: the mean error over 200 sets lies within 4 standard errors.
    assert abs(error.mean()) < 4 * error.std() / np.sqrt(error.size)


def test_crps_of_one_scenario_is_the_absolute_error() -> None:
    assert crps(np.array([[[3.0]]]), np.array([[5.0]])) == pytest.approx(2.0)


def test_crps_of_two_scenarios_by_hand() -> None:
    # mean |x - y| - |x1 - x2| / 2, fair: (1 + 3) / 2 - 2 / 2
    assert crps(np.array([[[1.0], [3.0]]]), np.array([[4.0]]))[0, 0] == pytest.approx(2.0 - 1.0)


def test_scaling_the_unit_scales_the_score() -> None:
    generator = np.random.default_rng(1)
    paths, realized = generator.normal(size=(5, 30, 4)), generator.normal(size=(5, 4))
    np.testing.assert_allclose(crps(1000 * paths, 1000 * realized), 1000 * crps(paths, realized), rtol=1e-12)


def test_the_central_band_covers_its_share() -> None:
    generator = np.random.default_rng(2)
    paths, realized = generator.normal(size=(4000, 199, 1)), generator.normal(size=(4000, 1))
    share = covered(paths, realized, level=0.9).mean()
    # Binomial standard error of 4,000 days is 0.0047; quantiles of 199 draws cover 0.896 on average.
    assert share == pytest.approx(0.896, abs=4 * 0.0047)


def test_outside_is_outside() -> None:
    paths = np.linspace(0.0, 1.0, 101)[None, :, None]
    assert not covered(paths, np.array([[0.01]]))[0, 0]
    assert covered(paths, np.array([[0.5]]))[0, 0]
