"""The client's example in docs/serve.md, against a real server."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hedgecast.rpc.codec import NamedRows
from hedgecast.service.background import background_server
from hedgecast.service.local import LocalBackend
from hedgecast.service.settings import load_settings

PAGE = Path(__file__).parents[3] / "docs" / "serve.md"


def test_the_example_of_the_page_runs(
    local_backend: LocalBackend, rows: NamedRows, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = re.findall(
        r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    # What is the reader's own: address, model and rows.
    assert '"127.0.0.1:50051"' in block
    assert '"german_grid@champion"' in block
    with background_server(local_backend, load_settings(port=0)) as address:
        block = block.replace("127.0.0.1:50051", address).replace("german_grid@champion", "last_day@champion")
        exec(compile(block, PAGE.name, "exec"), {"columns": rows.columns, "times": rows.times})
    decision, cost, regret = re.fullmatch(
        r"\[(.*?)\] (\S+) (\S+)\n", capsys.readouterr().out, re.DOTALL
    ).groups()  # type: ignore[union-attr]
    assert len(decision.split()) == 6
    assert 0 <= float(regret) <= float(cost)
