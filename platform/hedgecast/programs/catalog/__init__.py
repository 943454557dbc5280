"""Shipped programs, one a module with ``build(num_steps, ...)``, and how a study names one."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hedgecast.core.config import Config
from hedgecast.core.errors import ConfigError, HedgecastError, ProgramError
from hedgecast.programs.program import TwoStageProgram


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ProgramConfig(Config):
    """The ``[program]`` table of a study: a shipped program by name, or a file by path."""

    name: str | None = None
    """A shipped program."""
    path: str | None = None
    """A Python file that defines ``build(num_steps, **parameters)`` or ``program``."""
    parameters: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Keyword arguments of ``build``."""
    units: dict[str, str] = dataclasses.field(default_factory=dict)
    """Unit of each decision variable and given parameter by name: shown, never computed with."""

    def __post_init__(self) -> None:
        if (self.name is None) == (self.path is None):
            raise ConfigError(
                f"program.name = {self.name!r} and program.path = {self.path!r}: set exactly one of them; "
                f"shipped programs are {', '.join(program_names())}",
                key="program",
            )
        if self.name is not None and self.name not in program_names():
            raise ConfigError(
                f"program.name = {self.name!r} is not shipped: use one of {', '.join(program_names())}, or "
                "program.path",
                key="program.name",
            )


def program_names() -> tuple[str, ...]:
    """Names of the shipped programs: the modules of this package that define ``build``."""
    folder = Path(__file__).parent
    names = sorted(module.name for module in pkgutil.iter_modules([str(folder)]))
    return tuple(name for name in names if "\ndef build(" in (folder / f"{name}.py").read_text("utf-8"))


def load_program(config: ProgramConfig, num_steps: int) -> TwoStageProgram:
    """The program that ``config`` names, over ``num_steps`` steps.

    Parameters
    ----------
    config : ProgramConfig
    num_steps : int
        Steps of the decision period. A file that defines ``program`` and no ``build`` has one length only.

    Raises
    ------
    ConfigError
        A parameter that ``build`` does not take, or a value that it refuses.
    ProgramError
        The file is missing or fails (the message has its line), defines nothing usable, or has a program
        of another length.
    """
    if config.name is not None:
        module = importlib.import_module(f"{__name__}.{config.name}")
        return _built(module.build, config.parameters, num_steps, where=config.name)
    assert config.path is not None
    return load_file(Path(config.path), num_steps, config.parameters)


def load_file(
    path: Path, num_steps: int | None = None, parameters: dict[str, Any] | None = None
) -> TwoStageProgram:
    """The program of a user's file: ``build(num_steps, **parameters)`` where defined, else ``program``.

    Parameters
    ----------
    path : Path
    num_steps : int, optional
        Left out, ``build`` is called without it.
    parameters : dict, optional

    Raises
    ------
    ConfigError, ProgramError
        As `load_program`.
    """
    parameters = parameters or {}
    module = _run(path)
    build = getattr(module, "build", None)
    if callable(build):
        return _built(build, parameters, num_steps, where=str(path))
    program = getattr(module, "program", None)
    if not isinstance(program, TwoStageProgram):
        raise ProgramError(
            f"{path} defines neither build(num_steps, ...) nor program = TwoStageProgram(...)", path=str(path)
        )
    if parameters:
        raise ConfigError(
            f"{path} defines program without build(...): it takes no parameters, but got "
            f"{', '.join(parameters)}",
            key="program.parameters",
        )
    if num_steps is not None and program.num_uncertain % num_steps:
        raise ProgramError(
            f"{path}: program has {program.num_uncertain} uncertain entries, not a multiple of {num_steps} "
            "steps; define build(num_steps, ...) to serve days of every length",
            path=str(path),
        )
    return program


def _run(path: Path) -> types.ModuleType:
    try:
        source = path.read_text("utf-8")
    except OSError as error:
        raise ProgramError(
            f"cannot read program file {path}: {error.strerror or error}", path=str(path)
        ) from error
    module = types.ModuleType(path.stem)
    module.__file__ = str(path)
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except Exception as error:  # the user's own code may raise anything
        raise _located(error, path) from error
    return module


def _built(
    build: Callable[..., Any], parameters: dict[str, Any], num_steps: int | None, where: str
) -> TwoStageProgram:
    arguments = dict(parameters) if num_steps is None else {"num_steps": num_steps, **parameters}
    try:
        inspect.signature(build).bind(**arguments)
    except TypeError as error:
        known = ", ".join(inspect.signature(build).parameters)
        raise ConfigError(
            f"program.parameters do not fit {where}: {error}; build takes {known}", key="program.parameters"
        ) from error
    try:
        program = build(**arguments)
    except HedgecastError:
        raise
    except Exception as error:  # the user's own code may raise anything
        raise _located(error, Path(where)) from error
    if not isinstance(program, TwoStageProgram):
        raise ProgramError(f"{where}: build returned a {type(program).__name__}, not a TwoStageProgram")
    return program


def _located(error: Exception, path: Path) -> ProgramError:
    """A `ProgramError` that names the line of ``path`` at which ``error`` was raised."""
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)
    ]
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    where = f"{path}, line {line}" if line else str(path)
    return ProgramError(f"{where}: {type(error).__name__}: {error}", path=str(path), line=line)
