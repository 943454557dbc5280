"""Run the build stage of a Dockerfile without Docker: its COPY and RUN lines, in a folder of its own.

    python deploy/image_steps.py deploy/Dockerfile.client FOLDER

``make test-images`` does this for every image. Absolute paths of the image lie below FOLDER and ``python`` is
this interpreter. The stage that runs (users, packages of Debian) is not executed: it needs root and a
container. What it starts is, with its environment, and so is every command that its extras promise.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Folders of the image that its build stage writes.
PLACES = ("/opt/hedgecast", "/var/cache/hedgecast", "/var/lib/hedgecast", "/src")
# Loads what the entry points name, as their callers would, and says how many there are.
_ENTRIES = """
import importlib.metadata
found = importlib.metadata.distribution("hedgecast").entry_points
print(len([entry.load() for entry in found]), "entry points load")
"""
# Both are builds for CUDA, and find its libraries: those that they are linked to, and those that ONNX Runtime
# opens when a graph needs them. Torch is imported last: it would lend its own. The driver is the host's.
_CUDA = """
import ctypes, pathlib, subprocess, sys, onnxruntime
assert "CUDAExecutionProvider" in onnxruntime.get_available_providers(), "a build of ONNX Runtime for CPUs"
library = pathlib.Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
linked = subprocess.run(["ldd", library], capture_output=True, text=True, check=True).stdout
missing = [line.split()[0] for line in linked.splitlines() if line.endswith("not found")]
for name in ("libcudnn.so.9", "libcufft.so.12", "libnvrtc.so.13"):
    try:
        ctypes.CDLL(name)
    except OSError:
        missing.append(name)
if set(missing) - {"libcuda.so.1"}:
    sys.exit(f"not found: {missing}")
import torch
assert torch.version.cuda, f"torch {torch.__version__} is a build for CPUs"
print("ONNX Runtime", onnxruntime.__version__, "and torch", torch.__version__, "have CUDA's libraries")
"""
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.nbi", "*.nbc", "*.egg-info")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One line of a Dockerfile, continuations joined."""

    name: str
    """``RUN``, in capitals."""
    text: str
    """The rest."""
    line: int
    """Where it begins, from 1."""


@dataclass(frozen=True, slots=True)
class Stage:
    """From one FROM to the next."""

    name: str
    base: str
    instructions: tuple[Instruction, ...]

    def all(self, name: str) -> list[str]:
        """Texts of the instructions called ``name``, in order."""
        return [instruction.text for instruction in self.instructions if instruction.name == name]


def read(dockerfile: Path) -> tuple[Mapping[str, str], list[Stage]]:
    """The arguments before the first stage with their defaults, and the stages.

    Raises
    ------
    ValueError
        An instruction before the first FROM that is no ARG, or a stage without a name.
    """
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for instruction in _instructions(dockerfile.read_text(encoding="utf-8")):
        if instruction.name == "FROM":
            base, keyword, name = instruction.text.split()
            if keyword.upper() != "AS":
                raise ValueError(f"{dockerfile}, line {instruction.line}: a stage without a name")
            for argument, value in arguments.items():
                base = base.replace(f"${{{argument}}}", value)
            stages.append(Stage(name=name, base=base, instructions=()))
        elif stages:
            last = stages.pop()
            stages.append(Stage(last.name, last.base, (*last.instructions, instruction)))
        elif instruction.name == "ARG":
            name, _, value = instruction.text.partition("=")
            arguments[name] = value
        else:
            raise ValueError(f"{dockerfile}, line {instruction.line}: {instruction.name} before FROM")
    return arguments, stages


def build(dockerfile: Path, folder: Path) -> Path:
    """Execute the stage ``build`` below ``folder``; where /opt/hedgecast then lies.

    Raises
    ------
    subprocess.CalledProcessError
        A RUN line failed.
    ValueError
        An instruction that is not known here.
    """
    (stage,) = [stage for stage in read(dockerfile)[1] if stage.name == "build"]
    environment = {**os.environ}
    environment.pop("PYTHONPATH", None)
    work = folder
    for instruction in stage.instructions:
        if instruction.name in ("ENV", "ARG"):
            # An argument without a default is the builder's to give.
            environment.update({name: _mapped(value, folder) for name, value in _pairs(instruction) if value})
        elif instruction.name == "WORKDIR":
            work = Path(_mapped(instruction.text, folder))
            work.mkdir(parents=True, exist_ok=True)
        elif instruction.name == "COPY":
            _copy(shlex.split(instruction.text), work)
        elif instruction.name == "RUN":
            print(f"line {instruction.line}: {instruction.text}", flush=True)
            subprocess.run(
                ["/bin/sh", "-ec", _shell(instruction, folder)], cwd=work, env=environment, check=True
            )
        else:
            raise ValueError(f"{dockerfile}, line {instruction.line}: {instruction.name} is not known here")
    return Path(_mapped("/opt/hedgecast", folder))


