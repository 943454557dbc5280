"""pandas tables in and out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from hedgecast.client import Client
from hedgecast.core.errors import DataError
from hedgecast.rpc.codec import NamedRows
from hedgecast.service.background import background_server
from hedgecast.service.local import LocalBackend
from hedgecast.service.settings import ServiceSettings

pandas = pytest.importorskip("pandas")


@pytest.fixture
def client(local_backend: LocalBackend) -> Iterator[Client]:
    with background_server(local_backend, ServiceSettings(port=0)) as address, Client(address) as client:
        yield client


def test_a_table_is_the_same_as_its_columns(client: Client, rows: NamedRows) -> None:
    plain = client.decide("last_day", history=rows.columns, history_times=rows.times, scenario_count=20)
    index = pandas.DatetimeIndex(rows.times, tz="UTC").tz_convert("Europe/Berlin")
    table = pandas.DataFrame({"load": rows.columns["load"]}, index=index)
    answer = client.decide("last_day", history=table, scenario_count=20)
    assert answer.scenario_fingerprint == plain.scenario_fingerprint
    plan = answer.to_pandas()
    assert list(plan.columns) == ["schedule"]
    assert str(plan.index.tz) == "UTC"
    np.testing.assert_array_equal(plan["schedule"].to_numpy(), answer.decision["schedule"])


def test_a_table_without_times_is_refused(client: Client, rows: NamedRows) -> None:
    table = pandas.DataFrame({"load": rows.columns["load"]})
    with pytest.raises(DataError, match="needs a DatetimeIndex"):
        client.decide("last_day", history=table)
    timed = table.set_index(pandas.DatetimeIndex(rows.times))
    with pytest.raises(DataError, match="leave it out"):
        client.decide("last_day", history=timed, history_times=rows.times)
