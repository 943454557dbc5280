"""The scenario benchmark: peers give our numbers, aims are judged as stated, the page is what files say."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hedgecast.diffusion.denoiser import Denoiser
from hedgecast.diffusion.generator import Generator
from hedgecast.diffusion.noise import scenario_noise

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from scenarios_bench import measure, page, scaling, steps, streaming  # noqa: E402


@pytest.fixture(scope="module")
def context() -> torch.Tensor:
    return torch.randn(200, 5, generator=torch.Generator().manual_seed(1))


def generator(context: torch.Tensor, sampler: Any, count: int) -> Generator:
    """Small, with a network whose flow is not zero."""
    draws = torch.Generator().manual_seed(0)
    config = Generator.Config(
        denoiser=Denoiser.Config(hidden=16, num_blocks=2, encoding=8), sampler=sampler, sampler_steps=count
    )
    model, _ = Generator.fitted(config, context, torch.randn(200, 6, 1, generator=draws), draws)
    torch.nn.init.normal_(model.denoiser.exit.weight, std=0.3, generator=draws)
    return model.eval().float()


def test_diffusers_loop_gives_our_ddim(context: torch.Tensor) -> None:
    """The schedules are one and the same: else the peer would be timed on another problem."""
    pytest.importorskip("diffusers", reason="make bench-scenarios installs it")
    from scenarios_bench import diffusers_loop

    model = generator(context, "ddim", 50)
    noise = torch.from_numpy(scenario_noise(0, range(12), 20, model.dim))
    # Measured: 9e-6 on a usual network; diffusers keeps alphas in float32.
    assert diffusers_loop.agreement(model, context[:12], noise) < 1e-4
    own = diffusers_loop.ddim_loop().sample(model, context[:12], noise)
    with torch.no_grad():
        torch.testing.assert_close(model.sample(context[:12], noise), own, rtol=1e-4, atol=1e-4)
        plain = model.finish(context[:12], noise)
    assert float((own - plain).abs().max()) > 0.05


def test_the_published_loop_comes_near_the_same_flow(context: torch.Tensor) -> None:
    """Another schedule of 1,000 steps follows the same flow: near 50 steps, and nearer 400."""
    pytest.importorskip("diffusers", reason="make bench-scenarios installs it")
    from scenarios_bench import diffusers_loop

    model = generator(context, "ddim", 50)
    noise = torch.from_numpy(scenario_noise(0, range(12), 20, model.dim))
    published = diffusers_loop.published_loop()
    assert len(published.scheduler.timesteps) == 1000
    assert all(0.0 < angle < math.pi / 2 for angle in published.angles)
    found = published.sample(model, context[:12], noise)
    near, nearer = (
        float((diffusers_loop.ddim_loop(count).sample(model, context[:12], noise) - found).square().mean())
        for count in (50, 500)
    )
    assert nearer < near < 0.01 * float(found.var())


@pytest.mark.parametrize(("sampler", "count"), [("euler", 1), ("heun", 2)])
def test_the_loop_per_step_gives_the_graph_s_paths(context: torch.Tensor, sampler: str, count: int) -> None:
    model = generator(context, sampler, count)
    loop = steps.loop_of(model, context)
    noise = scenario_noise(3, range(4), 7, model.dim)
    with torch.no_grad():
        expected = model.sample(context[:4], torch.from_numpy(noise)).numpy()
    found = loop(context[:4].numpy(), noise)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_calls_run_in_turn_and_backwards() -> None:
    order: list[str] = []
    calls: dict[str, measure.Call] = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    ticks = iter(range(100))
    seconds = measure.in_turn(calls, 3, clock=lambda: float(next(ticks)))
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert seconds == {"a": [1.0] * 3, "b": [1.0] * 3}


def test_ratios_are_taken_round_by_round() -> None:
    assert measure.ratio([2.0, 30.0, 4.0], [1.0, 10.0, 4.0]) == {"median": 2.0, "least": 1.0, "largest": 3.0}
    with pytest.raises(ValueError, match="at least one"):
        measure.ratio([1.0], [])


def test_results_are_kept_by_piece(tmp_path: Path) -> None:
    machine = measure.where()
    measure.keep("flight", {"aim": 0.7}, machine, tmp_path)
    measure.keep("steps", {"models": {}}, machine, tmp_path)
    found = measure.kept(tmp_path)
    assert sorted(found) == ["flight", "steps"]
    assert found["flight"]["aim"] == 0.7
    assert {"processor", "load_before", "load_after", "versions"} <= found["flight"].keys()
    assert not list(tmp_path.glob(".*"))


def test_both_servers_send_every_value() -> None:
    """A short stream of each, through processes, in uneven batches."""
    pytest.importorskip("pyarrow.flight", reason="pyarrow is built without Flight here")
    found = streaming.measure(count=2_500, rounds=1, rows=1_000)
    assert found["bytes"] == 4 * 24 * 2_500
    assert set(found["seconds"]) == {"grpc", "flight"}
    assert found["alone"]["server_peak"] > 0


@pytest.mark.parametrize(("seconds", "reached"), [(1.0 / 0.71, True), (1.0 / 0.69, False)])
def test_the_share_of_flight_is_judged(seconds: float, reached: bool) -> None:
    alone = dict.fromkeys(("streams", "server_growth", "server_peak", "client_growth", "client_range"), 1)
    times = {"grpc": [seconds] * 3, "flight": [1.0] * 3}
    assert streaming.summary(times, alone, count=10, rows=5)["reached"] is reached


def machine(load: float = 0.5) -> dict[str, Any]:
    return {
        "date": "2026-01-01",
        "processor": "a processor",
        "cores": 2,
        "load_before": load,
        "load_after": 0.5,
        "versions": {"torch": "2.13.0"},
    }


def test_the_page_says_what_is_missing_and_that_it_was_busy() -> None:
    alone = dict.fromkeys(("streams", "server_growth", "server_peak", "client_growth", "client_range"), 10**6)
    times = {"grpc": [2.0, 2.0], "flight": [1.0, 1.0]}
    record = streaming.summary(times, alone, count=1_000_000, rows=10)
    text = page.page({"flight": {"piece": "flight", **record, **machine(load=7.0)}})
    assert "**misses the aim of 70%**" in text
    assert "48 MB/s, Flight 96 MB/s" in text
    assert "Other work took part of the machine" in text
    assert text.count("Not measured yet") == 6
    assert "Other work" not in page.page({"flight": {"piece": "flight", **record, **machine()}})


def sampler(times: float, equal: bool) -> dict[str, Any]:
    ratio = {"median": times, "least": times, "largest": times}
    return {
        "energy_score": 10.0,
        "energy_change": {"mean": 0.0 if equal else 0.03, "low": -0.01, "high": 0.04},
        "equal": equal,
        "scenarios_per_second": {"1000": 5.0},
        "times_the_peer": {"1000": ratio},
    }


@pytest.mark.parametrize(
    ("times", "equal", "words"),
    [
        (20.1, True, "reaches the aim of 20 times"),
        (19.9, True, "**misses the aim of 20 times**"),
        (99.0, False, "**misses the aim of 20 times**"),
    ],
)
def test_speed_counts_at_an_equal_score_alone(times: float, equal: bool, words: str) -> None:
    names = ("diffusers DDIM 50", "student 1", "adams 5", "adams 10", "heun 10")
    record = {
        "agreement_with_our_ddim": 1e-5,
        "days": 3,
        "scenarios": 10,
        "rounds": 3,
        "peer": names[0],
        "aim": 20.0,
        "rows": {name: sampler(times, equal) for name in names},
        **machine(),
    }
    lines = page.page({"diffusers": record}).splitlines()
    (line,) = [line for line in lines if line.startswith("- student 1")]
    assert words in line


def test_the_scaling_model() -> None:
    line = scaling.Line.through([1, 100, 10_001], [3e-5, 9.9, 3.003e-2])
    assert line.b == pytest.approx(3e-6)
    assert line.a == pytest.approx(2.7e-5)
    with pytest.raises(ValueError, match="two that rise"):
        scaling.Line.through([5], [1.0])
    # The weights that see scenarios, counted in the network itself.
    model = Generator(Generator.Config(), num_features=5, num_steps=24, num_series=1)
    layers = (model.denoiser.entry, *model.denoiser.blocks.modules(), model.denoiser.exit)
    weights = sum(layer.weight.numel() for layer in layers if isinstance(layer, torch.nn.Linear))
    assert scaling.flops() == 2 * (weights + 24 * 24)
    # As long for arithmetic as for launches.
    seconds = scaling.gpu_batch() * scaling.flops() / (scaling.GPU_FLOPS * scaling.GPU_SHARE)
    assert seconds == pytest.approx(scaling.KERNELS * scaling.LAUNCH_SECONDS, rel=1e-3)


def test_results_in_the_tree_make_the_page() -> None:
    """The page that is committed is the one that the files make."""
    found = measure.kept(measure.RESULTS)
    for name, made in (("scenarios-benchmark.md", page.page), ("scaling.md", scaling.page)):
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == made(found)
    assert json.dumps(found, allow_nan=False)
