"""The service under the soak and its operator, in a process of their own.

    python benchmarks/soak/service.py FOLDER

FOLDER/plan.json has a `ServePlan` and FOLDER/versions.json the bundle of each version. One JSON line on
standard output answers each line on standard input: ``switch VERSION`` deploys that version as champion,
``status`` tells what Serve says. It ends with its standard input, and its private Ray with it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, TextIO

from hedgecast.service.models import BundleReference
from hedgecast_workers.cluster import cluster
from hedgecast_workers.plan import ServePlan

_READY_SECONDS = 300.0
# For the gateway, the controller and whatever takes over before the old one is gone.
_SPARE_CPUS = 8


def main() -> None:
    """Serve until the end of standard input."""
    # Ray and its replicas print on standard output; the parent reads only what we say ourselves.
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    folder = Path(sys.argv[1])
    plan = ServePlan.model_validate_json((folder / "plan.json").read_text())
    versions = json.loads((folder / "versions.json").read_text())
    with cluster(plan.num_denoisers + plan.num_solvers + _SPARE_CPUS):
        _say(said, address=_deployed(plan))
        for line in sys.stdin:
            word, _, version = line.strip().partition(" ")
            if word == "switch":
                found = versions[version]
                reference = BundleReference(**{**found, "folder": Path(found["folder"])})
                plan = plan.model_copy(update={"bundle": reference})
                _say(said, address=_deployed(plan))
            else:
                _say(said, **_status())


def _deployed(plan: ServePlan) -> str:
    """HOST:PORT, once the plan is served and warm."""
    from ray import serve

    from hedgecast_workers.serve import APPLICATION, QUIET, application

    serve.start(proxy_location="Disabled", logging_config=QUIET)
    handle = serve.run(application(plan), name=APPLICATION, route_prefix=None, logging_config=QUIET)
    return str(handle.ready.remote().result(timeout_s=_READY_SECONDS))


def _status() -> dict[str, Any]:
    from ray import serve

    applications = serve.status().applications
    return {
        "states": {
            name: {part: str(found.status) for part, found in application.deployments.items()}
            for name, application in applications.items()
        }
    }


def _say(said: TextIO, **record: Any) -> None:
    print(json.dumps(record), file=said, flush=True)


if __name__ == "__main__":
    main()
