from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hedgecast.core.errors import ConfigError
from hedgecast.diffusion.denoiser import Denoiser

CONFIG = Denoiser.Config(hidden=16, num_blocks=2, encoding=8)


def made(seed: int = 0) -> Denoiser:
    """A denoiser off its start, in float64."""
    draws = torch.Generator().manual_seed(seed)
    network = Denoiser(CONFIG, num_features=5, dim=6)
    network.initialize(draws)
    with torch.no_grad():
        network.exit.weight.normal_(0.0, 0.3, generator=draws)
    return network.double()


def values(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_an_untrained_denoiser_is_the_flow_of_a_standard_normal() -> None:
    network = Denoiser(CONFIG, num_features=5, dim=6)
    network.initialize(torch.Generator().manual_seed(0))
    encoded = network.encode(values(3, 5).float())
    assert torch.equal(network(values(3, 4, 6).float(), 0.3, encoded), torch.zeros(3, 4, 6))


def test_equal_generators_give_equal_weights() -> None:
    first, second, other = made(3).state_dict(), made(3).state_dict(), made(4).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["entry.weight"], other["entry.weight"])


def test_scenarios_and_contexts_do_not_meet() -> None:
    network = made()
    state, context = values(3, 4, 6), values(3, 5)
    whole = network(state, 0.7, network.encode(context))
    for day in range(3):
        encoded = network.encode(context[day : day + 1])
        for scenario in range(4):
            alone = network(state[day : day + 1, scenario : scenario + 1], 0.7, encoded)
            torch.testing.assert_close(whole[day, scenario], alone[0, 0], rtol=1e-12, atol=1e-12)


def test_one_time_for_all_is_the_same_time_for_each() -> None:
    network = made()
    state, encoded = values(2, 3, 6), network.encode(values(2, 5))
    each = torch.full((2, 3), 0.4, dtype=torch.float64)
    torch.testing.assert_close(network(state, 0.4, encoded), network(state, each, encoded))


def test_context_and_time_reach_the_output() -> None:
    network = made()
    state, context = values(1, 1, 6), values(1, 5)
    base = network(state, 0.4, network.encode(context))
    assert not torch.allclose(base, network(state, 0.5, network.encode(context)))
    assert not torch.allclose(base, network(state, 0.4, network.encode(context + 0.1)))


def test_gradients_agree_with_finite_differences() -> None:
    network = made()
    state, context = values(1, 2, 6).requires_grad_(), values(1, 5).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, c: network(x, 0.6, network.encode(c)), (state, context), atol=1e-6
    )


def test_an_empty_layer_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"denoiser\.hidden = 0"):
        Denoiser.Config(hidden=0)
