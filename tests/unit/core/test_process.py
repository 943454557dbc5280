from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from hedgecast.core.process import peak_memory_mib

_CHILD = "from hedgecast.core.process import peak_memory_mib; print(peak_memory_mib())"


def test_the_peak_stays_when_memory_is_given_back() -> None:
    before = peak_memory_mib()
    block = np.ones(int((before + 64) * 2**17))
    held = peak_memory_mib()
    assert held > before + 64
    del block
    assert peak_memory_mib() == pytest.approx(held, rel=0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts it apart")
def test_a_small_child_of_a_large_parent_reads_small() -> None:
    block = np.ones(400 * 2**17)
    child = subprocess.run([sys.executable, "-c", _CHILD], capture_output=True, text=True, check=True)
    assert float(child.stdout) < 200 < block.nbytes / 2**20
