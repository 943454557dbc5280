"""Rules of the whole suite, and what is made once per session: a small model, and what the chart renders."""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from hedgecast.testing import TinyModel

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
CHART = ROOT / "helm" / "hedgecast"
NAMESPACE = "planning"
_MOST_OF_A_REASON = 1000


def pytest_configure() -> None:
    """Tests that interrupt what they started can: a shell lets its jobs in the background ignore SIGINT.

    Processes inherit that, and Python then installs no handler of its own. And threads that wait sleep, as
    under `make test`: those that spin make a test minutes long where cores are busy.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Say at once what failed: a run that is stopped, or whose output is cut, prints no summary."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        why = getattr(getattr(report.longrepr, "reprcrash", None), "message", str(report.longrepr))
        print(
            f"\n{report.when} of {report.nodeid}: {why[:_MOST_OF_A_REASON]}", file=sys.__stderr__, flush=True
        )


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests of the benchmark tables are skipped loudly where those are missing, and fail so in CI."""
    if item.get_closest_marker("shared") is None or SHARED.is_dir():
        return
    message = f"NEEDS the benchmark tables in {SHARED}"
    if os.environ.get("CI"):
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


@pytest.fixture(scope="session", autouse=True)
def current_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty current folder for the whole session: nothing is read from it."""
    folder, before = tmp_path_factory.mktemp("current"), Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.fixture(autouse=True)
def nothing_is_left(current_folder: Path) -> Iterator[None]:
    """A test leaves no file in the current folder, and stays there: users have their own in it."""
    yield
    there, left = Path.cwd(), {path.name for path in current_folder.iterdir()} - {".hypothesis"}
    # The tests after it are not to blame.
    os.chdir(current_folder)
    for name in left:
        path = current_folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert there == current_folder
    assert left == set(), "a test left files in the current folder"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyModel]:
    """The tiny study with its exported model, for all who only read it: tracing its graphs takes long.

    The study is ``tiny.toml`` and its table ``tiny.csv`` beside the bundle's folder.
    """
    # The charts' tests want neither torch nor the seconds that it takes to import.
    from hedgecast.registry.bundle import Bundle
    from hedgecast.registry.weights import weights_of
    from hedgecast.testing import make_tiny_model

    folder = tmp_path_factory.mktemp("tiny")
    made = make_tiny_model(folder)
    weights = weights_of(made.generator)
    sources = {name: (folder / name).read_bytes() for name in ("tiny.csv", "tiny.toml")}
    files = {file.name for file in made.bundle.folder.iterdir()}
    yield made
    changed = "a test changed the model that all share: give it a copy"
    # Opening compares the checksums.
    assert Bundle.open(made.bundle.folder).manifest == made.bundle.manifest, changed
    assert {file.name for file in made.bundle.folder.iterdir()} == files, changed
    assert weights_of(made.generator) == weights, changed
    assert {name: (folder / name).read_bytes() for name in sources} == sources, changed


@dataclass(frozen=True)
class Rendered:
    """Outcome of one `helm template`."""

    returncode: int
    text: str
    error: str

    @property
    def documents(self) -> list[dict[str, Any]]:
        assert self.returncode == 0, self.error
        return _parsed(self.text)

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [document for document in self.documents if document["kind"] == kind]

    def one(self, kind: str, name: str) -> dict[str, Any]:
        """The document of a kind whose name ends so."""
        (found,) = [d for d in self.of_kind(kind) if d["metadata"]["name"].endswith(name)]
        return found


Render = Callable[..., Rendered]


@functools.cache
def _parsed(text: str) -> list[dict[str, Any]]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return [document for document in yaml.load_all(text, Loader=loader) if document]


@pytest.fixture(scope="session")
def helm() -> Path:
    """The binary; without one the tests are skipped loudly, and fail in CI."""
    script = ROOT / "deploy" / "get_helm.py"
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        message = f"NEEDS helm: {result.stderr.strip()}"
        if os.environ.get("CI"):
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    return Path(result.stdout.strip())


@pytest.fixture(scope="session")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The copy without the optional dependency: helm renders nothing while one is not fetched."""
    copy = tmp_path_factory.mktemp("chart") / "hedgecast"
    script = ROOT / "deploy" / "chart_files.py"
    subprocess.run([sys.executable, script, "--without-operator", copy], check=True)
    left = yaml.safe_load((copy / "Chart.yaml").read_text(encoding="utf-8"))
    whole = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert [dependency["condition"] for dependency in whole.pop("dependencies")] == ["kuberay.enabled"]
    assert left == whole
    return copy


@pytest.fixture(scope="session")
def render(helm: Path, chart: Path, tmp_path_factory: pytest.TempPathFactory) -> Render:
    """``render(values, files=("laptop",), release="hc")``: `helm template` with values on top of files."""
    folder = tmp_path_factory.mktemp("values")
    kept: dict[str, Rendered] = {}

    def run(
        values: dict[str, Any] | None = None,
        *,
        files: tuple[str, ...] = (),
        release: str = "hc",
        arguments: tuple[str, ...] = (),
    ) -> Rendered:
        text = json.dumps(values or {}, sort_keys=True)
        key = json.dumps([text, files, release, arguments])
        if key not in kept:
            path = folder / f"{len(kept)}.json"
            path.write_text(text, encoding="utf-8")
            named = [argument for name in files for argument in ("-f", str(chart / f"values-{name}.yaml"))]
            command = [str(helm), "template", release, str(chart), "--namespace", NAMESPACE, *named]
            result = subprocess.run(
                [*command, "-f", str(path), *arguments], capture_output=True, text=True, check=False
            )
            kept[key] = Rendered(result.returncode, result.stdout, result.stderr)
        return kept[key]

    return run