def check(dockerfile: Path, folder: Path) -> None:
    """Run what an image that `build` left below ``folder`` starts with, and the commands that it promises.

    Raises
    ------
    subprocess.CalledProcessError
        One of them failed, or an entry point does not load.
    ValueError
        The image has no such command.
    """
    build_stage, run_stage = read(dockerfile)[1]
    variables = {**os.environ, **environment_of(run_stage, folder)}
    variables.pop("PYTHONPATH", None)
    extras = set(re.findall(r"[a-z]+", "".join(re.findall(r"\.\[(.*?)\]", " ".join(build_stage.all("RUN"))))))
    started = [
        word for name in ("ENTRYPOINT", "CMD") for text in run_stage.all(name) for word in json.loads(text)
    ]
    commands = [started, ["hedgecast", "--version"], ["hedgecast", "decide", "--help"]]
    if {"library", "cluster"} <= extras:
        commands += [
            ["python", "-c", _ENTRIES],
            ["python", "-m", "hedgecast.service.probe", "--help"],
            ["python", "-m", "hedgecast.registry.backup", "--help"],
            ["python", "-c", "from hedgecast_workers.application import build"],
            ["ray", "--version"],
        ]
    if "gpu" in extras:
        commands.append(["python", "-c", _CUDA])
    for command in commands:
        print("runs:", shlex.join(command).splitlines()[0], flush=True)
        path = shutil.which(command[0], path=variables["PATH"])
        if path is None or not Path(path).is_relative_to(folder):
            raise ValueError(f"the image has no command {command[0]}: found {path}")
        subprocess.run([path, *command[1:]], cwd=folder, env=variables, check=True)


def environment_of(stage: Stage, folder: Path) -> dict[str, str]:
    """Variables that the stage sets, its paths below ``folder``; ``$PATH`` is this process's."""
    variables: dict[str, str] = {}
    for instruction in stage.instructions:
        if instruction.name == "ENV":
            for name, value in _pairs(instruction):
                variables[name] = _mapped(value, folder).replace("$PATH", os.environ["PATH"])
    return variables


def _instructions(text: str) -> Iterator[Instruction]:
    begun, parts = 0, list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or not line.strip():
            continue
        begun = begun if parts else number
        parts.append(line.strip().removesuffix("\\").strip())
        if not line.rstrip().endswith("\\"):
            name, _, rest = " ".join(parts).partition(" ")
            yield Instruction(name=name.upper(), text=rest, line=begun)
            parts = []


def _pairs(instruction: Instruction) -> list[tuple[str, str]]:
    found = [word.partition("=") for word in shlex.split(instruction.text)]
    return [(name, value) for name, _, value in found]


def _mapped(text: str, folder: Path) -> str:
    for place in PLACES:
        text = text.replace(place, str(folder) + place)
    return text


def _shell(instruction: Instruction, folder: Path) -> str:
    command = _mapped(instruction.text, folder)
    # The image's own python; what follows lies in the environment that it makes.
    return f"{sys.executable}{command.removeprefix('python')}" if command.startswith("python ") else command


def _copy(words: list[str], work: Path) -> None:
    *sources, target = words
    for source in sources:
        here, there = ROOT / source, work / target
        if here.is_dir():
            shutil.copytree(here, there, ignore=_LEFT_OUT, dirs_exist_ok=True)
        else:
            there = there / here.name if target.endswith("/") else there
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(here, there)


def main() -> int:
    """Build below a folder and run what is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dockerfile", type=Path)
    parser.add_argument("folder", type=Path)
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    build(asked.dockerfile, folder)
    check(asked.dockerfile, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
