"""What a release promises: one version, a changelog that names it, whole packages, licenses, an inventory."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from packaging.utils import canonicalize_name
from packaging.version import Version

from hedgecast.version import __version__
from hedgecast_workers.cluster import OLDEST_RAY

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
HEADING = re.compile(r"^## \[(.+?)\] - (unreleased|\d{4}-\d{2}-\d{2})$", re.MULTILINE)
SECTIONS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "deploy" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Names and contents of the wheel that this source tree gives."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--quiet",
        "-w",
        str(folder),
        str(ROOT),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_version_stands_in_one_place() -> None:
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert "version" not in PROJECT["project"]
    stated = PROJECT["tool"]["hatch"]["version"]["path"]
    assert stated == "platform/hedgecast/version.py"
    assignments = [
        path
        for folder in ("platform", "workers")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"^__version__\s*=", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert assignments == [ROOT / stated]
    assert str(Version(__version__)) == __version__


def test_the_changelog_is_in_its_form_and_begins_with_this_version() -> None:
    headings = HEADING.findall(CHANGELOG)
    assert headings[0][0] == __version__
    assert len(re.findall(r"^## ", CHANGELOG, re.MULTILINE)) == len(headings)
    versions = [Version(version) for version, _ in headings]
    assert versions == sorted(set(versions), reverse=True)
    assert [when for _, when in headings[1:]].count("unreleased") == 0, "only the newest may be unreleased"
    sections = re.findall(r"^### (.*)$", CHANGELOG, re.MULTILINE)
    assert sections
    assert set(sections) <= SECTIONS


def test_a_heading_without_a_date_is_no_heading() -> None:
    assert HEADING.findall("## [0.2.0]\n") == []
    assert HEADING.findall("## [0.2.0] - 2027-01-05\n") == [("0.2.0", "2027-01-05")]


def test_the_wheel_holds_what_its_users_need(wheel: dict[str, bytes]) -> None:
    for package, folder in (("hedgecast", "platform"), ("hedgecast_workers", "workers")):
        assert f"{package}/py.typed" in wheel
        sources = {
            str(path.relative_to(ROOT / folder))
            for path in (ROOT / folder / package).rglob("*")
            if path.suffix in (".py", ".pyi", ".toml")
        }
        assert sources <= set(wheel)
    for proto in (ROOT / "protos").rglob("*.proto"):
        stem = str(proto.relative_to(ROOT / "protos")).removesuffix(".proto")
        assert {f"{stem}_pb2.py", f"{stem}_pb2.pyi"} <= set(wheel)
    info = f"hedgecast-{__version__}.dist-info"
    assert {f"{info}/licenses/LICENSE", f"{info}/licenses/THIRD_PARTY_NOTICES.md"} <= set(wheel)


def test_the_wheel_holds_nothing_else(wheel: dict[str, bytes]) -> None:
    tops = {name.partition("/")[0] for name in wheel}
    assert tops == {"hedgecast", "hedgecast_workers", f"hedgecast-{__version__}.dist-info"}
    endings = {Path(name).suffix for name in wheel if not name.startswith("hedgecast-")}
    assert endings <= {".py", ".pyi", ".toml", ".typed"}, "caches or data"


def test_the_wheel_registers_its_commands(wheel: dict[str, bytes]) -> None:
    entries = wheel[f"hedgecast-{__version__}.dist-info/entry_points.txt"].decode()
    for group, names in PROJECT["project"]["entry-points"].items():
        assert f"[{group}]" in entries
        for name, target in names.items():
            assert f"{name} = {target}" in entries
            module = target.partition(":")[0].replace(".", "/")
            assert f"{module}.py" in wheel or f"{module}/__init__.py" in wheel


def test_lower_bounds_are_written_down() -> None:
    lowest = _script("lowest")
    assert lowest.LOWEST.read_text(encoding="utf-8") == lowest.text_of(ROOT / "pyproject.toml")
    pins = dict(
        line.split("==")
        for line in (ROOT / "deploy" / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    )
    tested = {canonicalize_name(name): Version(version) for name, version in pins.items()}
    for name, version in lowest.bounds(ROOT / "pyproject.toml").items():
        assert Version(version) <= tested.get(name, Version(version)), name


def test_the_oldest_ray_and_torch_are_those_that_tests_run_with() -> None:
    # No test with the oldest versions starts Ray, and older builds of torch are gigabytes of CUDA: all other
    # tests must have run with what is promised of both.
    lowest = {
        name: Version(version) for name, version in _script("lowest").bounds(ROOT / "pyproject.toml").items()
    }
    pins = (ROOT / "deploy" / "constraints.txt").read_text(encoding="utf-8")
    for name in ("ray", "torch"):
        (tested,) = re.findall(rf"^{name}==(.+)$", pins, re.MULTILINE)
        assert lowest[name] == Version(tested)
    assert lowest["ray"].release[:2] == OLDEST_RAY


def test_a_requirement_without_a_lower_bound_is_refused(tmp_path: Path) -> None:
    lowest = _script("lowest")
    project = tmp_path / "pyproject.toml"
    project.write_text(
        '[project]\ndependencies = ["numpy"]\n[project.optional-dependencies]\n', encoding="utf-8"
    )
    with pytest.raises(ValueError, match="one lower bound each"):
        lowest.bounds(project)


def test_what_is_shipped_is_licensed_and_listed() -> None:
    third_party = _script("third_party")
    # Raises for a license that may not be shipped without a word.
    fresh = set(third_party.notices().splitlines())
    kept = set(third_party.NOTICES.read_text(encoding="utf-8").splitlines())
    listed = {line.split(" | ")[0].removeprefix("| ") for line in kept if line.startswith("| ")}
    pins = (ROOT / "deploy" / "constraints.txt").read_text(encoding="utf-8")
    pinned = {canonicalize_name(line.partition("==")[0]) for line in pins.splitlines() if "==" in line}
    needed = set(third_party.closure("hedgecast", third_party.EXTRAS))
    assert needed & pinned <= listed
    # Other packages come and go with their versions; those that are pinned are told exactly.
    rows = {
        line for line in fresh if line.startswith("| ") and line.split(" | ")[0].removeprefix("| ") in pinned
    }
    assert rows <= kept, "python deploy/third_party.py"


def test_every_extra_that_users_install_is_counted() -> None:
    tools = {"bench", "dev", "docs", "release"}
    # Of cpu and gpu, which share a folder, one can be installed; NVIDIA's terms stand in the head.
    extras = set(PROJECT["project"]["optional-dependencies"]) - tools - {"gpu"}
    assert set(_script("third_party").EXTRAS) == extras


def test_a_license_that_asks_something_back_needs_a_remark(monkeypatch: pytest.MonkeyPatch) -> None:
    third_party = _script("third_party")
    monkeypatch.setattr(third_party, "license_of", lambda distribution: "MIT AND GPL-3.0-only")
    with pytest.raises(ValueError, match="may it be shipped"):
        third_party.notices()


def test_the_inventory_names_every_package_with_its_version(tmp_path: Path) -> None:
    tool = Path(sys.prefix) / "release" / "bin" / "cyclonedx-py"
    output = tmp_path / "sbom.json"
    # Checking it against CycloneDX's schema takes most of a minute: make sbom does.
    words = ["--no-validate", "--output-reproducible", "--output-file", str(output)]
    command = [str(tool), "environment", *words, sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    inventory = json.loads(output.read_text(encoding="utf-8"))
    assert inventory["bomFormat"] == "CycloneDX"
    found = {canonicalize_name(part["name"]): part.get("version") for part in inventory["components"]}
    third_party = _script("third_party")
    for name, distribution in third_party.closure("hedgecast", third_party.EXTRAS).items():
        assert found[name] == distribution.version


def test_nothing_here_makes_ray_slow_to_import() -> None:
    # jsonschema, which Ray imports, takes it where it is; reading its grammar costs each process 1.4 s.
    assert importlib.util.find_spec("rfc3987_syntax") is None, "make install takes it away"


def test_a_process_without_ray_has_none_and_lets_the_rest_through(tmp_path: Path) -> None:
    code = (
        "import numpy, hedgecast, hedgecast_workers.plan\n"
        "import importlib.metadata as metadata, importlib.util\n"
        "try:\n    import ray.serve\nexcept ModuleNotFoundError as error:\n    print(error.name)\n"
        "print([found.version for found in metadata.distributions(name='ray')])\n"
        "print(importlib.util.find_spec('ray'), metadata.version('numpy') == numpy.__version__)\n"
    )
    paths = [str(ROOT / "deploy" / "no_ray"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    # Of a process that starts another, elsewhere.
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}], check=True)"
    done = subprocess.run(
        [sys.executable, "-c", outer],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["ray", "[]", "None", "True"]


def test_ci_runs_the_jobs_of_a_release() -> None:
    """A target that nobody runs is no promise: each is in .ci/run, or in the list before a release."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    jobs = re.findall(r"^make ([a-z-]+)", script, re.MULTILINE)
    assert jobs == ["check", "test", "dist-check", "test-no-ray", "test-lowest"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    parts = re.findall(r"^(?:NO_RAY|LOWEST)_PART := ((?:.*\\\n)*.*)$", makefile, re.MULTILINE)
    assert len(parts) == 2
    for part in parts:
        paths = [word.partition("::")[0] for word in part.split() if word != "\\"]
        assert paths
        assert [path for path in paths if not (ROOT / path).exists()] == []
