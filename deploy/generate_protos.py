"""Generate the Python code of protos/ into platform/hedgecast/rpc/v1.

Run by ``make proto``; the result is committed, and ``--check`` (in ``make check``) compares. The proto
path equals the Python path, or the generated imports would fail.
"""

from __future__ import annotations

import argparse
import filecmp
import importlib.resources
import shutil
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path("hedgecast/rpc/v1")


def generate(output: Path) -> None:
    """Write the generated modules and their type stubs below ``output``.

    Raises
    ------
    RuntimeError
        A plugin is not installed, or protoc refused the sources; its messages are on standard error.
    """
    sources = sorted((ROOT / "protos").rglob("*.proto"))
    services = [source for source in sources if source.stem.endswith("_service")]
    _protoc(sources, f"--python_out={output}", f"--mypy_out=quiet:{output}")
    # A file without a service would only get an empty module.
    _protoc(services, f"--grpc_python_out={output}", f"--mypy_grpc_out=quiet:{output}")


def differences(left: Path, right: Path) -> list[str]:
    """Names of generated files that are missing on either side or differ."""
    names = {path.name for root in (left, right) for path in (root / PACKAGE).glob("*_pb2*.py*")}
    _, mismatch, missing = filecmp.cmpfiles(left / PACKAGE, right / PACKAGE, sorted(names), shallow=False)
    return sorted(mismatch + missing)


def _protoc(sources: list[Path], *options: str) -> None:
    plugins = [f"--plugin={name}={_plugin(name)}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")]
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    paths = [f"--proto_path={ROOT / 'protos'}", f"--proto_path={well_known}"]
    code = protoc.main(["protoc", *plugins, *paths, *options, *map(str, sources)])
    if code != 0:
        raise RuntimeError(f"protoc ended with status {code}")


def _plugin(name: str) -> str:
    # protoc looks on PATH; the plugins lie beside this interpreter even where its folder is not there.
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        raise RuntimeError(f"{name} is not installed: make install")
    return found


def main() -> int:
    """Generate into the source tree, or compare with it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    if not parser.parse_args().check:
        generate(ROOT / "platform")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        stale = differences(ROOT / "platform", Path(folder))
    if stale:
        print(f"generated code is stale, run make proto: {', '.join(stale)}", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
