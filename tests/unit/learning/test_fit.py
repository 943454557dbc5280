from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from hedgecast.diffusion.denoiser import Denoiser
from hedgecast.diffusion.generator import Generator
from hedgecast.learning.config import LearningConfig
from hedgecast.learning.fit import Days, History, pretrain, train_jointly
from hedgecast.learning.objective import TaskLoss, noise_matching_loss
from hedgecast.programs.catalog.generation_scheduling import build

CONFIG = LearningConfig(
    generator=Generator.Config(denoiser=Denoiser.Config(hidden=32, num_blocks=2, encoding=8)),
    epochs=30,
    joint_epochs=3,
    batch_days=50,
    samples_per_day=16,
    scenarios=20,
    task_share=0.9,
    ema_decay=0.9,
    smoothing=1e-2,
)


def bimodal(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Days that lie high or low as a whole, which no Gaussian describes."""
    draws = torch.Generator().manual_seed(seed)
    context = torch.randn(rows, 3, dtype=torch.float64, generator=draws)
    sign = torch.where(torch.rand(rows, 1, 1, generator=draws) < 0.5, -2.0, 2.0).double()
    noise = 0.3 * torch.randn(rows, 3, 1, dtype=torch.float64, generator=draws)
    return context, 20 + context[:, :1, None] + sign + noise


def made() -> tuple[Generator, Days, Days]:
    context, targets = bimodal(400, 0)
    model, report = Generator.fitted(CONFIG.generator, context, targets, torch.Generator().manual_seed(1))
    whitened = report.whitened.float()
    new_context, new_targets = bimodal(80, 2)
    with torch.no_grad():
        realized = model.finish(context, whitened.unsqueeze(1))[:, 0]
        validation = Days(new_context, model.whiten(new_context, new_targets), new_targets)
    return model, Days(context, whitened, realized), validation


def loss(model: Generator, days: Days) -> float:
    many = dataclasses.replace(CONFIG, samples_per_day=128)
    with torch.no_grad():
        return float(
            noise_matching_loss(model, days.context, days.whitened, many, torch.Generator().manual_seed(99))
        )


def weights(model: Generator) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.denoiser.state_dict().items()}


def test_pretraining_learns_what_the_gaussian_misses() -> None:
    model, train, validation = made()
    before = loss(model, validation)
    context = validation.context[:40]
    history = History()
    pretrain(model, train, validation, CONFIG, torch.Generator().manual_seed(3), history)
    assert loss(model, validation) < 0.95 * before
    assert 1 + history.noise_losses.index(min(history.noise_losses)) == history.best_epoch
    # The two modes: few days are drawn near their own mean, of a Gaussian a third is.
    with torch.no_grad():
        paths = model.draw(context, 200, torch.Generator().manual_seed(4)).mean(dim=(2, 3)).double()
    middle = (paths - 20 - context[:, :1]).abs() < 0.8
    assert float(middle.double().mean()) < 0.2


def test_weights_that_only_get_worse_are_given_up() -> None:
    model, train, validation = made()
    start = weights(model)
    wild = dataclasses.replace(CONFIG, learning_rate=50.0, patience=2)
    history = History()
    pretrain(model, train, validation, wild, torch.Generator().manual_seed(3), history)
    assert history.best_epoch == 0
    assert len(history.noise_losses) == 2
    assert all(torch.equal(value, start[name]) for name, value in weights(model).items())


def test_the_best_weights_are_kept_not_the_last() -> None:
    model, train, validation = made()
    greedy = dataclasses.replace(CONFIG, learning_rate=2e-2, patience=4, epochs=60)
    history = History()
    pretrain(model, train, validation, greedy, torch.Generator().manual_seed(3), history)
    assert history.best_epoch < len(history.noise_losses)
    # Validation noise comes from the first draw of the generator, 64 samples a day: its loss, recomputed with
    # the weights that were kept, is the best one recorded to the last bit.
    seed = int(torch.randint(2**31, (1,), generator=torch.Generator().manual_seed(3)))
    many = dataclasses.replace(CONFIG, samples_per_day=64)
    with torch.no_grad():
        kept = noise_matching_loss(
            model, validation.context, validation.whitened, many, torch.Generator().manual_seed(seed)
        )
    assert float(kept) == min(history.noise_losses)


def test_one_seed_gives_the_same_weights() -> None:
    runs = []
    for _ in range(2):
        model, train, validation = made()
        short = dataclasses.replace(CONFIG, epochs=2)
        pretrain(model, train, validation, short, torch.Generator().manual_seed(3), History())
        runs.append(weights(model))
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_no_epoch_leaves_the_gaussian() -> None:
    model, train, validation = made()
    start = weights(model)
    pretrain(
        model,
        train,
        validation,
        dataclasses.replace(CONFIG, epochs=0),
        torch.Generator().manual_seed(3),
        History(),
    )
    assert all(torch.equal(value, start[name]) for name, value in weights(model).items())


@pytest.fixture(scope="module")
def task() -> TaskLoss:
    return TaskLoss(build(3, ramp_limit=1e3), smoothing=CONFIG.smoothing)


def test_the_joint_phase_keeps_the_cheapest_weights(task: TaskLoss) -> None:
    model, train, validation = made()
    history, seen = History(), []
    train_jointly(
        model,
        task,
        train,
        validation,
        dataclasses.replace(CONFIG, noise_matching_margin=1.0),
        torch.Generator().manual_seed(5),
        history,
        lambda *event: seen.append(event[:3]),
    )
    assert len(history.task_losses) == len(history.joint_noise_losses) == 4
    assert history.task_losses[history.best_joint_epoch] == min(history.task_losses)
    assert history.best_joint_epoch > 0
    assert history.unsolved == 0
    assert seen == [("joint training", epoch, 3) for epoch in (1, 2, 3)]


def test_a_lower_cost_that_spoils_realism_is_not_kept(task: TaskLoss) -> None:
    model, train, validation = made()
    pretrain(model, train, validation, CONFIG, torch.Generator().manual_seed(3), History())
    start, history = weights(model), History()
    strict = dataclasses.replace(
        CONFIG,
        balance="weighted",
        noise_matching_margin=0.0,
        task_share=1.0,
        joint_learning_rate=0.05,
        joint_epochs=2,
    )
    train_jointly(model, task, train, validation, strict, torch.Generator().manual_seed(5), history)
    assert min(history.joint_noise_losses[1:]) > history.joint_noise_losses[0]
    assert history.best_joint_epoch == 0
    assert all(torch.equal(value, start[name]) for name, value in weights(model).items())
