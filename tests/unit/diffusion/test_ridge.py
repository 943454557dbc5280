from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from hedgecast.core.errors import DataError
from hedgecast.diffusion.ridge import blocks_of_days, fit_ridge


def data(rows: int = 120, seed: int = 0) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    context = torch.randn(rows, 5, dtype=torch.float64, generator=draws) * torch.tensor([1.0, 10, 0.1, 1, 3])
    weight = torch.randn(5, 3, dtype=torch.float64, generator=draws)
    noise = torch.randn(rows, 3, dtype=torch.float64, generator=draws)
    return context + 7.0, context @ weight + 40.0 + noise


@pytest.mark.parametrize("strength", [1e-4, 0.1, 3.0])
def test_agrees_with_scikit_learn(strength: float) -> None:
    context, targets = data()
    fit = fit_ridge(context, targets, strengths=(strength,), num_blocks=4, gap=2)
    scaled = ((context - context.mean(0)) / context.std(0, unbiased=False)).numpy()
    peer = Ridge(alpha=strength * len(context)).fit(scaled, targets.numpy())
    np.testing.assert_allclose(fit.linear(context).numpy(), peer.predict(scaled), rtol=1e-9)


def test_out_of_fold_predictions_are_fits_without_the_block() -> None:
    context, targets = data()
    fit = fit_ridge(context, targets, strengths=(0.1,), num_blocks=4, gap=2)
    rows = slice(30, 60)
    kept = np.r_[0:28, 62:120]
    center, spread = context[kept].mean(0), context[kept].std(0, unbiased=False)
    peer = Ridge(alpha=0.1 * len(kept)).fit(
        ((context[kept] - center) / spread).numpy(), targets[kept].numpy()
    )
    expected = peer.predict(((context[rows] - center) / spread).numpy())
    np.testing.assert_allclose(fit.held_out[rows].numpy(), expected, rtol=1e-9)


def test_a_block_cannot_change_its_own_predictions() -> None:
    context, targets = data()
    spoiled = targets.clone()
    spoiled[30:60] += 1e3
    options = {"strengths": (0.1,), "num_blocks": 4, "gap": 2}
    before, after = fit_ridge(context, targets, **options), fit_ridge(context, spoiled, **options)
    assert torch.equal(before.held_out[30:60], after.held_out[30:60])
    assert not torch.allclose(before.held_out[60:90], after.held_out[60:90])


def test_blocks_cover_every_row_once_and_keep_their_distance() -> None:
    seen = np.zeros(103, dtype=int)
    for rows, fitted in blocks_of_days(103, 10, 3):
        seen[rows] += 1
        near = np.arange(103)[fitted.numpy()]
        assert np.all((near < rows.start - 3) | (near >= rows.stop + 3))
    assert np.all(seen == 1)


def test_noise_alone_gets_the_strongest_ridge_and_a_law_the_weakest() -> None:
    context, targets = data(400)
    noise = torch.randn(400, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    assert fit_ridge(context, noise).strength >= 1.0
    assert fit_ridge(context, targets).strength <= 1e-2


def test_zero_ridge_recovers_an_exact_law_and_units_do_not_matter() -> None:
    context, _ = data()
    targets = context @ torch.ones(5, 2, dtype=torch.float64)
    fit = fit_ridge(context, targets, strengths=(1e-12,))
    torch.testing.assert_close(fit.held_out, targets, rtol=1e-8, atol=1e-8)
    _, noisy = data()
    units = torch.tensor([1e-3, 1.0, 1e4], dtype=torch.float64)
    first, second = fit_ridge(context, noisy), fit_ridge(context * 50.0, noisy * units)
    assert first.strength == second.strength
    torch.testing.assert_close(first.held_out * units, second.held_out, rtol=1e-9, atol=1e-9)


def test_a_constant_feature_changes_nothing() -> None:
    context, targets = data()
    constant = torch.full((len(context), 1), 3.0, dtype=torch.float64)
    plain = fit_ridge(context, targets)
    more = fit_ridge(torch.cat([context, constant], dim=1), targets)
    torch.testing.assert_close(plain.held_out, more.held_out)


def test_a_given_spread_is_used() -> None:
    context, targets = data()
    spread = torch.tensor([2.0, 1, 1, 1, 5], dtype=torch.float64)
    fit = fit_ridge(context, targets, strengths=(0.1,), spread=spread)
    scaled = ((context - context.mean(0)) / spread).numpy()
    peer = Ridge(alpha=0.1 * len(context)).fit(scaled, targets.numpy())
    np.testing.assert_allclose(fit.linear(context).numpy(), peer.predict(scaled), rtol=1e-9)


def test_too_few_days_are_refused() -> None:
    context, targets = data(15)
    with pytest.raises(DataError, match="15 training days are too few for 10 held-out blocks"):
        fit_ridge(context, targets)


def test_a_value_that_is_not_finite_is_named() -> None:
    context, targets = data()
    context[17, 2] = torch.nan
    with pytest.raises(DataError, match="training row 17"):
        fit_ridge(context, targets)
