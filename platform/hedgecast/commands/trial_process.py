"""The process of one trial: ``python -m hedgecast.commands.trial_process JOB.json``.

Reads the job, writes the trial beside it, and reports each step as a line of JSON on standard output. It ends
when its standard input closes, that is when the process that started it is gone.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from hedgecast.commands.trials import load_task
from hedgecast.core.errors import HedgecastError
from hedgecast.learning.trial import run_trial


def main(path: Path) -> int:
    """Exit status, once the trial is written."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    job = json.loads(path.read_text(encoding="utf-8"))
    try:
        _say(phase="read the data", done=0, total=1, text="")
        trial = run_trial(
            load_task(job["source"]),
            job["method"],
            seed=job["seed"],
            counts=job["counts"],
            drawn=job["drawn"],
            estimator=job["estimator"],
            progress=lambda phase, done, total, text: _say(phase=phase, done=done, total=total, text=text),
        )
    except HedgecastError as error:
        _say(error=str(error))
        return 2
    trial.save(path.parent)
    return 0


def _say(**event: Any) -> None:
    print(json.dumps(event), flush=True)


def _end_with_parent() -> None:
    # Not sys.stdin: its lock, held here, would stop the interpreter from ending.
    while os.read(0, 1024):
        pass
    # The main thread may be inside a long solve: no exception would reach it.
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
