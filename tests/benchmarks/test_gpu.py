"""What the benchmark of a GPU compares, on the CPU: there the same scenarios are the same bits."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from hedgecast.data.features import features
from hedgecast.testing import TinyModel

ROOT = Path(__file__).parents[2]


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    path = ROOT / "benchmarks" / "gpu" / "draws.py"
    spec = importlib.util.spec_from_file_location("gpu_draws", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Its dataclasses look themselves up.
    monkeypatch.setitem(sys.modules, "gpu_draws", module)
    spec.loader.exec_module(module)
    for name, value in {"SIZES": (1, 64), "SESSIONS": (1, 2), "ROUNDS": 1}.items():
        monkeypatch.setattr(module, name, value)
    return module


def test_a_machine_without_a_gpu_is_not_measured_as_one(
    draws: ModuleType, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draws.onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    context = features(tiny.split.test)[:1]
    with pytest.raises(RuntimeError, match="no CUDAExecutionProvider: install onnxruntime-gpu"):
        draws.Network.of(tiny.bundle.folder, context, draws.cuda())


def test_the_same_network_has_the_same_bits_and_no_error(
    draws: ModuleType, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draws, "cuda", lambda **_: draws.CPU)
    folders = dict.fromkeys(("float32", "float16", "bfloat16"), tiny.bundle.folder)
    found = draws.measured(folders, features(tiny.split.test)[:1])
    assert set(found["errors"]) == {"float32", "float32, tf32", "float16", "bfloat16"}
    assert all(set(error.values()) == {0.0} for error in found["errors"].values())
    assert all(all(value is True for value in list(bits.values())[:3]) for bits in found["bits"].values())
    assert all(bits["relative_difference"] == 0.0 for bits in found["bits"].values())
    assert set(found["rates"]["float16"]) == {"1", "64"}
    assert all(seconds > 0 for rates in found["rates"].values() for seconds in rates.values())
    assert all(rate > 0 for rates in found["sessions"].values() for rate in rates.values())
    assert found["generator"]["num_slots"] == 24


def test_errors_are_those_of_values_and_bits_those_of_rows(
    draws: ModuleType, tiny: TinyModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = draws.Network.of(tiny.bundle.folder, features(tiny.split.test)[:1], draws.CPU)

    class Wrong(draws.Network):  # type: ignore[misc, name-defined]
        """Off by a hundredth where rows are many."""

        def __call__(self, noise: np.ndarray) -> np.ndarray:
            return super().__call__(noise) * (1.01 if noise.shape[1] > 2000 else 1.0)

    wrong = Wrong(right.bundle, right.session, right.context)
    assert 0.01 < draws._error(wrong, right)["relative_error"] < 0.05
    bits = draws._bits(wrong)
    assert (bits["again"], bits["any_rows"], bits["equal_rows"]) == (True, False, True)
    assert 0.01 < bits["relative_difference"] < 0.05
