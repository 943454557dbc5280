"""The ``[data]`` and ``[split]`` tables of a study file, strictly read."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import re
import zoneinfo

from hedgecast.core.config import Config
from hedgecast.core.errors import ConfigError

_STEP = re.compile(r"([1-9][0-9]*)(min|h)")
_CLOCK = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")
MINUTES_PER_DAY = 1440


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig(Config):
    """Which table is read, and what of it is decided on, known and looked back at."""

    dataset: str | None = None
    """Name of a shipped dataset; exactly one of ``dataset`` and ``path``."""
    path: str | None = None
    """CSV or Parquet file; a relative path starts at the study file's folder."""
    timestamp: str | None = None
    """Column with the start of each step; needed with ``path``."""
    timezone: str
    """IANA name. Days and slots are those of its wall clock; naive times are read in it."""
    step: str
    """Length of a step, such as "15min", "30min" or "1h"; it must divide an hour."""
    targets: tuple[str, ...]
    """Columns that are uncertain in the decision period."""
    known: tuple[str, ...] = ()
    """Columns known ahead for the whole decision period."""
    observed: tuple[str, ...] = ()
    """Further columns known up to the issue time only."""
    units: dict[str, str] = dataclasses.field(default_factory=dict)
    """Unit of a column, by name; a shipped dataset has its own."""
    history: int
    """Steps looked back from the issue time; at least one."""
    horizon: int
    """Steps decided; at most one day."""
    issue_time: str = "00:00"
    """Local time, HH:MM, at which the decision period begins."""

    def __post_init__(self) -> None:
        self._check_source()
        self._check_clock()
        self._check_columns()
        _at_least_one("data.history", self.history)
        _at_least_one("data.horizon", self.horizon)
        steps_per_day = MINUTES_PER_DAY // self.step_minutes
        if self.horizon > steps_per_day:
            raise ConfigError(
                f"data.horizon = {self.horizon} steps of {self.step} are longer than a day: "
                f"one decision is made per day, so choose at most {steps_per_day}",
                key="data.horizon",
            )

    def _check_source(self) -> None:
        if (self.dataset is None) == (self.path is None):
            found = "neither" if self.dataset is None else f"both ({self.dataset!r} and {self.path!r})"
            raise ConfigError(
                f"data.dataset and data.path: {found} given: set exactly one", key="data.dataset"
            )
        if self.path is not None and not self.timestamp:
            raise ConfigError(
                f"missing key 'data.timestamp': name the column of {self.path!r} with the start of each step",
                key="data.timestamp",
            )
        if self.dataset is not None and self.timestamp is not None:
            raise ConfigError(
                f"data.timestamp = {self.timestamp!r}: a dataset knows its own times: remove the key",
                key="data.timestamp",
            )

    def _check_clock(self) -> None:
        zone(self.timezone, key="data.timezone")
        parse_step(self.step, key="data.step")
        parse_clock(self.issue_time, key="data.issue_time")
        if self.issue_minutes % self.step_minutes:
            raise ConfigError(
                f"data.issue_time = {self.issue_time!r} is not a multiple of the step {self.step}: "
                "choose the start of a step",
                key="data.issue_time",
            )

    def _check_columns(self) -> None:
        if not self.targets:
            raise ConfigError("data.targets = []: name at least one column", key="data.targets")
        seen: dict[str, str] = {}
        if self.timestamp is not None:
            seen[self.timestamp] = "data.timestamp"
        for key in ("targets", "known", "observed"):
            for name in getattr(self, key):
                if name in seen:
                    raise ConfigError(
                        f"data.{key} names {name!r}, which {seen[name]} names already: name each column once",
                        key=f"data.{key}",
                    )
                seen[name] = f"data.{key}"
        for name in self.units:
            if name not in self.columns:
                raise ConfigError(
                    f"data.units.{name}: no such column: columns here: {', '.join(self.columns)}",
                    key=f"data.units.{name}",
                )

    @property
    def step_minutes(self) -> int:
        """Length of a step in minutes."""
        return parse_step(self.step, key="data.step")

    @property
    def issue_minutes(self) -> int:
        """Minutes of the wall clock from midnight to the issue time."""
        return parse_clock(self.issue_time, key="data.issue_time")

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns read: targets, then observed, then known."""
        return self.targets + self.observed + self.known


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SplitConfig(Config):
    """Where validation and test begin: local dates; training is all before."""

    validation: str
    """First day of validation, YYYY-MM-DD."""
    test: str
    """First day of the test, YYYY-MM-DD."""
    test_end: str | None = None
    """First day after the test, YYYY-MM-DD; None: to the end of the data."""

    def __post_init__(self) -> None:
        dates = {"validation": self.validation, "test": self.test}
        if self.test_end is not None:
            dates["test_end"] = self.test_end
        parsed = [(key, parse_date(text, key=f"split.{key}")) for key, text in dates.items()]
        for (earlier, first), (later, second) in itertools.pairwise(parsed):
            if first >= second:
                raise ConfigError(
                    f"split.{later} = {second.isoformat()!r} is not after split.{earlier} = "
                    f"{first.isoformat()!r}: the order is training, validation, test",
                    key=f"split.{later}",
                )


def zone(name: str, *, key: str) -> zoneinfo.ZoneInfo:
    """The time zone ``name``.

    Raises
    ------
    ConfigError
        No such zone in the time zone database.
    """
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ConfigError(
            f"{key} = {name!r} is not a time zone: use an IANA name such as 'Europe/Berlin' or 'UTC'", key=key
        ) from error


def parse_step(text: str, *, key: str) -> int:
    """Minutes of a step such as "30min" or "1h"; it must divide an hour."""
    match = _STEP.fullmatch(text)
    minutes = int(match[1]) * (60 if match[2] == "h" else 1) if match else 0
    if not minutes or 60 % minutes:
        raise ConfigError(
            f"{key} = {text!r}: must be '1h' or minutes that divide an hour, such as '15min' or '30min'",
            key=key,
        )
    return minutes


def parse_clock(text: str, *, key: str) -> int:
    """Minutes from midnight of a wall-clock time HH:MM."""
    match = _CLOCK.fullmatch(text)
    if not match:
        raise ConfigError(f"{key} = {text!r}: must be a local time HH:MM from '00:00' to '23:59'", key=key)
    return 60 * int(match[1]) + int(match[2])


def parse_date(text: str, *, key: str) -> datetime.date:
    """The date YYYY-MM-DD."""
    try:
        return datetime.datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError as error:
        raise ConfigError(f"{key} = {text!r}: must be a date YYYY-MM-DD", key=key) from error


def _at_least_one(key: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"{key} = {value}: must be at least 1", key=key)
