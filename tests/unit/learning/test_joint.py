from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from hedgecast.diffusion.denoiser import Denoiser
from hedgecast.diffusion.generator import Generator
from hedgecast.learning.budget import Budget, Realism, energy_score
from hedgecast.learning.config import LearningConfig
from hedgecast.learning.draws import Draws
from hedgecast.learning.estimators.seam import Scene
from hedgecast.learning.joint import JointPhase, path_scores
from hedgecast.learning.objective import Noising, TaskLoss, noise_matching_by_day
from hedgecast.learning.parallel import ALONE
from hedgecast.programs.catalog.generation_scheduling import build

CONFIG = LearningConfig(
    generator=Generator.Config(denoiser=Denoiser.Config(hidden=16, num_blocks=1, encoding=8)),
    samples_per_day=8,
)
DAYS = 10


def vectors(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def model() -> Generator:
    context = vectors(200, 3, seed=0)
    targets = 20 + context[:, :1, None] + vectors(200, 4, 1, seed=1)
    made, _ = Generator.fitted(CONFIG.generator, context, targets, torch.Generator().manual_seed(2))
    return made


@pytest.fixture(scope="module")
def task() -> TaskLoss:
    return TaskLoss(build(4, ramp_limit=1e3), smoothing=1e-2)


def scene(seed: int = 3) -> Scene:
    whitened = vectors(DAYS, 4, seed=5).float()
    return Scene(
        context=vectors(DAYS, 3, seed=4),
        whitened=whitened,
        realized=20 + vectors(DAYS, 4, 1, seed=6),
        weight=None,
        draws=Draws(torch.Generator().manual_seed(seed), DAYS, whitened),
    )


def judged(joint: JointPhase, model: Generator) -> Realism:
    here = scene()
    noising = Noising.drawn(here.draws, model.dim, CONFIG)
    loss = noise_matching_by_day(model, here.context, here.whitened, noising).mean()
    return joint.realism(model, here, noising, float(loss.detach()), ALONE)[0]


def test_the_pretrained_model_is_as_real_as_itself(model: Generator, task: TaskLoss) -> None:
    found = judged(JointPhase(model, task, CONFIG), model)
    for value in dataclasses.astuple(found):
        assert value == pytest.approx(1.0, abs=1e-6)


def test_the_pretrained_model_is_kept_when_the_model_moves(model: Generator, task: TaskLoss) -> None:
    joint = JointPhase(model, task, CONFIG)
    with torch.no_grad():
        # The velocity of scenarios that shrink: F = c x.
        model.denoiser.exit.weight.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(1))
        model.denoiser.exit.bias.fill_(1.0)
    found = judged(joint, model)
    assert found.noise_ratio > 1.2
    assert found.score_ratio > 1.02
    assert not joint.acceptable(found)
    assert all(not parameter.requires_grad for parameter in joint.pretrained.parameters())


def test_a_saved_phase_goes_on_against_the_same_model(model: Generator, task: TaskLoss) -> None:
    joint = JointPhase(model, task, CONFIG)
    joint.take_in(Realism(noise_ratio=1.0, score_ratio=1.0, diversity=1.0))
    assert isinstance(joint.balance, Budget)
    over = Realism(noise_ratio=1.2, score_ratio=1.0, diversity=1.0)
    joint.balance.shares(over, 0.0, lambda: 0.0)
    with torch.no_grad():
        model.denoiser.exit.bias.fill_(1.0)
    later = JointPhase(model, task, CONFIG)
    later.load_state_dict(joint.state_dict())
    assert judged(later, model) == judged(joint, model)
    assert isinstance(later.balance, Budget)
    assert later.balance.shares(over, 0.0, lambda: 0.0) == joint.balance.shares(over, 0.0, lambda: 0.0)


def scored(joint: JointPhase, model: Generator) -> tuple[Tensor, int]:
    """The energy score of a step, and how many numbers its graph keeps."""
    here, kept = scene(), 0

    def pack(values: Tensor) -> Tensor:
        nonlocal kept
        kept += values.numel()
        return values

    noising = Noising.drawn(here.draws, model.dim, CONFIG)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda values: values):
        _, score = joint.realism(model, here, noising, 1.0, ALONE)
    return score, kept


