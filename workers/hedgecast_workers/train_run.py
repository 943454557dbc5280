"""One Ray Train run: what the driver starts, and what each worker does.

Workers share every step (`hedgecast.learning.parallel`): each computes its rows of the batch, and gradients
are summed by gloo on CPUs and nccl on GPUs. So a run has one loss curve, whatever the number of workers
and however often they were lost.
"""

from __future__ import annotations

import logging
import os
import platform
import sys
import tempfile
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray.data
import ray.train
import ray.train.torch
import torch
from ray.train.torch import TorchConfig, TorchTrainer

from hedgecast.core.errors import HedgecastError
from hedgecast.learning.fit import Fit
from hedgecast.learning.parallel import Group
from hedgecast.learning.trainers import TrainerOptions
from hedgecast_workers.run_files import PARTS, RunFiles

_STATE = "state.pt"
_KEPT_CHECKPOINTS = 2
# A lost worker breaks the others' connections at once; this is for one that hangs.
_COLLECTIVE_SECONDS = 600
# Workers share cores: threads that spin while they wait would take them from each other.
_WORKER_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


def run(files: RunFiles, options: TrainerOptions) -> str | None:
    """Train on workers until the run's folder holds its result; None, or why it does not."""
    filesystem, path = files.place
    # An epoch takes less than the two seconds after which Ray Train would look for its report.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")
    # Workers of a busy machine start slowly.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")
    ray.data.DataContext.get_current().enable_progress_bars = False
    trainer = TorchTrainer(
        work,
        train_loop_config={"storage": files.storage, "name": files.name},
        torch_config=TorchConfig(timeout_s=_COLLECTIVE_SECONDS),
        scaling_config=ray.train.ScalingConfig(
            num_workers=options.num_workers,
            use_gpu=options.gpu,
            # On processors: over all nodes, whose cores are then used. GPUs are asked for one by one.
            placement_strategy="PACK" if options.gpu else "SPREAD",
        ),
        datasets={part: ray.data.read_parquet(files.path(part), filesystem=filesystem) for part in PARTS},
        # Not split: any worker may get any day of a batch, and days are few and small.
        dataset_config=ray.train.DataConfig(datasets_to_split=[]),
        run_config=ray.train.RunConfig(
            name=files.name,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(max_failures=options.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=_KEPT_CHECKPOINTS),
            worker_runtime_env={"env_vars": _WORKER_ENVIRONMENT},
            # Below that: every report of every worker, and a complaint a second where there is no dashboard.
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        ),
    )
    return _fitted(trainer)


def work(config: dict[str, Any]) -> None:
    """One worker's part of the run."""
    files = RunFiles(config["storage"], config["name"])
    if files.read_error() is not None:
        # Another worker's error: the run cannot go on, however often it is started again.
        return
    torch.set_num_threads(1)
    # Ray Train logs each report under a name of its own, that of a file: the root's level holds for it.
    for name in ("", "ray.data"):
        logging.getLogger(name).setLevel(logging.WARNING)
    device = ray.train.torch.get_device()
    context = ray.train.get_context()
    rank, count = context.get_world_rank(), context.get_world_size()
    first = rank == 0
    _say(f"worker {rank + 1} of {count}: {device} of {platform.node()}, process {os.getpid()}")
    try:
        fit = Fit(files.read_job({part: _table(part) for part in PARTS}, device), Group(device))
        if checkpoint := ray.train.get_checkpoint():
            with checkpoint.as_directory() as folder:
                state = torch.load(Path(folder) / _STATE, map_location="cpu", weights_only=True)
            fit.load_state_dict(state)
        if first:
            _say(f"products in {fit.history.precision}; {'goes on' if checkpoint else 'begins'}")
        fitted = fit.run(_print if first else None, _report)
    except HedgecastError as error:
        # Not raised: it would be taken for a lost worker, and tried again.
        files.write_error(error)
        return
    if first:
        files.write_fitted(fitted)


def _table(part: str) -> pa.Table:
    shard = ray.train.get_dataset_shard(part)
    return pa.concat_tables(list(shard.iter_batches(batch_size=None, batch_format="pyarrow")))


def _report(fit: Fit) -> None:
    """A checkpoint of the first worker, whose state all share, and the epoch's figures."""
    figures = {name: values[-1] for name, values in fit.history.curves().items() if values}
    with tempfile.TemporaryDirectory(prefix="hedgecast-") as folder:
        checkpoint = None
        if ray.train.get_context().get_world_rank() == 0:
            torch.save(fit.state_dict(), Path(folder) / _STATE)
            checkpoint = ray.train.Checkpoint.from_directory(folder)
        ray.train.report(figures, checkpoint=checkpoint)


def _print(phase: str, done: int, total: int, text: str) -> None:
    _say(f"{phase} {done}/{total}: {text}")


def _say(text: str) -> None:
    # Ray brings it to the driver's standard error; not by print, which Ray Train replaces to log it.
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _fitted(trainer: TorchTrainer) -> str | None:
    """Run ``trainer`` on a thread of its own: on the main one Ray would replace our signal handlers."""
    outcome: Future[object] = Future()

    def target() -> None:
        try:
            outcome.set_result(trainer.fit())
        except BaseException as error:  # noqa: BLE001  raised again in the main thread
            outcome.set_exception(error)

    # A daemon: an interrupt of the main thread must not wait for it.
    threading.Thread(target=target, daemon=True, name="ray-train").start()
    try:
        outcome.result()
    except ray.train.TrainingFailedError as error:
        return str(error)
    return None
