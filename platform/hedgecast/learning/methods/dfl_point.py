"""Deterministic decision-focused learning: one scenario, trained on the cost of its decision.

    min over weights of  E f(y, z*(m(x))),    z*(m) = argmin_z f(m, z)                   (1)

The one scenario is whatever makes a good decision; it is no forecast of the day. The network starts at the
ridge mean. A step solves one scenario a day, fifty times less than a step with scenarios, so it may
train as long as a pretraining does.

Source: Donti, Amos and Kolter (2017), section 3, https://arxiv.org/abs/1703.04529.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from hedgecast.learning.config import LearningConfig
from hedgecast.learning.fit import Progress
from hedgecast.learning.methods.method import scenario_set
from hedgecast.learning.methods.residual_network import ResidualNetwork, fitted_network
from hedgecast.learning.methods.training import Curve, Phase, cost_of_days, train_network, validation_cost
from hedgecast.learning.objective import TaskLoss
from hedgecast.learning.part import Part
from hedgecast.programs.program import TwoStageProgram
from hedgecast.scenarios.scenario_set import ScenarioSet


@dataclasses.dataclass(frozen=True, slots=True)
class DflPoint:
    """One scenario a day, trained on what its decision costs."""

    network: ResidualNetwork
    curve: Curve
    name: str = "dfl-point"

    def scenarios(self, part: Part, count: int, seed: int) -> ScenarioSet:
        """The one scenario, whatever ``count`` and ``seed``."""
        del count, seed
        with torch.no_grad():
            paths = _single(self.network, part.context)
        return scenario_set(paths.flatten(2).double(), part, self.name, None)


def fit_dfl_point(
    train: Part,
    validation: Part,
    config: LearningConfig,
    program: TwoStageProgram,
    progress: Progress | None = None,
) -> DflPoint:
    """The network with the least validation cost."""
    draws = torch.Generator().manual_seed(config.seed)
    network, lessons = fitted_network(config.generator, train, validation, draws)
    task = TaskLoss(program, smoothing=config.smoothing)

    def loss(rows: Tensor) -> Tensor:
        return cost_of_days(task, _single(network, lessons.context[rows]), lessons.realized[rows], config)

    def score(found: ResidualNetwork) -> float:
        return validation_cost(
            task, lambda rows: _single(found, validation.context[rows]), validation.targets, config
        )

    curve = train_network(
        network,
        loss,
        score,
        phase=Phase(name="through the decision", epochs=config.epochs, rate=config.learning_rate),
        config=config,
        num_days=len(train),
        generator=draws,
        progress=progress,
    )
    return DflPoint(network, curve)


def _single(network: ResidualNetwork, context: Tensor) -> Tensor:
    """(B, 1, T, F) the network's center in units."""
    return network.paths(context, torch.zeros(len(context), 1, len(network.whitening.factor)))
