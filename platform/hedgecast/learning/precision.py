"""In which type the network multiplies while it is trained.

Only the denoiser's products change: weights, statistics, the solve and every sum over days stay as they
are, and what leaves the network has the type of what entered it.
"""

from __future__ import annotations

import torch

from hedgecast.core.errors import ConfigError
from hedgecast.learning.config import LearningConfig


def product_type(config: LearningConfig, device: torch.device) -> torch.dtype | None:
    """bfloat16 where ``config.precision`` and ``device`` have it; None: the type of the weights.

    Raises
    ------
    ConfigError
        bfloat16 is asked for on a GPU without it.
    """
    if config.precision == "float32":
        return None
    if device.type == "cpu":
        return torch.bfloat16 if config.precision == "bfloat16" else None
    supported = torch.cuda.is_bf16_supported(including_emulation=False)
    if config.precision == "bfloat16" and not supported:
        raise ConfigError(
            f"learning.precision = 'bfloat16': {torch.cuda.get_device_name(device)} has no such products; "
            "use float32 or auto",
            key="learning.precision",
        )
    return torch.bfloat16 if supported else None


def describe(dtype: torch.dtype | None, device: torch.device) -> str:
    """What is multiplied in, and where that is slow, for a line of progress."""
    if dtype is None:
        return "float32"
    fast = device.type != "cpu" or torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return "bfloat16" if fast else "bfloat16, for which this CPU has no instructions: float32 is faster"
