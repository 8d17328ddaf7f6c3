"""The runtime supervisor, with a real supervisord and real processes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from ansible_collections.streamops.runbook.plugins.module_utils import runtime
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused, ServiceError
from ansible_collections.streamops.runbook.plugins.module_utils.runtime import processes, supervisor, supervisord_main
from ansible_collections.streamops.runbook.plugins.module_utils.runtime.supervisor import (
    SupervisorRuntime,
)
from ansible_collections.streamops.runbook.plugins.module_utils.service import (
    TAG_ROOT,
    ServiceDefinition,
    ServiceInfo,
    parse_definition,
)
from prometheus_client.parser import text_string_to_metric_families

SLEEP = "import time; time.sleep(300)"


class Host:
    """One logical host with its own supervisord, gone without a rest after the test."""

    def __init__(self, root: Path, run_base: Path) -> None:
        self.root = root
        self.runtime = SupervisorRuntime(run_base)

    def define(self, code: str = SLEEP, **changes: Any) -> ServiceDefinition:
        base: dict[str, Any] = {
            "name": "clock",
            "host": "clock-1",
            "root": str(self.root),
            "address": "127.0.0.1",
            "command": [sys.executable, "-c", code],
            "directories": ["log"],
            "stop_timeout": 10,
            "start_seconds": 1,
            "restart": {"retries": 2},
        }
        return parse_definition({**base, **changes})

    def running(self, code: str = SLEEP, **changes: Any) -> ServiceDefinition:
        definition = self.define(code, **changes)
        self.runtime.deploy(definition)
        self.runtime.start(definition.ref)
        return definition

    def supervisord(self, definition: ServiceDefinition) -> psutil.Process:
        (process,) = self.runtime._supervisord_processes(definition.ref)
        return process

    def wait(
        self, definition: ServiceDefinition, good: Callable[[ServiceInfo], bool], seconds: float = 10
    ) -> ServiceInfo:
        deadline = time.monotonic() + seconds
        while True:
            info = self.runtime.info(definition.ref)
            if good(info):
                return info
            assert time.monotonic() < deadline, info
            time.sleep(0.05)

    def close(self) -> None:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                environment = process.environ()
                if str(self.root) in (
                    environment.get(supervisor.TAG_SUPERVISOR),
                    environment.get(TAG_ROOT),
                ):
                    process.kill()


@pytest.fixture
def host() -> Iterator[Host]:
    # A pytest folder's name can be too long for a socket.
    base = Path(tempfile.mkdtemp(prefix="so-"))
    (base / "root").mkdir()
    made = Host(base / "root", base)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(base)


def pid_of(info: ServiceInfo) -> int:
    assert info["pid"] is not None, info
    return info["pid"]


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_the_registry_knows_supervisor_and_refuses_others_by_name() -> None:
    assert isinstance(runtime.get("supervisor"), SupervisorRuntime)
    with pytest.raises(Refused, match="found 'launchd', expected supervisor"):
        runtime.get("launchd")


def test_nothing_deployed_is_absent_and_cannot_be_started(host: Host) -> None:
    ref = host.define().ref
    assert host.runtime.info(ref)["state"] == "absent"
    with pytest.raises(Refused, match="clock on clock-1: found nothing deployed"):
        host.runtime.start(ref)
    assert host.runtime.stop(ref).did == []
    assert host.runtime.remove(ref).did == []


def test_whose_data_a_stopped_service_has_is_read_from_its_disk(host: Host) -> None:
    definition = host.define(identity={"path": "meta.properties", "key": "cluster.id"})
    host.runtime.deploy(definition)
    (host.root / "meta.properties").write_text("cluster.id=other\n")
    info = host.runtime.info(definition.ref)
    assert (info["state"], info["identity"]) == ("stopped", "other")


def test_deploying_twice_changes_once_and_starts_nothing(host: Host) -> None:
    definition = host.define(memory_limit="64m", nofile=2048)
    planned = host.runtime.deploy(definition, check=True)
    assert planned.did
    assert not (host.root / "services").exists()
    first = host.runtime.deploy(definition)
    assert first.did == planned.did
    assert first.skipped == [
        "memory_limit 64m: supervisor can't enforce it",
        "nofile 2048: under supervisor a service has what its starter has",
    ]
    assert host.runtime.deploy(definition).did == []
    info = host.runtime.info(definition.ref)
    assert (info["state"], info["detail"]) == ("stopped", "no supervisor")
    assert info["digest_deployed"] == definition.digest


def test_start_runs_what_is_deployed_once(host: Host) -> None:
    definition = host.define()
    host.runtime.deploy(definition)
    assert host.runtime.start(definition.ref, check=True).did == ["start clock"]
    assert host.runtime.info(definition.ref)["pid"] is None
    began = time.time()
    outcome = host.runtime.start(definition.ref)
    assert outcome.did == ["start supervisord of clock-1", "start clock"]
    info = host.runtime.info(definition.ref)
    assert info["state"] in ("starting", "running")
    assert info["digest_running"] == definition.digest
    assert not info["restart_needed"]
    assert info["started_at"] is not None
    assert info["started_at"].endswith("Z")
    assert (info["memory_bytes"] or 0) > 1_000_000
    assert psutil.Process(pid_of(info)).create_time() >= began - 2
    assert host.runtime.start(definition.ref).did == []
    assert host.runtime.info(definition.ref)["pid"] == info["pid"]


def test_two_starts_at_once_make_one_process(host: Host) -> None:
    definition = host.define()
    host.runtime.deploy(definition)
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda _: host.runtime.start(definition.ref).did, range(2)))
    assert sorted(len(did) for did in done) == [0, 2]
    assert len(processes.tagged(definition.ref)) == 1
    host.supervisord(definition)


def test_a_changed_definition_waits_for_the_restart(host: Host) -> None:
    old = host.running()
    new = host.define(environment={"EDITION": "2"})
    assert host.runtime.deploy(new).did
    before = host.runtime.info(new.ref)
    assert before["restart_needed"]
    assert before["digest_running"] == old.digest
    # A process that the runtime itself starts again is still the old one.
    os.kill(pid_of(before), signal.SIGKILL)
    again = host.wait(new, lambda info: info["pid"] not in (None, before["pid"]))
    host.wait(new, lambda info: info["digest_running"] is not None)
    assert host.runtime.info(new.ref)["digest_running"] == old.digest
    assert host.runtime.restart(new.ref).did == ["stop clock", "start clock"]
    after = host.runtime.info(new.ref)
    assert after["digest_running"] == new.digest
    assert not after["restart_needed"]
    assert after["pid"] != again["pid"]


def test_a_killed_process_comes_back_by_itself(host: Host) -> None:
    definition = host.running()
    before = host.wait(definition, lambda info: info["state"] == "running")
    os.kill(pid_of(before), signal.SIGKILL)
    after = host.wait(definition, lambda info: info["pid"] not in (None, before["pid"]))
    assert gone(pid_of(before))
    assert not gone(pid_of(after))


def test_processes_die_with_their_supervisord_and_start_brings_them_back(host: Host) -> None:
    definition = host.running()
    before = host.runtime.info(definition.ref)
    host.supervisord(definition).kill()
    info = host.wait(definition, lambda info: info["state"] == "stopped")
    assert info["detail"] == "no supervisor"
    assert gone(pid_of(before))
    assert host.runtime.start(definition.ref).did[-1] == "start clock"
    assert host.runtime.info(definition.ref)["pid"] not in (None, before["pid"])


def test_a_suspended_process_is_seen_left_alone_by_start_and_killed_by_restart(host: Host) -> None:
    definition = host.running(stop_timeout=60)
    before = host.runtime.info(definition.ref)
    os.kill(pid_of(before), signal.SIGSTOP)
    info = host.wait(definition, lambda info: info["state"] == "suspended")
    assert info["pid"] == before["pid"]
    assert host.runtime.start(definition.ref).did == []
    began = time.monotonic()
    # Whenever it was started: it does nothing any more.
    did = host.runtime.restart(definition.ref, since=time.time() - 600).did
    assert time.monotonic() - began < 5
    assert did == ["stop clock", f"kill suspended {before['pid']}", "start clock"]
    assert host.runtime.info(definition.ref)["state"] in ("starting", "running")


def test_a_suspended_supervisord_is_named_and_replaced_by_restart(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_RPC_SECONDS", 0.5)
    definition = host.running()
    before = host.runtime.info(definition.ref)
    daemon = host.supervisord(definition)
    daemon.suspend()
    info = host.runtime.info(definition.ref)
    assert info["state"] == "unknown"
    assert f"process {daemon.pid} does not answer" in info["detail"]
    assert info["pid"] == before["pid"]
    with pytest.raises(ServiceError, match=f"process {daemon.pid} does not answer"):
        host.runtime.start(definition.ref)
    did = host.runtime.restart(definition.ref).did
    assert did[0] == f"kill silent supervisord {daemon.pid} of clock-1"
    assert did[-1] == "start clock"
    assert gone(pid_of(before))
    assert len(processes.tagged(definition.ref)) == 1


def test_a_deleted_socket_does_not_hide_a_running_supervisord(host: Host) -> None:
    definition = host.running()
    daemon = host.supervisord(definition)
    (host.runtime._run_dir(definition.ref) / "supervisor.sock").unlink()
    assert host.runtime.info(definition.ref)["state"] == "unknown"
    host.runtime.restart(definition.ref)
    assert gone(daemon.pid)
    assert len(processes.tagged(definition.ref)) == 1


def test_a_final_exit_code_ends_it_even_before_the_start_is_over(host: Host) -> None:
    runs = host.root / "runs"
    code = f"open({str(runs)!r}, 'a').write('x'); raise SystemExit(78)"
    definition = host.define(code, start_seconds=30, restart={"success_exit_codes": [0, 78], "retries": 5})
    host.runtime.deploy(definition)
    with pytest.raises(ServiceError, match="exited with exit code 78"):
        host.runtime.start(definition.ref)
    time.sleep(2.5)
    info = host.runtime.info(definition.ref)
    assert (info["state"], info["exit_code"]) == ("exited", 78)
    assert runs.read_text() == "x"


def test_a_program_that_never_comes_up_ends_fatal_and_start_tries_anew(host: Host) -> None:
    flag = host.root / "broken"
    flag.touch()
    code = f"import os,sys,time\nif os.path.exists({str(flag)!r}): print('no luck'); sys.exit(3)\ntime.sleep(300)"
    script = host.root / "script.py"
    script.write_text(code)
    definition = host.define(command=[sys.executable, str(script)], restart={"retries": 1})
    host.runtime.deploy(definition)
    with pytest.raises(ServiceError, match=r"exit code 3 right after the start \(no luck\)"):
        host.runtime.start(definition.ref)
    info = host.wait(definition, lambda info: info["state"] == "fatal")
    assert info["exit_code"] == 3
    assert host.runtime.logs(definition.ref, 1) == ["no luck"]
    flag.unlink()
    assert host.runtime.start(definition.ref).did == ["start clock"]
    assert host.runtime.info(definition.ref)["pid"]


def test_a_program_that_keeps_dying_later_ends_fatal_too(host: Host) -> None:
    runs = host.root / "runs"
    code = f"import time; open({str(runs)!r}, 'a').write('x'); time.sleep(0.8); raise SystemExit(4)"
    definition = host.running(code, start_seconds=0, restart={"retries": 2})
    info = host.wait(definition, lambda info: info["state"] == "fatal", 20)
    assert info["detail"] == "ended 3 times in 600 s, last exit code 4"
    assert info["exit_code"] == 4
    assert runs.read_text() == "xxx"


def crashing(host: Host, **restart: Any) -> ServiceDefinition:
    """A program that notes when it was started, lives past its start time, and kills itself."""
    runs = host.root / "runs"
    code = (
        f"import os,time; open({str(runs)!r},'a').write(f'{{time.time()}}\\n');time.sleep(0.3); os.kill(os.getpid(), 9)"
    )
    return host.define(code, start_seconds=0, restart={"retries": 10, **restart})


def runs_of(host: Host) -> list[float]:
    return [float(line) for line in (host.root / "runs").read_text().split()]


def test_the_last_allowed_crash_in_the_window_ends_it_and_a_start_counts_anew(host: Host) -> None:
    definition = crashing(host, crashes=3, window_seconds=900)
    host.runtime.deploy(definition)
    for round_ in (1, 2):
        with contextlib.suppress(ServiceError):
            host.runtime.start(definition.ref)
        info = host.wait(definition, lambda info: info["state"] == "fatal", 20)
        assert info["detail"] == "ended 3 times in 900 s, last signal 9"
        assert info["exit_code"] == -9
        assert len(runs_of(host)) == 3 * round_
    # It came back at once after the first end, and later after the second.
    first, second, third = runs_of(host)[:3]
    assert second - first < supervisord_main.PAUSE_SECONDS
    assert third - second > supervisord_main.PAUSE_SECONDS
    time.sleep(supervisord_main.PAUSE_SECONDS + 1)
    assert len(runs_of(host)) == 6
    assert host.runtime.info(definition.ref)["state"] == "fatal"


def test_crashes_before_the_start_is_over_count_as_well(host: Host) -> None:
    definition = host.define("raise SystemExit(137)", start_seconds=30, restart={"crashes": 2, "window_seconds": 60})
    host.runtime.deploy(definition)
    # Whether the first end falls into the moment for which a start looks on is a matter of luck.
    with contextlib.suppress(ServiceError):
        host.runtime.start(definition.ref)
    info = host.wait(definition, lambda info: info["state"] == "fatal", 15)
    assert info["detail"] == "ended 2 times in 60 s, last exit code 137"


def test_crashes_further_apart_than_the_window_go_on(host: Host) -> None:
    definition = crashing(host, crashes=2, window_seconds=1)
    sleeper = str(definition.command[2]).replace("sleep(0.3)", "sleep(1.5)")
    definition = host.define(sleeper, start_seconds=0, restart={"retries": 1, "crashes": 2, "window_seconds": 1})
    host.runtime.deploy(definition)
    host.runtime.start(definition.ref)
    host.wait(definition, lambda _: len(runs_of(host)) >= 4, 20)
    assert host.runtime.info(definition.ref)["state"] != "fatal"


def test_a_stop_between_crashes_clears_the_count(host: Host) -> None:
    definition = host.running(start_seconds=0, restart={"crashes": 2, "window_seconds": 900})
    for _ in range(3):
        before = host.wait(definition, lambda info: info["state"] == "running")
        os.kill(pid_of(before), signal.SIGKILL)
        host.wait(definition, lambda info, pid=before["pid"]: info["pid"] not in (None, pid))  # type: ignore[misc]
        host.runtime.restart(definition.ref)


def metrics_of(host: Host) -> dict[tuple[str, str, str | None], float]:
    text = (host.root / supervisord_main.METRICS).read_text()
    return {
        (sample.name, sample.labels["service"], sample.labels.get("state")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.labels["host"] == "clock-1"
    }


def test_states_and_starts_are_written_for_an_exporter(host: Host) -> None:
    first = host.running(start_seconds=0)
    second = host.running(name="bell", start_seconds=0, restart={"policy": "never"})
    os.kill(pid_of(host.wait(first, lambda i: i["state"] == "running")), signal.SIGKILL)
    os.kill(pid_of(host.wait(second, lambda i: i["state"] == "running")), signal.SIGKILL)

    def settled(_: ServiceInfo) -> bool:
        seen = metrics_of(host)
        return (
            seen["runbook_service_starts_total", "clock", None] == 2
            and seen["runbook_service_state", "clock", "running"] == 1
            and seen["runbook_service_state", "bell", "exited"] == 1
        )

    host.wait(first, settled, 15)
    seen = metrics_of(host)
    assert seen["runbook_service_starts_total", "bell", None] == 1
    for service in ("clock", "bell"):
        states = {state: value for (name, whose, state), value in seen.items() if state and whose == service}
        assert sorted(states) == sorted(supervisord_main.STATES)
        assert sum(states.values()) == 1
    path = host.root / supervisord_main.METRICS
    assert path.stat().st_mode & 0o777 == 0o644
    assert path.parent.stat().st_mode & 0o777 == 0o755
    assert path.parent.parent.stat().st_mode & 0o777 == 0o755
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_the_states_are_written_while_nothing_happens_and_stay_after_the_end(host: Host) -> None:
    definition = host.running(start_seconds=0)
    path = host.root / supervisord_main.METRICS
    host.wait(definition, lambda info: info["state"] == "running")
    before = path.stat().st_mtime_ns
    host.wait(definition, lambda _: path.stat().st_mtime_ns > before, 10)
    host.runtime.restart(definition.ref)
    assert metrics_of(host)["runbook_service_starts_total", "clock", None] == 2
    host.runtime.stop(definition.ref)
    assert metrics_of(host)["runbook_service_state", "clock", "stopped"] == 1


def test_metrics_that_cannot_be_written_disturb_nobody(host: Host) -> None:
    # Not even root can make a folder there.
    (host.root / "state").write_text("in the way")
    definition = host.running(start_seconds=0)
    os.kill(pid_of(host.wait(definition, lambda i: i["state"] == "running")), signal.SIGKILL)
    time.sleep(6)
    assert host.wait(definition, lambda info: info["state"] == "running")["pid"]
    said = (host.root / "log" / "supervisord.log").read_text()
    assert said.count("no metrics") == 1


def test_an_outdated_supervisord_is_replaced_by_an_explicit_restart_alone(host: Host) -> None:
    first = host.running()
    second = host.running(name="bell")
    old = host.supervisord(first)
    launcher = host.root / supervisor.LAUNCHER
    launcher.write_text("# of an older deployment\n" + launcher.read_text())
    pid = host.runtime.info(first.ref)["pid"]
    assert host.runtime.start(first.ref).did == []
    assert not host.runtime.info(first.ref)["restart_needed"]
    # Another service needs it: it stays.
    assert host.runtime.restart(second.ref).did == ["stop bell", "start bell"]
    assert host.supervisord(first).pid == old.pid
    assert host.runtime.info(first.ref)["pid"] == pid
    host.runtime.stop(second.ref)
    did = host.runtime.restart(first.ref).did
    assert did == [
        "stop clock",
        "end outdated supervisord of clock-1",
        "start supervisord of clock-1",
        "start clock",
    ]
    assert gone(old.pid)
    assert host.runtime.restart(first.ref).did == ["stop clock", "start clock"]


def test_an_end_by_signal_is_told_as_a_negative_code(host: Host) -> None:
    definition = host.running(restart={"policy": "never"})
    os.kill(pid_of(host.wait(definition, lambda i: i["state"] == "running")), signal.SIGKILL)
    info = host.wait(definition, lambda info: info["state"] == "exited")
    assert info["exit_code"] == -9


def test_a_port_of_a_stranger_is_refused_by_name_and_the_stranger_left_alone(host: Host) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    listen = f"import socket,time;s=socket.create_server(('127.0.0.1',{port}));print(1,flush=True);time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", listen], stdout=subprocess.PIPE) as stranger:
        try:
            assert stranger.stdout is not None
            stranger.stdout.readline()
            definition = host.define(ports=[port])
            host.runtime.deploy(definition)
            for check in (True, False):
                with pytest.raises(Refused) as refused:
                    host.runtime.start(definition.ref, check=check)
                assert f"127.0.0.1:{port} is taken by process {stranger.pid}" in str(refused.value)
                # What a stranger was called with may hold secrets.
                assert "create_server" not in str(refused.value)
            assert stranger.poll() is None
            assert host.runtime.info(definition.ref)["pid"] is None
        finally:
            stranger.kill()
    assert host.runtime.start(definition.ref).did[-1] == "start clock"


def test_stop_waits_for_the_end_and_leaves_nothing(host: Host) -> None:
    definition = host.running()
    pid = pid_of(host.runtime.info(definition.ref))
    daemon = host.supervisord(definition)
    assert host.runtime.stop(definition.ref, check=True).did == ["stop clock"]
    assert not gone(pid)
    assert host.runtime.stop(definition.ref).did == ["stop clock"]
    assert gone(pid)
    assert gone(daemon.pid)
    assert host.runtime.info(definition.ref)["state"] == "stopped"
    assert host.runtime.stop(definition.ref).did == []


def test_a_process_that_ignores_the_signal_is_killed_after_its_time(host: Host) -> None:
    code = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)"
    definition = host.running(code, stop_timeout=1)
    time.sleep(0.3)
    pid = pid_of(host.runtime.info(definition.ref))
    began = time.monotonic()
    host.runtime.stop(definition.ref)
    assert 0.8 < time.monotonic() - began < 6
    assert gone(pid)


@pytest.mark.parametrize("verb", ["stop", "start"])
def test_what_is_still_stopping_is_waited_for(host: Host, verb: str) -> None:
    code = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)"
    definition = host.running(code, stop_timeout=2)
    time.sleep(0.3)
    pid = pid_of(host.runtime.info(definition.ref))
    daemon = host.runtime._daemon(definition.ref)
    assert daemon is not None
    daemon.call("stopProcess", "clock", False)
    assert host.runtime.info(definition.ref)["detail"] == "stopping"
    getattr(host.runtime, verb)(definition.ref)
    assert gone(pid)
    assert (host.runtime.info(definition.ref)["pid"] is None) is (verb == "stop")


def test_an_error_tells_what_was_done_before_it(host: Host) -> None:
    flag = host.root / "flag"
    code = f"import os,time\nif os.path.exists({str(flag)!r}): raise SystemExit(9)\ntime.sleep(300)"
    script = host.root / "script.py"
    script.write_text(code)
    definition = host.running(command=[sys.executable, str(script)])
    flag.touch()
    with pytest.raises(ServiceError) as failed:
        host.runtime.restart(definition.ref)
    assert failed.value.__notes__ == ["stop clock", "start clock"]


def test_a_child_that_outlives_its_parent_is_found_and_ended(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_LEFTOVER_SECONDS", 1.0)
    child = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)"
    code = (
        "import subprocess,sys,time;"
        f"subprocess.Popen([sys.executable,'-c',{child!r}],start_new_session=True);"
        "time.sleep(300)"
    )
    definition = host.running(code)
    pid = pid_of(host.runtime.info(definition.ref))
    deadline = time.monotonic() + 5
    while not (children := psutil.Process(pid).children()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    did = host.runtime.stop(definition.ref).did
    assert did == ["stop clock", f"kill leftover {children[0].pid}"]
    assert gone(children[0].pid)


def test_restart_leaves_alone_what_started_since(host: Host) -> None:
    definition = host.running()
    before = host.runtime.info(definition.ref)
    earlier = psutil.Process(pid_of(before)).create_time() - 1
    assert host.runtime.restart(definition.ref, since=earlier).did == []
    assert host.runtime.info(definition.ref)["pid"] == before["pid"]
    later = time.time() + 1
    assert host.runtime.restart(definition.ref, since=later).did == ["stop clock", "start clock"]


def test_restart_starts_what_does_not_run(host: Host) -> None:
    definition = host.define()
    host.runtime.deploy(definition)
    assert host.runtime.restart(definition.ref, since=0).did[-1] == "start clock"


def test_remove_takes_files_away_and_leaves_data(host: Host) -> None:
    definition = host.running(directories=["log", "data"], files=[{"path": "etc/clock.conf", "content": "x"}])
    (host.root / "data" / "precious").write_text("x")
    pid = pid_of(host.runtime.info(definition.ref))
    host.runtime.remove(definition.ref)
    assert gone(pid)
    assert (host.root / "data" / "precious").exists()
    assert not (host.root / "etc" / "clock.conf").exists()
    assert not (host.root / supervisor.CONFIG).exists()
    assert host.runtime.info(definition.ref)["state"] == "absent"
    assert host.runtime.remove(definition.ref).did == []


def test_another_service_of_the_host_is_not_touched(host: Host) -> None:
    first = host.running()
    second = host.running(name="bell")
    pid = pid_of(host.runtime.info(first.ref))
    host.runtime.restart(second.ref)
    host.runtime.remove(second.ref)
    assert host.runtime.info(first.ref)["pid"] == pid
    host.supervisord(first)


def test_arguments_and_variables_reach_the_program_unchanged(host: Host) -> None:
    out = host.root / "out"
    code = (
        "import json,os,sys,time;"
        f"open({str(out)!r},'w').write(json.dumps([sys.argv[1:],os.environ['ODD']]));"
        "time.sleep(300)"
    )
    odd = ["a b", "50%", "%(x)s", "semi ;colon", "hash #tag", "it's", '"quoted"', "", "*", "$HOME"]
    host.running(command=[sys.executable, "-c", code, *odd], environment={"ODD": "50% it's, a=b $HOME"})
    deadline = time.monotonic() + 5
    while not out.exists() or not out.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert json.loads(out.read_text()) == [odd, "50% it's, a=b $HOME"]


@pytest.mark.parametrize("value", ["both ' and \"", "x ;y", '"x"'])
def test_a_variable_without_a_spelling_is_refused(host: Host, value: str) -> None:
    with pytest.raises(Refused, match=r"environment\.ODD"):
        host.runtime.deploy(host.define(environment={"ODD": value}))


def test_the_shell_of_whoever_starts_it_does_not_leak_in(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    definition = host.running()
    environment = psutil.Process(pid_of(host.runtime.info(definition.ref))).environ()
    assert "CI" not in environment
    assert "PATH" in environment


def test_a_run_folder_that_others_may_enter_is_refused(host: Host) -> None:
    definition = host.define()
    host.runtime.deploy(definition)
    folder = host.runtime._run_dir(definition.ref)
    folder.mkdir()
    folder.chmod(0o755)
    with pytest.raises(Refused, match="mode 0755"):
        host.runtime.start(definition.ref)
    folder.rmdir()
    folder.symlink_to("/")
    with pytest.raises(Refused, match="a folder of user"):
        host.runtime.start(definition.ref)


def test_a_program_that_does_not_exist_is_named(host: Host) -> None:
    definition = host.define(command=["/nowhere/program"], restart={"retries": 0})
    host.runtime.deploy(definition)
    with pytest.raises(ServiceError, match="clock on clock-1"):
        host.runtime.start(definition.ref)


RELOADS = (
    "import signal, sys, time\n"
    "def read(*_):\n"
    "    with open('read', 'a') as out:\n"
    "        out.write(open('etc/clock.conf').read() + ' ')\n"
    "signal.signal(signal.SIGHUP, read)\n"
    "read()\n"
    "while True: time.sleep(0.05)\n"
)


def test_a_changed_file_is_read_by_a_signal_once_and_by_the_same_process(host: Host) -> None:
    def conf(content: str) -> dict[str, Any]:
        file = {"path": "etc/clock.conf", "content": content, "reloads": True}
        return {"files": [file], "reload_signal": "HUP"}

    program = "exec(open('clock.py').read())"
    (host.root / "clock.py").write_text(RELOADS)
    definition = host.running(program, **conf("one"))
    before = host.runtime.info(definition.ref)
    assert not before["reload_needed"]
    assert host.runtime.reload(definition.ref).did == []
    host.runtime.deploy(host.define(program, **conf("two")))
    needed = host.runtime.info(definition.ref)
    assert (needed["reload_needed"], needed["restart_needed"]) == (True, False)
    assert host.runtime.reload(definition.ref, check=True).did == ["reload clock"]
    assert host.runtime.reload(definition.ref).did == ["reload clock"]
    after = host.wait(definition, lambda info: (host.root / "read").read_text() == "one two ")
    assert after["pid"] == before["pid"]
    assert not after["reload_needed"]
    assert host.runtime.reload(definition.ref).did == []
    host.runtime.restart(definition.ref)
    assert not host.runtime.info(definition.ref)["reload_needed"]


def test_a_file_that_was_damaged_by_hand_and_put_right_is_read_again(host: Host) -> None:
    file = {"path": "etc/clock.conf", "content": "one", "reloads": True}
    (host.root / "clock.py").write_text(RELOADS)
    definition = host.running("exec(open('clock.py').read())", files=[file], reload_signal="HUP")
    (host.root / "etc/clock.conf").write_text("damaged")
    assert host.runtime.deploy(definition).did
    assert host.runtime.info(definition.ref)["reload_needed"]
    assert host.runtime.reload(definition.ref).did == ["reload clock"]
    assert not host.runtime.info(definition.ref)["reload_needed"]
