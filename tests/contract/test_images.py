"""The images' recipes: linted, pinned, without root, and their steps run where that is quick."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "deploy").glob("Dockerfile.*"))
NAMES = [path.name for path in DOCKERFILES]


def _image_steps() -> ModuleType:
    spec = importlib.util.spec_from_file_location("image_steps", ROOT / "deploy" / "image_steps.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


image_steps = _image_steps()


def _lint(path: Path) -> subprocess.CompletedProcess[str]:
    linter = Path(sys.executable).parent / "hadolint"
    command = [str(linter), "--no-color", "--failure-threshold", "style", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_there_are_three_images() -> None:
    assert NAMES == ["Dockerfile.client", "Dockerfile.ray-cpu", "Dockerfile.ray-gpu"]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=NAMES)
def test_hadolint_has_nothing_to_say(dockerfile: Path) -> None:
    result = _lint(dockerfile)
    assert result.returncode == 0, result.stdout


def test_hadolint_would_say_something(tmp_path: Path) -> None:
    spoiled = tmp_path / "Dockerfile"
    spoiled.write_text("FROM python:latest\nRUN pip install torch\n", encoding="utf-8")
    result = _lint(spoiled)
    assert result.returncode != 0
    assert "DL3007" in result.stdout


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=NAMES)
def test_an_image_is_pinned_and_runs_without_root(dockerfile: Path) -> None:
    _, (build, run) = image_steps.read(dockerfile)
    assert (build.name, run.name) == ("build", "run")
    assert build.base == run.base
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-[a-z]+", build.base), build.base
    last_user = run.all("USER")[-1]
    # Kubernetes can only see that a number is not root.
    assert last_user == "1000:1000"
    assert [text for text in run.all("COPY") if not text.startswith("--from=build")] == [], (
        "sources in the image"
    )


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=NAMES)
def test_python_of_the_image_is_the_one_that_tests_run_on(dockerfile: Path) -> None:
    _, (build, run) = image_steps.read(dockerfile)
    minor = ".".join(build.base.removeprefix("python:").split(".")[:2])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["requires-python"] == f">={minor}", (
        "the oldest that is promised is the one that is shipped"
    )
    assert set(re.findall(r"lib/python(\d+\.\d+)/", " ".join(run.all("ENV")))) <= {minor}


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=NAMES)
def test_every_install_is_constrained_and_every_extra_exists(dockerfile: Path) -> None:
    _, (build, _) = image_steps.read(dockerfile)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    installs = [text for text in build.all("RUN") if "pip install" in text]
    assert installs
    for text in installs:
        assert "-c deploy/constraints.txt" in text
    extras = set(re.findall(r"[a-z]+", "".join(re.findall(r"\.\[(.*?)\]", " ".join(installs)))))
    assert extras <= set(project["optional-dependencies"])
    assert not {"cpu", "gpu"} <= extras, "they share a folder"


def test_the_gpu_image_refuses_a_torch_for_processors() -> None:
    (stage, _) = image_steps.read(ROOT / "deploy" / "Dockerfile.ray-gpu")[1]
    (refused,) = re.findall(r"'torch!=([^']+)'", " ".join(stage.all("RUN")))
    pins = (ROOT / "deploy" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"torch=={refused.removesuffix('+cpu')}" in pins
    assert refused.endswith("+cpu")


ONNX_RUNTIME = """
__version__ = "1"
def get_available_providers(): return [{!r}]
"""
TORCH = """
__version__ = "2"
class version: cuda = {!r}
"""


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "have CUDA's libraries"),
        ({"provider": "CPUExecutionProvider"}, "a build of ONNX Runtime for CPUs"),
        ({"linked": "\tlibcublasLt.so.13 => not found"}, "not found: ['libcublasLt.so.13']"),
        # The driver's, which the host brings.
        ({"linked": "\tlibcuda.so.1 => not found"}, "have CUDA's libraries"),
        ({"lacks": "libcudnn.so.9"}, "not found: ['libcudnn.so.9']"),
        ({"lacks": "libcufft.so.12"}, "not found: ['libcufft.so.12']"),
        ({"lacks": "libnvrtc.so.13"}, "not found: ['libnvrtc.so.13']"),
        ({"cuda": None}, "torch 2 is a build for CPUs"),
    ],
)
def test_the_check_of_the_gpu_image_sees_what_is_missing(
    tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    """With stand-ins for both packages and for every library: any that Python can open will do."""
    (tmp_path / "onnxruntime" / "capi").mkdir(parents=True)
    provider = changed.get("provider", "CUDAExecutionProvider")
    (tmp_path / "onnxruntime" / "__init__.py").write_text(ONNX_RUNTIME.format(provider))
    (tmp_path / "torch.py").write_text(TORCH.format(changed.get("cuda", "13.0")))
    library = Path(str(importlib.import_module("yaml._yaml").__file__))
    for name in ("libcudnn.so.9", "libcufft.so.12", "libnvrtc.so.13"):
        if name != changed.get("lacks"):
            shutil.copy(library, tmp_path / name)
    (tmp_path / "ldd").write_text(f"#!/bin/sh\necho '{changed.get('linked', '')}'\n")
    (tmp_path / "ldd").chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "LD_LIBRARY_PATH": str(tmp_path),
    }
    command = [sys.executable, "-c", image_steps._CUDA]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert said in done.stdout + done.stderr
    assert done.returncode == (0 if said == "have CUDA's libraries" else 1)


def test_the_build_context_holds_what_is_copied() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    let_in = {line.removeprefix("!") for line in lines if line.startswith("!")}
    for dockerfile in DOCKERFILES:
        _, (build, _) = image_steps.read(dockerfile)
        copied = {word for text in build.all("COPY") for word in text.split()[:-1]}
        assert copied <= let_in
        for source in copied:
            assert (ROOT / source).exists(), source


def test_the_steps_of_the_client_image_give_a_working_command(tmp_path: Path) -> None:
    environment = image_steps.build(ROOT / "deploy" / "Dockerfile.client", tmp_path)
    assert environment == tmp_path / "opt" / "hedgecast"
    image_steps.check(ROOT / "deploy" / "Dockerfile.client", tmp_path)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run(arguments, cwd=tmp_path, env=clean, capture_output=True, text=True, check=False)

    command, python = str(environment / "bin" / "hedgecast"), str(environment / "bin" / "python")
    assert run(command, "decide", "--help").returncode == 0
    assert "Not installed" in run(command, "--help").stdout
    unreachable = run(command, "models", "list")
    assert "hedgecast[library,cpu]" in unreachable.stderr
    where = run(
        python, "-c", "import hedgecast, hedgecast.client; print(hedgecast.__file__, hedgecast.__version__)"
    )
    path, version = where.stdout.split()
    assert Path(path).is_relative_to(environment), "the source tree, not the installed package"
    assert version == run(command, "--version").stdout.strip()


def test_a_command_that_an_image_lacks_is_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "opt" / "hedgecast" / "bin"
    folder.mkdir(parents=True)
    (folder / "hedgecast").write_text('#!/bin/sh\ntest "$1" = --help\n', encoding="utf-8")
    (folder / "hedgecast").chmod(0o755)
    # What the image starts runs; --version fails.
    with pytest.raises(subprocess.CalledProcessError, match="--version"):
        image_steps.check(ROOT / "deploy" / "Dockerfile.client", tmp_path)
    (folder / "hedgecast").unlink()
    with pytest.raises(ValueError, match="no command hedgecast"):
        image_steps.check(ROOT / "deploy" / "Dockerfile.client", tmp_path)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=NAMES)
def test_paths_of_the_environment_lie_below_the_folder(dockerfile: Path, tmp_path: Path) -> None:
    run = image_steps.read(dockerfile)[1][1]
    found = image_steps.environment_of(run, tmp_path)
    assert found["PATH"] == f"{tmp_path}/opt/hedgecast/bin:{os.environ['PATH']}"
    for name in {"HEDGECAST_HOME", "HEDGECAST_CACHE", "NUMBA_CACHE_DIR", "LD_LIBRARY_PATH"} & set(found):
        assert all(path.startswith(f"{tmp_path}/") for path in found[name].split(":")), name


def test_a_failing_step_is_an_error(tmp_path: Path) -> None:
    spoiled = tmp_path / "Dockerfile.spoiled"
    spoiled.write_text("FROM python:3.11.14-slim-bookworm AS build\nRUN false\n", encoding="utf-8")
    with pytest.raises(subprocess.CalledProcessError):
        image_steps.build(spoiled, tmp_path)
    spoiled.write_text("FROM python:3.11.14-slim-bookworm AS build\nADD a b\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 2: ADD"):
        image_steps.build(spoiled, tmp_path)
