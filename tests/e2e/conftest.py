"""One cluster for all tests with real processes."""

from collections.abc import Iterator

import pytest

from hedgecast_workers.testing import Head, local_head


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    with local_head() as started:
        yield started
