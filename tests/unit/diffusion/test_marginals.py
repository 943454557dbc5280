from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from hedgecast.diffusion.marginals import Marginals, fit_marginals

TRUE = Marginals(
    location=torch.tensor([0.0, 3.0, -1.0], dtype=torch.float64),
    scale=torch.tensor([1.0, 2.0, 0.1], dtype=torch.float64),
    skew=torch.tensor([0.0, -0.3, 0.4], dtype=torch.float64),
    tail=torch.tensor([1.0, 0.8, 1.2], dtype=torch.float64),
)


def normals(rows: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_each_direction_undoes_the_other() -> None:
    scores = normals(100) * 2
    torch.testing.assert_close(TRUE.scores(TRUE.residuals(scores)), scores)


def test_no_skew_and_normal_tails_are_a_line() -> None:
    scores = normals(100) * 2
    torch.testing.assert_close(TRUE.residuals(scores)[:, 0], scores[:, 0])


def test_the_map_is_increasing() -> None:
    grid = torch.linspace(-6, 6, 500, dtype=torch.float64)[:, None].expand(-1, 3)
    assert bool((TRUE.residuals(grid).diff(dim=0) > 0).all())


def test_single_precision_loses_little() -> None:
    scores = normals(1000) * 2
    single = Marginals(*(value.float() for value in (TRUE.location, TRUE.scale, TRUE.skew, TRUE.tail)))
    torch.testing.assert_close(
        single.residuals(scores.float()).double(), TRUE.residuals(scores), rtol=1e-5, atol=1e-5
    )


def test_gradients_agree_with_finite_differences() -> None:
    scores = normals(4).requires_grad_()
    assert torch.autograd.gradcheck(TRUE.residuals, (scores,))
    residuals = TRUE.residuals(normals(4)).requires_grad_()
    assert torch.autograd.gradcheck(TRUE.scores, (residuals,))


def test_the_law_behind_many_days_is_found() -> None:
    found = fit_marginals(TRUE.residuals(normals(40_000)))
    # Standard errors at n = 40,000 are below 0.02 for shapes: four of them.
    torch.testing.assert_close(found.skew, TRUE.skew, rtol=0, atol=0.08)
    torch.testing.assert_close(found.tail, TRUE.tail, rtol=0, atol=0.08)
    grid = torch.tensor([-2.0, -1, 0, 1, 2], dtype=torch.float64)[:, None].expand(-1, 3)
    error = (found.residuals(grid) - TRUE.residuals(grid)) / TRUE.scale
    assert float(error.abs().max()) < 0.1


def test_no_neighbor_of_the_fit_is_likelier() -> None:
    # The density by numeric differentiation of the map, scipy's normal, and the prior of ten days.
    days = TRUE.residuals(normals(500))

    def likelihood(marginals: Marginals) -> float:
        step = 1e-6 * marginals.scale
        slope = (marginals.scores(days + step) - marginals.scores(days - step)) / (2 * step)
        density = stats.norm.logpdf(marginals.scores(days).numpy()) + np.log(slope.numpy())
        prior = 5.0 * (marginals.skew**2 + marginals.tail.log() ** 2)
        return float(density.sum() - prior.sum())

    found = fit_marginals(days)
    best = likelihood(found)
    for name in ("location", "scale", "skew", "tail"):
        for change in (-0.02, 0.02):
            values = {field: getattr(found, field) for field in ("location", "scale", "skew", "tail")}
            values[name] = values[name] + change * (found.scale if name == "location" else 1.0)
            assert likelihood(Marginals(**values)) < best, (name, change)


def test_units_and_shifts_move_location_and_scale_only() -> None:
    days = TRUE.residuals(normals(500))
    plain, moved = fit_marginals(days), fit_marginals(1000.0 * days + 7.0)
    torch.testing.assert_close(moved.skew, plain.skew, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(moved.tail, plain.tail, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(moved.location, 1000.0 * plain.location + 7.0, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(moved.scale, 1000.0 * plain.scale, rtol=1e-5, atol=1e-6)


def test_a_mirror_turns_the_skew() -> None:
    days = TRUE.residuals(normals(500))
    plain, turned = fit_marginals(days), fit_marginals(-days)
    torch.testing.assert_close(turned.skew, -plain.skew, rtol=1e-5, atol=1e-6)


def test_few_days_stay_near_a_normal_and_none_vary_is_harmless() -> None:
    few = fit_marginals(normals(20))
    assert float(few.skew.abs().max()) < 0.35
    flat = fit_marginals(torch.full((50, 3), 2.0, dtype=torch.float64))
    assert bool(torch.isfinite(flat.scale).all())
    assert flat.location.tolist() == pytest.approx([2.0] * 3)


def test_the_slope_at_zero_is_that_of_the_formula() -> None:
    marginals = Marginals(*(torch.tensor([value], dtype=torch.float64) for value in (0.0, 2.0, 0.0, 1.0)))
    zero = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.grad(marginals.residuals(zero).sum(), zero)[0] == 2.0
    assert torch.autograd.grad(marginals.scores(zero).sum(), zero)[0] == 0.5
