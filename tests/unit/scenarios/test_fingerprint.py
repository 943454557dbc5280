import numpy as np
import torch

from hedgecast.scenarios.fingerprint import RunningFingerprint
from hedgecast.scenarios.scenario_set import ScenarioSet


def test_blocks_of_any_size_give_the_fingerprint_of_the_set() -> None:
    paths = np.random.default_rng(0).normal(size=(1, 10, 4, 2)).astype(np.float32)
    times = np.arange(4).reshape(1, 4).astype("datetime64[h]")
    whole = ScenarioSet(
        paths=torch.from_numpy(paths), names=("a", "b"), units=("GW", ""), times=times
    ).fingerprint()
    for size in (1, 3, 10):
        running = RunningFingerprint((1, 10, 4, 2), ("a", "b"), ("GW", ""), times)
        for start in range(0, 10, size):
            running.update(paths[0, start : start + size])
        assert running.hexdigest() == whole
    other = RunningFingerprint((1, 10, 4, 2), ("a", "b"), ("GW", ""), times)
    other.update(paths[0, ::-1])
    assert other.hexdigest() != whole
