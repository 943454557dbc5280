"""What training costs: seconds and memory of the estimators, and the share of the solve in a joint step.

Every row is measured in a process of its own on the PJM task: seconds of a step, its peak memory over that
of the process before the first step, and the share of the solve, forward and backward. Seconds are those of
the processor with one thread, so that what else the machine does changes them little. An epoch is the 2,042
days that train while the validation days are held out, 32 steps of 64 days.

`published` is the published setting of the sampler: 1,000 steps, pathwise through all of them, a network of
three layers of 1,024, 25 scenarios. Where its memory does not fit it is measured at fewer days and scaled:
memory of activations is proportional to days times scenarios times steps, so are seconds; such figures are
marked as calculated.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, Literal

import torch

from hedgecast.core.process import peak_memory_mib
from hedgecast.diffusion.denoiser import Denoiser
from hedgecast.diffusion.generator import Generator
from hedgecast.learning.budget import Budget
from hedgecast.learning.config import LearningConfig, ScoreFunctionConfig
from hedgecast.learning.joint import JointPhase
from hedgecast.learning.objective import TaskLoss
from hedgecast.learning.step import Batch, training_step

BATCH = 64
STEPS_PER_EPOCH = 32
REPEATS = 3


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One row of the table."""

    label: str
    estimator: Literal["pathwise", "score-function"]
    scenarios: int
    days: int = BATCH
    """In the measured step; fewer than `BATCH` where a whole batch does not fit."""
    hidden: int = 64
    blocks: int = 2
    sampler: Literal["ddim", "heun"] = "heun"
    sampler_steps: int = 3
    grad_steps: int = 2
    checkpointed: bool = False
    noise_levels: int = 4

    @property
    def heavy(self) -> bool:
        """Whether the gradient goes through the published thousand steps."""
        return self.grad_steps >= 1000

    def for_gpu(self) -> Setting:
        """The days of a step that fit 139 GiB, where the processor's memory took fewer."""
        return dataclasses.replace(self, days=16 if self.hidden >= 1024 else BATCH) if self.heavy else self


SETTINGS = (
    Setting(
        label="pathwise, published: DDIM 1,000 steps, all with gradient, 3 x 1,024",
        estimator="pathwise",
        scenarios=25,
        days=1,
        hidden=1024,
        blocks=3,
        sampler="ddim",
        sampler_steps=1000,
        grad_steps=1000,
    ),
    Setting(
        label="pathwise, DDIM 1,000 steps, all with gradient, this network",
        estimator="pathwise",
        scenarios=25,
        days=8,
        sampler="ddim",
        sampler_steps=1000,
        grad_steps=1000,
    ),
    Setting(
        label="pathwise, DDIM 1,000 steps, checkpointed, this network",
        estimator="pathwise",
        scenarios=25,
        days=8,
        sampler="ddim",
        sampler_steps=1000,
        grad_steps=1000,
        checkpointed=True,
    ),
    Setting(label="pathwise, 3 steps, last 2", estimator="pathwise", scenarios=25),
    Setting(label="score function, 4 noise levels", estimator="score-function", scenarios=25),
    Setting(
        label="score function, 10 noise levels", estimator="score-function", scenarios=25, noise_levels=10
    ),
    Setting(
        label="score function, 50 noise levels", estimator="score-function", scenarios=25, noise_levels=50
    ),
    Setting(label="pathwise, 3 steps, last 2, 200 scenarios", estimator="pathwise", scenarios=200),
    Setting(label="score function, 4 noise levels, 200 scenarios", estimator="score-function", scenarios=200),
    Setting(
        label="pathwise, 3 steps, last 2, 200 scenarios, 3 x 128",
        estimator="pathwise",
        scenarios=200,
        hidden=128,
        blocks=3,
    ),
)


