import numpy as np
import pytest
import torch

from hedgecast.core.errors import ShapeError
from hedgecast.scenarios.scenario_set import ScenarioSet


def make(num_scenarios: int = 5, probabilities: torch.Tensor | None = None) -> ScenarioSet:
    generator = torch.Generator().manual_seed(0)
    paths = torch.randn(3, num_scenarios, 4, 2, generator=generator, dtype=torch.float64)
    return ScenarioSet(paths=paths, names=("a", "b"), units=("GW", "EUR"), probabilities=probabilities)


def test_values_are_in_c_order() -> None:
    scenario_set = make()
    assert scenario_set.values.shape == (3, 5, 8)
    assert scenario_set.values[1, 2, 2 * 2 + 1] == scenario_set.paths[1, 2, 2, 1]


def test_equal_weights_sum_to_one() -> None:
    assert torch.allclose(make().weights().sum(dim=1), torch.ones(3, dtype=torch.float64))


def test_first_keeps_the_prefix_and_renormalizes() -> None:
    probabilities = torch.tensor([[0.1, 0.3, 0.2, 0.2, 0.2]], dtype=torch.float64).expand(3, 5)
    prefix = make(probabilities=probabilities).first(2)
    assert torch.equal(prefix.paths, make().paths[:, :2])
    assert torch.allclose(prefix.weights()[0], torch.tensor([0.25, 0.75], dtype=torch.float64))


def test_fingerprint_names_the_content() -> None:
    assert make().fingerprint() == make().fingerprint()
    changed = make()
    changed.paths[0, 0, 0, 0] += 1e-12
    assert changed.fingerprint() != make().fingerprint()
    assert make().first(3).fingerprint() == make().first(4).first(3).fingerprint()


def test_times_belong_to_the_fingerprint() -> None:
    times = np.arange(12).reshape(3, 4).astype("datetime64[ns]")
    with_times = ScenarioSet(paths=make().paths, names=("a", "b"), units=("GW", "EUR"), times=times)
    assert with_times.fingerprint() != make().fingerprint()
    assert with_times.contexts(1, 2).times is not None
    assert with_times.contexts(1, 2).num_contexts == 1


@pytest.mark.parametrize("count", [0, 6])
def test_a_prefix_outside_the_set_is_refused(count: int) -> None:
    with pytest.raises(ShapeError, match=f"asked for the first {count} of 5 scenarios"):
        make().first(count)


def test_wrong_ranks_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"\(contexts, scenarios, steps, series\)"):
        ScenarioSet(paths=torch.zeros(2, 3, 4), names=("a",), units=("GW",))
    with pytest.raises(ShapeError, match="1 names and 1 units for 2 series"):
        ScenarioSet(paths=torch.zeros(2, 3, 4, 2), names=("a",), units=("GW",))
