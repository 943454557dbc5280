from __future__ import annotations

from typing import Any

import pytest

from hedgecast.core.errors import ConfigError
from hedgecast.learning.config import LearningConfig
from hedgecast.learning.tuning import DEFAULT_SPACE, Range, TuneConfig, value_of, with_values


def test_the_default_space_holds_the_defaults() -> None:
    own = LearningConfig()
    for key, dimension in TuneConfig().dimensions().items():
        value = value_of(own, key)
        if isinstance(dimension, Range):
            assert dimension.low <= value <= dimension.high
        else:
            assert value in dimension
    assert set(TuneConfig().space) == set(DEFAULT_SPACE)


def test_values_go_to_dotted_keys_and_nowhere_else() -> None:
    config = with_values(LearningConfig(), {"generator.denoiser.hidden": 32, "weight_decay": 0.2})
    assert (config.generator.denoiser.hidden, config.weight_decay) == (32, 0.2)
    assert value_of(config, "generator.denoiser.hidden") == 32
    back = with_values(config, {"generator.denoiser.hidden": 128, "weight_decay": 0.05})
    assert back == LearningConfig()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"trials": 0}, "tune.trials = 0"),
        ({"reduction": 1}, "tune.reduction = 1: must be at least 2"),
        ({"space": {}}, "name at least one key"),
        ({"space": {"learning_rat": [1e-3]}}, "did you mean 'learning_rate'"),
        ({"space": {"learning_rate": [1e-3, -1.0]}}, "learning_rate = -1.0: must be positive"),
        ({"space": {"learning_rate": {"low": 1e-2, "high": 1e-3}}}, "low must be smaller"),
        ({"space": {"noise_log_mean": {"low": -1.0, "high": 1.0, "log": True}}}, "needs a positive one"),
        ({"space": {"learning_rate": {"low": 1e-3, "hi": 1.0}}}, r"tune\.space\.learning_rate\.hi"),
        ({"space": {"learning_rate": []}}, "must be a list of values or a table"),
        # A range draws numbers between integers.
        ({"space": {"scenarios": {"low": 10.5, "high": 100.0}}}, "scenarios = 10.5 is a float"),
        ({"space": {"seed.deep": [1]}}, "seed is a value, not a table"),
    ],
)
def test_an_impossible_search_is_refused_before_it_starts(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TuneConfig.from_dict(table)
