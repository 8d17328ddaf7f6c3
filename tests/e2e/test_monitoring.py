"""What watches: whom it tells of a deployment, what it knows of runs, what is left when it is gone or misconfigured."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.streamops.runbook.plugins.module_utils import alerting, monitoring

from .conftest import ROOT, Lab


def configuration(lab: Lab, service: str = "prometheus") -> Path:
    return lab.root / "hosts" / "monitoring-1" / "etc" / service / f"{service}.yml"


def prometheus(lab: Lab, path: str) -> dict[str, Any]:
    """Return the data of an answer of Prometheus' API."""
    with urllib.request.urlopen(f"{lab.endpoints()['prometheus']}/api/v1/{path}", timeout=10) as answer:  # noqa: S310
        body: dict[str, Any] = json.load(answer)
    found: dict[str, Any] = body["data"]
    return found


def series(lab: Lab, expr: str, wanted: Callable[[list[dict[str, str]]], bool]) -> list[dict[str, str]]:
    """Return the labels of each series of an instant query, as soon as they are what is wanted, or after a minute."""
    query = urllib.parse.urlencode({"query": expr})
    deadline = time.monotonic() + 60
    while True:
        found = [one["metric"] for one in prometheus(lab, f"query?{query}")["result"]]
        if wanted(found) or time.monotonic() > deadline:
            return found
        time.sleep(1)


def live(lab: Lab) -> str:
    """Return the configuration that Prometheus itself says it runs with."""
    return str(prometheus(lab, "status/config")["yaml"])


def live_routes(lab: Lab) -> str:
    """Return the configuration that Alertmanager itself says it runs with."""
    with urllib.request.urlopen(f"{lab.endpoints()['alertmanager']}/api/v2/status", timeout=10) as answer:  # noqa: S310
        body: dict[str, Any] = json.load(answer)
    return str(body["config"]["original"])


# As config/escalation.yml says them, but for one.
SLOWER = {"alertmanager_severities": {"P1": {"group_wait": "1s"}, "P4": {"group_wait": "17s"}}}


def test_a_deployment_pages_nobody(lab: Lab) -> None:
    inbox = next((lab.root / "hosts").glob("*/data/inbox")) / "messages.jsonl"
    # The watchdog's route waits before it tells anybody anything.
    deadline = time.monotonic() + 120
    while True:
        alerts = [one for line in inbox.read_text().splitlines() for one in json.loads(line)["body"].get("alerts", [])]
        since = [one for one in alerts if datetime.fromisoformat(one["startsAt"]).timestamp() >= lab.began]
        if since or time.monotonic() > deadline:
            break
        time.sleep(1)
    told = [one for one in since if one["labels"]["alertname"] != "Watchdog"]
    assert told == [], "\n".join(f"{one['startsAt']} {one['status']} {one['labels']}" for one in told)
    # It is silent because there was nothing to say, and not because nothing gets there.
    assert since


def test_the_end_of_a_run_is_known_to_prometheus(lab: Lab) -> None:
    began = time.time()
    assert lab.play("notify").code == 0
    since = f"and on (procedure) runbook_last_run_timestamp_seconds >= {began:.0f}"
    ended = f'runbook_last_run_status{{procedure="notify",status="completed"}} == 1 {since}'
    assert series(lab, ended, bool)


def test_a_run_of_a_schedule_is_known_with_its_period(lab: Lab) -> None:
    figures = lab.root / "state" / "metrics" / "runs.prom"
    before, began = figures.read_bytes(), time.time()
    try:
        assert lab.play("dashboard-check", more={"RUNBOOK_TRIGGER": "cron"}).code in (0, 2)
        since = f"runbook_last_scheduled_run_timestamp_seconds >= {began:.0f}"
        ran = f'runbook_schedule_period_seconds{{procedure="dashboard-check"}} == 86400 and on (procedure) {since}'
        assert series(lab, ran, bool)
    finally:
        # It is on no schedule here: a lab that stands for days would miss it.
        figures.write_bytes(before)


