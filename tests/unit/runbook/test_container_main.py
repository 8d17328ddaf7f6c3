"""The first process of a container: what it makes of ends, what it keeps, what it passes on."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.streamops.runbook.plugins.module_utils.runtime import container_main
from ansible_collections.streamops.runbook.plugins.module_utils.runtime.container_main import (
    Record,
    Rules,
    judge,
    read_record,
    taken_up,
    write_record,
)
from prometheus_client.parser import text_string_to_metric_families

NOW = 1_000_000.0


def rules(folder: Path = Path("/nowhere"), **changes: Any) -> Rules:
    base: dict[str, Any] = {
        "service": "clock",
        "host": "clock-1",
        "folder": str(folder),
        "policy": "on-failure",
        "success_exit_codes": [0],
        "retries": 2,
        "crashes": None,
        "window_seconds": None,
        "start_seconds": 5,
        "stop_signal": "TERM",
    }
    return Rules(**{**base, **changes})


def ran(seconds: float, **changes: Any) -> Record:
    return Record("clock", "clock-1", state="running", began=NOW - seconds, **changes)


@pytest.mark.parametrize(
    ("asked", "code", "wanted", "state", "told"),
    [
        ({}, 0, False, "exited", 0),
        ({"success_exit_codes": [0, 78]}, 78, False, "exited", 0),
        ({}, 78, False, "backoff", 78),
        ({}, 3, False, "backoff", 3),
        ({}, -9, False, "backoff", 137),
        ({"policy": "always"}, 0, False, "backoff", 1),
        ({"policy": "never"}, 3, False, "exited", 3),
        ({"policy": "never"}, 0, False, "exited", 0),
        # Docker starts it again together with the machine unless it was stopped for good.
        ({}, 0, True, "stopped", 143),
        ({"policy": "always"}, 143, True, "stopped", 143),
        ({}, -15, True, "stopped", 143),
    ],
)
def test_an_end_is_told_to_docker_by_its_exit_code(
    asked: dict[str, Any], code: int, wanted: bool, state: str, told: int
) -> None:
    record = ran(60)
    assert judge(rules(**asked), record, code, wanted=wanted, now=NOW) == told
    assert (record.state, record.code) == (state, code)


def test_early_ends_in_a_row_are_given_up_and_a_longer_life_begins_anew() -> None:
    record = ran(60, early=2)
    judge(rules(), record, 3, wanted=False, now=NOW)
    assert (record.state, record.early) == ("backoff", 0)
    record = ran(1, early=2)
    assert judge(rules(), record, 3, wanted=False, now=NOW) == 0
    assert (record.state, record.reason) == ("fatal", "ended 3 times in a row before 5 s")


def test_late_ends_are_counted_over_ten_minutes() -> None:
    record = ran(60, ends=[NOW - 601, NOW - 60])
    judge(rules(), record, 3, wanted=False, now=NOW)
    assert record.state == "backoff"
    record = ran(60, ends=[NOW - 599, NOW - 60])
    judge(rules(), record, 3, wanted=False, now=NOW)
    assert (record.state, record.reason) == ("fatal", "ended 3 times in 600 s")


def test_a_limit_of_crashes_has_its_own_window_and_counts_early_ends_too() -> None:
    limited = rules(crashes=2, window_seconds=900, retries=10)
    record = ran(1, ends=[NOW - 901])
    judge(limited, record, -9, wanted=False, now=NOW)
    assert record.state == "backoff"
    record = ran(1, ends=[NOW - 899])
    assert judge(limited, record, -9, wanted=False, now=NOW) == 0
    assert (record.state, record.reason) == ("fatal", "ended 2 times in 900 s")


def test_a_wanted_end_forgets_what_was_counted() -> None:
    record = ran(1, early=2, ends=[NOW - 1])
    judge(rules(), record, 0, wanted=True, now=NOW)
    assert (record.early, record.ends) == (0, [])


@pytest.mark.parametrize("state", ["unknown", "stopped", "exited", "fatal"])
def test_a_start_by_somebody_begins_to_count_anew(state: str) -> None:
    record = taken_up(rules(), Record("clock", "clock-1", state=state, early=2, ends=[NOW - 1], reason="x"), NOW)
    assert (record.state, record.early, record.ends, record.reason) == ("starting", 0, [], "")


def test_a_start_by_docker_goes_on_counting() -> None:
    record = taken_up(rules(), Record("clock", "clock-1", state="backoff", early=2, ends=[NOW - 1], starts=4), NOW)
    assert (record.state, record.early, record.ends, record.starts) == ("starting", 2, [NOW - 1], 5)


def test_a_first_process_that_was_killed_with_its_service_counts_as_an_end() -> None:
    before = Record("clock", "clock-1", state="running", began=NOW - 100, updated=NOW - 2)
    record = taken_up(rules(crashes=3, window_seconds=900), before, NOW)
    assert (record.state, record.ends, record.code) == ("starting", [NOW - 2], -9)
    before = dataclasses.replace(record, state="running", ends=[NOW - 20, NOW - 10], updated=NOW - 1)
    assert taken_up(rules(crashes=3, window_seconds=900), before, NOW).state == "fatal"


def test_one_that_was_killed_while_it_stopped_does_not() -> None:
    before = Record("clock", "clock-1", state="stopping", began=NOW - 100, updated=NOW - 2)
    assert taken_up(rules(crashes=1, window_seconds=900), before, NOW).ends == []


@pytest.mark.parametrize("content", ["", "[]", "{", '{"state": "running"}', "\0"])
def test_a_damaged_record_is_as_good_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "clock.json").write_text(content)
    assert read_record(tmp_path, "clock", "clock-1").state == "unknown"


def test_a_record_is_read_neither_through_a_link_nor_from_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(json.dumps(dataclasses.asdict(ran(1))))
    (tmp_path / "clock.json").symlink_to(tmp_path / "secret")
    assert read_record(tmp_path, "clock", "clock-1").state == "unknown"
    os.mkfifo(tmp_path / "bell.json")
    assert read_record(tmp_path, "bell", "clock-1").state == "unknown"


def metrics(folder: Path) -> dict[tuple[str, str, str | None], float]:
    text = (folder / container_main.METRICS).read_text()
    return {
        (sample.name, sample.labels["service"], sample.labels.get("state")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_all_services_of_the_host_are_shown_and_a_silent_one_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    write_record(tmp_path, Record("bell", "clock-1", state="running", updated=NOW - 100, starts=1))
    write_record(tmp_path, Record("clock", "clock-1", state="running", updated=NOW, starts=3))
    seen = metrics(tmp_path)
    assert seen["runbook_service_state", "clock", "running"] == 1
    assert seen["runbook_service_state", "clock", "fatal"] == 0
    assert seen["runbook_service_starts_total", "clock", None] == 3
    assert seen["runbook_service_state", "bell", "unknown"] == 1
    assert (tmp_path / container_main.METRICS).stat().st_mode & 0o777 == 0o644


def test_what_stays_true_is_not_taken_for_silence(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    path = tmp_path / container_main.METRICS
    write_record(tmp_path, Record("clock", "clock-1", state="fatal", updated=time.time()))
    assert path.stat().st_mtime > time.time() + 86_400
    write_record(tmp_path, Record("bell", "clock-1", state="running", updated=time.time()))
    assert path.stat().st_mtime < time.time() + 60


class Container:
    """The program itself, with a command to run."""

    def __init__(self, folder: Path, code: str, **asked: Any) -> None:
        self.folder = folder
        (folder / "metrics").mkdir(exist_ok=True)
        text = json.dumps(dataclasses.asdict(rules(folder, **asked)))
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", container_main.__file__, text, sys.executable, "-u", "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @property
    def record(self) -> Record:
        return read_record(self.folder, "clock", "clock-1")

    def wait(self, good: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not good():
            assert time.monotonic() < deadline, self.record
            time.sleep(0.02)

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> tuple[int, str]:
        output, _ = self.process.communicate(timeout=20)
        return self.process.returncode, output


@pytest.mark.parametrize(
    ("code", "told", "said"),
    [
        ("raise SystemExit(0)", 0, "container: ended with exit code 0, after which it is not started again"),
        ("raise SystemExit(78)", 0, "container: ended with exit code 78, after which it is not started again"),
        ("raise SystemExit(3)", 3, "container: ended with exit code 3; Docker starts it again"),
        ("import os; os.kill(os.getpid(), 9)", 137, "container: ended with signal 9; Docker starts it again"),
    ],
)
def test_ends_of_real_processes(tmp_path: Path, code: str, told: int, said: str) -> None:
    assert Container(tmp_path, code, success_exit_codes=[0, 78]).end() == (told, f"{said}\n")


def test_it_gives_up_after_too_many_and_says_so(tmp_path: Path) -> None:
    assert [Container(tmp_path, "raise SystemExit(3)").end()[0] for _ in range(3)] == [3, 3, 0]
    record = read_record(tmp_path, "clock", "clock-1")
    assert (record.state, record.starts, record.code) == ("fatal", 3, 3)
    # Whoever starts it all the same gets a service.
    assert Container(tmp_path, "raise SystemExit(3)").end()[0] == 3


def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    text = json.dumps(dataclasses.asdict(rules(tmp_path)))
    done = subprocess.run(
        [sys.executable, container_main.__file__, text, "/no/such/program"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 127
    assert "container: /no/such/program: No such file or directory" in done.stderr


LISTENER = """
import signal, sys, time
for name in ("HUP", "INT", "QUIT", "USR1", "USR2"):
    signal.signal(getattr(signal, f"SIG{name}"), lambda number, _: print(signal.Signals(number).name))
