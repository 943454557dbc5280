from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hedgecast.core.errors import BundleError, ConfigError, ShapeError
from hedgecast.diffusion.denoiser import Denoiser
from hedgecast.diffusion.generator import Generator
from hedgecast.diffusion.schedule import sampling_times
from hedgecast.diffusion.whitening import Whitening

SIZES = Denoiser.Config(hidden=16, num_blocks=2, encoding=8)


def data(rows: int = 300) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    context = torch.randn(rows, 5, dtype=torch.float64, generator=draws)
    shape = torch.randn(rows, 8, dtype=torch.float64, generator=draws).cumsum(dim=1)
    days = 40.0 + context @ torch.randn(5, 8, dtype=torch.float64, generator=draws) + shape
    return context, days.reshape(rows, 4, 2)


def made(*, trained: bool = True, sampler: str = "heun") -> Generator:
    context, targets = data()
    config = Generator.Config.from_dict({"denoiser": SIZES.to_dict(), "sampler": sampler})
    draws = torch.Generator().manual_seed(1)
    model, _ = Generator.fitted(config, context, targets, draws)
    if trained:
        with torch.no_grad():
            model.denoiser.exit.weight.normal_(0.0, 0.1, generator=draws)
    return model


def noise(contexts: int, scenarios: int, seed: int = 2) -> Tensor:
    return torch.randn(contexts, scenarios, 8, generator=torch.Generator().manual_seed(seed))


def test_shapes_and_units() -> None:
    model, (context, targets) = made(), data()
    paths = model.draw(context[:3], 50, torch.Generator().manual_seed(0)).detach()
    assert paths.shape == (3, 50, 4, 2)
    assert paths.dtype == torch.float32
    assert float(paths.mean()) == pytest.approx(float(targets[:3].mean()), abs=2.0)


def test_an_untrained_generator_samples_its_gaussian_in_any_number_of_steps() -> None:
    model, (context, _) = made(trained=False), data()
    whitening, draws = model.whitening, noise(2, 7)
    expected = whitening.unwhiten(draws, whitening.standardized(context[:2].float()))
    torch.testing.assert_close(model.sample(context[:2], draws).flatten(2), expected)


def test_one_generator_state_gives_the_same_bits() -> None:
    model, (context, _) = made(), data()
    first, second = (model.draw(context[:4], 20, torch.Generator().manual_seed(9)) for _ in range(2))
    assert torch.equal(first, second)


def test_a_scenario_does_not_depend_on_its_neighbors() -> None:
    model, (context, _) = made().double(), data()
    draws = noise(3, 6).double()
    whole = model.sample(context[:3], draws)
    alone = model.sample(context[1:2], draws[1:2, 4:5])
    torch.testing.assert_close(whole[1, 4], alone[0, 0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sampler", ["ddim", "heun"])
def test_the_context_is_encoded_once_per_day(sampler: str) -> None:
    model, (context, _) = made(sampler=sampler), data()
    rows: list[int] = []
    model.denoiser.encoder.register_forward_hook(lambda module, given, out: rows.append(len(given[0])))
    model.sample(context[:3], noise(3, 100))
    assert rows == [3]


@pytest.mark.parametrize("sampler", ["ddim", "heun"])
def test_single_steps_make_the_whole_sample(sampler: str) -> None:
    model, (context, _) = made(sampler=sampler), data()
    state, times = noise(2, 5), torch.tensor(sampling_times(model.config.sampler_steps))
    for index in range(model.config.sampler_steps):
        state = model.denoise_step(context[:2], state, times[index], times[index + 1])
    torch.testing.assert_close(
        model.finish(context[:2], state), model.sample(context[:2], noise(2, 5)), rtol=1e-5, atol=1e-4
    )


def test_gradients_agree_with_finite_differences() -> None:
    model, (context, _) = made().double(), data()
    draws = noise(1, 2).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: model.sample(context[:1], z), (draws,), atol=1e-5)


def test_the_gradient_reaches_every_weight() -> None:
    model, (context, _) = made(), data()
    model.sample(context[:2], noise(2, 3), grad_steps=1).sum().backward()
    for name, parameter in model.denoiser.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name


def test_plain_data_and_weights_make_an_equal_generator() -> None:
    model, (context, _) = made(), data()
    twin = Generator.from_dict(model.to_dict())
    twin.load_state_dict(model.state_dict())
    assert twin.config == model.config
    assert torch.equal(model.sample(context[:2], noise(2, 3)), twin.sample(context[:2], noise(2, 3)))


def test_whitened_days_come_back() -> None:
    model, (context, targets) = made().double(), data()
    whitened = model.whiten(context[:5], targets[:5])
    torch.testing.assert_close(model.finish(context[:5], whitened.unsqueeze(1))[:, 0], targets[:5])


def test_features_far_outside_training_do_not_reach_the_network_in_full() -> None:
    model, (context, _) = made(), data()
    far, farther = context[:1] + 1e3, context[:1] + 1e4
    assert torch.equal(model.encode(far), model.encode(farther))


def test_a_longer_context_and_no_scenarios_are_refused() -> None:
    model, (context, _) = made(), data()
    draws = torch.Generator().manual_seed(0)
    with pytest.raises(ShapeError, match=r"must be \(contexts, 5\)"):
        model.draw(context[:, :4], 3, draws)
    with pytest.raises(ShapeError, match="at least 1"):
        model.draw(context, 0, draws)


def test_another_format_is_refused() -> None:
    with pytest.raises(BundleError, match="format 99"):
        Generator.from_dict({**made().to_dict(), "format": 99})


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="sampler_steps"):
        Generator.Config(sampler_steps=0)
    with pytest.raises(ConfigError, match="context_limit"):
        Generator.Config(context_limit=0.0)
    assert Generator.Config().whitening == Whitening.Config()
