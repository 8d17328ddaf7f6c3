"""What the scenarios are made with: deeds of a run, a receiver that answers nothing, the words of an alert."""

from __future__ import annotations

import importlib
import json
import signal
import socket
import subprocess
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "molecule" / "shared"))
    return importlib.import_module("faults")


@pytest.fixture
def live_alerts(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "molecule" / "shared"))
    return importlib.import_module("live_alerts")


def journal(runs: Path, run: str, *deeds: str) -> Path:
    path = runs / f"{run}.journal.jsonl"
    path.write_text("".join(json.dumps({"phase": "act", "did": deed}) + "\n" for deed in deeds) + '{"phase": "pro')
    return path


def test_the_first_deed_is_one_of_a_run_that_began_since(faults: ModuleType, tmp_path: Path) -> None:
    old = journal(tmp_path, "20300101T000000Z-restart-all-0001", "producer-1: stop producer")
    journal(tmp_path, "20300101T000001Z-notify-0002", "producer-1: stop producer")
    assert faults.first_deed(tmp_path, "restart-all", {old}) is None
    journal(tmp_path, "20300101T000002Z-restart-all-0003", "run_controller: silence", "producer-1: stop producer")
    assert "silence" in faults.first_deed(tmp_path, "restart-all", {old})
    assert "stop producer" in faults.first_deed(tmp_path, "restart-all", {old}, containing="stop producer")
    assert faults.first_deed(tmp_path, "restart-all", {old}, containing="start producer") is None


def test_a_deed_that_no_run_does_is_not_waited_for_without_end(faults: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "state" / "runs").mkdir(parents=True)
    with pytest.raises(TimeoutError, match="no run of restart-all told of 'stop producer'"):
        faults.await_deed(tmp_path, "restart-all", "stop producer", 0.1)


def test_a_receiver_takes_connections_and_answers_nothing_until_it_is_ended(faults: ModuleType, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    until = tmp_path / "over"
    thread = threading.Thread(target=faults.black_hole, args=(f"127.0.0.1:{port}", until, 30.0))
    thread.start()
    try:
        while True:
            try:
                client = socket.create_connection(("127.0.0.1", port), timeout=1)
                break
            except ConnectionRefusedError:
                continue
        with client:
            client.sendall(b"POST / HTTP/1.1\r\n\r\n")
            client.settimeout(0.3)
            with pytest.raises(TimeoutError):
                client.recv(1)
    finally:
        until.touch()
        thread.join(5)
    assert not thread.is_alive()


def test_a_fault_hits_what_stands_below_the_root_and_nothing_else(faults: ModuleType, tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    places = [mine / "hosts" / "kafka-1", other / "hosts" / "kafka-1", mine / "hosts" / "kafka-1" / "deeper"]
    started = [
        subprocess.Popen(["sleep", "60"], env={"STREAMOPS_ROOT": str(place), "STREAMOPS_SERVICE": "kafka"})
        for place in places
    ]
    # As a lab of ours would be called, without being one.
    started.append(subprocess.Popen(["sleep", "60"], env={"STREAMOPS_SERVICE": "kafka", "HOME": str(mine)}))
    try:
        assert [process.pid for process, _, _ in faults.marked(mine)] == [started[0].pid]
        assert faults.inject(mine, signal.SIGKILL, {"minio"}, None) == []
        assert len(faults.inject(mine, signal.SIGKILL, {"kafka"}, "kafka-1")) == 1
        assert started[0].wait(5) == -signal.SIGKILL
        assert [process.poll() for process in started[1:]] == [None, None, None]
    finally:
        for process in started:
            process.kill()
            process.wait()


def entry(labels: dict[str, str], **annotations: str) -> dict[str, Any]:
    return {"status": "firing", "labels": {"alertname": "ThroughputLow", **labels}, "annotations": annotations}


def test_an_alert_as_declared_passes(live_alerts: ModuleType) -> None:
    wanted = live_alerts.declared("https://wiki.example/runbook")["ThroughputLow"]
    labels = {key: value for key, value in wanted.items() if key != "runbook_url"}
    assert set(labels) == {"severity", "component", "procedure"}
    assert wanted["runbook_url"] == f"https://wiki.example/runbook/docs/runbooks/{wanted['procedure']}.md"
    live_alerts.check("ThroughputLow", entry(labels, runbook_url=wanted["runbook_url"]), wanted)


@pytest.mark.parametrize("word", ["severity", "component", "procedure", "runbook_url"])
def test_a_word_that_differs_or_is_missing_is_named(live_alerts: ModuleType, word: str) -> None:
    wanted = live_alerts.declared("https://wiki.example/runbook")["ThroughputLow"]
    for value in ({}, {word: "other"}):
        came = {key: text for key, text in wanted.items() if key != word} | value
        page = {"runbook_url": came.pop("runbook_url")} if "runbook_url" in came else {}
        with pytest.raises(live_alerts.Mismatch, match=f"{word}: found .*, expected "):
            live_alerts.check("ThroughputLow", entry(came, **page), wanted)
