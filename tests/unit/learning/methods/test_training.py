from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from hedgecast.learning.config import LearningConfig
from hedgecast.learning.methods.training import Curve, Phase, train_network


def regression(config: LearningConfig, rate: float, epochs: int, seed: int = 0) -> tuple[nn.Linear, Curve]:
    """y = 2 x fitted by least squares; the score is the squared error of the weight."""
    network = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    nn.init.zeros_(network.weight)
    x = torch.randn(200, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(5))

    def loss(rows: Tensor) -> Tensor:
        return (network(x[rows]) - 2 * x[rows]).square().mean()

    def score(found: nn.Linear) -> float:
        return float((found.weight.detach() - 2).square())

    curve = train_network(
        network,
        loss,
        score,
        phase=Phase(name="fit", epochs=epochs, rate=rate),
        config=dataclasses.replace(config, weight_decay=0.0),
        num_days=200,
        generator=torch.Generator().manual_seed(seed),
    )
    return network, curve


def test_least_squares_are_found(small: LearningConfig) -> None:
    network, curve = regression(small, 0.05, 60)
    assert abs(float(network.weight.detach()) - 2) < 0.02
    assert curve.scores[0] == 4.0


def test_the_best_weights_are_left_not_the_last(small: LearningConfig) -> None:
    # So fast that it shoots past the answer and swings.
    network, curve = regression(small, 2.0, 30)
    assert 0 < curve.best_epoch < len(curve.scores) - 1
    assert (
        float((network.weight.detach() - 2).square()) == min(curve.scores) == curve.scores[curve.best_epoch]
    )


def test_weights_that_only_get_worse_are_given_up(small: LearningConfig) -> None:
    network, curve = regression(dataclasses.replace(small, patience=3), 1e4, 30)
    assert (curve.best_epoch, len(curve.scores)) == (0, 4)
    assert float(network.weight.detach()) == 0.0


def test_no_epoch_changes_nothing(small: LearningConfig) -> None:
    network, curve = regression(small, 0.1, 0)
    assert curve == Curve((4.0,), 0)
    assert float(network.weight.detach()) == 0.0


def test_one_seed_gives_the_same_curve(small: LearningConfig) -> None:
    assert regression(small, 0.05, 5)[1] == regression(small, 0.05, 5)[1]
    assert regression(small, 0.05, 5)[1] != regression(small, 0.05, 5, seed=1)[1]


def test_the_rate_follows_the_schedule_of_the_configuration(small: LearningConfig) -> None:
    # Two steps of the first epoch warm up from a rate that is a hundredth of the largest.
    slow = dataclasses.replace(small, warmup_steps=100)
    first = [abs(score - 4.0) for score in (regression(c, 0.05, 1)[1].scores[1] for c in (small, slow))]
    assert first[1] < 0.1 * first[0]
