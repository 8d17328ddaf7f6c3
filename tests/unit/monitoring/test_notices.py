from __future__ import annotations

import json
import os
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.streamops.runbook.plugins.module_utils import notices
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused

TOKEN = "Vb3Canary9Secret77qrs"  # noqa: S105  planted, so that it can be looked for


class Receiver(ThreadingHTTPServer):
    """A webhook that answers with ``status`` after ``delay`` seconds and keeps what it got."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status = 200
        self.delay = 0.0
        self.got: list[tuple[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/hook"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, Receiver)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server.got.append((self.headers.get("Authorization", ""), json.loads(body)))
        time.sleep(server.delay)
        self.send_response(server.status)
        self.send_header("Location", "/elsewhere")
        self.end_headers()
        self.wfile.write(TOKEN.encode())

    do_GET = do_POST  # noqa: N815  the name is http.server's

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    return path


class Wall:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def notice(**changes: str) -> notices.Notice:
    fields = {
        "severity": "P1",
        "procedure": "emergency-restart",
        "run": "run-1",
        "status": "failed",
        "title": "Down",
        "text": "t",
        "runbook_url": "u",
    }
    return notices.make_notice(**{**fields, **changes})


def targets(url: str, token_file: Path | str = "") -> dict[str, notices.Target]:
    return {"P1": notices.Target("on_call_engineer", url, str(token_file))}


def everything(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.rglob("*") if path.is_file())


def test_a_notice_is_posted_with_its_token_and_kept_as_sent(
    tmp_path: Path, receiver: Receiver, token_file: Path
) -> None:
    spool = notices.Spool(tmp_path / "spool")
    made = notice()
    path = spool.enqueue(made)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    done = spool.deliver(targets(receiver.url, token_file))
    assert (done.sent, done.pending, done.errors) == ([made.id], [], [])
    ((authorization, body),) = receiver.got
    assert authorization == f"Bearer {TOKEN}"
    assert body == asdict(made)
    assert (body["severity"], body["title"], body["run"]) == ("P1", "Down", "run-1")
    assert [path.stem for path in (tmp_path / "spool/sent").iterdir()] == [made.id]
    assert spool.deliver(targets(receiver.url, token_file)).sent == []
    assert len(receiver.got) == 1
    assert TOKEN not in everything(tmp_path / "spool")


def test_ids_sort_by_time_and_are_sent_in_that_order(tmp_path: Path, receiver: Receiver) -> None:
    spool = notices.Spool(tmp_path)
    made = [notice(title=str(number)) for number in range(5)]
    for one in reversed(made):
        spool.enqueue(one)
    spool.deliver(targets(receiver.url))
    assert [body["title"] for _, body in receiver.got] == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize(("status", "told"), [(500, "HTTP 500 Internal Server Error"), (302, "HTTP 302 Found")])
def test_a_receiver_that_refuses_is_tried_again_later_and_later(
    status: int, told: str, tmp_path: Path, receiver: Receiver, token_file: Path
) -> None:
    wall = Wall()
    receiver.status = status
    spool = notices.Spool(tmp_path / "spool", clock=wall)
    path = spool.enqueue(notice())
    waits = []
    for attempt in range(1, 10):
        done = spool.deliver(targets(receiver.url, token_file))
        assert done.errors == [f"contact on_call_engineer: {told}"]
        entry = json.loads(path.read_text())
        assert (entry["attempts"], entry["last_error"]) == (attempt, done.errors[0])
        waits.append(entry["next_try"] - wall.now)
        wall.now = entry["next_try"] - 1
        assert spool.deliver(targets(receiver.url, token_file)).errors == []
        wall.now += 1
    assert waits == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert len(receiver.got) == 9
    assert TOKEN not in everything(tmp_path / "spool")
    receiver.status = 200
    wall.now += 3600
    assert len(spool.deliver(targets(receiver.url, token_file)).sent) == 1


def test_a_receiver_that_is_down_is_no_error_of_the_call(tmp_path: Path) -> None:
    spool = notices.Spool(tmp_path)
    made = notice()
    spool.enqueue(made)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as closed:
        port = closed.server_address[1]
    done = spool.deliver(targets(f"http://127.0.0.1:{port}/{TOKEN}"))
    assert done.pending == [made.id]
    assert done.errors == ["contact on_call_engineer: Connection refused"]


def test_a_slow_receiver_takes_its_time_limit_and_the_round_its_own(tmp_path: Path, receiver: Receiver) -> None:
    receiver.delay = 1.5
    spool = notices.Spool(tmp_path)
    for _ in range(6):
        spool.enqueue(notice())
    done = spool.deliver(targets(receiver.url), timeout=0.2, total=0.5)
    assert len(done.pending) == 6
    assert done.errors == ["contact on_call_engineer: no answer in time", "the time of this round is over"]


@pytest.mark.parametrize("token", [f"{TOKEN}\nX-Evil: 1", f"{TOKEN}é"])
def test_a_token_that_is_no_header_is_named_by_nothing_it_holds(tmp_path: Path, receiver: Receiver, token: str) -> None:
    (tmp_path / "token").write_text(token)
    spool = notices.Spool(tmp_path / "spool")
    spool.enqueue(notice())
    done = spool.deliver(targets(receiver.url, tmp_path / "token"))
    assert len(done.pending) == 1
    assert "a token that is not one line" in done.errors[0]
    assert TOKEN not in everything(tmp_path / "spool") + str(done)
    assert receiver.got == []


def test_a_missing_token_file_is_told(tmp_path: Path, receiver: Receiver) -> None:
    spool = notices.Spool(tmp_path / "spool")
    spool.enqueue(notice())
    done = spool.deliver(targets(receiver.url, tmp_path / "none"))
    assert done.errors == ["contact on_call_engineer: its token file: FileNotFoundError"]


def test_a_contact_that_is_not_filled_in_is_no_attempt(tmp_path: Path, receiver: Receiver) -> None:
    spool = notices.Spool(tmp_path)
    path = spool.enqueue(notice())
    assert spool.deliver(targets("")).errors == ["contact on_call_engineer is not filled in"]
    assert spool.deliver({}).errors == ["contact of severity P1 is not filled in"]
    assert json.loads(path.read_text())["attempts"] == 0
    assert len(spool.deliver(targets(receiver.url)).sent) == 1


class Killed(BaseException):
    """What no handler of ours catches, as a kill is."""


def test_killed_after_the_receiver_took_it_the_same_id_goes_out_again(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = notices.Spool(tmp_path)
    made = notice()
    spool.enqueue(made)
    real = Path.replace

    def kill(self: Path, target: Path) -> Path:
        if target.parent.name == "sent":
            raise Killed
        return real(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", kill)
        with pytest.raises(Killed):
            spool.deliver(targets(receiver.url))
    assert notices.Spool(tmp_path).pending() == [made.id]
    assert notices.Spool(tmp_path).deliver(targets(receiver.url)).sent == [made.id]
    assert [body["id"] for _, body in receiver.got] == [made.id, made.id]


def test_killed_before_the_receiver_is_reached_it_stays_pending(tmp_path: Path) -> None:
    def kill(target: notices.Target, document: Mapping[str, Any], timeout: float) -> None:
        raise Killed

    spool = notices.Spool(tmp_path)
    made = notice()
    spool.enqueue(made)
    with pytest.raises(Killed):
        spool.deliver(targets("http://x/"), post=kill)
    assert spool.pending() == [made.id]


def test_killed_while_the_attempt_is_noted_the_notice_stays_whole(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    wall = Wall()
    receiver.status = 500
    spool = notices.Spool(tmp_path, clock=wall)
    made = notice()
    path = spool.enqueue(made)
    before = path.read_text()

    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", kill)
        with pytest.raises(Killed):
            spool.deliver(targets(receiver.url))
    assert path.read_text() == before
    receiver.status = 200
    wall.now = time.time() + 7200
    assert spool.deliver(targets(receiver.url)).sent == [made.id]
    # What the killed writer left is gone as well.
    assert [path.name for path in tmp_path.glob(".*.json.*")] == []


def test_two_rounds_at_once_send_once(tmp_path: Path, receiver: Receiver) -> None:
    receiver.delay = 0.3
    notices.Spool(tmp_path).enqueue(notice())
    outcomes: list[notices.Delivery] = []
    rounds = [
        threading.Thread(target=lambda: outcomes.append(notices.Spool(tmp_path).deliver(targets(receiver.url))))
        for _ in range(3)
    ]
    for one in rounds:
        one.start()
    for one in rounds:
        one.join()
    assert sorted(len(outcome.sent) for outcome in outcomes) == [0, 0, 1]
    assert len(receiver.got) == 1


def test_a_round_that_finds_another_gives_up_in_time(tmp_path: Path, receiver: Receiver) -> None:
    receiver.delay = 1.0
    spool = notices.Spool(tmp_path)
    spool.enqueue(notice())
    first = threading.Thread(target=spool.deliver, args=(targets(receiver.url),))
    first.start()
    while not receiver.got:
        time.sleep(0.01)
    done = notices.Spool(tmp_path).deliver(targets(receiver.url), total=0.2)
    first.join()
    assert done.errors == ["another round of deliveries goes on"]


def test_only_the_newest_of_the_sent_are_kept(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "KEPT_SENT", 3)
    spool = notices.Spool(tmp_path)
    made = [notice() for _ in range(5)]
    for one in made:
        spool.enqueue(one)
    spool.deliver(targets(receiver.url))
    assert sorted(path.stem for path in (tmp_path / "sent").iterdir()) == sorted(one.id for one in made)[-3:]


def test_beyond_the_limit_the_least_urgent_and_oldest_are_given_up_and_one_notice_says_so(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "KEPT_PENDING", 4)
    spool = notices.Spool(tmp_path)
    made = [notice(severity=severity) for severity in ("P1", "P3", "P1", "P3", "P2")]
    for one in made:
        spool.enqueue(one)
    done = spool.deliver({})
    assert "3 notices waited for too long and were given up" in done.errors
    kept = [json.loads(path.read_text())["notice"] for path in sorted(tmp_path.glob("*.json"))]
    assert [one["id"] for one in kept[:2]] == [made[0].id, made[2].id]
    (told,) = kept[2:]
    assert (told["severity"], told["title"]) == ("P2", "3 notices could not be delivered and were given up")
    assert ": P2 1, P3 2; state/runs" in told["text"]
    # What was told before is told on when it is given up itself.
    for _ in range(2):
        spool.enqueue(notice())
    spool.deliver({})
    newest = [json.loads(path.read_text())["notice"] for path in sorted(tmp_path.glob("*.json"))][-1]
    assert len(newest["text"].splitlines()) == 2
    assert ": P2 1, P3 2; state/runs" in newest["text"]
    assert len(spool.deliver(targets(receiver.url)).sent) == 3


@pytest.mark.parametrize(("severity", "kept"), [("P1", 1), ("P2", 1), ("P3", 0), ("P4", 0)])
def test_what_was_no_emergency_is_given_up_after_a_week(severity: str, kept: int, tmp_path: Path) -> None:
    wall = Wall()
    wall.now = time.time() + 6 * 86400
    spool = notices.Spool(tmp_path, clock=wall)
    spool.enqueue(notice(severity=severity))
    assert len(spool.deliver({}).pending) == 1
    wall.now += 2 * 86400
    assert len(spool.deliver({}).pending) == kept


def test_a_damaged_notice_is_named_left_and_holds_up_no_other(tmp_path: Path, receiver: Receiver) -> None:
    spool = notices.Spool(tmp_path)
    spool.pending()
    made = notice()
    spool.enqueue(made)
    (tmp_path / "0.json").write_text("{")
    done = spool.deliver(targets(receiver.url))
    assert (done.sent, done.pending, done.errors) == ([made.id], ["0"], ["notice 0 can not be read"])


@pytest.mark.parametrize(("name", "value"), [("severity", "P5"), ("title", " ")])
def test_a_notice_without_meaning_is_refused(name: str, value: str) -> None:
    with pytest.raises(Refused, match=f"{name} of the notice"):
        notice(**{name: value})
