"""Workers as threads of this process: the same protocol, sums by a barrier. Real processes: tests/e2e."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from hedgecast.core.errors import ConfigError
from hedgecast.diffusion.denoiser import Denoiser
from hedgecast.diffusion.generator import Generator
from hedgecast.learning.budget import Budget
from hedgecast.learning.config import LearningConfig, ScoreFunctionConfig
from hedgecast.learning.estimators.elbo import ElboConfig
from hedgecast.learning.joint import JointPhase
from hedgecast.learning.objective import TaskLoss
from hedgecast.learning.parallel import ALONE, Workers, own_rows
from hedgecast.learning.step import Batch, StepReport, training_step
from hedgecast.programs.catalog.generation_scheduling import build

CONFIG = LearningConfig(
    generator=Generator.Config(denoiser=Denoiser.Config(hidden=16, num_blocks=1, encoding=8)),
    samples_per_day=8,
    scenarios=20,
    task_share=0.3,
    smoothing=1e-2,
)
DAYS = 13


class Team:
    """Sums of as many threads as there are workers."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.barrier = threading.Barrier(count, timeout=60)
        self.given: list[Sequence[Tensor]] = [[] for _ in range(count)]


class Member:
    def __init__(self, team: Team, rank: int) -> None:
        self.team, self.rank, self.count = team, rank, team.count

    def sum(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        self.team.given[self.rank] = tensors
        self.team.barrier.wait()
        total = [torch.stack(list(parts)).sum(dim=0) for parts in zip(*self.team.given, strict=True)]
        self.team.barrier.wait()
        return total


def together(count: int, work: Callable[[Workers], Any]) -> list[Any]:
    team = Team(count)
    with ThreadPoolExecutor(count) as pool:
        calls = [pool.submit(work, Member(team, rank)) for rank in range(count)]
        return [call.result() for call in calls]


def stepped(
    workers: Workers, *, joint: bool, config: LearningConfig = CONFIG
) -> tuple[list[Tensor], StepReport]:
    """The gradient of one step: what plain descent at rate 1 takes from the weights."""
    draws = torch.Generator().manual_seed(2)
    context = torch.randn(200, 3, dtype=torch.float64, generator=draws)
    targets = 20 + context[:, :1, None] + torch.randn(200, 4, 1, dtype=torch.float64, generator=draws)
    model, report = Generator.fitted(CONFIG.generator, context, targets, draws)
    with torch.no_grad():
        model.denoiser.exit.weight.normal_(0.0, 0.1, generator=draws)
        whitened = report.whitened.float()[:DAYS]
        realized = model.finish(context[:DAYS], whitened.unsqueeze(1))[:, 0]
    before = [parameter.detach().clone() for parameter in model.denoiser.parameters()]
    found = training_step(
        model,
        torch.optim.SGD(model.denoiser.parameters(), lr=1.0),
        Batch(context[:DAYS], whitened, realized),
        config,
        torch.Generator().manual_seed(7),
        JointPhase(model, TaskLoss(build(4, ramp_limit=1e3), smoothing=1e-2), config) if joint else None,
        workers,
    )
    return [a - b.detach() for a, b in zip(before, model.denoiser.parameters(), strict=True)], found


IMPORTANT = ScoreFunctionConfig(elbo=ElboConfig(importance=True), sample_reuse=2)


@pytest.mark.parametrize(
    ("joint", "changes"),
    [
        (False, {}),
        (True, {"balance": "weighted"}),
        (True, {"budget": Budget.Config(rule="projection")}),
        (True, {"estimator": "score-function", "score_function": IMPORTANT}),
    ],
)
def test_any_number_of_workers_takes_the_step_of_one(joint: bool, changes: dict[str, Any]) -> None:
    config = dataclasses.replace(CONFIG, **changes)
    alone, expected = stepped(ALONE, joint=joint, config=config)
    size = float(torch.cat([gradient.flatten() for gradient in alone]).norm())
    for count in (2, 3):
        members = together(count, lambda workers: stepped(workers, joint=joint, config=config))
        for gradients, report in members:
            error = torch.cat([(a - b).flatten() for a, b in zip(gradients, alone, strict=True)]).norm()
            # float32 sums in another order; 3e-7 is seen.
            assert float(error) < 1e-5 * size
            assert report.noise_loss == pytest.approx(expected.noise_loss, rel=1e-6)
            if joint:
                assert report.task_loss == pytest.approx(expected.task_loss, rel=1e-6)
                assert report.balance is not None
                assert expected.balance is not None
                assert report.balance.cosine == pytest.approx(expected.balance.cosine, abs=1e-5)
                diversity = expected.balance.realism.diversity
                assert report.balance.realism.diversity == pytest.approx(diversity, abs=1e-5)
        first = members[0][0]
        for gradients, _ in members[1:]:
            assert all(torch.equal(a, b) for a, b in zip(gradients, first, strict=True))


def test_every_row_has_one_worker() -> None:
    for count in (1, 2, 3, 5):
        rows = [own_rows(Member(Team(count), rank), DAYS) for rank in range(count)]
        assert [row for part in rows for row in range(DAYS)[part]] == list(range(DAYS))
        sizes = [part.stop - part.start for part in rows]
        assert max(sizes) - min(sizes) <= 1


def test_more_workers_than_days_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"3 days .* 4 workers.*fewer workers"):
        own_rows(Member(Team(4), 0), 3)
