"""A generative network of one pass, trained on the energy score.

    e = z - (pi/2) F(z | x),    z ~ N(0, I)                                              (1)
    ES = E |e - e*| - 1/2 E |e - e'|                                                     (2)

(1) is the diffusion model's own network in a single Euler step, so sizes, statistics and what is exported
are the same; F starts at zero, where scenarios are Gaussian. (2) is a strictly proper score of the whitened
day e*, estimated without bias from the pairs of a day's scenarios; no density and no adversary is needed.

Source: Gneiting and Raftery (2007), eq. 22, https://doi.org/10.1198/016214506000001437; as a training loss,
Pacchiardi et al. (2024), section 3, https://arxiv.org/abs/2112.08217.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from hedgecast.diffusion.generator import Generator
from hedgecast.diffusion.schedule import END_TIME
from hedgecast.learning.budget import energy_score
from hedgecast.learning.config import LearningConfig
from hedgecast.learning.fit import Progress
from hedgecast.learning.methods.diffusion import drawn
from hedgecast.learning.methods.training import Curve, Phase, train_network
from hedgecast.learning.part import Part
from hedgecast.scenarios.scenario_set import ScenarioSet

_VALIDATION_SCENARIOS = 64


@dataclasses.dataclass(frozen=True, slots=True)
class ScoringRule:
    """A trained one-pass generator."""

    generator: Generator
    curve: Curve
    name: str = "scoring-rule"

    def scenarios(self, part: Part, count: int, seed: int) -> ScenarioSet:
        """``count`` scenarios of each day; scenario i depends on seed, day and i alone."""
        return drawn(self.generator, part, count, seed, self.name)


def fit_scoring_rule(
    train: Part,
    validation: Part,
    config: LearningConfig,
    progress: Progress | None = None,
) -> ScoringRule:
    """The network with the least validation energy score."""
    draws = torch.Generator().manual_seed(config.seed)
    one_pass = dataclasses.replace(config.generator, sampler="euler", sampler_steps=1)
    model, report = Generator.fitted(one_pass, train.context, train.targets, draws, spread=train.spread())
    whitened = report.whitened.float()
    with torch.no_grad():
        validation_whitened = model.whiten(validation.context, validation.targets)
    fixed = torch.randn(len(validation), _VALIDATION_SCENARIOS, model.dim, generator=draws)
    count = max(config.samples_per_day, 2)

    def loss(rows: Tensor) -> Tensor:
        noise = torch.randn(len(rows), count, model.dim, generator=draws)
        return energy_score(_pass(model, train.context[rows], noise), whitened[rows])[0].mean()

    @torch.no_grad()
    def score(found: Generator) -> float:
        return float(energy_score(_pass(found, validation.context, fixed), validation_whitened)[0].mean())

    curve = train_network(
        model,
        loss,
        score,
        phase=Phase(name="energy score", epochs=config.epochs, rate=config.learning_rate),
        config=config,
        num_days=len(train),
        generator=draws,
        progress=progress,
    )
    return ScoringRule(model, curve)


def _pass(model: Generator, context: Tensor, noise: Tensor) -> Tensor:
    """Equation (1): whitened residuals."""
    return model.denoise_step(context, noise, torch.tensor(END_TIME), torch.tensor(0.0))
