"""Rules of the whole suite."""

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared" / "data"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests of the benchmark tables are skipped loudly where those are missing, and fail so in CI."""
    if item.get_closest_marker("shared") is None or SHARED.is_dir():
        return
    message = f"NEEDS the benchmark tables in {SHARED}"
    if os.environ.get("CI"):
        pytest.fail(message, pytrace=False)
    pytest.skip(message)
