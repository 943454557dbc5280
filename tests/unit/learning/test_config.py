from __future__ import annotations

import pytest

from hedgecast.core.errors import ConfigError
from hedgecast.learning.config import LearningConfig


def test_plain_values_make_an_equal_record() -> None:
    config = LearningConfig.from_dict({"epochs": 3, "generator": {"denoiser": {"hidden": 32}}})
    assert LearningConfig.from_dict(config.to_dict()) == config
    assert config.generator.denoiser.hidden == 32


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("scenarios", 0, "at least 1"),
        ("grad_steps", 0, "at least 1"),
        ("drawn", -50, "0 or a multiple of learning.scenarios = 50"),
        ("drawn", 75, "0 or a multiple of learning.scenarios = 50"),
        ("epochs", -1, "not be negative"),
        ("task_share", 1.5, r"lie in \[0, 1\]"),
        ("ema_decay", -0.1, r"lie in \[0, 1\]"),
        ("learning_rate", 0.0, "positive"),
        ("noise_log_std", float("nan"), "positive"),
        ("smoothing", -1.0, "not be negative"),
    ],
)
def test_an_impossible_value_is_refused_by_name(key: str, value: float, rule: str) -> None:
    with pytest.raises(ConfigError, match=rf"learning\.{key} = .*{rule}"):
        LearningConfig.from_dict({key: value})


def test_an_unknown_key_gets_the_nearest_known_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'joint_epochs'"):
        LearningConfig.from_dict({"joint_epoch": 3})
