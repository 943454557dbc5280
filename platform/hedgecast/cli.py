"""The ``hedgecast`` command.

Each subcommand is one function in ``hedgecast.commands`` (or in a package that registers it under the
entry point group ``hedgecast.commands``: that is how ``serve`` comes from the Ray workers without the
library importing Ray). Only the subcommand that is asked for is imported.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

import typer
from rich.console import Console

from hedgecast.core.errors import DependencyError, HedgecastError
from hedgecast.version import __version__

_COMMANDS = {
    "train": "hedgecast.commands.train:train",
    "distill": "hedgecast.commands.distill:distill",
    "export": "hedgecast.commands.export:export",
    "backtest": "hedgecast.commands.backtest:backtest",
    "decide": "hedgecast.commands.decide:decide",
    "evaluate": "hedgecast.commands.evaluate:evaluate",
    "explain": "hedgecast.commands.explain:explain",
    "performance": "hedgecast.commands.performance:performance",
    "models": "hedgecast.commands.models:app",
    "measure-ladder": "hedgecast.commands.measure_ladder:measure_ladder",
    "scenarios": "hedgecast.commands.scenarios:scenarios",
    "probe": "hedgecast.commands.probe:probe",
    "solve": "hedgecast.commands.solve:solve",
    "train-surrogate": "hedgecast.commands.train_surrogate:train_surrogate_command",
}
_ABOUT = "Scenarios by diffusion, decisions by stochastic programs, and what they will cost."


def build(names: list[str]) -> typer.Typer:
    """The application with the subcommands ``names``."""
    app = typer.Typer(
        name="hedgecast",
        help=_ABOUT,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
    )
    app.callback()(_root)
    homes = _homes()
    for name in names:
        try:
            loaded = _load(homes[name])
        except DependencyError as error:
            if len(names) == 1:
                raise
            # In the list of all, what this installation cannot run says so.
            app.command(name, help=f"Not installed: {error}.")(_absent)
            continue
        if isinstance(loaded, typer.Typer):
            app.add_typer(loaded, name=name)
        else:
            app.command(name)(loaded)
    return app


def main() -> None:
    """Run the command line; errors end with one message on stderr and exit code 2."""
    if sys.argv[1:] == ["--version"]:
        # Before any command is loaded: they bring torch and CVXPY with them.
        print(__version__)
        return
    # Threads of torch that spin while they wait cost fifty times the work itself as soon as another
    # process wants a core (measured: 2 s for 0.04 s). Read when OpenMP is loaded, so it is set first.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    homes = _homes()
    asked = next((argument for argument in sys.argv[1:] if not argument.startswith("-")), None)
    try:
        build([asked] if asked in homes else list(homes))()
    except HedgecastError as error:
        Console(stderr=True).print(f"[bold red]error[/] {error.reason}:", end=" ")
        print(error, file=sys.stderr)
        sys.exit(2)


def _root(
    version: bool = typer.Option(False, "--version", help="Print the version and leave."),
) -> None:
    # `main` answers it; it stands here for the help.
    del version


def _homes() -> dict[str, str]:
    plugins = {entry.name: entry.value for entry in entry_points(group="hedgecast.commands")}
    return {**_COMMANDS, **plugins}


def _load(home: str) -> Callable[..., Any] | typer.Typer:
    """The function or group of functions at MODULE:NAME.

    Raises
    ------
    DependencyError
        A package that it needs is not installed; the message says which extra brings it.
    """
    module, _, attribute = home.partition(":")
    try:
        loaded: Callable[..., Any] | typer.Typer = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "hedgecast", "hedgecast_workers"):
            raise
        extra = _extra(module)
        raise DependencyError(
            f"{package} is missing, pip install 'hedgecast[{extra}]' brings it", package=package, extra=extra
        ) from error
    return loaded


def _extra(module: str) -> str:
    """What brings the packages of the command in ``module``."""
    asking = ("decide", "evaluate", "explain", "performance", "scenarios")
    if module.removeprefix("hedgecast.commands.") in asking:
        return "files"
    return "library,cpu" if module.startswith("hedgecast.") else "library,cluster,cpu"


def _absent() -> None:
    # `main` builds a command that is asked for alone, and that says what is missing.
    raise DependencyError("this command is not installed")
