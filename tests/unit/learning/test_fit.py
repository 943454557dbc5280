from __future__ import annotations

import dataclasses
import io
from typing import Any

import pytest
import torch
from torch import Tensor

from hedgecast.diffusion.denoiser import Denoiser
from hedgecast.diffusion.generator import Generator
from hedgecast.learning.config import LearningConfig
from hedgecast.learning.fit import JOINT, PRETRAINING, Fit, Fitted, Job, Weights, train_here
from hedgecast.learning.objective import noise_matching_loss
from hedgecast.learning.validation import Days
from hedgecast.programs.catalog.generation_scheduling import build
from hedgecast.programs.program import TwoStageProgram

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


def made(program: TwoStageProgram | None = None, rows: int = 400, **changes: Any) -> Job:
    context, targets = bimodal(rows, 0)
    model, report = Generator.fitted(CONFIG.generator, context, targets, torch.Generator().manual_seed(1))
    whitened = report.whitened.float()
    new_context, new_targets = bimodal(rows // 5, 2)
    with torch.no_grad():
        realized = model.finish(context, whitened.unsqueeze(1))[:, 0]
        validation = Days(new_context, model.whiten(new_context, new_targets), new_targets)
    return Job(
        model=model,
        train=Days(context, whitened, realized),
        validation=validation,
        config=dataclasses.replace(CONFIG, **changes),
        generator=torch.Generator().manual_seed(3),
        program=program,
    )


def loss(job: Job, weights: Weights, samples: int = 128, seed: int = 99) -> float:
    job.model.denoiser.load_state_dict(weights)
    many = dataclasses.replace(CONFIG, samples_per_day=samples)
    days, draws = job.validation, torch.Generator().manual_seed(seed)
    with torch.no_grad():
        return float(noise_matching_loss(job.model, days.context, days.whitened, many, draws))


def first(job: Job) -> Weights:
    return {name: value.clone() for name, value in job.model.denoiser.state_dict().items()}


def same(left: Weights | None, right: Weights | None) -> bool:
    if left is None or right is None:
        return left is right
    return all(torch.equal(value, right[name]) for name, value in left.items())


@pytest.fixture(scope="module")
def program() -> TwoStageProgram:
    return build(3, ramp_limit=1e3)


def test_pretraining_learns_what_the_gaussian_misses() -> None:
    job = made()
    before = loss(job, first(job))
    fitted = train_here(job)
    history = fitted.history
    assert fitted.joint is None
    assert loss(job, fitted.pretrained) < 0.95 * before
    assert 1 + history.noise_losses.index(min(history.noise_losses)) == history.best_epoch
    assert len(history.training_noise_losses) == len(history.noise_losses)
    # The two modes: few days are drawn near their own mean, of a Gaussian a third is.
    context = job.validation.context[:40]
    with torch.no_grad():
        paths = job.model.draw(context, 200, torch.Generator().manual_seed(4)).mean(dim=(2, 3)).double()
    middle = (paths - 20 - context[:, :1]).abs() < 0.8
    assert float(middle.double().mean()) < 0.2


def test_weights_that_only_get_worse_are_given_up() -> None:
    job = made(learning_rate=50.0, patience=2)
    start = first(job)
    fitted = train_here(job)
    assert fitted.history.best_epoch == 0
    # Of the weights that were kept, by the draws of validation.
    seed = int(torch.randint(2**31, (1,), generator=torch.Generator().manual_seed(3)))
    assert fitted.history.first_noise_loss == pytest.approx(loss(job, start, 64, seed), rel=1e-6)
    assert len(fitted.history.noise_losses) == 2
    assert same(fitted.pretrained, start)


def test_the_best_weights_are_kept_not_the_last() -> None:
    job = made(learning_rate=2e-2, patience=4, epochs=60)
    history = (fitted := train_here(job)).history
    assert history.best_epoch < len(history.noise_losses)
    # Validation noise comes from the first draw of the generator, 64 samples a day: its loss, recomputed with
    # the weights that were kept, is the best one recorded.
    seed = int(torch.randint(2**31, (1,), generator=torch.Generator().manual_seed(3)))
    assert loss(job, fitted.pretrained, 64, seed) == pytest.approx(min(history.noise_losses), rel=1e-6)


def test_one_seed_gives_the_same_weights() -> None:
    runs = [train_here(made(epochs=2)) for _ in range(2)]
    assert same(runs[0].pretrained, runs[1].pretrained)


def test_no_epoch_leaves_the_gaussian(program: TwoStageProgram) -> None:
    job = made(program, epochs=0, joint_epochs=0)
    start = first(job)
    fitted = train_here(job)
    assert same(fitted.pretrained, start)
    assert same(fitted.joint, start)


def test_the_joint_phase_keeps_the_cheapest_weights(program: TwoStageProgram) -> None:
    seen: list[tuple[str, int, int]] = []
    fitted = train_here(
        made(program, epochs=0, noise_matching_margin=1.0), lambda *event: seen.append(event[:3])
    )
    history = fitted.history
    assert len(history.task_losses) == len(history.joint_noise_losses) == 4
    assert len(history.training_task_losses) == len(history.balances) == 3
    assert history.task_losses[history.best_joint_epoch] == min(history.task_losses)
    assert history.best_joint_epoch > 0
    assert history.unsolved == 0
    assert seen == [(JOINT, epoch, 3) for epoch in (1, 2, 3)]


def test_a_lower_cost_that_spoils_realism_is_not_kept(program: TwoStageProgram) -> None:
    fitted = train_here(
        made(
            program,
            balance="weighted",
            noise_matching_margin=0.0,
            task_share=1.0,
            joint_learning_rate=0.05,
            joint_epochs=6,
            joint_patience=2,
        )
    )
    history = fitted.history
    assert min(history.joint_noise_losses[1:]) > history.joint_noise_losses[0]
    assert history.best_joint_epoch == 0
    # Two epochs without weights to keep, and the phase is over.
    assert len(history.task_losses) == 3
    assert same(fitted.joint, fitted.pretrained)


def run_and_saved(job: Job) -> tuple[Fitted, list[bytes]]:
    """The whole run, and its state after each epoch as a file would hold it."""
    files: list[bytes] = []

    def save(fit: Fit) -> None:
        file = io.BytesIO()
        torch.save(fit.state_dict(), file)
        files.append(file.getvalue())

    return Fit(job).run(after_epoch=save), files


def resumed(job: Job, file: bytes) -> Fitted:
    # Another state of the generator and other weights: nothing may depend on what was there before.
    job.generator.manual_seed(12345)
    with torch.no_grad():
        for parameter in job.model.denoiser.parameters():
            parameter.add_(1.0)
    fit = Fit(job)
    fit.load_state_dict(torch.load(io.BytesIO(file), weights_only=True))
    return fit.run()


@pytest.mark.parametrize(
    "changes",
    [
        {"rate_schedule": "linear", "warmup_steps": 3},
        {"estimator": "decision-weighted"},
        {"estimator": "score-function"},
        {"norm_decay": 0.9},
    ],
)
def test_a_resumed_run_takes_the_steps_of_one_that_was_not_interrupted(
    program: TwoStageProgram, changes: dict[str, Any]
) -> None:
    options = {"rows": 100, "epochs": 3, "joint_epochs": 3, **changes}
    whole, files = run_and_saved(made(program, **options))
    assert len(files) == 6
    expected = whole.history.to_dict()
    assert expected.pop("seconds").keys() == {PRETRAINING, JOINT}
    for epochs in (2, 3, 5):
        again = resumed(made(program, **options), files[epochs - 1])
        assert same(again.pretrained, whole.pretrained)
        assert same(again.joint, whole.joint)
        found = again.history.to_dict()
        assert found.pop("seconds").keys() == {PRETRAINING, JOINT}
        assert found == expected


def test_bfloat16_is_close_and_told(program: TwoStageProgram) -> None:
    options: dict[str, Any] = {"rows": 100, "epochs": 3, "joint_epochs": 1}
    plain = train_here(made(program, **options))
    half = train_here(made(program, **options, precision="bfloat16"))
    assert plain.history.precision == "float32"
    assert half.history.precision.startswith("bfloat16")
    assert half.history.noise_losses == pytest.approx(plain.history.noise_losses, rel=0.02)
    assert half.history.noise_losses != plain.history.noise_losses
    # Eight bits of mantissa in each product, none in the costs.
    assert half.history.task_losses == pytest.approx(plain.history.task_losses, rel=0.05)


def test_curves_have_a_figure_for_each_epoch(program: TwoStageProgram) -> None:
    curves = train_here(made(program, 100, epochs=2, joint_epochs=2)).history.curves()
    assert len(curves["noise_losses"]) == 2
    assert len(curves["task_losses"]) == 3
    for name in ("joint_cosine", "joint_noise_norm", "joint_diversity", "joint_score_multiplier"):
        assert len(curves[name]) == 2
