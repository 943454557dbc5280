"""How the methods learn on tasks of a few hundred to a few thousand days: one set of settings for all.

Chosen on the validation days of `pjm.py` (see LOG.md) and left alone for the other tasks, whose own
validation days say when to stop.
"""

from __future__ import annotations

from hedgecast.diffusion.denoiser import Denoiser
from hedgecast.diffusion.generator import Generator
from hedgecast.learning.config import LearningConfig

CONFIG = LearningConfig(
    generator=Generator.Config(denoiser=Denoiser.Config(hidden=64, num_blocks=2), sampler_steps=3),
    learning_rate=1e-3,
    epochs=60,
    joint_epochs=6,
    patience=6,
)
