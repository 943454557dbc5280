"""Rules of the whole suite."""

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared" / "data"
# Folders whose tests start Ray: one after the other, so that two processes never hold two of them.
_WITH_RAY = ("tests/e2e/", "tests/integration/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where the suite runs in several processes, a file's tests stay together, and those with Ray too."""
    for item in items:
        file = item.nodeid.split("::", 1)[0]
        group = "ray" if file.startswith(_WITH_RAY) else file
        item.add_marker(pytest.mark.xdist_group(group))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests of the benchmark tables are skipped loudly where those are missing, and fail so in CI."""
    if item.get_closest_marker("shared") is None or SHARED.is_dir():
        return
    message = f"NEEDS the benchmark tables in {SHARED}"
    if os.environ.get("CI"):
        pytest.fail(message, pytrace=False)
    pytest.skip(message)
