import dataclasses

import pytest

from hedgecast.core.config import Config
from hedgecast.core.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Inner(Config):
    rate: float = 0.1
    """Step size."""
    names: tuple[str, ...] = ()
    """Names."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Outer(Config):
    name: str
    """Name."""
    inner: Inner = dataclasses.field(default_factory=Inner)
    """Nested."""
    limit: int | None = None
    """Limit."""


def test_nested_tables_become_records() -> None:
    config = Outer.from_dict({"name": "a", "inner": {"rate": 2, "names": ["x", "y"]}, "limit": 3})
    assert config == Outer(name="a", inner=Inner(rate=2.0, names=("x", "y")), limit=3)


def test_to_dict_reads_back() -> None:
    config = Outer(name="a", inner=Inner(names=("x",)))
    assert Outer.from_dict(config.to_dict()) == config
    assert "limit" not in config.to_dict()


def test_unknown_key_names_path_and_suggests() -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'inner.rat': did you mean 'rate'\?"):
        Outer.from_dict({"name": "a", "inner": {"rat": 2.0}})


def test_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"missing key 'name': set it \(a string\)"):
        Outer.from_dict({})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": 3}, r"name = 3 is a int: must be a string"),
        ({"name": "a", "limit": True}, r"limit = True is a bool: must be an integer"),
        ({"name": "a", "inner": 4}, r"inner = 4 is a int: must be a table"),
        ({"name": "a", "inner": {"names": "xy"}}, r"inner.names = 'xy' is a str: must be a list of strings"),
        ({"name": "a", "inner": {"names": ["x", 1]}}, r"inner.names\[1\] = 1 is a int"),
    ],
)
def test_wrong_type_names_value_and_type(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Outer.from_dict(values)
