"""The documentation: its examples run, its site builds, and what it names is there."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer.main

from hedgecast import cli
from hedgecast.learning.study import Study

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Names that stand for the reader's own.
YOURS = {"deploy/secrets"}


def _blocks(page: Path, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def _code(page: Path) -> Iterator[str]:
    """Lines of code of a page: indented ones, fenced ones, and code within a sentence."""
    text = page.read_text(encoding="utf-8")
    yield from re.findall(r"^ {4,}(\S.*)$", text, re.MULTILINE)
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        yield from block.splitlines()
    yield from re.findall(r"`([^`\n]+)`", text)


def _commands() -> Iterator[tuple[str, str, list[str]]]:
    """Page, subcommand and words of each `hedgecast ...`."""
    for page in PAGES:
        for line in _code(page):
            for found in re.finditer(r"(?:^|(?<!from)[\s/])hedgecast ([a-z][a-z-]*)((?: [^|>;&#`]*)?)", line):
                yield page.name, found[1], found[2].split()


@pytest.fixture(scope="module")
def commands() -> dict[str, Any]:
    group = typer.main.get_command(cli.build(sorted(cli._homes())))
    return dict(group.commands)  # type: ignore[attr-defined]


def test_every_command_that_is_named_exists_with_its_options(commands: dict[str, Any]) -> None:
    seen = list(_commands())
    assert len(seen) > 20
    for page, name, words in seen:
        assert name in commands, f"{page}: hedgecast {name}"
        command = commands[name]
        if hasattr(command, "commands") and words:
            command = command.commands[words[0]]
        flags = {flag for parameter in command.params for flag in parameter.opts} | {"--help"}
        for word in words:
            if word.startswith("--"):
                assert word.partition("=")[0] in flags, f"{page}: hedgecast {name} {word}"


def test_every_make_target_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    named = {
        (page.name, target)
        for page in [*PAGES, ROOT / "CONTRIBUTING.md"]
        for line in _code(page)
        for target in re.findall(r"^make ([a-z-]+)", line)
    }
    assert named
    assert {(page, target) for page, target in named if target not in targets} == set()


def test_every_module_and_file_that_is_named_exists() -> None:
    for page in PAGES:
        for line in _code(page):
            for module in re.findall(r"python -m (hedgecast[\w.]*)", line):
                assert importlib.util.find_spec(module) is not None, f"{page.name}: {module}"
            for path in re.findall(
                r"(?<![\w./])((?:deploy|docs|benchmarks|tests|platform|protos)/[\w./-]+)", line
            ):
                path = path.rstrip("./")
                if not any(path.startswith(yours) for yours in YOURS):
                    there = (ROOT / path).exists() or list(ROOT.glob(f"{path}*"))
                    assert there, f"{page.name}: {path}"


@pytest.mark.parametrize("name", ["README.md", "docs/program.md"])
def test_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = [block for block in _blocks(ROOT / name, "python") if "Client" not in block]
    assert blocks
    space: dict[str, Any] = {"__name__": "example"}
    for block in blocks:
        # In one file, as a reader would paste them one below the other.
        exec(compile(block, name, "exec"), space)


def test_the_study_of_the_guide_is_a_study() -> None:
    (text,) = _blocks(ROOT / "docs" / "study.md", "toml")
    study = Study.from_dict(tomllib.loads(text))
    assert study.name == "my_region"
    assert study.learning.method == "diffusion-dfl"


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "deploy" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["grpc_reference", "benchmark_tables"])
def test_a_generated_page_is_what_its_script_writes(name: str) -> None:
    script = _script(name)
    assert script.PAGE.read_text(encoding="utf-8") == script.page(), f"python deploy/{name}.py"


def test_the_reference_has_every_method_and_field() -> None:
    script = _script("grpc_reference")
    page = script.page()
    for file in script.files():
        for service in file.service:
            for method in service.method:
                assert f"### {service.name}.{method.name}\n" in page
        for message in file.message_type:
            section = page.partition(f"\n## {message.name}\n")[2].partition("\n## ")[0]
            for field in message.field:
                row = re.search(
                    rf"^\| `{field.name}` = {field.number} \| .+ \| (.+) \|$", section, re.MULTILINE
                )
                assert row is not None, f"{message.name}.{field.name} has no row, or no comment"


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    tool = Path(sys.executable).parent / "mkdocs"
    command = [str(tool), "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "program" / "index.html").read_text(encoding="utf-8")
    assert "Write your own program" in page
    # Nobody else learns who reads.
    for fetched in re.findall(r'(?:src|href)="(https?://[^"]+)"', page):
        assert not re.search(r"\.(js|css|woff2?)(\?|$)", fetched), fetched
