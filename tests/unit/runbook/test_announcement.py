"""Who is told how a run ended, and that nobody waits for a receiver."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.streamops.runbook.plugins.module_utils import announcement
from ansible_collections.streamops.runbook.plugins.module_utils.catalog import Procedure

PROJECT = Path(__file__).resolve().parents[3]


def procedure(severity: str = "P3", risk: str = "safe") -> Procedure:
    return Procedure(name="x-repair", title="X", section="S", severity=severity, risk=risk, deadline=60)


def record(status: str, **more: Any) -> dict[str, Any]:
    return {"id": "R1", "procedure": "x-repair", "status": status, "failures": [], **more}


@pytest.mark.parametrize(
    ("status", "severity", "risk", "changed", "told"),
    [
        ("completed", "P3", "safe", 5, False),
        ("completed", "P1", "safe", 5, True),
        ("completed", "P1", "safe", 0, False),
        ("failed", "P3", "safe", 0, True),
        ("rolled_back", "P3", "safe", 2, True),
        ("interrupted", "P3", "safe", 0, True),
        ("refused", "P1", "safe", 0, False),
        ("locked", "P1", "safe", 0, False),
        ("failed", "P1", "read-only", 0, False),
    ],
)
def test_who_acted_and_ended_badly_is_told_and_every_emergency_that_changed_something(
    status: str, severity: str, risk: str, changed: int, told: bool
) -> None:
    assert announcement.worth_telling(record(status, changed=changed), procedure(severity, risk)) is told


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    received: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            received.append({"body": body, "authorization": self.headers["Authorization"]})
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", received
    server.shutdown()
    server.server_close()


def contacts(tmp_path: Path, url: str) -> dict[str, Any]:
    token = tmp_path / "token"
    token.write_text("t0ken")
    return {
        "contacts": {"on_call_engineer": url, "infrastructure_team": url},
        "token_file": str(token),
        "runbook_url": "https://pages.invalid/",
    }


def test_what_could_not_be_delivered_arrives_with_a_later_run(
    tmp_path: Path, receiver: tuple[str, list[dict[str, Any]]]
) -> None:
    url, received = receiver
    spool = tmp_path / "spool"
    bad = record("failed", failures=[{"message": "no flow of data"}])
    dead = announcement.announce(bad, procedure("P1"), spool, contacts(tmp_path, "http://127.0.0.1:9"), PROJECT)
    assert (dead.sent, len(dead.pending)) == ([], 1)
    (waiting,) = spool.glob("*.json")
    # The wait before the next try is over.
    entry = json.loads(waiting.read_text())
    waiting.write_text(json.dumps({**entry, "next_try": 0}))
    alive = announcement.announce(record("completed"), procedure(), spool, contacts(tmp_path, url), PROJECT)
    assert len(alive.sent) == 1
    assert received[0]["authorization"] == "Bearer t0ken"
    assert received[0]["body"]["run"] == "R1"
    assert received[0]["body"]["text"] == "no flow of data"
    assert received[0]["body"]["runbook_url"] == "https://pages.invalid/docs/runbooks/x-repair.md"
    assert not list(spool.glob("*.json"))


def test_nobody_is_told_where_nobody_is_named(tmp_path: Path) -> None:
    announcement.announce(record("failed"), procedure("P1"), tmp_path / "spool", {}, PROJECT)
    assert not (tmp_path / "spool").exists()