print("pipe", signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN, "blocked", len(signal.pthread_sigmask(0, ())))
while True:
    time.sleep(0.05)
"""


def test_signals_reach_the_service_as_they_come(tmp_path: Path) -> None:
    container = Container(tmp_path, LISTENER)
    # Python ignores this signal itself; what counts is that nothing is blocked.
    assert container.line() == "pipe True blocked 0"
    for name in ("HUP", "INT", "QUIT", "USR1", "USR2"):
        container.process.send_signal(getattr(signal, f"SIG{name}"))
        assert container.line() == f"SIG{name}"
    container.process.send_signal(signal.SIGTERM)
    assert container.end() == (143, "")
    assert (container.record.state, container.record.code) == ("stopped", -15)


@pytest.mark.parametrize("inherited", [signal.SIG_DFL, signal.SIG_IGN], ids=["default", "ignored"])
def test_another_stop_signal_makes_the_end_a_wanted_one(tmp_path: Path, inherited: signal.Handlers) -> None:
    # A shell without job control has what it starts in the background ignore this one.
    before = signal.signal(signal.SIGQUIT, inherited)
    try:
        container = Container(tmp_path, "import time; print('up'); time.sleep(60)", stop_signal="QUIT")
    finally:
        signal.signal(signal.SIGQUIT, before)
    assert container.line() == "up"
    container.process.send_signal(signal.SIGQUIT)
    assert container.end()[0] == 131
    assert container.record.state == "stopped"


def test_the_state_is_told_while_it_comes_up_and_runs(tmp_path: Path) -> None:
    container = Container(tmp_path, "import time; time.sleep(60)", start_seconds=0.5)
    container.wait(lambda: container.record.state == "starting")
    container.wait(lambda: container.record.state == "running")
    container.wait(lambda: metrics(tmp_path)["runbook_service_state", "clock", "running"] == 1)
    container.process.send_signal(signal.SIGTERM)
    container.end()
    assert metrics(tmp_path)["runbook_service_state", "clock", "stopped"] == 1


def test_a_folder_that_cannot_be_written_does_not_end_the_service(tmp_path: Path) -> None:
    container = Container(tmp_path, "import time; time.sleep(0.2)")
    container.process.communicate(timeout=20)
    (tmp_path / "metrics" / "services.prom").unlink()
    (tmp_path / "metrics").rmdir()
    (tmp_path / "metrics").touch()
    text = json.dumps(dataclasses.asdict(rules(tmp_path)))
    done = subprocess.run(
        [sys.executable, container_main.__file__, text, sys.executable, "-c", "raise SystemExit(4)"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 4
    assert done.stderr.count("no record:") == 1


def test_the_kernels_count_of_kills_for_memory_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "memory.oom_control"
    monkeypatch.setattr(container_main, "_OOM_FILES", (str(tmp_path / "none"), str(path)))
    assert container_main._oom_kills() == 0
    path.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    assert container_main._oom_kills() == 2


@pytest.fixture
def signals() -> Iterator[None]:
    """Put back which signals this process takes: a first process blocks those that it waits for."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.mark.usefixtures("signals")
def test_ends_for_memory_are_counted_until_somebody_starts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "metrics").mkdir()
    monkeypatch.setattr(container_main, "_linger", lambda: None)
    for kills in (1, 0, 3):
        monkeypatch.setattr(container_main, "_oom_kills", lambda kills=kills: kills)
        container_main.First(rules(tmp_path, retries=10)).run([sys.executable, "-c", "raise SystemExit(3)"])
    record = read_record(tmp_path, "clock", "clock-1")
    assert (record.oom, record.kills, record.starts) == (True, 2, 3)
    assert metrics(tmp_path)["runbook_service_memory_kills_total", "clock", None] == 2
