"""The joint phase's own state: an estimator, a balance, and the pretrained model it is measured against.

Whoever trains makes one `JointPhase` of the pretrained model, hands it to every `training_step`, and keeps
its ``state_dict`` in checkpoints: the multipliers and the pretrained weights are in it.
"""

from __future__ import annotations

import copy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hedgecast.diffusion.generator import Generator
from hedgecast.learning.budget import Budget, NormAverages, Realism, Weighted, energy_score
from hedgecast.learning.config import LearningConfig
from hedgecast.learning.estimators.decision_weighted import decision_weights
from hedgecast.learning.estimators.registry import estimator
from hedgecast.learning.estimators.seam import Scene
from hedgecast.learning.objective import Noising, TaskLoss, noise_matching_by_day
from hedgecast.learning.parallel import Workers


class JointPhase(nn.Module):
    """What a joint step needs beside the model and its days.

    Parameters
    ----------
    model : Generator
        Pretrained; copied.
    task : TaskLoss
    config : LearningConfig
    """

    def __init__(self, model: Generator, task: TaskLoss, config: LearningConfig) -> None:
        super().__init__()
        self.config = config
        self.task = task
        self.pretrained = copy.deepcopy(model).requires_grad_(False)
        self.estimator = estimator(config)
        self.balance: Budget | Weighted
        if config.balance == "budget":
            self.balance = Budget(config.budget, noise_margin=config.noise_matching_margin)
        else:
            self.balance = Weighted(config.task_share)
        self.norms = NormAverages(config.norm_decay)

    def realism(
        self, model: Generator, scene: Scene, noising: Noising, noise_loss: float, workers: Workers
    ) -> tuple[Realism, Tensor]:
        """How ``model`` stands to the pretrained one, and its energy score, with a graph for a budget alone.

        Parameters
        ----------
        model : Generator
        scene : Scene
        noising : Noising
            What ``noise_loss`` was computed on.
        noise_loss : float
            Of ``model``, over all workers.
        workers : Workers
        """
        noise = scene.draws.normal(self.config.budget.score_scenarios, model.dim)
        with torch.no_grad():
            earlier = noise_matching_by_day(self.pretrained, scene.context, scene.whitened, noising).mean()
            score_before, spread_before = path_scores(self.pretrained, scene.context, scene.realized, noise)
        # A fixed share has no use for the slope of the score: no graph is kept for it.
        with torch.set_grad_enabled(isinstance(self.balance, Budget)):
            score, spread = path_scores(
                model,
                scene.context,
                scene.realized,
                noise,
                grad_steps=self.config.grad_steps,
                checkpointed=self.config.checkpointed,
            )
        values = torch.stack([earlier, score_before, score.detach(), spread_before, spread.detach()])
        (means,) = workers.sum([scene.draws.share * values.double()])
        noise_before, energy_before, energy, apart_before, apart = means.tolist()
        found = Realism(
            noise_ratio=noise_loss / noise_before,
            score_ratio=energy / energy_before,
            diversity=apart / apart_before,
        )
        return found, score

    def acceptable(self, realism: Realism) -> bool:
        """Whether both constraints hold on days that were not trained on."""
        noise_margin, score_margin = self.config.noise_matching_margin, self.config.budget.score_margin
        return realism.noise_ratio <= 1.0 + noise_margin and realism.score_ratio <= 1.0 + score_margin

    def take_in(self, realism: Realism) -> None:
        """Let the budget know how real scenarios are on validation days; a fixed share does not listen."""
        if isinstance(self.balance, Budget):
            self.balance.take_in(realism)

    def day_weights(self, context: Tensor, whitened: Tensor, generator: torch.Generator) -> Tensor | None:
        """(B,) what `Batch.weight` must hold of all training days; None where the estimator needs none."""
        if self.config.estimator != "decision-weighted":
            return None
        return decision_weights(
            self.pretrained,
            self.task.program,
            context,
            whitened,
            strength=self.config.decision_weight,
            scenarios=self.config.scenarios,
            generator=generator,
        )


def path_scores(
    model: Generator,
    context: Float[Tensor, "B C"],
    realized: Float[Tensor, "B T F"],
    noise: Float[Tensor, "B S D"],
    *,
    grad_steps: int | None = None,
    checkpointed: bool = False,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean energy score and spread over some days, each slot in the size of its residuals on the day.

    Parameters
    ----------
    model : Generator
    context, realized : Tensor
        The days.
    noise : Tensor
        Of the scenarios.
    grad_steps, checkpointed
        As in `Generator.sample`.
    """
    paths = model.sample(context, noise, grad_steps=grad_steps, checkpointed=checkpointed)
    whitening = model.whitening
    size = whitening.size(whitening.standardized(context.to(whitening.factor)))
    scale = size * whitening.scale
    score, spread = energy_score(paths.flatten(2) / scale.unsqueeze(1), realized.flatten(1).to(paths) / scale)
    return score.mean(), spread.mean()
