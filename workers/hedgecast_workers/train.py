"""``hedgecast train --workers N``: Ray Train around the library's own loop.

The driver writes the job into the run's folder, workers read it there, share every step, and leave what
they kept; the driver goes on as if it had trained itself. It imports nothing of Ray before
`hedgecast_workers.cluster` has set its environment.
"""

from __future__ import annotations

import sys

from hedgecast.core.errors import UnavailableError
from hedgecast.learning.fit import Fitted, Job, Progress
from hedgecast.learning.study import Study
from hedgecast.learning.trainers import TrainerOptions
from hedgecast_workers.cluster import cluster, require_ray
from hedgecast_workers.run_files import RunFiles
from hedgecast_workers.signals import signals_as_interrupts


class RayTrainer:
    """A trainer whose steps are shared by Ray Train workers.

    Parameters
    ----------
    study : Study
        Its program is built anew by every worker.
    options : TrainerOptions
    """

    def __init__(self, study: Study, options: TrainerOptions) -> None:
        self.study, self.options = study, options
        self.files = RunFiles.at(options.storage, options.run_name)

    def __call__(self, job: Job, progress: Progress | None = None) -> Fitted:
        """What the run kept; progress comes as lines of rank 0 on standard error.

        Raises
        ------
        HedgecastError
            What stopped every worker, such as too many failed solves.
        UnavailableError
            Workers were lost more often than ``max_failures``.
        DependencyError
            Ray is not installed.
        """
        del progress
        require_ray()
        options, files = self.options, self.files
        files.write_job(job, self.study)
        fitted = files.read_fitted()
        if fitted is not None:
            _say(f"run {options.run_name} in {files.storage} is over already: its result is taken")
            return fitted
        _say(
            f"run {options.run_name} in {files.storage}; give --run-name {options.run_name} to go on with it"
        )
        num_gpus = options.num_workers if options.gpu else 0
        with signals_as_interrupts(), cluster(options.num_workers, num_gpus):
            from hedgecast_workers.train_run import run

            failure = run(files, options)
        if error := files.read_error():
            raise error
        fitted = files.read_fitted()
        if fitted is None:
            raise UnavailableError(
                f"run {options.run_name} did not end: {failure or 'no result was left'}; the same command "
                "goes on from its last checkpoint",
                run=options.run_name,
            )
        return fitted


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
