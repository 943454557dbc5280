"""Threads of draws against the cores there are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hedgecast.core.errors import ConfigError
from hedgecast_workers.threads import available_cores, check_threads


@pytest.mark.parametrize(("draws", "threads"), [(1, 4), (2, 2), (4, 1), (64, 1)])
def test_what_fits_or_takes_turns_is_let_be(draws: int, threads: int) -> None:
    check_threads(draws, threads, cores=4)


@pytest.mark.parametrize(("draws", "threads", "most"), [(1, 5, 4), (3, 2, 1), (2, 3, 2), (8, 2, 1)])
def test_more_threads_than_cores_are_refused_with_what_would_fit(draws: int, threads: int, most: int) -> None:
    with pytest.raises(ConfigError, match=rf"need {draws * threads} cores, 4 are there.*at most {most}\)"):
        check_threads(draws, threads, cores=4)


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", None), ("100000 100000", 1), ("50000 100000", 1), ("nonsense", None)]
)
def test_the_containers_quota_counts(tmp_path: Path, quota: str, cores: int | None) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(quota)
    own = len(os.sched_getaffinity(0))
    assert available_cores(file) == (own if cores is None else cores)
    assert available_cores(tmp_path / "none") == own