def test_every_metric_that_an_alert_reads_is_there(lab: Lab) -> None:
    definitions = alerting.load(ROOT / "config" / "prometheus" / "alerts.yml")
    alerts = [alert for alert in alerting.each_metric(definitions) if not alert.absence_is_normal]
    read = {metric for alert in alerts for metric in alerting.read_by(alert, definitions)}
    assert set(monitoring.FIVE_METRICS) <= read
    counted = f'count by (__name__) ({{__name__=~"{"|".join(sorted(read))}"}})'
    assert {one["__name__"] for one in series(lab, counted, lambda found: len(found) == len(read))} == read


@pytest.mark.fault("35")
def test_without_prometheus_the_metrics_are_read_where_they_arise(lab: Lab) -> None:
    processes = [pid for pid, _ in lab.processes()["prometheus", "monitoring-1"]]
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    try:
        answer = lab.play("metrics-check")
    finally:
        for pid in processes:
            os.kill(pid, signal.SIGCONT)
    assert answer.code == 4, answer.output[-3000:]
    record = lab.records("metrics-check")[-1]
    assert record["status"] == "degraded"
    assert all(item["good"] for item in record["checklist"])
    assert "make monitoring-restart" in answer.output


@pytest.mark.fault("config-drift")
@pytest.mark.parametrize(
    ("values", "checker", "said"),
    [
        ("prometheus_scrape_interval=often", "promtool on the files of prometheus", "often"),
        (
            json.dumps({"alertmanager_contacts": {"team_lead": "http://127.0.0.1:nowhere/"}}),
            "amtool on the files of alertmanager",
            "invalid port",
        ),
    ],
    ids=["prometheus", "alertmanager"],
)
def test_a_configuration_that_the_checker_refuses_is_never_put_in_place(
    lab: Lab, values: str, checker: str, said: str
) -> None:
    files = [configuration(lab), configuration(lab, "alertmanager")]
    before, running = [path.read_text() for path in files], live(lab)
    answer = lab.play("monitoring-configure", "-e", values)
    assert answer.code == 3, answer.output[-3000:]
    assert checker in answer.output
    assert said in answer.output
    assert lab.records("monitoring-configure")[-1]["status"] == "refused"
    assert ([path.read_text() for path in files], live(lab)) == (before, running)


def test_other_routes_are_read_by_a_signal_and_so_are_the_former_ones(lab: Lab) -> None:
    before, processes = live_routes(lab), lab.processes()
    changed = lab.play("monitoring-configure", "-e", json.dumps(SLOWER))
    assert changed.code == 0, changed.output[-3000:]
    assert "17s" in configuration(lab, "alertmanager").read_text()
    assert "17s" in live_routes(lab)
    back = lab.play("monitoring-configure")
    assert back.code == 0, back.output[-3000:]
    assert live_routes(lab) == before
    # By a signal, twice: nothing was restarted.
    assert lab.processes() == processes


@pytest.mark.fault("config-drift")
def test_configurations_that_do_not_hold_are_put_back(lab: Lab) -> None:
    files = [configuration(lab), configuration(lab, "alertmanager")]

    def there() -> tuple[list[str], str, str]:
        return [path.read_text() for path in files], live(lab), live_routes(lab)

    before = there()
    dead = {"name": "dead", "targets": [{"address": "127.0.0.1:9", "host": "nowhere", "service": "inbox"}]}
    # The routes would hold, and are put back with the jobs that don't.
    values = json.dumps({"prometheus_jobs": [dead], **SLOWER})
    answer = lab.play("monitoring-configure", "-e", values)
    assert answer.code == 2, answer.output[-3000:]
    record = lab.records("monitoring-configure")[-1]
    assert record["status"] == "rolled_back"
    assert any("put back" in deed for deed in record["did"])
    assert there() == before
    again = lab.play("monitoring-configure")
    assert again.code == 0, again.output[-3000:]
    assert lab.records("monitoring-configure")[-1]["changed"] == 0
