"""The inbox: what it keeps, what it refuses, and what stands in its file."""

from __future__ import annotations

import http.client
import json
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli, config
from pipeline.errors import EXIT_OK, EXIT_REFUSED, ConfigError, Unavailable
from pipeline.inbox import MAX_BODY_BYTES, Inbox, MessageFile, NotJson, Server, line_of, run
from tests.unit.pipeline.test_producer import free_port

WEBHOOK = {"version": "4", "status": "firing", "alerts": [{"labels": {"alertname": "KafkaDown", "x": "ö"}}]}
SHOWN = "s3cret-canary"
Serve = Callable[..., "Client"]


class Client:
    """Speaks to one inbox."""

    def __init__(self, port: int) -> None:
        self._port = port

    def ask(
        self, verb: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            connection.request(verb, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def post(self, content: Any, **headers: str) -> int:
        return self.ask("POST", "/alerts", json.dumps(content).encode(), headers)[0]

    def sample(self, name: str) -> float:
        lines = self.ask("GET", "/metrics")[1].splitlines()
        return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    servers: list[Server] = []

    def start(max_lines: int = 100, token: str | None = None) -> Client:
        server = Server(("127.0.0.1", 0), Inbox(MessageFile(tmp_path / "inbox.jsonl", max_lines), token))
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return Client(server.server_address[1])

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def lines(path: Path) -> list[dict[str, Any]]:
    text = path.read_text()
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def test_a_message_is_on_the_disk_before_it_is_answered(tmp_path: Path, serve: Serve) -> None:
    client, before = serve(), datetime.now(UTC)
    assert client.ask("POST", "/any/path?x=1", json.dumps(WEBHOOK).encode())[0] == 200
    (kept,) = lines(tmp_path / "inbox.jsonl")
    assert set(kept) == {"received_at", "path", "body"}
    assert kept["path"] == "/any/path?x=1"
    assert kept["body"] == WEBHOOK
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", kept["received_at"])
    assert abs((datetime.fromisoformat(kept["received_at"]) - before).total_seconds()) < 5
    assert stat.S_IMODE((tmp_path / "inbox.jsonl").stat().st_mode) == 0o600


def test_it_syncs_before_it_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    write, sync = os.write, os.fsync

    def watched_write(descriptor: int, data: bytes) -> int:
        done.append("write")
        return write(descriptor, data)

    def watched_sync(descriptor: int) -> None:
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "sync")
        sync(descriptor)

    monkeypatch.setattr(os, "write", watched_write)
    monkeypatch.setattr(os, "fsync", watched_sync)
    file = MessageFile(tmp_path / "f", 10)
    file.append(b"1")
    file.append(b"2")
    assert done == ["folder", "write", "sync", "write", "sync"]


def test_messages_are_counted(serve: Serve) -> None:
    client = serve()
    assert (client.sample("inbox_messages_total"), client.sample("inbox_last_message_timestamp_seconds")) == (0, 0)
    before = time.time()
    assert [client.post({"n": 1}), client.post({"n": 2}), client.post([])] == [200, 200, 400]
    assert client.sample("inbox_messages_total") == 2
    assert before - 1 < client.sample("inbox_last_message_timestamp_seconds") <= time.time()


def test_it_is_ready(serve: Serve) -> None:
    assert serve().ask("GET", "/-/ready")[0] == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1]",
        b"5",
        b'"text"',
        b"null",
        b"\xff\xfe",
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
        b'{"a": 1} {"b": 2}',
    ],
)
def test_what_is_no_json_object_is_not_kept(tmp_path: Path, serve: Serve, body: bytes) -> None:
    assert serve().ask("POST", "/", body)[0] == 400
    assert not (tmp_path / "inbox.jsonl").exists()


def test_a_line_stays_one_line() -> None:
    body = json.dumps({"a": "x\ny\u2028\x85"}, ensure_ascii=False).replace("\\n", "\\n").encode()
    line = line_of("/a\nb", body, datetime(2026, 1, 31, 1, 2, 3, 4999, tzinfo=UTC))
    assert b"\n" not in line
    assert json.loads(line) == {
        "received_at": "2026-01-31T01:02:03.004Z",
        "path": "/a\nb",
        "body": {"a": "x\ny\u2028\x85"},
    }
    with pytest.raises(NotJson):
        line_of("/", b'"\\ud800', datetime.now(UTC))


def test_the_limit_of_a_body(tmp_path: Path, serve: Serve) -> None:
    client = serve()
    frame = len(b'{"a":""}')
    fits = b'{"a":"' + b"x" * (MAX_BODY_BYTES - frame) + b'"}'
    assert client.ask("POST", "/", fits)[0] == 200
    assert client.ask("POST", "/", fits[:-2] + b'x"}')[0] == 413
    assert client.ask("POST", "/", b"x" * (8 * MAX_BODY_BYTES))[0] == 413
    assert len(lines(tmp_path / "inbox.jsonl")) == 1


@pytest.mark.parametrize(("length", "status"), [("many", 411), ("-1", 411), ("9" * 5000, 413)])
def test_a_length_that_is_none(serve: Serve, length: str, status: int) -> None:
    assert serve().ask("POST", "/", None, {"Content-Length": length})[0] == status


@pytest.mark.parametrize(
    ("verb", "path"),
    [("GET", "/"), ("GET", "/alerts"), ("PUT", "/a"), ("DELETE", "/a"), ("HEAD", "/metrics"), ("BREW", "/")],
)
def test_other_requests_are_not_allowed(tmp_path: Path, serve: Serve, verb: str, path: str) -> None:
    assert serve().ask(verb, path)[0] == 405
    assert not (tmp_path / "inbox.jsonl").exists()


