"""What this process has used."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


def peak_memory_mib() -> float:
    """Largest resident size of this process so far, MiB.

    Notes
    -----
    On Linux this is VmHWM. The ru_maxrss of getrusage is not: a child starts with the peak of the process
    that started it (exec keeps the larger of the two), so a small child of a large parent reads large.
    """
    if _STATUS.exists():
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes, others KiB.
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
