"""Every alert fires when it should and not just below, as promtool's own evaluation of the rendered rules says."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.streamops.runbook.plugins.filter import alerting as filters
from ansible_collections.streamops.runbook.plugins.module_utils import alerting, announcement
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused

from .conftest import PROJECT, Tools

CASES = sorted((Path(__file__).parent / "alerts").glob("*.yml"))
DEFINITIONS = alerting.load(PROJECT / "config" / "prometheus" / "alerts.yml")
ALERTS = {alert.name: alert for alert in DEFINITIONS.alerts}
RECORDS = {record.name: record.expr for record in DEFINITIONS.records}
# Those of one alert each that tells of its absence.
METRICS = [alert.metric for alert in alerting.each_metric(DEFINITIONS) if alert.metric]
# What can not be seen not firing: it has no condition.
ALWAYS = {alerting.WATCHDOG}
# The storage limit has a test of its own; the days are only drawn.
UNTESTED = {"storage_capacity_bytes", "storage_days_left_min"}


def rendered(thresholds: Mapping[str, Any] | None = None) -> dict[str, Any]:
    return filters.alert_rules(
        str(PROJECT / "config" / "prometheus" / "alerts.yml"),
        str(PROJECT / "config" / "runbook"),
        thresholds,
        "https://pages.invalid/",
    )


def without_annotations(rules: Mapping[str, Any]) -> dict[str, Any]:
    bare = copy.deepcopy(dict(rules))
    for group in bare["groups"]:
        for rule in group["rules"]:
            rule.pop("annotations", None)
    return bare


def steps() -> list[dict[str, Any]]:
    return [step for test in scenarios() for step in test["alert_rule_test"]]


def promtool(tools: Tools, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tools.promtool, *arguments],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=120,
    )


def absences() -> list[dict[str, Any]]:
    """A scenario for each metric, which goes missing while the others stay; in the last one all stay."""

    def scenario(missing: str) -> dict[str, Any]:
        series = [{"series": name, "values": "1x11 stale" if name == missing else "1x60"} for name in METRICS]
        told = [{"exp_labels": {"metric": missing}}] if missing else []
        steps = [("2m55s", []), ("3m", told), ("5m", told)]
        return {
            "name": f"{missing or 'nothing'} is missing",
            "interval": "5s",
            "input_series": series,
            "alert_rule_test": [
                {"eval_time": moment, "alertname": "MetricAbsent", "exp_alerts": expected} for moment, expected in steps
            ],
        }

    return [scenario(name) for name in (*METRICS, "")]


def scenarios() -> list[dict[str, Any]]:
    return [test for path in CASES for test in yaml.safe_load(path.read_text())["tests"]] + absences()


def seconds(duration: str) -> int:
    parts = re.findall(r"(\d+)([hms])", duration)
    return sum(int(number) * {"h": 3600, "m": 60, "s": 1}[unit] for number, unit in parts)


def run_tests(
    tools: Tools, tests: Sequence[Mapping[str, Any]], rules: Mapping[str, Any], folder: Path
) -> subprocess.CompletedProcess[str]:
    """One run of promtool; each test has a file of its own with only the rules it asks about, which is what is fast.

    Each expected alert gets the labels that its rule adds.
    """
    every = [rule for group in rules["groups"] for rule in group["rules"]]
    names = []
    for number, test in enumerate(copy.deepcopy(list(tests))):
        asked = {step["alertname"] for step in test["alert_rule_test"]}
        asking = [rule for rule in every if rule.get("alert") in asked]
        for step in test["alert_rule_test"]:
            for expected in step["exp_alerts"]:
                about = expected["exp_labels"].get("metric")
                (rule,) = (
                    rule
                    for rule in asking
                    if rule["alert"] == step["alertname"] and rule["labels"].get("metric") == about
                )
                expected["exp_labels"] = {**rule["labels"], **expected["exp_labels"]}
        records = [rule for rule in every if rule.get("record") in RECORDS]
        group = {"name": "asked", "rules": records + asking}
        (folder / f"rules-{number}.yml").write_text(json.dumps({"groups": [group]}))
        case = {"rule_files": [f"rules-{number}.yml"], "evaluation_interval": "5s", "tests": [test]}
        (folder / f"test-{number}.yml").write_text(json.dumps(case))
        names.append(f"test-{number}.yml")
    return promtool(tools, "test", "rules", *names, folder=folder)


def test_the_rule_file_passes_the_checker(tools: Tools, tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rendered(), sort_keys=False))
    done = promtool(tools, "check", "rules", "rules.yml", folder=tmp_path)
    assert done.returncode == 0, done.stdout
    alerts = alerting.each_metric(DEFINITIONS)
    assert f"{len(alerts) + len(RECORDS) + len(DEFINITIONS.thresholds)} rules found" in done.stdout


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should_and_only_then(path: Path, tools: Tools, tmp_path: Path) -> None:
    tests = yaml.safe_load(path.read_text())["tests"]
    done = run_tests(tools, tests, without_annotations(rendered()), tmp_path)
    assert done.returncode == 0, done.stdout


def test_a_metric_that_goes_missing_is_told_and_no_other_with_it(tools: Tools, tmp_path: Path) -> None:
    done = run_tests(tools, absences(), without_annotations(rendered()), tmp_path)
    assert done.returncode == 0, done.stdout


def test_every_alert_is_seen_firing() -> None:
    assert {step["alertname"] for step in steps() if step["exp_alerts"]} == set(ALERTS)


@pytest.mark.parametrize("name", sorted(set(ALERTS) - ALWAYS))
def test_every_alert_is_seen_quiet_where_its_time_is_over(name: str) -> None:
    """That it does not fire before its ``for`` is over says nothing of its expression."""
    hold = seconds(alerting.filled(ALERTS[name], DEFINITIONS.thresholds).hold)
    asked = [[step for step in test["alert_rule_test"] if step["alertname"] == name] for test in scenarios()]
    quiet = [steps for steps in asked if steps and not any(step["exp_alerts"] for step in steps)]
    assert any(seconds(step["eval_time"]) > hold for steps in quiet for step in steps)


@pytest.mark.parametrize(
    ("expr", "metrics"),
    [
        ('sum by (host) (rate(a_total{job="b",c!~"d|e"}[5m])) > 0.34', ["a_total"]),
        ("a unless on (instance) b:c or vector(1)", ["a", "b:c"]),
        ('label_replace(max without (f) (a offset 1h) == bool 1, "g", "$1 h", "i", "(.*)")', ["a"]),
        ("vector(1)", []),
        ("a and time() - timestamp(a) < 1e3", ["a"]),
    ],
)
def test_metrics_of_an_expression_are_told_from_all_else(expr: str, metrics: list[str]) -> None:
    assert alerting.metrics_of(expr) == metrics


def test_a_run_that_somebody_is_told_of_is_a_run_that_fires() -> None:
    (statuses,) = re.findall(r'status=~"([a-z_|]+)"', ALERTS["LastRunFailed"].expr)
    assert set(statuses.split("|")) == set(announcement.BAD)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"component": "reader"}, "alert X, component"),
        ({"expr": "absent($metric)", "component": "service"}, "alert X, component"),
        ({"absence_is_normal": "often"}, "alert X, absence_is_normal"),
        ({"expr": "up > ${nothing}"}, "alert X: found"),
    ],
)
def test_a_wrong_alert_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    alert = {
        "name": "X",
        "expr": "up",
        "for": "1m",
        "severity": "P3",
        "component": "kafka",
        "summary": "s",
        "description": "d",
        **change,
    }
    with pytest.raises(Refused, match=message.replace("$", r"\$")):
        alerting.parse({"thresholds": {}, "records": [], "alerts": [alert]})


# A number that could be another without any test noticing is not tested.
@pytest.mark.parametrize("factor", [2, 0.5])
@pytest.mark.parametrize("name", sorted(set(DEFINITIONS.thresholds) - UNTESTED))
def test_a_threshold_that_is_twice_or_half_is_noticed(name: str, factor: float, tools: Tools, tmp_path: Path) -> None:
    number = DEFINITIONS.thresholds[name] * factor
    other = without_annotations(rendered({name: round(number) if name.endswith("_seconds") else number}))
    readers = {
        alert.name
        for alert in DEFINITIONS.alerts
        if f"${{{name}}}" in alerting.expanded(alert.expr, RECORDS) + alert.hold
    }
    asking = [test for test in scenarios() if readers & {step["alertname"] for step in test["alert_rule_test"]}]
    assert run_tests(tools, asking, other, tmp_path).returncode == 1


def test_the_inventorys_storage_limit_counts_where_it_is_the_smaller_one(tools: Tools, tmp_path: Path) -> None:
    def usage(at: int, firing: bool) -> dict[str, Any]:
        return {
            "interval": "5s",
            "input_series": [
                {"series": 'minio_bucket_usage_total_bytes{bucket="a"}', "values": f"{at}x60"},
                {"series": 'minio_cluster_capacity_usable_total_bytes{host="minio-1"}', "values": "1000x60"},
            ],
            "alert_rule_test": [
                {
                    "eval_time": "2m",
                    "alertname": "StorageUsageHigh",
                    "exp_alerts": [{"exp_labels": {}}] if firing else [],
                }
            ],
        }

    for limit, threshold in ((500, 400), (5000, 800)):
        tests = [usage(threshold - 1, False), usage(threshold + 1, True)]
        done = run_tests(tools, tests, without_annotations(rendered({"storage_capacity_bytes": limit})), tmp_path)
        assert done.returncode == 0, done.stdout


def test_what_a_person_reads_is_rendered_without_gaps(tools: Tools, tmp_path: Path) -> None:
    """The tests above leave annotations out; here promtool prints them, as what it got and did not expect."""
    printed = run_tests(tools, scenarios(), rendered(), tmp_path).stdout
    for alert in alerting.each_metric(DEFINITIONS):
        assert f'alertname="{alert.name}"' in printed, alert.name
        if "{{" not in alert.summary:
            assert f'summary="{alert.summary}"' in printed, alert.name
    assert "runbook_url=" in printed
    for gap in ("error expanding", "<no value>", "%!", "${"):
        assert gap not in printed
    assert 'summary="Broker kafka-3 is down"' in printed
    assert "1.01% of the produce requests" in printed
    assert 'component="kafka", host="kafka-1", procedure=' in printed
