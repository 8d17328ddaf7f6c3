from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from ansible_collections.streamops.runbook.plugins.module_utils.errors import ProbeError, Refused
from ansible_collections.streamops.runbook.plugins.module_utils.silences import Silencer


class Alertmanager(ThreadingHTTPServer):
    """As much of the API as silences need; ``broken`` answers everything with that status."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.silences: dict[str, dict[str, Any]] = {}
        self.writes: list[str] = []
        self.alerts: list[dict[str, str]] = []
        self.broken = 0
        self.delay = 0.0
        self.body = b""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def mutes(self, **labels: str) -> bool:
        """Whether an alert with these labels is silenced, by the rules of Alertmanager: a missing label is empty."""

        def holds(matcher: dict[str, Any]) -> bool:
            found = re.fullmatch(matcher["value"], labels.get(matcher["name"], "")) is not None
            return found is bool(matcher["isEqual"])

        return any(
            all(holds(matcher) for matcher in silence["matchers"])
            for silence in self.silences.values()
            if silence["status"]["state"] == "active"
        )


class Handler(BaseHTTPRequestHandler):
    def answer(self) -> None:
        server = self.server
        assert isinstance(server, Alertmanager)
        length = int(self.headers.get("Content-Length") or 0)
        document: dict[str, Any] = json.loads(self.rfile.read(length)) if length else {}
        time.sleep(server.delay)
        answer: Any = None
        if server.broken:
            pass
        elif self.command == "POST":
            name = f"silence-{len(server.silences)}"
            server.silences[name] = {**document, "id": name, "status": {"state": "active"}}
            answer = {"silenceID": name}
        elif self.command == "DELETE":
            server.silences[self.path.rsplit("/", 1)[1]]["status"] = {"state": "expired"}
        elif "/alerts?" in self.path:
            answer = [{"labels": labels} for labels in server.alerts]
        else:
            answer = list(server.silences.values())
        if self.command != "GET":
            server.writes.append(self.command)
        self.send_response(server.broken or 200)
        self.end_headers()
        self.wfile.write(server.body or json.dumps(answer).encode())

    do_GET = do_POST = do_DELETE = answer  # noqa: N815  the names are http.server's

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def alertmanager() -> Iterator[Alertmanager]:
    server = Alertmanager()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


MOMENT = datetime(2030, 1, 31, 3, 0, tzinfo=UTC)
END = MOMENT + timedelta(minutes=15)


def silencer(url: str, **more: Any) -> Silencer:
    return Silencer(url, now=lambda: MOMENT, **more)


def test_a_silence_is_made_once_and_ends(alertmanager: Alertmanager) -> None:
    one = silencer(alertmanager.url)
    first = one.present("run-1", ["spark-streaming", "kafka"], "rolling restart", END)
    assert first.changed
    made = alertmanager.silences[first.ids[0]]
    assert made["matchers"] == [
        {"name": "component", "value": "kafka|spark-streaming", "isRegex": True, "isEqual": True},
        {"name": "alertname", "value": "Watchdog", "isRegex": True, "isEqual": False},
    ]
    assert (made["createdBy"], made["comment"]) == ("runbook", "run run-1: rolling restart")
    assert (made["startsAt"], made["endsAt"]) == ("2030-01-31T03:00:00+00:00", "2030-01-31T03:15:00+00:00")
    again = one.present("run-1", ["kafka", "spark-streaming"], "rolling restart", END)
    assert (again.changed, again.ids, again.ends_at) == (False, first.ids, made["endsAt"])
    assert alertmanager.writes == ["POST"]


def test_what_fires_already_is_spared_so_that_its_end_is_told_and_nothing_else(alertmanager: Alertmanager) -> None:
    alertmanager.alerts = [
        {"alertname": "Watchdog", "component": "monitoring"},
        {"alertname": "ThroughputLow", "component": "kafka"},
        {"alertname": "TargetDown", "component": "monitoring", "host": "stray.host", "service": "inbox", "job": "x"},
        {"alertname": "TargetDown", "component": "kafka", "host": "kafka-1", "service": "kafka"},
        {"alertname": "SupervisorSilent", "component": "runbook", "host": "minio-1"},
        {"alertname": "MinioDrivesFull", "component": "minio", "host": "minio-1"},
    ]
    made = silencer(alertmanager.url).present("run-1", ["kafka", "monitoring", "runbook"], "recover", END)
    # One for all others, three for TargetDown of two hosts, two for SupervisorSilent of one.
    assert len(made.ids) == 6
    assert not any(alertmanager.mutes(**labels) for labels in alertmanager.alerts)
    down = {"alertname": "TargetDown", "component": "monitoring"}
    assert alertmanager.mutes(**down, host="monitoring-1", service="inbox")
    assert alertmanager.mutes(**down, host="strayxhost", service="inbox")
    # Another service of a host of which one fires.
    assert alertmanager.mutes(**down, host="stray.host", service="prometheus")
    assert alertmanager.mutes(alertname="SupervisorSilent", component="runbook", host="kafka-1")
    assert alertmanager.mutes(alertname="ConsumerLagHigh", component="kafka")
    assert not alertmanager.mutes(alertname="MinioDrivesFull", component="minio")
    assert not alertmanager.mutes(alertname="Watchdog", component="monitoring", host="other")


def test_a_repeated_call_knows_all_its_silences(alertmanager: Alertmanager) -> None:
    alertmanager.alerts = [{"alertname": "TargetDown", "component": "kafka", "host": "a", "service": "kafka"}]
    first = silencer(alertmanager.url).present("run-1", ["kafka"], "c", END)
    assert len(first.ids) == 3
    alertmanager.alerts = []
    again = silencer(alertmanager.url).present("run-1", ["kafka"], "c", END)
    assert (again.changed, again.ids) == (False, first.ids)


def test_another_run_other_components_or_an_expired_one_count_not(alertmanager: Alertmanager) -> None:
    one = silencer(alertmanager.url)
    one.present("run-1", ["kafka"], "c", END)
    assert one.present("run-2", ["kafka"], "c", END).changed
    assert one.present("run-1", ["minio"], "c", END).changed
    alertmanager.silences["silence-0"]["status"]["state"] = "expired"
    assert one.present("run-1", ["kafka"], "c", END).changed


def test_absent_ends_the_silences_of_runs_that_are_over_and_no_other(alertmanager: Alertmanager) -> None:
    one = silencer(alertmanager.url)
    for run, component in (("run-1", "kafka"), ("run-1", "minio"), ("run-10", "kafka"), ("killed", "kafka")):
        one.present(run, [component], "c", END)
    alertmanager.silences["person"] = {**alertmanager.silences["silence-0"], "id": "person", "createdBy": "someone"}
    done = one.absent({"run-1", "killed"}.__contains__)
    assert (done.changed, sorted(done.ids)) == (True, ["silence-0", "silence-1", "silence-3"])
    states = {name: silence["status"]["state"] for name, silence in alertmanager.silences.items()}
    assert states == {
        **dict.fromkeys(("silence-0", "silence-1", "silence-3"), "expired"),
        **dict.fromkeys(("silence-2", "person"), "active"),
    }
    assert not one.absent({"run-1", "killed"}.__contains__).changed


def test_a_plan_changes_nothing(alertmanager: Alertmanager) -> None:
    one = silencer(alertmanager.url)
    assert one.present("run-1", ["kafka"], "c", END, plan_only=True).changed
    assert alertmanager.writes == []
    one.present("run-1", ["kafka"], "c", END)
    assert not one.present("run-1", ["kafka"], "c", END, plan_only=True).changed
    assert alertmanager.writes == ["POST"]


def test_an_alertmanager_that_is_down_is_skipped() -> None:
    with Alertmanager() as closed:
        one = silencer(closed.url)
    for outcome in (one.present("r", ["kafka"], "c", END), one.absent(bool)):
        assert not outcome.changed
        assert outcome.skipped_reason == "Alertmanager: Connection refused"


def test_an_alertmanager_that_was_just_started_is_waited_for(alertmanager: Alertmanager) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        alertmanager.broken = 0 if len(slept) == 3 else 503

    alertmanager.broken = 503
    one = silencer(alertmanager.url, clock=lambda: sum(slept), sleep=sleep)
    assert one.present("r", ["kafka"], "c", END, patience=1).skipped_reason
    assert slept == [0.5, 0.5]
    assert one.present("r", ["kafka"], "c", END, patience=5).changed
    assert len(slept) == 3


def test_an_alertmanager_that_hangs_is_skipped_in_time(alertmanager: Alertmanager) -> None:
    alertmanager.delay = 1.0
    outcome = silencer(alertmanager.url, timeout=0.2).present("r", ["kafka"], "c", END)
    assert outcome.skipped_reason == "Alertmanager: no answer in time"


@pytest.mark.parametrize("body", [b"<html>", b'{"a": 1}', b'[{"id": 1}]'])
def test_an_answer_of_a_stranger_is_skipped(alertmanager: Alertmanager, body: bytes) -> None:
    alertmanager.body = body
    outcome = silencer(alertmanager.url).present("r", ["kafka"], "c", END)
    assert (outcome.changed, outcome.skipped_reason.split(" (")[0]) == (
        False,
        "Alertmanager: an answer that is none of its own",
    )


def test_a_failing_alertmanager_is_skipped_and_one_that_calls_us_wrong_is_not(alertmanager: Alertmanager) -> None:
    one = silencer(alertmanager.url)
    alertmanager.broken = 503
    assert one.absent(bool).skipped_reason == "Alertmanager: HTTP 503 Service Unavailable"
    alertmanager.broken = 400
    with pytest.raises(ProbeError, match="HTTP 400"):
        one.present("r", ["kafka"], "c", END)


@pytest.mark.parametrize(
    ("run", "components", "end", "message"),
    [
        ("r", [], END, "components"),
        ("r", ["kafka.*"], END, "components"),
        ("r", ["kafka"], MOMENT, "end"),
        (" ", ["kafka"], END, "run"),
    ],
)
def test_a_silence_without_meaning_is_refused(run: str, components: list[str], end: datetime, message: str) -> None:
    with pytest.raises(Refused, match=f"{message} of the silence"):
        silencer("http://127.0.0.1:1").present(run, components, "c", end)
