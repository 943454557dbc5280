"""Certificates for the service's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hedgecast.testing import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Callable[[str], Authority]:
    """Makes the authority of a name, in a folder of its own."""
    return lambda name: Authority(tmp_path / name)