def test_without_the_token_nothing_is_kept(tmp_path: Path, serve: Serve) -> None:
    client = serve(token=SHOWN)
    for header in ("", "s3cret-canary", "Bearer", "Bearer s3cret-canar", "Basic s3cret-canary", "Bearer \xe9"):
        assert client.post({"n": 1}, Authorization=header) == 401
    assert client.post({"n": 1}) == 401
    assert client.ask("POST", "/", b"x" * (4 * MAX_BODY_BYTES))[0] == 401
    assert not (tmp_path / "inbox.jsonl").exists()
    assert client.sample("inbox_messages_total") == 0
    assert client.post({"n": 2}, Authorization="Bearer s3cret-canary") == 200
    assert [line["body"] for line in lines(tmp_path / "inbox.jsonl")] == [{"n": 2}]


def test_a_full_file_is_rotated(tmp_path: Path, serve: Serve) -> None:
    client = serve(max_lines=3)
    for n in range(8):
        assert client.post({"n": n}) == 200
    assert [line["body"]["n"] for line in lines(tmp_path / "inbox.jsonl")] == [6, 7]
    assert [line["body"]["n"] for line in lines(tmp_path / "inbox.jsonl.1")] == [3, 4, 5]


def test_lines_from_before_count_and_half_a_line_goes(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b'{"n": 1}\n{"n": 2}\n{"n"')
    path.chmod(0o644)
    file = MessageFile(path, 3)
    file.append(b'{"n": 3}')
    assert [line["n"] for line in lines(path)] == [1, 2, 3]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    file.append(b'{"n": 4}')
    assert [line["n"] for line in lines(path)] == [4]


def test_a_file_that_was_taken_away_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "f"
    file = MessageFile(path, 2)
    for n in range(2):
        file.append(b'{"n": %d}' % n)
    path.unlink()
    file.append(b'{"n": 2}')
    assert [line["n"] for line in lines(path)] == [2]
    assert not path.with_name("f.1").exists()


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Serve) -> None:
    client, write = serve(), os.write
    assert client.post({"n": 1}) == 200
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:10]))
    assert client.post({"n": 2}) == 503
    monkeypatch.setattr(os, "write", write)
    assert client.post({"n": 3}) == 200
    assert [line["body"]["n"] for line in lines(tmp_path / "inbox.jsonl")] == [1, 3]
    assert client.sample("inbox_messages_total") == 2


def test_many_senders_at_once(tmp_path: Path, serve: Serve) -> None:
    client = serve(max_lines=15)
    codes: list[int] = []
    senders = [threading.Thread(target=lambda n=n: codes.append(client.post({"n": n}))) for n in range(20)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join(20)
    assert codes == [200] * 20
    kept = [*lines(tmp_path / "inbox.jsonl.1"), *lines(tmp_path / "inbox.jsonl")]
    assert sorted(line["body"]["n"] for line in kept) == list(range(20))


def settings(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    listen = {"host": "127.0.0.1", "port": free_port()}
    return {"listen": listen, "file": str(tmp_path / "inbox.jsonl"), **changes}


def test_the_service_runs_until_stopped(tmp_path: Path) -> None:
    parsed = config.parse(config.InboxConfig, settings(tmp_path, token=SHOWN), "f")
    assert parsed.max_lines == 10_000
    stop, codes = threading.Event(), []
    service = threading.Thread(target=lambda: codes.append(run(parsed, stop)))
    service.start()
    client = Client(parsed.listen.port)
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            assert client.post({"n": 1}, Authorization="Bearer s3cret-canary") == 200
            break
        except ConnectionRefusedError:
            time.sleep(0.02)
    stop.set()
    service.join(2)
    assert codes == [EXIT_OK]
    assert len(lines(tmp_path / "inbox.jsonl")) == 1


def test_a_taken_port_and_a_file_that_cannot_be_are_named(tmp_path: Path, serve: Serve) -> None:
    values = settings(tmp_path, file=str(tmp_path / "none" / "f"))
    with pytest.raises(Unavailable, match=r"none/f"):
        run(config.parse(config.InboxConfig, values, "f"), threading.Event())
    values = settings(tmp_path, listen={"host": "127.0.0.1", "port": serve()._port})
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1"):
        run(config.parse(config.InboxConfig, values, "f"), threading.Event())


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"max_lines": 0}, "max_lines"), ({"token": ""}, "token"), ({"tokn": "x"}, "tokn"), ({"file": None}, "file")],
)
def test_a_bad_value_is_named(tmp_path: Path, changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=f"{field}: "):
        config.parse(config.InboxConfig, settings(tmp_path, **changes), "f")


def test_a_token_is_never_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parsed = config.parse(config.InboxConfig, settings(tmp_path, token=SHOWN), "f")
    assert "s3cret-canary" not in repr(parsed)
    (tmp_path / "c").write_text(json.dumps(settings(tmp_path, token=["s3cret-canary"])))
    assert cli.main(["inbox", "--config", str(tmp_path / "c")]) == EXIT_REFUSED
    (tmp_path / "c").write_text(json.dumps(settings(tmp_path, token=5551234)))
    assert cli.main(["inbox", "--config", str(tmp_path / "c")]) == EXIT_REFUSED
    said = capsys.readouterr().err
    assert "token: " in said
    assert "s3cret-canary" not in said
    assert "5551234" not in said
