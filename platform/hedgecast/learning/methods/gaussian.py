"""Conditional Gaussian scenarios: by maximum likelihood, and trained on through the decision.

    L = mean over days of  sum_d  s_d + (e_d - m_d)^2 / (2 exp(2 s_d))                   (1)

with m, s of the network and e the whitened day. The second method goes on from there on the cost of the
decision that its reparameterized scenarios induce, and on nothing else.

Source: Nix and Weigend (1994), eq. 5, https://doi.org/10.1109/ICNN.1994.374138; through the decision, Donti,
Amos and Kolter (2017), section 3, https://arxiv.org/abs/1703.04529.
"""

from __future__ import annotations

import copy
import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from hedgecast.diffusion.noise import day_numbers, scenario_noise
from hedgecast.learning.config import LearningConfig
from hedgecast.learning.fit import Progress
from hedgecast.learning.methods.method import scenario_set
from hedgecast.learning.methods.residual_network import Lessons, ResidualNetwork, fitted_network
from hedgecast.learning.methods.training import Curve, Phase, cost_of_days, train_network, validation_cost
from hedgecast.learning.objective import TaskLoss
from hedgecast.learning.part import Part
from hedgecast.programs.program import TwoStageProgram
from hedgecast.scenarios.scenario_set import ScenarioSet

VALIDATION_SCENARIOS = 200
"""Of each validation day, the same at every epoch."""


@dataclasses.dataclass(frozen=True, slots=True)
class Gaussian:
    """A trained conditional Gaussian."""

    network: ResidualNetwork
    curve: Curve
    name: str

    def scenarios(self, part: Part, count: int, seed: int) -> ScenarioSet:
        """``count`` scenarios of each day; scenario i depends on seed, day and i alone."""
        noise = torch.from_numpy(scenario_noise(seed, day_numbers(part.days), count, part.dim))
        with torch.no_grad():
            paths = self.network.paths(part.context, noise)
        return scenario_set(paths.flatten(2).double(), part, self.name, seed)


def negative_log_likelihood(
    shift: Float[Tensor, "B D"], log_scale: Float[Tensor, "B D"], whitened: Float[Tensor, "B D"]
) -> Float[Tensor, ""]:
    """Equation (1), without its constant."""
    return (log_scale + 0.5 * ((whitened - shift) * torch.exp(-log_scale)) ** 2).sum(dim=1).mean()


def fit_gaussian(
    train: Part,
    validation: Part,
    config: LearningConfig,
    program: TwoStageProgram | None,
    progress: Progress | None = None,
) -> dict[str, Gaussian]:
    """``gaussian``, and ``dfl-gaussian`` where ``program`` is given."""
    draws = torch.Generator().manual_seed(config.seed)
    network, lessons = fitted_network(config.generator, train, validation, draws)
    curve = train_network(
        network,
        lambda rows: negative_log_likelihood(*network.law(lessons.context[rows]), lessons.whitened[rows]),
        lambda found: _likelihood_score(found, lessons),
        phase=Phase(name="likelihood", epochs=config.epochs, rate=config.learning_rate),
        config=config,
        num_days=len(train),
        generator=draws,
        progress=progress,
    )
    fitted = {"gaussian": Gaussian(copy.deepcopy(network), curve, "gaussian")}
    if program is not None:
        task = TaskLoss(program, smoothing=config.smoothing)
        curve = _train_through(network, task, lessons, config, draws, progress)
        fitted["dfl-gaussian"] = Gaussian(network, curve, "dfl-gaussian")
    return fitted


def _train_through(
    network: ResidualNetwork,
    task: TaskLoss,
    lessons: Lessons,
    config: LearningConfig,
    draws: torch.Generator,
    progress: Progress | None,
) -> Curve:
    validation = lessons.validation
    fixed = torch.randn(len(validation), VALIDATION_SCENARIOS, validation.dim, generator=draws)

    def loss(rows: Tensor) -> Tensor:
        noise = torch.randn(len(rows), config.scenarios, validation.dim, generator=draws)
        paths = network.paths(lessons.context[rows], noise)
        return cost_of_days(task, paths, lessons.realized[rows], config)

    def score(found: ResidualNetwork) -> float:
        return validation_cost(
            task,
            lambda rows: found.paths(validation.context[rows], fixed[rows]),
            validation.targets,
            config,
        )

    return train_network(
        network,
        loss,
        score,
        phase=Phase(name="through the decision", epochs=config.joint_epochs, rate=config.joint_learning_rate),
        config=config,
        num_days=len(lessons.context),
        generator=draws,
        progress=progress,
    )


@torch.no_grad()
def _likelihood_score(network: ResidualNetwork, lessons: Lessons) -> float:
    law = network.law(lessons.validation.context)
    return float(negative_log_likelihood(*law, lessons.validation_whitened))
