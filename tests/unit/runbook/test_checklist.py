"""Checklists on recorded answers of Prometheus."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from ansible_collections.streamops.runbook.plugins.module_utils import checklist
from ansible_collections.streamops.runbook.plugins.module_utils.errors import ProbeError, Refused
from ansible_collections.streamops.runbook.plugins.module_utils.monitoring import FIVE_METRICS


def prometheus(values: dict[str, float]) -> Any:
    """Answer each expression that holds one of the keys with its value."""

    def get(url: str, timeout: float) -> tuple[int, str]:
        expression = parse_qs(urlsplit(url).query)["query"][0]
        found = [value for key, value in values.items() if key in expression]
        result = [{"metric": {}, "value": [0, str(found[0])]}] if found else []
        return 200, json.dumps({"data": {"result": result}})

    return get


def down(url: str, timeout: float) -> tuple[int, str]:
    return 0, "Connection refused"


ALERTS = [
    {"alert": f"A{number}", "expr": f"rate({name}[1m]) {sign} {limit}"}
    for number, (name, sign, limit) in enumerate(zip(FIVE_METRICS, "<>>>>", (10, 1000, 30, 0.01, 0.8), strict=True))
]
GOOD = dict(zip(FIVE_METRICS, (20.0, 5.0, 2.0, 0.0, 0.1), strict=True)) | {"vector(10)": 10.0, "vector(1000)": 1000.0}
GOOD |= {"vector(30)": 30.0, "vector(0.01)": 0.01, "vector(0.8)": 0.8}


@pytest.mark.parametrize(
    ("expression", "parts"),
    [
        ("sum(rate(a[1m])) < 10", ("sum(rate(a[1m]))", "<", "10")),
        ("a / scalar(b or (vector(0) > 0)) > 0.8", ("a / scalar(b or (vector(0) > 0))", ">", "0.8")),
        ('a{b=~"c"} >= 1', ('a{b=~"c"}', ">=", "1")),
    ],
)
def test_an_expression_is_split_at_its_outermost_comparison(expression: str, parts: tuple[str, str, str]) -> None:
    assert checklist.split_comparison(expression) == parts


def test_an_expression_without_comparison_is_refused() -> None:
    with pytest.raises(Refused):
        checklist.split_comparison("vector(1)")


def test_five_metrics_within_their_thresholds_are_good() -> None:
    items = checklist.five_metrics(ALERTS, "http://p", 1.0, prometheus(GOOD))
    assert [item.name for item in items] == list(FIVE_METRICS)
    assert all(item.good for item in items)
    assert items[0].limit == "not < 10"


@pytest.mark.parametrize(("metric", "value"), list(zip(FIVE_METRICS, (9.9, 1000.1, 30.1, 0.011, 0.81), strict=True)))
def test_each_metric_over_its_threshold_is_named(metric: str, value: float) -> None:
    items = checklist.five_metrics(ALERTS, "http://p", 1.0, prometheus({**GOOD, metric: value}))
    assert [item.name for item in items if not item.good] == [metric]


def test_a_metric_that_is_absent_is_bad() -> None:
    values = {key: value for key, value in GOOD.items() if key != FIVE_METRICS[1]}
    items = checklist.five_metrics(ALERTS, "http://p", 1.0, prometheus(values))
    assert [(item.name, item.verdict) for item in items if not item.good] == [(FIVE_METRICS[1], "absent")]


def test_without_prometheus_the_metrics_are_read_where_they_arise() -> None:
    with pytest.raises(ProbeError):
        checklist.five_metrics(ALERTS, "http://p", 1.0, down)
    brokers = ("kafka-1", "kafka-2", "kafka-3")
    services = (*brokers, "pipeline-exporter", "spark-streaming", "minio-bucket")
    page = "".join(f'{name}{{a="b"}} 7\n' for name in FIVE_METRICS)

    def get(url: str, timeout: float) -> tuple[int, str]:
        return (0, "Connection refused") if url == "http://kafka-2" else (200, page)

    endpoints = {service: f"http://{service}" for service in services}
    items = checklist.five_metrics_directly(endpoints, brokers, 1.0, get)
    assert all(item.good for item in items)
    # Of all brokers that answer.
    assert [item.figure for item in items] == ["14", "7", "7", "14", "7"]
    silent = checklist.five_metrics_directly(endpoints, brokers, 1.0, down)
    assert {(item.good, item.figure) for item in silent} == {(False, "Connection refused")}


def test_a_page_that_wants_a_login_is_asked_with_it() -> None:
    page = "".join(f"{name} 7\n" for name in FIVE_METRICS)

    def refusing(url: str, timeout: float) -> tuple[int, str]:
        return (401, "") if url == "kafka" else (200, page)

    services = {name: name for name in ("kafka", "pipeline-exporter", "spark-streaming", "minio-bucket")}
    without = checklist.five_metrics_directly(services, ["kafka"], 1.0, refusing)
    assert {item.figure for item in without if not item.good} == {"HTTP 401"}
    logged_in = {"kafka": lambda url, timeout: (200, page)}
    asked = checklist.five_metrics_directly(services, ["kafka"], 1.0, refusing, logged_in)
    assert all(item.good for item in asked)


PANEL = {
    "title": "Volume",
    "unit": "per_second",
    "queries": [{"name": "in", "expr": "in_rate"}],
    "limits": [{"name": "least"}],
    "check": {"expr": "verdict", "good": "flowing", "bad": "dry"},
}


@pytest.mark.parametrize(
    ("verdict", "good", "word"),
    [({"verdict": 1.0}, True, "flowing"), ({"verdict": 0.0}, False, "dry"), ({}, False, "no answer")],
)
def test_a_panel_has_figure_limit_and_verdict(verdict: dict[str, float], good: bool, word: str) -> None:
    (item,) = checklist.daily_panels([PANEL], "http://p", 1.0, prometheus({"in_rate": 20.5, "least": 10.0, **verdict}))
    assert (item.figure, item.limit, item.good, item.verdict) == ("in 20.5/s", "10/s", good, word)


def test_the_table_shows_first_what_is_bad() -> None:
    lines = checklist.table(
        [checklist.Item("a", "1", "2", "within", True), checklist.Item("b", "3", "2", "over", False)]
    )
    assert [line.split()[0] for line in lines[1:]] == ["ok", "BAD"]
