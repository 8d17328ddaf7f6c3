from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ansible_collections.streamops.runbook.plugins.module_utils import runs
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused


def make_run(folder: Path, name: str = "r1", pid: int | None = None) -> runs.Run:
    pid = os.getpid() if pid is None else pid
    return runs.Run(
        folder=folder,
        id=name,
        procedure="p",
        started={
            "id": name,
            "procedure": "p",
            "pid": pid,
            "pid_start": runs.process_start(pid),
            "started_at": runs.now_text(),
        },
    )


def test_second_taker_learns_the_holder_and_its_age(tmp_path: Path) -> None:
    first, second = runs.Locks(tmp_path), runs.Locks(tmp_path)
    first.take(["stack"], "run-1", "emergency-restart")
    with pytest.raises(runs.Locked) as caught:
        second.take(["stack"], "run-2", "site")
    assert caught.value.holder is not None
    assert caught.value.holder.run == "run-1"
    assert caught.value.holder.age() < 60
    assert "run-1" in str(caught.value)
    first.release()
    second.take(["stack"], "run-2", "site")
    second.release()


def test_locks_are_taken_all_or_none(tmp_path: Path) -> None:
    first, second, third = runs.Locks(tmp_path), runs.Locks(tmp_path), runs.Locks(tmp_path)
    first.take(["b"], "run-1", "p")
    with pytest.raises(runs.Locked):
        second.take(["a", "b"], "run-2", "p")
    third.take(["a"], "run-3", "p")
    first.release()
    third.release()


HOLD = """
import sys, time
from pathlib import Path
from ansible_collections.streamops.runbook.plugins.module_utils import runs
locks = runs.Locks(Path(sys.argv[1]))
locks.take(["stack"], "run-1", "p")
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": "collections"}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def locked(tmp_path: Path) -> runs.Locked:
    with pytest.raises(runs.Locked) as caught:
        runs.Locks(tmp_path).take(["stack"], "run-2", "p")
    return caught.value


def test_killed_holder_frees_the_lock(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    locked(tmp_path)
    holder.kill()
    holder.wait()
    again = runs.Locks(tmp_path)
    again.take(["stack"], "run-2", "p")
    again.release()


def test_takeover_ends_the_recorded_process(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    error = locked(tmp_path)

    def sleep(seconds: float) -> None:
        holder.poll()
        time.sleep(seconds)

    runs.take_over(error, "run-1", sleep=sleep)
    assert holder.wait(5) == -signal.SIGTERM


def test_takeover_wants_the_holders_own_id(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(Refused, match="run-1"):
        runs.take_over(locked(tmp_path), "run-9")
    assert holder.poll() is None


def test_takeover_leaves_a_stranger_with_the_same_pid_alone(holder: subprocess.Popen[str]) -> None:
    stranger = runs.Holder("run-1", "p", holder.pid, -1.0, runs.now_text())
    runs.take_over(runs.Locked("stack", stranger), "run-1", sleep=lambda seconds: None)
    assert holder.poll() is None


def test_record_is_private_and_finished_once(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs")
    run.begin()
    assert stat.S_IMODE(run.started_path.stat().st_mode) == 0o600
    run.finish("failed", why="first")
    assert run.finish("completed")["status"] == "failed"
    assert json.loads(run.finished_path.read_text())["exit_code"] == 2


def test_interrupted_run_is_closed_with_what_it_left(tmp_path: Path) -> None:
    gone = subprocess.Popen(["sleep", "60"])
    run = make_run(tmp_path, pid=gone.pid)
    run.begin()
    run.note({"phase": "act"})
    run.note({"did": "kafka-1: started kafka"})
    with run.journal_path.open("a") as stream:
        stream.write('{"at": "cut sho')
    assert runs.close_interrupted(tmp_path) == []
    gone.kill()
    gone.wait()
    (left,) = runs.close_interrupted(tmp_path)
    assert left["phase"] == "act"
    assert left["done"] == ["kafka-1: started kafka"]
    assert json.loads(run.finished_path.read_text())["status"] == "interrupted"
    assert runs.close_interrupted(tmp_path) == []


def test_two_that_close_the_same_record_close_it_once(tmp_path: Path) -> None:
    gone = subprocess.Popen(["sleep", "60"])
    run = make_run(tmp_path, pid=gone.pid)
    run.begin()
    gone.kill()
    gone.wait()
    barrier = threading.Barrier(8)

    def close(_: int) -> int:
        barrier.wait()
        return len(runs.close_interrupted(tmp_path))

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(close, range(8))) == 1
    assert runs.is_over(tmp_path, run.id)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r1.finished.json", "r1.started.json"]


def test_what_came_to_pass_after_the_record_is_added_to_it(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.begin()
    assert not runs.is_over(tmp_path, run.id)
    record = run.finish("completed")
    assert run.add(record, {"notices": {"sent": ["n"]}})["notices"] == {"sent": ["n"]}
    kept = json.loads(run.finished_path.read_text())
    assert (kept["status"], kept["notices"]) == ("completed", {"sent": ["n"]})


def test_secrets_are_not_recorded() -> None:
    shown = runs.without_secrets({"kafka_password": "p4ss", "reason": "drill"})
    assert "p4ss" not in json.dumps(shown)
    assert shown["reason"] == "drill"


def test_last_completed_wants_a_proof(tmp_path: Path) -> None:
    for name, status, proof in (("1", "completed", None), ("2", "failed", {"lines": ["x"]})):
        run = make_run(tmp_path, name)
        run.begin()
        run.finish(status, proof=proof)
    found = runs.last_completed(tmp_path)
    assert found is None
    run = make_run(tmp_path, "0")
    run.begin()
    run.finish("completed", proof={"lines": ["x"]})
    found = runs.last_completed(tmp_path)
    assert found is not None
    assert found["id"] == "0"


@pytest.mark.parametrize(("seconds", "text"), [(5, "5 s"), (65, "1 min 5 s"), (3720, "1 h 2 min")])
def test_age(seconds: float, text: str) -> None:
    assert runs.age_text(seconds) == text


def test_outbox_names_what_is_still_to_be_sent(tmp_path: Path) -> None:
    outbox = runs.Outbox(tmp_path / "outbox")
    assert outbox.waiting(tmp_path) == []
    for name in ("r2", "r1", "r3"):
        outbox.add(name)
    for name in ("r1", "r2"):
        run = make_run(tmp_path, name)
        run.begin()
        run.finish("completed")
    # Oldest first; r3 has no record and never will.
    assert [path.name for path in outbox.waiting(tmp_path)] == ["r1.finished.json", "r2.finished.json"]
    assert not (tmp_path / "outbox" / "r3").exists()
    outbox.sent(["r1", "unknown"])
    assert [path.name for path in outbox.waiting(tmp_path)] == ["r2.finished.json"]


def test_outbox_sends_no_more_than_one_call_carries(tmp_path: Path) -> None:
    outbox = runs.Outbox(tmp_path / "outbox")
    for number in range(runs.Outbox.MOST + 5):
        outbox.add(f"r{number:02}")
        (tmp_path / f"r{number:02}.finished.json").touch()
    assert len(outbox.waiting(tmp_path)) == runs.Outbox.MOST


def test_durable_document_is_whole(tmp_path: Path) -> None:
    runs.write_json(tmp_path / "x.json", {"a": 1}, durable=True)
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
