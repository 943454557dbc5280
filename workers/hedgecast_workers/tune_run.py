"""One search of Ray Tune: what the driver starts, and what each trial does."""

from __future__ import annotations

import logging
import math
import os
from typing import Any

import torch
from ray import tune
from ray.tune import Callback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator
from rich.console import Console

from hedgecast.commands.workflow import Prepared
from hedgecast.core.errors import NotConvergedError
from hedgecast.diffusion.generator import Generator
from hedgecast.learning.config import LearningConfig
from hedgecast.learning.fit import Fit, Fitted, Job, Progress
from hedgecast.learning.methods.diffusion import fit_diffusion
from hedgecast.learning.objective import TaskLoss
from hedgecast.learning.part import Part
from hedgecast.learning.tuning import Range, value_of, with_values
from hedgecast.learning.validation import validation_cost
from hedgecast_workers.program_text import ProgramText

_COST = "cost"


def search(
    prepared: Prepared, count: int, concurrent: int, storage: str, console: Console
) -> list[dict[str, Any]]:
    """One record a trial, the cheapest first: its values, its cost on the validation days, its epochs.

    Raises
    ------
    NotConvergedError
        No trial came to a cost.
    """
    study = prepared.study
    learning, config = study.learning, study.tune
    logging.getLogger("ray.tune").setLevel(logging.WARNING)
    # Ray's newer output prints its settings on standard output, whatever `verbose` says.
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    dimensions = config.dimensions()
    own = {key: value_of(learning, key) for key in dimensions}
    longest = learning.epochs + (learning.joint_epochs if learning.method == "diffusion-dfl" else 0)
    trainable = tune.with_parameters(
        trial,
        # Training and validation days: the test days do not leave this process.
        train=prepared.train,
        validation=prepared.validation,
        learning=learning.to_dict(),
        program=ProgramText.of(study.program, prepared.schema.horizon),
        seed=config.seed,
    )
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        param_space={key: _domain(dimension) for key, dimension in dimensions.items()},
        tune_config=tune.TuneConfig(
            metric=_COST,
            mode="min",
            num_samples=count,
            max_concurrent_trials=concurrent,
            search_alg=BasicVariantGenerator(points_to_evaluate=[own], random_state=config.seed),
            scheduler=ASHAScheduler(
                max_t=max(longest, 1),
                grace_period=min(config.grace_epochs, max(longest, 1)),
                reduction_factor=config.reduction,
            ),
        ),
        run_config=tune.RunConfig(
            name=study.name, storage_path=storage, verbose=0, callbacks=[_Announcer(count)]
        ),
    )
    records = [_record(result, own) for result in tuner.fit()]
    if all(record["cost"] is None for record in records):
        raise NotConvergedError(f"no trial came to a cost; the first failed with: {records[0]['error']}")
    for record in records:
        if record["error"]:
            console.print(f"  a trial failed: {record['error']}")
    return sorted(records, key=lambda record: math.inf if record["cost"] is None else record["cost"])


def trial(
    values: dict[str, Any],
    *,
    train: Part,
    validation: Part,
    learning: dict[str, Any],
    program: ProgramText,
    seed: int,
) -> None:
    """Train with other ``values`` of the learning table; after each epoch, report what kept weights cost."""
    torch.set_num_threads(1)
    config = with_values(LearningConfig.from_dict(learning), values)
    built = program.build()
    joint = built if config.method == "diffusion-dfl" else None
    judge = _Judge(TaskLoss(built, smoothing=config.smoothing), seed)

    def trainer(job: Job, progress: Progress | None = None) -> Fitted:
        return Fit(job).run(progress, lambda fit: tune.report({_COST: judge.cost(fit)}))

    fit_diffusion(train, validation, config, joint, trainer=trainer)


class _Judge:
    """Cost of a run's kept weights on the validation days, with the same scenarios' noise in every trial."""

    def __init__(self, task: TaskLoss, seed: int) -> None:
        self.task, self.seed = task, seed
        self._weights: object = None
        self._cost = math.nan

    def cost(self, fit: Fit) -> float:
        if fit.kept is not self._weights:
            model = Generator.from_dict(fit.model.to_dict())
            model.load_state_dict(fit.model.state_dict())
            model.denoiser.load_state_dict(fit.kept)
            self._cost = validation_cost(model, self.task, fit.validation, fit.config, self.seed)
            self._weights = fit.kept
        return self._cost


class _Announcer(Callback):  # type: ignore[misc]
    """Says what each trial came to when it ends; a trial may take minutes.

    Tune stores it with the search, so it holds no console.
    """

    def __init__(self, count: int) -> None:
        self.count, self.done = count, 0

    def on_trial_complete(self, *, trial: Any, **_: Any) -> None:
        self._say(trial)

    def on_trial_error(self, *, trial: Any, **_: Any) -> None:
        self._say(trial)

    def _say(self, trial: Any) -> None:
        self.done += 1
        last = trial.last_result or {}
        came_to = f"cost {last[_COST]:.2f}" if _COST in last else "no cost"
        epochs = last.get("training_iteration", 0)
        text = f"  {self.done} of {self.count}: {came_to} after {epochs} epochs"
        Console(stderr=True).print(text, style="dim")


def _domain(dimension: Range | list[Any]) -> Any:
    if isinstance(dimension, list):
        return tune.choice(dimension)
    draw = tune.loguniform if dimension.log else tune.uniform
    return draw(dimension.low, dimension.high)


def _record(result: Any, own: dict[str, Any]) -> dict[str, Any]:
    metrics = result.metrics or {}
    return {
        "cost": metrics.get(_COST),
        "epochs": metrics.get("training_iteration", 0),
        "values": dict(result.config),
        "own": result.config == own,
        "error": None if result.error is None else str(result.error).strip().splitlines()[-1],
    }