def test_the_score_keeps_the_memory_of_one_step_where_steps_are_checkpointed(task: TaskLoss) -> None:
    steps = 12
    generator = dataclasses.replace(CONFIG.generator, sampler="ddim", sampler_steps=steps)
    config = dataclasses.replace(CONFIG, generator=generator, grad_steps=steps)
    context = vectors(200, 3, seed=0)
    targets = 20 + context[:, :1, None] + vectors(200, 4, 1, seed=1)
    model, _ = Generator.fitted(generator, context, targets, torch.Generator().manual_seed(2))
    found = {}
    for checkpointed in (False, True):
        joint = JointPhase(model, task, dataclasses.replace(config, checkpointed=checkpointed))
        score, kept = scored(joint, model)
        slopes = torch.autograd.grad(score, list(model.denoiser.parameters()), allow_unused=True)
        found[checkpointed] = (score.detach(), slopes, kept)
    (score, slopes, whole), (again, recomputed, few) = found[False], found[True]
    assert torch.equal(score, again)
    for slope, other in zip(slopes, recomputed, strict=True):
        torch.testing.assert_close(slope, other)
    assert few < whole / 3


def test_a_fixed_share_keeps_no_graph_of_the_score(model: Generator, task: TaskLoss) -> None:
    score, kept = scored(JointPhase(model, task, dataclasses.replace(CONFIG, balance="weighted")), model)
    held, more = scored(JointPhase(model, task, CONFIG), model)
    assert not score.requires_grad
    assert kept == 0 < more
    assert torch.equal(score, held.detach())


def test_norms_are_averaged_as_the_configuration_says_and_saved(model: Generator, task: TaskLoss) -> None:
    config = dataclasses.replace(CONFIG, norm_decay=0.75)
    joint = JointPhase(model, task, config)
    joint.norms.take_in(1, 4.0)
    later = JointPhase(model, task, config)
    later.load_state_dict(joint.state_dict())
    # (0.75 * 0.25 * 4 + 0.25 * 8) / (0.75 * 0.25 + 0.25)
    assert later.norms.take_in(1, 8.0) == pytest.approx(2.75 / 0.4375)
    assert JointPhase(model, task, CONFIG).norms.take_in(1, 8.0) == 8.0


@pytest.mark.parametrize(
    ("noise_ratio", "score_ratio", "kept"),
    [(1.04, 1.01, True), (0.9, 0.9, True), (1.06, 1.0, False), (1.0, 1.03, False)],
)
def test_both_margins_must_hold(
    model: Generator, task: TaskLoss, noise_ratio: float, score_ratio: float, kept: bool
) -> None:
    found = Realism(noise_ratio=noise_ratio, score_ratio=score_ratio, diversity=1.0)
    assert JointPhase(model, task, CONFIG).acceptable(found) is kept


def test_scores_do_not_depend_on_the_unit(model: Generator) -> None:
    context, noise = vectors(DAYS, 3, seed=4), vectors(DAYS, 6, 4, seed=7).float()
    realized = 20 + vectors(DAYS, 4, 1, seed=6)
    score, spread = path_scores(model, context, realized, noise)
    thousandfold, _ = Generator.fitted(
        CONFIG.generator,
        vectors(200, 3, seed=0),
        1000 * (20 + vectors(200, 3, seed=0)[:, :1, None] + vectors(200, 4, 1, seed=1)),
        torch.Generator().manual_seed(2),
    )
    scaled, apart = path_scores(thousandfold, context, 1000 * realized, noise)
    assert float(scaled.detach()) == pytest.approx(float(score.detach()), rel=1e-3)
    assert float(apart.detach()) == pytest.approx(float(spread.detach()), rel=1e-3)
    # By hand: distances over the size of the day's residuals in each slot.
    whitening = model.whitening
    scale = whitening.size(whitening.standardized(context.float())) * whitening.scale
    paths = model.sample(context, noise)[..., 0] / scale.unsqueeze(1)
    expected, _ = energy_score(paths, realized[..., 0].float() / scale)
    torch.testing.assert_close(score, expected.mean())


def test_only_decision_weights_need_the_days(model: Generator, task: TaskLoss) -> None:
    context, whitened = vectors(DAYS, 3, seed=4), vectors(DAYS, 4, seed=5).float()
    draws = torch.Generator().manual_seed(0)
    assert JointPhase(model, task, CONFIG).day_weights(context, whitened, draws) is None
    weighted = dataclasses.replace(CONFIG, estimator="decision-weighted")
    found = JointPhase(model, task, weighted).day_weights(context, whitened, draws)
    assert found is not None
    assert float(found.mean()) == pytest.approx(1.0, rel=1e-5)
    assert float(found.std()) > 0.1
