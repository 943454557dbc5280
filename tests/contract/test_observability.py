"""Alerts and dashboards use the metrics that the code gives, and every metric of the code is shown."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import promql_parser
import pytest
import yaml

from hedgecast.programs.solution import Verdict
from hedgecast.service.metrics import ServiceMetrics
from hedgecast.service.settings import ServiceSettings

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy" / "alerts"
DASHBOARD = ROOT / "deploy" / "dashboards" / "hedgecast.json"
# Metrics that no panel shows, and why. None at present.
NOT_SHOWN: dict[str, str] = {}
SUFFIXES = {
    "counter": {"_total"},
    "gauge": {""},
    "histogram": {"_bucket", "_sum", "_count"},
}
# Values of labels that our expressions may name.
KNOWN_VALUES = {
    "code": {code.name for code in grpc.StatusCode},
    "verdict": {verdict.name for verdict in Verdict},
    "stage": {"scenario", "solve", "statistics", "waiting"},
    "method": {"Decide"},
}


def _samples() -> dict[str, tuple[str, set[str]]]:
    """Names that Prometheus stores: the metric of each and its labels."""
    found = {}
    collectors = list(ServiceMetrics().registry._collector_to_names)
    for collector in collectors:
        (family,) = collector.collect()
        labels = set(collector._labelnames)  # type: ignore[attr-defined]
        for suffix in SUFFIXES[family.type]:
            extra = {"le"} if suffix == "_bucket" else set[str]()
            found[family.name + suffix] = (family.name, labels | extra)
    return found


def _rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((ALERTS / "hedgecast.rules.yaml").read_text(encoding="utf-8"))["groups"]
    return list(group["rules"])


def _panels() -> list[dict[str, Any]]:
    return list(json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"])


def _expressions() -> Iterator[tuple[str, str]]:
    for rule in _rules():
        yield rule["alert"], rule["expr"]
    for panel in _panels():
        for target in panel.get("targets", []):
            # Grafana's own variable, which stands for a duration.
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m")


EXPRESSIONS = list(_expressions())


def _selectors(node: object) -> Iterator[Any]:
    """Every selector of series in an expression."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("expr", "lhs", "rhs", "vector_selector", "args", "param"):
        child = getattr(node, name, None)
        for each in child if isinstance(child, list) else [child]:
            if each is not None:
                yield from _selectors(each)


def _grouped_by(text: str) -> set[str]:
    return set(
        itertools.chain.from_iterable(re.split(r",\s*", found) for found in re.findall(r"by \((.*?)\)", text))
    )


def test_the_names_of_the_code_are_what_this_test_takes_them_for() -> None:
    metrics = ServiceMetrics()
    metrics.audit_record_left_out()
    exposed = {sample.name for family in metrics.registry.collect() for sample in family.samples}
    plain = {name for name, (_, labels) in _samples().items() if not labels}
    assert plain <= exposed
    assert len(_samples()) > len(plain) > 0


@pytest.mark.parametrize(("where", "text"), EXPRESSIONS, ids=[where for where, _ in EXPRESSIONS])
def test_an_expression_parses_and_names_what_exists(where: str, text: str) -> None:
    samples = _samples()
    selectors = list(_selectors(promql_parser.parse(text)))
    assert selectors, where
    labels = set[str]()
    for selector in selectors:
        assert selector.name in samples, f"{where}: the code has no {selector.name}"
        _, its_labels = samples[selector.name]
        labels |= its_labels
        for matcher in selector.matchers.matchers:
            assert matcher.name in its_labels, f"{where}: {selector.name} has no label {matcher.name}"
            assert set(matcher.value.split("|")) <= KNOWN_VALUES[matcher.name], matcher.value
    assert _grouped_by(text) <= labels


def test_the_search_for_selectors_finds_those_that_are_nested() -> None:
    text = "histogram_quantile(0.9, sum by (le) (rate(a_bucket[5m]))) / ignoring(x) (b - max(c)) > 1"
    assert {selector.name for selector in _selectors(promql_parser.parse(text))} == {"a_bucket", "b", "c"}


def test_every_metric_of_the_code_is_on_the_dashboard_or_listed() -> None:
    shown = set[str]()
    for panel in _panels():
        for target in panel.get("targets", []):
            parsed = promql_parser.parse(target["expr"].replace("$__rate_interval", "5m"))
            shown |= {_samples()[selector.name][0] for selector in _selectors(parsed)}
    ours = {metric for metric, _ in _samples().values()}
    assert shown | set(NOT_SHOWN) == ours
    assert not shown & set(NOT_SHOWN), "shown, and said not to be"


def test_every_metric_is_documented_under_its_name() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `(hedgecast_\w+)`", page, re.MULTILINE))
    samples = _samples()
    assert {samples.get(name, (name,))[0] for name in documented} == {
        metric for metric, _ in samples.values()
    }


def test_alerts_say_how_grave_they_are_and_what_to_do() -> None:
    names = [rule["alert"] for rule in _rules()]
    assert len(names) == len(set(names))
    for rule in _rules():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        headings = re.findall(r"^## (.*)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor in {heading.lower().replace(" ", "-") for heading in headings}, anchor


def test_the_threshold_that_follows_from_a_setting_does() -> None:
    (rule,) = [rule for rule in _rules() if rule["alert"] == "HedgecastNearlyFull"]
    limit = ServiceSettings.model_fields["max_concurrent_requests"].default
    assert rule["expr"] == f"max(hedgecast_requests_under_way) > {int(0.8 * limit)}"


def test_panels_have_their_own_ids_and_places() -> None:
    panels = _panels()
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set[tuple[int, int]]()
    for panel in panels:
        place = panel["gridPos"]
        cells = set(
            itertools.product(
                range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
            )
        )
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_panels_ask_the_source_that_the_reader_chose() -> None:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    (variable,) = dashboard["templating"]["list"]
    assert (variable["name"], variable["type"], variable["query"]) == (
        "datasource",
        "datasource",
        "prometheus",
    )
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["description"]


def test_promtool_accepts_the_rules_and_their_own_tests() -> None:
    """Where promtool is installed: it plays series through the rules and looks at what fires."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("NEEDS promtool")
    for words in (("check", "rules", "hedgecast.rules.yaml"), ("test", "rules", "hedgecast.tests.yaml")):
        done = subprocess.run([promtool, *words], cwd=ALERTS, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_played_through() -> None:
    text = yaml.safe_load((ALERTS / "hedgecast.tests.yaml").read_text(encoding="utf-8"))
    fired, quiet = set[str](), set[str]()
    for case in text["tests"]:
        for check in case["alert_rule_test"]:
            (fired if check.get("exp_alerts") else quiet).add(check["alertname"])
    assert fired == quiet == {rule["alert"] for rule in _rules()}
