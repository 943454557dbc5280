"""What a context is made of, as plain data: it goes into a model's bundle and is all the server needs."""

from __future__ import annotations

import dataclasses
import zoneinfo

import numpy as np

from hedgecast.core.config import Config
from hedgecast.core.errors import ConfigError
from hedgecast.data.clock import local_times
from hedgecast.data.config import MINUTES_PER_DAY, DataConfig, zone
from hedgecast.data.tables import SeriesTable

DAYS_PER_WEEK = 7
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class FeatureSchema(Config):
    """Columns, slots and zone of a context; ``names`` are its features in order.

    In this order, with c a column, k a slot from the issue time, D the slots of a day:

    - ``c.back1[k]``: the last D slots before the issue time (fewer where the history is shorter);
    - ``c.back7[k]``: the period's slots one week before, where the history reaches a week back;
    - ``c.mean_back{d}``: mean of the d-th D slots before the issue time;
    - ``c[k]``: a known column in the period;
    - a known column in ``daily``, constant within each day, gives one value each instead: ``c``, ``c.back1``
      and ``c.back7``;
    - calendar: weekday (one of seven), weekend, two harmonics of the day of the year, daylight saving.
    """

    timezone: str
    """IANA name."""
    step_minutes: int
    """Length of a step."""
    issue_minutes: int
    """Minutes of the wall clock from midnight to the issue time."""
    history: int
    """Slots looked back, H."""
    horizon: int
    """Slots decided, T."""
    targets: tuple[str, ...]
    """F uncertain columns."""
    observed: tuple[str, ...] = ()
    """Columns known up to the issue time only."""
    known: tuple[str, ...] = ()
    """K columns known for the decision period too."""
    daily: tuple[str, ...] = ()
    """Those of ``known`` that are constant within every decision period."""
    units: dict[str, str] = dataclasses.field(default_factory=dict)
    """Unit by column, where there is one."""

    def __post_init__(self) -> None:
        zone(self.timezone, key="timezone")
        for key in ("step_minutes", "history", "horizon"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key} = {getattr(self, key)}: must be at least 1", key=key)
        strange = set(self.daily) - set(self.known)
        if strange:
            raise ConfigError(f"daily names {sorted(strange)}: each must be among known", key="daily")

    @classmethod
    def from_table(cls, config: DataConfig, table: SeriesTable) -> FeatureSchema:
        """The schema of ``config``; ``table`` tells units and which known columns are constant in a day."""
        columns = config.columns
        issue = np.timedelta64(config.issue_minutes, "m")
        local = local_times(table.times, zone(config.timezone, key="data.timezone")) - issue
        turns = np.flatnonzero(np.diff(local.astype("datetime64[D]")).astype(np.int64) == 0)
        return cls(
            timezone=config.timezone,
            step_minutes=config.step_minutes,
            issue_minutes=config.issue_minutes,
            history=config.history,
            horizon=config.horizon,
            targets=config.targets,
            observed=config.observed,
            known=config.known,
            daily=tuple(name for name in config.known if not np.any(np.diff(table.columns[name])[turns])),
            units={name: unit for name, unit in {**table.units, **config.units}.items() if name in columns},
        )

    @property
    def zone(self) -> zoneinfo.ZoneInfo:
        """The time zone."""
        return zoneinfo.ZoneInfo(self.timezone)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the history in order: targets, observed, known."""
        return self.targets + self.observed + self.known

    @property
    def target_units(self) -> tuple[str, ...]:
        """F units; empty text where none is given."""
        return tuple(self.units.get(name, "") for name in self.targets)

    @property
    def slots_per_day(self) -> int:
        """D, slots of a day."""
        return MINUTES_PER_DAY // self.step_minutes

    @property
    def hourly(self) -> tuple[str, ...]:
        """Columns of the history that vary within a day."""
        return tuple(name for name in self.columns if name not in self.daily)

    @property
    def looks_back_a_week(self) -> bool:
        """Whether the period's slots one week before lie in the history."""
        return self.history >= DAYS_PER_WEEK * self.slots_per_day

    @property
    def names(self) -> tuple[str, ...]:
        """C feature names, in the order of ``features``."""
        last = min(self.slots_per_day, self.history)
        names = [f"{column}.back1[{k}]" for column in self.hourly for k in range(-last, 0)]
        if self.looks_back_a_week:
            names += [f"{column}.back7[{k}]" for column in self.hourly for k in range(self.horizon)]
        num_days = self.history // self.slots_per_day
        names += [f"{column}.mean_back{day + 1}" for column in self.hourly for day in range(num_days)]
        for column in self.known:
            if column not in self.daily:
                names += [f"{column}[{k}]" for k in range(self.horizon)]
                continue
            names += [column, f"{column}.back1"]
            names += [f"{column}.back7"] if self.looks_back_a_week else []
        names += [f"weekday.{name}" for name in WEEKDAYS]
        names += ["weekend", "year.cos1", "year.sin1", "year.cos2", "year.sin2", "daylight_saving"]
        return tuple(names)

    @property
    def groups(self) -> tuple[str, ...]:
        """C groups: features of one kind and column that differ in the slot only, such as ``load.back1``."""
        return tuple(name.split("[")[0] for name in self.names)
