from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
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
        self.alerts: list[str] = []
        self.broken = 0
        self.delay = 0.0
        self.body = b""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


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
            answer = [{"labels": {"alertname": name}} for name in server.alerts]
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


def test_a_silence_is_made_once_and_ends(alertmanager: Alertmanager) -> None:
    moment = datetime(2030, 1, 31, 3, 0, tzinfo=UTC)
    silencer = Silencer(alertmanager.url, "run-1", now=lambda: moment)
    first = silencer.present(["spark-streaming", "kafka"], "rolling restart", 900)
    assert first.changed
    made = alertmanager.silences[first.ids[0]]
    assert made["matchers"] == [
        {"name": "component", "value": "kafka|spark-streaming", "isRegex": True, "isEqual": True},
        {"name": "alertname", "value": "Watchdog", "isRegex": True, "isEqual": False},
    ]
    assert (made["createdBy"], made["comment"]) == ("runbook", "run run-1: rolling restart")
    assert (made["startsAt"], made["endsAt"]) == ("2030-01-31T03:00:00+00:00", "2030-01-31T03:15:00+00:00")
    again = silencer.present(["kafka", "spark-streaming"], "rolling restart", 900)
    assert (again.changed, again.ids, again.ends_at) == (False, first.ids, made["endsAt"])
    assert alertmanager.writes == ["POST"]


def test_what_fires_already_is_spared_so_that_its_end_is_told(alertmanager: Alertmanager) -> None:
    alertmanager.alerts = ["ThroughputLow", "Watchdog", "ConsumerLagHigh", "ThroughputLow"]
    silencer = Silencer(alertmanager.url, "run-1")
    made = alertmanager.silences[silencer.present(["kafka"], "recover", 900).ids[0]]
    assert made["matchers"][1]["value"] == "ConsumerLagHigh|ThroughputLow|Watchdog"
    alertmanager.alerts = []
    assert not silencer.present(["kafka"], "recover", 900).changed


def test_another_run_other_components_or_an_expired_one_count_not(alertmanager: Alertmanager) -> None:
    Silencer(alertmanager.url, "run-1").present(["kafka"], "c", 60)
    assert Silencer(alertmanager.url, "run-2").present(["kafka"], "c", 60).changed
    assert Silencer(alertmanager.url, "run-1").present(["minio"], "c", 60).changed
    alertmanager.silences["silence-0"]["status"]["state"] = "expired"
    assert Silencer(alertmanager.url, "run-1").present(["kafka"], "c", 60).changed


def test_absent_ends_the_silences_of_this_run_and_no_other(alertmanager: Alertmanager) -> None:
    Silencer(alertmanager.url, "run-1").present(["kafka"], "c", 60)
    Silencer(alertmanager.url, "run-1").present(["minio"], "c", 60)
    Silencer(alertmanager.url, "run-10").present(["kafka"], "c", 60)
    alertmanager.silences["person"] = {**alertmanager.silences["silence-0"], "id": "person", "createdBy": "someone"}
    done = Silencer(alertmanager.url, "run-1").absent()
    assert (done.changed, sorted(done.ids)) == (True, ["silence-0", "silence-1"])
    states = {name: silence["status"]["state"] for name, silence in alertmanager.silences.items()}
    assert states == {"silence-0": "expired", "silence-1": "expired", "silence-2": "active", "person": "active"}
    assert not Silencer(alertmanager.url, "run-1").absent().changed


def test_a_plan_changes_nothing(alertmanager: Alertmanager) -> None:
    silencer = Silencer(alertmanager.url, "run-1")
    assert silencer.present(["kafka"], "c", 60, plan_only=True).changed
    assert alertmanager.writes == []
    silencer.present(["kafka"], "c", 60)
    assert not silencer.present(["kafka"], "c", 60, plan_only=True).changed
    assert silencer.absent(plan_only=True).changed
    assert alertmanager.writes == ["POST"]


def test_an_alertmanager_that_is_down_is_skipped() -> None:
    with Alertmanager() as closed:
        url = closed.url
    for outcome in (Silencer(url, "r").present(["kafka"], "c", 60), Silencer(url, "r").absent()):
        assert not outcome.changed
        assert outcome.skipped_reason == "Alertmanager: Connection refused"


def test_an_alertmanager_that_hangs_is_skipped_in_time(alertmanager: Alertmanager) -> None:
    alertmanager.delay = 1.0
    start = time.monotonic()
    outcome = Silencer(alertmanager.url, "r", timeout=0.2).present(["kafka"], "c", 60)
    assert time.monotonic() - start < 0.8
    assert outcome.skipped_reason == "Alertmanager: no answer in time"


@pytest.mark.parametrize("body", [b"<html>", b'{"a": 1}', b'[{"id": 1}]'])
def test_an_answer_of_a_stranger_is_skipped(alertmanager: Alertmanager, body: bytes) -> None:
    alertmanager.body = body
    outcome = Silencer(alertmanager.url, "r").present(["kafka"], "c", 60)
    assert (outcome.changed, outcome.skipped_reason.split(" (")[0]) == (
        False,
        "Alertmanager: an answer that is none of its own",
    )


def test_a_failing_alertmanager_is_skipped_and_one_that_calls_us_wrong_is_not(alertmanager: Alertmanager) -> None:
    silencer = Silencer(alertmanager.url, "r")
    alertmanager.broken = 503
    assert silencer.absent().skipped_reason == "Alertmanager: HTTP 503 Service Unavailable"
    alertmanager.broken = 400
    with pytest.raises(ProbeError, match="HTTP 400"):
        silencer.present(["kafka"], "c", 60)


@pytest.mark.parametrize(
    ("components", "seconds", "message"),
    [([], 60, "components"), (["kafka.*"], 60, "components"), (["kafka"], 0, "seconds")],
)
def test_a_silence_without_meaning_is_refused(components: list[str], seconds: int, message: str) -> None:
    with pytest.raises(Refused, match=f"{message} of the silence"):
        Silencer("http://127.0.0.1:1", "r").present(components, "c", seconds)


def test_a_silence_belongs_to_a_run() -> None:
    with pytest.raises(Refused, match="run of the silence"):
        Silencer("http://127.0.0.1:1", " ")
