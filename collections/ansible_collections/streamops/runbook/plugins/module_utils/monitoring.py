"""What is asked of Prometheus, Alertmanager and the exporters; see probes.py for the rules."""

from __future__ import annotations

import json
import urllib.parse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from .errors import ProbeError
from .probes import Check, Target, http_get

Get = Callable[[str, float], tuple[int, str]]

SERVICES = ("prometheus", "alertmanager", "node-exporter", "pipeline-exporter", "inbox")
# The runbook's five, by the names that it gives them.
FIVE_METRICS = (
    "kafka_server_brokertopicmetrics_messagesinpersec",
    "kafka_consumer_lag_sum",
    "spark_streaming_batch_processing_time",
    "kafka_server_brokertopicmetrics_failedproducerequestspersec",
    "minio_bucket_usage_total_bytes",
)
# The service that alone serves a metric; each broker serves Kafka's.
_METRIC_SOURCES = {
    "kafka_consumer_lag_sum": "pipeline-exporter",
    "spark_streaming_batch_processing_time": "spark-streaming",
    "minio_bucket_usage_total_bytes": "minio",
}
METRIC_MAX_AGE = 30.0
REPAIR = "monitoring-restart"


def query(prometheus: str, expression: str, timeout: float, get: Get = http_get) -> list[dict[str, Any]]:
    """Ask Prometheus for the present value of an expression.

    :returns: its result vector: metric (labels by name) and value (Unix time, value as text).
    :raises ProbeError: Prometheus gave no answer, or said that the expression is wrong.
    """
    status, body = get(f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': expression})}", timeout)
    if status != 200:
        raise ProbeError(f"Prometheus {prometheus}", body or f"HTTP {status}", "an answer to a query")
    result: list[dict[str, Any]] = json.loads(body)["data"]["result"]
    return result


def _ready(target: Target, service: str, url: str, get: Get) -> Check:
    status, body = get(url, target.timeout)
    seen = "answers" if status == 200 else (f"HTTP {status}" if status else body)
    host = target.hosts.get(service, "")
    return Check(f"{service}.answers", service, host, status == 200, seen, f"HTTP 200 of {url}", REPAIR)


def _host(target: Target, service: str) -> tuple[str, ...]:
    """Return the host of a service as what a check blames."""
    return (target.hosts[service],) if service in target.hosts else ()


def targets_check(target: Target, get: Get = http_get) -> Check:
    """Ask Prometheus whether it scrapes all that the inventory declares.

    The check speaks of no host: a target that is down has checks of its own, and nobody restarts for this one.
    """
    wanted = int(target.monitoring["targets"])
    expected = f"{wanted} targets up"
    status, body = get(f"{target.monitoring['prometheus']}/api/v1/targets?state=active", target.timeout)
    if status != 200:
        seen = body or f"HTTP {status}"
        return Check("prometheus.targets", "prometheus", "", False, seen, expected, REPAIR, _host(target, "prometheus"))
    active = json.loads(body)["data"]["activeTargets"]
    down = [entry for entry in active if entry["health"] != "up"]
    seen = f"{len(active) - len(down)} targets up"
    if down:
        first = down[0]["labels"]
        why = down[0]["lastError"] or "not scraped yet"
        seen += f"; {first.get('service', first['job'])} on {first.get('host', '?')}: {why}"
    healthy = not down and len(active) == wanted
    blames = tuple(sorted({str(entry["labels"].get("host", "?")) for entry in down})) if len(active) == wanted else ()
    return Check("prometheus.targets", "prometheus", "", healthy, seen, expected, REPAIR, blames)


def metrics_check(target: Target, get: Get = http_get) -> Check:
    """Ask Prometheus how old the newest sample of each of the five metrics is."""
    expected = f"each of the five metrics at most {METRIC_MAX_AGE:g} s old"
    # The newest of the window: one scrape without it, as after the restart of a broker, makes no metric absent.
    newest = f"max(max_over_time(timestamp({{}})[{METRIC_MAX_AGE:g}s:5s]))"
    parts = [f'label_replace(time() - {newest.format(name)}, "metric", "{name}", "", "")' for name in FIVE_METRICS]
    try:
        answer = query(str(target.monitoring["prometheus"]), " or ".join(parts), target.timeout, get)
    except ProbeError as error:
        blames = _host(target, "prometheus")
        return Check("prometheus.metrics", "prometheus", "", False, error.found, expected, REPAIR, blames)
    ages = {entry["metric"]["metric"]: float(entry["value"][1]) for entry in answer}
    absent = [name for name in FIVE_METRICS if name not in ages]
    stale = [f"{name} {ages[name]:.0f} s old" for name in FIVE_METRICS if ages.get(name, 0.0) > METRIC_MAX_AGE]
    seen = "; ".join([f"{name} absent" for name in absent] + stale) or f"five, the oldest {max(ages.values()):.0f} s"
    bad = [name for name in FIVE_METRICS if name in absent or ages.get(name, 0.0) > METRIC_MAX_AGE]
    sources = [_host(target, _METRIC_SOURCES.get(name, "")) for name in bad]
    # Where one of them has no single source, no host alone accounts for all of it.
    blames = tuple(sorted({host for source in sources for host in source})) if all(sources) else ()
    return Check("prometheus.metrics", "prometheus", "", not bad, seen, expected, "metrics-check", blames)


def config_check(target: Target, service: str, get: Get = http_get) -> Check:
    """Ask Prometheus or Alertmanager whether it could read its configuration when it last tried."""
    metric = f"{service}_config_last_reload_successful"
    expected = f"{metric} 1"
    status, body = get(f"{target.monitoring[service]}/metrics", target.timeout)
    if status != 200:
        seen, blames = body or f"HTTP {status}", _host(target, service)
        return Check(f"{service}.config", service, "", False, seen, expected, REPAIR, blames)
    # The page is long and one line of it is asked for.
    line = next((line for line in body.splitlines() if line.startswith(f"{metric} ")), f"{metric} absent")
    good = line.split()[-1] == "1"
    return Check(f"{service}.config", service, "", good, line, expected, "monitoring-configure")


def monitoring_questions(target: Target, get: Get = http_get) -> Sequence[Callable[[], Check]]:
    """Return the questions to all that watches, each to be asked in a thread of its own."""
    ready = {
        "prometheus": f"{target.monitoring['prometheus']}/-/ready",
        "alertmanager": f"{target.monitoring['alertmanager']}/-/ready",
        **target.monitoring["exporters"],
    }
    questions: list[Callable[[], Check]] = [
        partial(_ready, target, service, str(url), get) for service, url in ready.items()
    ]
    questions += [partial(config_check, target, service, get) for service in ("prometheus", "alertmanager")]
    return [*questions, partial(targets_check, target, get), partial(metrics_check, target, get)]
