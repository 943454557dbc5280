from __future__ import annotations

import pytest
import torch
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from hedgecast.core.errors import ConfigError, DataError
from hedgecast.diffusion.whitening import Whitening, WhiteningReport, shrunk_covariance


def data(rows: int = 600, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Days whose size follows the first feature and whose slots are correlated."""
    draws = torch.Generator().manual_seed(seed)
    context = torch.randn(rows, 4, dtype=torch.float64, generator=draws)
    mean = 50 + context @ torch.randn(4, 6, dtype=torch.float64, generator=draws)
    walk = torch.randn(rows, 6, dtype=torch.float64, generator=draws).cumsum(dim=1)
    return context, mean + torch.exp(0.5 * context[:, :1]) * walk


def fitted(conditional: bool = True) -> tuple[Whitening, WhiteningReport, Tensor, Tensor]:
    context, targets = data()
    whitening = Whitening(4, 6).double()
    config = Whitening.Config(conditional_size=conditional, gap_days=1)
    return whitening, whitening.fit(context, targets, config), context, targets


def test_whitened_training_days_have_unit_second_moment() -> None:
    _, report, _, _ = fitted()
    moment = report.whitened.T @ report.whitened / len(report.whitened)
    torch.testing.assert_close(moment, torch.eye(6, dtype=torch.float64), rtol=0, atol=0.08)


def test_unwhitening_undoes_whitening() -> None:
    whitening, _, context, targets = fitted()
    whitened = whitening.whiten(targets, context)
    days = whitening.unwhiten(whitened.unsqueeze(1), whitening.standardized(context))
    torch.testing.assert_close(days[:, 0], targets)


def test_the_size_follows_the_context_where_it_does() -> None:
    whitening, report, context, targets = fitted()
    size = whitening.size(whitening.standardized(context))[:, 0]
    assert report.size_explained > 0.25
    assert float(torch.corrcoef(torch.stack([size.log(), context[:, 0]]))[0, 1]) > 0.95
    # In sample, days look narrower than they are: what out-of-fold residuals are for.
    assert 0.9 < float(whitening.whiten(targets, context).square().mean()) < 1.0


def test_without_conditional_size_all_days_have_one_size() -> None:
    whitening, _, context, _ = fitted(conditional=False)
    size = whitening.size(whitening.standardized(context))
    torch.testing.assert_close(size, size[:1].expand_as(size), rtol=1e-8, atol=0)


def test_the_size_stays_in_the_range_of_training() -> None:
    whitening, _, context, _ = fitted()
    sizes = whitening.size(whitening.standardized(context * 1e6)).log()
    assert float(sizes.min()) >= float(whitening.size_range[0]) - 1e-12
    assert float(sizes.max()) <= float(whitening.size_range[1]) + 1e-12


def test_covariance_agrees_with_scikit_learn_on_correlations() -> None:
    rows = data(80)[1] - 50.0
    deviation = rows.square().mean(dim=0).sqrt()
    peer, _ = ledoit_wolf((rows / deviation).numpy(), assume_centered=True)
    expected = torch.from_numpy(peer) + 1e-6 * torch.eye(6, dtype=torch.float64)
    found = shrunk_covariance(rows) / deviation.outer(deviation)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_covariance_follows_units_and_is_positive_definite_when_singular() -> None:
    rows = data(80)[1] - 50.0
    units = torch.tensor([1e-3, 1, 1e3, 1, 2, 5], dtype=torch.float64)
    torch.testing.assert_close(
        shrunk_covariance(rows * units), shrunk_covariance(rows) * units.outer(units), rtol=1e-9, atol=0
    )
    collinear = rows[:, :1].expand(-1, 3)
    torch.linalg.cholesky(shrunk_covariance(collinear))
    assert float(shrunk_covariance(torch.zeros(9, 1, dtype=torch.float64))) > 0


def test_statistics_do_not_depend_on_later_days() -> None:
    context, targets = data()
    first, second = Whitening(4, 6).double(), Whitening(4, 6).double()
    first.fit(context[:400], targets[:400], Whitening.Config())
    targets[400:] = 1e9
    second.fit(context[:400], targets[:400], Whitening.Config())
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_a_perfectly_predicted_target_is_refused() -> None:
    context, targets = data()
    with pytest.raises(DataError, match="constant"):
        Whitening(4, 6).fit(context, torch.full_like(targets, 3.0), Whitening.Config())


def test_impossible_blocks_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        Whitening.Config(num_blocks=1)


def test_normal_marginals_leave_a_linear_map_of_gaussian_noise() -> None:
    whitening, context = Whitening(4, 6).double(), data()[0]
    whitening.fit(*data(), Whitening.Config(marginals="normal", gap_days=1))
    e = torch.randn(3, 1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = whitening.standardized(context[:3])
    expected = whitening.mean(x) + whitening.size(x) * (e[:, 0] @ whitening.factor.T)
    torch.testing.assert_close(whitening.unwhiten(e, x)[:, 0], expected)
