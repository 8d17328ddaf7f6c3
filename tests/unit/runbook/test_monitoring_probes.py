"""What is asked of Prometheus and Alertmanager, on recorded answers."""

from __future__ import annotations

import dataclasses
import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from ansible_collections.streamops.runbook.plugins.module_utils import monitoring
from ansible_collections.streamops.runbook.plugins.module_utils.errors import ProbeError
from ansible_collections.streamops.runbook.plugins.module_utils.probes import Target

TARGET = Target(
    endpoints={},
    kafka_user={},
    s3_user={},
    brokers={},
    cluster_id="C",
    topics=[],
    buckets=[],
    hosts={"prometheus": "monitoring-1", "alertmanager": "monitoring-1", "inbox": "monitoring-1"},
    monitoring={
        "prometheus": "http://p:9090",
        "alertmanager": "http://a:9093",
        "exporters": {"inbox": "http://i:9095/metrics"},
        "targets": 2,
    },
)


def answers(pages: dict[str, tuple[int, str]]) -> Any:
    def get(url: str, timeout: float) -> tuple[int, str]:
        return pages.get(urlsplit(url).path, (0, "Connection refused"))

    return get


def active(*healths: str) -> str:
    targets = [
        {
            "health": health,
            "lastError": "no route" if health == "down" else "",
            "labels": {"job": "kafka", "host": "k1"},
        }
        for health in healths
    ]
    return json.dumps({"data": {"activeTargets": targets}})


def vector(ages: dict[str, float]) -> str:
    result = [{"metric": {"metric": name}, "value": [0, str(age)]} for name, age in ages.items()]
    return json.dumps({"data": {"result": result}})


@pytest.mark.parametrize(
    ("page", "healthy", "seen"),
    [
        (active("up", "up"), True, "2 targets up"),
        (active("up", "down"), False, "kafka on k1: no route"),
        (active("up", "unknown"), False, "not scraped yet"),
        (active("up"), False, "1 targets up"),
    ],
)
def test_every_declared_target_must_be_up(page: str, healthy: bool, seen: str) -> None:
    check = monitoring.targets_check(TARGET, answers({"/api/v1/targets": (200, page)}))
    assert check.healthy is healthy
    assert seen in check.seen


def test_a_target_check_speaks_of_no_host_so_that_nobody_restarts_for_it() -> None:
    assert monitoring.targets_check(TARGET, answers({})).host == ""


FRESH = dict.fromkeys(monitoring.FIVE_METRICS, 3.0)


@pytest.mark.parametrize(
    ("ages", "healthy", "seen"),
    [
        (FRESH, True, "the oldest 3 s"),
        ({**FRESH, "kafka_consumer_lag_sum": 31.0}, False, "kafka_consumer_lag_sum 31 s old"),
        (dict.fromkeys(monitoring.FIVE_METRICS[1:], 1.0), False, f"{monitoring.FIVE_METRICS[0]} absent"),
    ],
)
def test_the_five_metrics_must_be_fresh(ages: dict[str, float], healthy: bool, seen: str) -> None:
    check = monitoring.metrics_check(TARGET, answers({"/api/v1/query": (200, vector(ages))}))
    assert check.healthy is healthy
    assert seen in check.seen


def test_all_five_are_asked_for_in_one_question() -> None:
    asked = []

    def get(url: str, timeout: float) -> tuple[int, str]:
        asked.append(parse_qs(urlsplit(url).query)["query"][0])
        return 200, vector(FRESH)

    monitoring.metrics_check(TARGET, get)
    assert len(asked) == 1
    assert all(name in asked[0] for name in monitoring.FIVE_METRICS)


@pytest.mark.parametrize(("value", "healthy"), [("1", True), ("0", False)])
def test_a_configuration_that_could_not_be_read_is_seen(value: str, healthy: bool) -> None:
    page = f"# TYPE x gauge\nprometheus_config_last_reload_successful {value}\n"
    assert monitoring.config_check(TARGET, "prometheus", answers({"/metrics": (200, page)})).healthy is healthy


def test_without_prometheus_every_question_says_so() -> None:
    checks = [question() for question in monitoring.monitoring_questions(TARGET, answers({}))]
    assert len(checks) == 7
    assert not any(check.healthy for check in checks)
    assert all("refused" in check.seen for check in checks)
    with pytest.raises(ProbeError, match="Connection refused"):
        monitoring.query("http://p:9090", "up", 1.0, answers({}))
    # Its host accounts for all of it; somebody else's silence is excused by nobody.
    assert all(check.host == "monitoring-1" or check.blames == ("monitoring-1",) for check in checks)


def test_hosts_of_the_targets_that_are_down_are_blamed() -> None:
    page = answers({"/api/v1/targets": (200, active("up", "down"))})
    assert monitoring.targets_check(TARGET, page).blames == ("k1",)
    # Where one of them is not even known, the configuration is to blame.
    page = answers({"/api/v1/targets": (200, active("down"))})
    assert monitoring.targets_check(TARGET, page).blames == ()


def test_metric_that_one_host_alone_serves_is_missing_because_of_it() -> None:
    target = dataclasses.replace(TARGET, hosts={**TARGET.hosts, "minio": "minio-1", "spark-streaming": "spark-1"})
    missing = {name: age for name, age in FRESH.items() if name != "minio_bucket_usage_total_bytes"}
    page = answers({"/api/v1/query": (200, vector(missing))})
    assert monitoring.metrics_check(target, page).blames == ("minio-1",)
    stale = {**missing, "spark_streaming_batch_processing_time": 60.0}
    page = answers({"/api/v1/query": (200, vector(stale))})
    assert monitoring.metrics_check(target, page).blames == ("minio-1", "spark-1")
    # Each broker serves Kafka's: that all of them are missing is no single host's doing.
    page = answers({"/api/v1/query": (200, vector({**stale, monitoring.FIVE_METRICS[0]: 60.0}))})
    assert monitoring.metrics_check(target, page).blames == ()
