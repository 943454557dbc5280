"""Gateways that may be killed: each line of standard input starts one, in a process of its own.

    python forked_gateway.py OUTCOMES_FOLDER

One JSON line says its process and address, another the signal that ended it. Forked from a process that has
everything imported and compiled, so that a start takes no time; a gateway whose parent died ends.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from hedgecast.service.background import background_server
from hedgecast.service.local import LocalBackend, LocalModel
from hedgecast.service.settings import load_settings
from hedgecast.testing_last_day import last_day_model


def main() -> None:
    """Start one after the other until the end of standard input."""
    model = last_day_model()
    parent = os.getpid()
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            _serve(model, Path(sys.argv[1]), parent)
        _, status = os.waitpid(child, 0)
        _say(signal=os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0)


def _serve(model: LocalModel, folder: Path, parent: int) -> None:
    with background_server(LocalBackend([model]), load_settings(port=0, outcomes_folder=folder)) as address:
        _say(process=os.getpid(), address=address)
        while os.getppid() == parent:
            time.sleep(0.2)
    os._exit(0)


def _say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
