from __future__ import annotations

import dataclasses

import pytest
import torch

from hedgecast.diffusion.denoiser import Denoiser
from hedgecast.learning.config import LearningConfig
from hedgecast.learning.precision import describe, product_type

CPU = torch.device("cpu")


def test_a_cpu_multiplies_in_bfloat16_only_when_asked() -> None:
    assert product_type(LearningConfig(), CPU) is None
    assert product_type(LearningConfig(precision="float32"), CPU) is None
    assert product_type(LearningConfig(precision="bfloat16"), CPU) is torch.bfloat16
    assert describe(None, CPU) == "float32"
    assert describe(torch.bfloat16, CPU).startswith("bfloat16")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="NEEDS a GPU")
def test_a_gpu_that_has_bfloat16_uses_it() -> None:
    device = torch.device("cuda", 0)
    if torch.cuda.is_bf16_supported(including_emulation=False):
        assert product_type(LearningConfig(), device) is torch.bfloat16
    assert product_type(LearningConfig(precision="float32"), device) is None


def test_only_the_products_change_type() -> None:
    draws = torch.Generator().manual_seed(0)
    network = Denoiser(Denoiser.Config(hidden=64, num_blocks=2), 5, 12)
    network.initialize(draws)
    with torch.no_grad():
        network.exit.weight.normal_(0.0, 0.1, generator=draws)
    context, state = torch.randn(3, 5, generator=draws), torch.randn(3, 7, 12, generator=draws)
    times = torch.rand(3, 7, generator=draws)
    exact = network(state, times, encoded=network.encode(context))
    network.product_type = torch.bfloat16
    encoded = network.encode(context)
    found = network(state, times, encoded=encoded)
    assert encoded.dtype == found.dtype == torch.float32
    size = float(exact.detach().norm())
    # Eight bits of mantissa: 4e-3 of each product.
    assert 1e-5 * size < float((found - exact).detach().norm()) < 2e-2 * size
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in network.parameters())


def test_precision_is_a_key_of_the_study() -> None:
    assert LearningConfig.from_dict({"precision": "bfloat16"}).precision == "bfloat16"
    assert dataclasses.replace(LearningConfig(), precision="float32").to_dict()["precision"] == "float32"