def run(seeds: int) -> dict[str, Any]:
    """All rows; the number of seeds does not matter to them."""
    del seeds
    rows = []
    for index, setting in enumerate(SETTINGS):
        command = [sys.executable, __file__, str(index)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
        if done.returncode:
            rows.append({**dataclasses.asdict(setting), "failed": done.stderr.strip().splitlines()[-1:]})
            continue
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    return {
        "title": "what training costs",
        "rows": rows,
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
    }


def measured(setting: Setting, device: str = "cpu") -> dict[str, Any]:
    """Seconds, memory and parts of a joint step with ``setting``, in this process.

    On a GPU seconds are those of the clock and memory is the GPU's.
    """
    # A fresh import: pjm reads a table, which must not count as memory of the step.
    import pjm

    config = _config(setting)
    task = pjm.validation_task("chosen")
    draws = torch.Generator().manual_seed(0)
    model, report = Generator.fitted(
        config.generator, task.train.context, task.train.targets, draws, spread=task.train.spread()
    )
    rows = torch.arange(setting.days)
    model.to(device)
    with torch.no_grad():
        whitened, context = report.whitened.float()[rows].to(device), task.train.context[rows].to(device)
        realized = model.finish(context, whitened.unsqueeze(1))[:, 0]
    batch = Batch(context, whitened, realized)
    loss = TaskLoss(task.program(), smoothing=config.smoothing)
    now, memory_mib = _clocks(device)
    timer = Timer(now)
    loss.layer.judged = timer.forward(loss.layer.judged)  # type: ignore[method-assign]
    joint = JointPhase(model, loss, config)
    optimizer = torch.optim.AdamW(model.denoiser.parameters(), lr=1e-4)
    small = dataclasses.replace(
        batch, **{f: getattr(batch, f)[:1] for f in ("context", "whitened", "realized")}
    )
    before = memory_mib()
    if not setting.heavy:
        training_step(model, optimizer, batch, config, draws, joint)
    else:
        timer.warm_up(loss, small)
    timer.reset()
    repeats = 1 if setting.heavy else REPEATS
    started, clock = now(), time.perf_counter()
    for _ in range(repeats):
        training_step(model, optimizer, batch, config, draws, joint)
    seconds = (now() - started) / repeats
    passed = (time.perf_counter() - clock) / repeats
    scale = BATCH / setting.days
    memory = memory_mib() - before
    return {
        **dataclasses.asdict(setting),
        "calculated": setting.days != BATCH,
        "step_seconds": seconds,
        "clock_seconds": passed,
        "step_memory_mib": memory,
        "process_peak_mib": peak_memory_mib(),
        "epoch_seconds": seconds * scale * STEPS_PER_EPOCH,
        "batch_memory_mib": memory * scale,
        "solve_seconds": timer.seconds / repeats,
        "solve_share": timer.seconds / repeats / seconds,
    }


def _clocks(device: str) -> tuple[Callable[[], float], Callable[[], float]]:
    """Seconds, and MiB at the highest, of what ``device`` does."""
    if device == "cpu":
        return time.process_time, peak_memory_mib

    def now() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return now, lambda: torch.cuda.max_memory_allocated() / 2**20


class Timer:
    """Seconds in the program's layer, forward and backward."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.seconds, self._now = 0.0, now
        self._mark = 0.0

    def reset(self) -> None:
        self.seconds = 0.0

    def forward(self, judged: Callable[..., Any]) -> Callable[..., Any]:
        """``judged``, timed, with marks around its backward pass."""

        def timed(values: torch.Tensor, probabilities: torch.Tensor | None) -> Any:
            started = self._now()
            entered = _mark(values, self._stop)
            weights = None if probabilities is None else _mark(probabilities, self._stop)
            decision, verdicts = judged(entered, weights)
            self.seconds += self._now() - started
            return _mark(decision, self._start), verdicts

        return timed

    def warm_up(self, loss: TaskLoss, batch: Batch) -> None:
        """Compile what compiles at the first solve."""
        paths = batch.realized.unsqueeze(1).repeat(1, 2, 1, 1).requires_grad_()
        loss(paths, batch.realized)[0].backward()

    def _start(self) -> None:
        self._mark = self._now()

    def _stop(self) -> None:
        if self._mark:
            self.seconds += self._now() - self._mark
            self._mark = 0.0


def _mark(values: torch.Tensor, passed: Callable[[], None]) -> torch.Tensor:
    marked: torch.Tensor = _Mark.apply(values, passed)  # type: ignore[no-untyped-call]
    return marked


class _Mark(torch.autograd.Function):
    """The identity, which calls a function when its gradient passes."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, passed: Callable[[], None]) -> torch.Tensor:
        ctx.passed = passed
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        ctx.passed()
        return gradients[0], None


def _config(setting: Setting) -> LearningConfig:
    network = Denoiser.Config(hidden=setting.hidden, num_blocks=setting.blocks)
    elbo = dataclasses.replace(ScoreFunctionConfig().elbo, noise_levels=setting.noise_levels)
    published = setting.sampler_steps >= 1000
    return LearningConfig(
        generator=Generator.Config(
            denoiser=network, sampler=setting.sampler, sampler_steps=setting.sampler_steps
        ),
        scenarios=setting.scenarios,
        estimator=setting.estimator,
        grad_steps=setting.grad_steps,
        checkpointed=setting.checkpointed,
        score_function=ScoreFunctionConfig(elbo=elbo),
        # The published way has no budget and scores nothing: two scenarios are the fewest that a step scores.
        balance="weighted" if published else "budget",
        budget=Budget.Config(score_scenarios=2) if published else Budget.Config(),
        task_share=0.9,
    )


if __name__ == "__main__":
    on = sys.argv[2] if len(sys.argv) > 2 else "cpu"
    chosen = SETTINGS[int(sys.argv[1])]
    print(json.dumps(measured(chosen if on == "cpu" else chosen.for_gpu(), on)))
