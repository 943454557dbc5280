"""The client's examples in docs/serve.md, against a real server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from hedgecast.rpc.codec import NamedRows
from hedgecast.service.background import background_server
from hedgecast.service.local import LocalBackend
from hedgecast.service.settings import load_settings

PAGE = Path(__file__).parents[3] / "docs" / "serve.md"


@pytest.fixture
def blocks(local_backend: LocalBackend) -> Iterator[list[str]]:
    """The page's examples, for a service that runs."""
    found = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    with background_server(local_backend, load_settings(port=0)) as address:
        changed = []
        for block in found:
            # What is the reader's own: address, model and rows.
            assert '"127.0.0.1:50051"' in block
            assert '"german_grid@champion"' in block
            changed.append(
                block.replace("127.0.0.1:50051", address).replace("german_grid@champion", "last_day@champion")
            )
        yield changed


def test_the_examples_of_the_page_run(
    blocks: list[str], rows: NamedRows, capsys: pytest.CaptureFixture[str]
) -> None:
    one, many = blocks
    exec(compile(one, PAGE.name, "exec"), {"columns": rows.columns, "times": rows.times})
    decision, cost, regret = re.fullmatch(
        r"\[(.*?)\] (\S+) (\S+)\n", capsys.readouterr().out, re.DOTALL
    ).groups()  # type: ignore[union-attr]
    assert len(decision.split()) == 6
    assert 0 <= float(regret) <= float(cost)
    exec(compile(many, PAGE.name, "exec"), {"columns": rows.columns, "times": rows.times})
    lines = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert set(lines) == {f"seed-{seed}" for seed in range(10)}
    # The first example asked with one of these seeds, for as many scenarios.
    assert float(lines["seed-7"]) == pytest.approx(float(cost), rel=1e-6)
