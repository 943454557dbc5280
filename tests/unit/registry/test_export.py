import itertools

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from hedgecast.core.errors import BundleError
from hedgecast.diffusion.generator import Generator
from hedgecast.diffusion.schedule import sampling_times
from hedgecast.registry import export
from hedgecast.testing import TinyModel


def test_the_graphs_give_what_torch_gives_on_a_thousand_scenarios(trained: TinyModel) -> None:
    metrics = trained.bundle.manifest.metrics
    assert 0 < metrics["scenario_graph_relative_error"] < 1e-4
    assert 0 < metrics["denoiser_graph_relative_error"] < 1e-4


@pytest.mark.parametrize(("contexts", "scenarios"), [(1, 1), (3, 7), (2, 500)])
def test_batch_and_scenarios_are_dynamic(trained: TinyModel, contexts: int, scenarios: int) -> None:
    draws = torch.Generator().manual_seed(1)
    generator = trained.generator
    context = torch.randn(contexts, generator.num_features, generator=draws)
    noise = torch.randn(contexts, scenarios, generator.dim, generator=draws)
    session = onnxruntime.InferenceSession(str(trained.bundle.scenarios_graph))
    (paths,) = session.run(None, {"context": context.numpy(), "noise": noise.numpy()})
    with torch.no_grad():
        expected = generator.sample(context, noise).numpy()
    np.testing.assert_allclose(paths, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).mean())


def test_single_steps_in_a_row_are_the_whole_graph(trained: TinyModel) -> None:
    generator = trained.generator
    draws = torch.Generator().manual_seed(2)
    context = torch.randn(2, generator.num_features, generator=draws)
    state = torch.randn(2, 5, generator.dim, generator=draws)
    whole = onnxruntime.InferenceSession(str(trained.bundle.scenarios_graph))
    (paths,) = whole.run(None, {"context": context.numpy(), "noise": state.numpy()})
    step = onnxruntime.InferenceSession(str(trained.bundle.denoiser_graph))
    times = sampling_times(generator.config.sampler_steps)
    current = state.numpy()
    for now, following in itertools.pairwise(times):
        inputs = {"context": context.numpy(), "state": current}
        inputs |= {"time": np.float32(now), "next_time": np.float32(following)}
        (current,) = step.run(None, {name: np.asarray(value) for name, value in inputs.items()})
    with torch.no_grad():
        chained = generator.finish(context, torch.from_numpy(current)).numpy()
    np.testing.assert_allclose(chained, paths, rtol=1e-4, atol=1e-4 * np.abs(paths).mean())


def test_the_graph_has_no_loop_and_is_valid(trained: TinyModel) -> None:
    model = onnx.load(trained.bundle.scenarios_graph)
    onnx.checker.check_model(model, full_check=True)
    assert not {node.op_type for node in model.graph.node} & {"Loop", "Scan", "If"}


def test_a_solver_that_reads_the_step_before_is_unrolled_too() -> None:
    config = Generator.Config.from_dict(
        {"denoiser": {"hidden": 8, "num_blocks": 1, "encoding": 4}, "sampler": "adams", "sampler_steps": 4}
    )
    generator = Generator(config, num_features=2, num_steps=3, num_series=1)
    generator.denoiser.initialize(torch.Generator().manual_seed(0))
    with torch.no_grad():
        generator.denoiser.exit.weight.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(1))
    context = torch.randn(4, 2, generator=torch.Generator().manual_seed(2))
    graphs = export.export_graphs(generator, context, num_scenarios=100)
    # The comparison with torch is in there; here that the whole graph is not its first-order relative.
    assert graphs.scenarios_parity.relative_error < export.PARITY_BOUND
    noise = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(3))
    session = onnxruntime.InferenceSession(graphs.scenarios)
    (paths,) = session.run(None, {"context": context.numpy(), "noise": noise.numpy()})
    times = [torch.tensor(time) for time in sampling_times(4)]
    with torch.no_grad():
        state = noise
        for now, following in itertools.pairwise(times):
            state = generator.denoise_step(context, state, now, following)
        first_order = generator.finish(context, state).numpy()
    assert float(np.abs(paths - first_order).max()) > 0.01


def test_a_graph_that_differs_is_not_exported(trained: TinyModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "PARITY_BOUND", 1e-12)
    context = torch.zeros(2, trained.generator.num_features)
    with pytest.raises(BundleError, match=r"differs from torch by .* the model is not exported"):
        export.export_graphs(trained.generator, context, num_scenarios=10)
