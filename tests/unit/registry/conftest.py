import pytest

from hedgecast.testing import TinyModel


@pytest.fixture(scope="session")
def trained(tiny: TinyModel) -> TinyModel:
    return tiny
