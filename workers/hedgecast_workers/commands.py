"""``hedgecast serve``: a model behind a gRPC port on this machine."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hedgecast.core.errors import ConfigError, UnavailableError
from hedgecast.service.models import BundleReference
from hedgecast.service.settings import load_settings
from hedgecast_workers.local_service import host
from hedgecast_workers.models import present, registered
from hedgecast_workers.plan import ServePlan
from hedgecast_workers.signals import signals_as_interrupts

_POLL_SECONDS = 1.0


def serve(
    bundle: Annotated[Path | None, typer.Option(help="Folder of a bundle.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="NAME, NAME@ALIAS or NAME@VERSION in the registry, instead of --bundle."),
    ] = None,
    registry: Annotated[
        str | None,
        typer.Option(help="Directory of the registry, or address of an MLflow server; else $HEDGECAST_HOME."),
    ] = None,
    canary: Annotated[
        str | None,
        typer.Option(
            help="NAME@ALIAS or NAME@VERSION of another version of --model, which answers a share of the "
            "requests ($HEDGECAST_CANARY_SHARE) in the shadow."
        ),
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="Port; 0 lets the system choose. Default: $HEDGECAST_PORT, else 50051.")
    ] = None,
    num_denoisers: Annotated[
        int,
        typer.Option(
            min=0, help="Replicas that draw scenarios; 0: each solver draws for itself, 3 ms less a decision."
        ),
    ] = 0,
    num_solvers: Annotated[int, typer.Option(min=1, help="Replicas that solve.")] = 1,
    threads: Annotated[
        int,
        typer.Option(min=1, help="Threads of one draw; times replicas, no more than there are cores."),
    ] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print the address as one JSON object.")] = False,
) -> None:
    """Serve a model until Ctrl-C or SIGTERM; requests under way finish, then everything is stopped.

    Where it listens, TLS, tokens and limits come from the environment: `HEDGECAST_HOST`,
    `HEDGECAST_TLS_CERTIFICATE`, `HEDGECAST_TOKEN_FILE` and so on.

    For example:

        hedgecast serve --model german_grid@champion

        HEDGECAST_TAKEOVER_SECONDS=5 hedgecast serve --model german_grid@champion --num-solvers 2

        hedgecast serve --bundle runs/demo/bundle --port 0 --json
    """
    if (bundle is None) == (model is None):
        raise ConfigError("give either --bundle FOLDER or --model NAME@ALIAS")
    if canary is not None and model is None:
        raise ConfigError("--canary is another version of --model: give that, not --bundle")
    changes = {} if port is None else {"port": port}
    settings = load_settings(**changes)
    console = Console(stderr=True)
    with signals_as_interrupts(), tempfile.TemporaryDirectory(prefix="hedgecast-") as folder:
        try:
            if bundle is not None:
                reference = BundleReference(folder=bundle.resolve())
            else:
                reference = present(registered(str(model), registry, Path(folder)))
            second = None
            if canary is not None:
                second = present(registered(canary, registry, Path(folder)))
                _check_canary(reference, second)
            plan = ServePlan(
                bundle=reference,
                canary=second,
                settings=settings,
                num_denoisers=num_denoisers,
                num_solvers=num_solvers,
                threads=threads,
            )
            with contextlib.ExitStack() as stack:
                with console.status(f"starting Ray and warming up {model or bundle}"):
                    running = stack.enter_context(host(plan))
                _announce(running.address, as_json=as_json)
                while not running.ended(_POLL_SECONDS):
                    pass
                raise UnavailableError("the service ended by itself: its Ray was killed or crashed")
        except KeyboardInterrupt:
            console.print("stopped")


def _check_canary(first: BundleReference, second: BundleReference) -> None:
    if first.name != second.name or first.version == second.version:
        raise ConfigError(
            f"--canary is {second.name}@{second.version}, --model {first.name}@{first.version}: it must be "
            "another version of the same model"
        )


def _announce(address: str, *, as_json: bool) -> None:
    print(json.dumps({"address": address}) if as_json else f"serving on {address}; Ctrl-C stops", flush=True)
