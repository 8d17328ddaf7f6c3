"""The runtime systemd: real files and processes, and a small system manager that obeys its orders."""

from __future__ import annotations

import getpass
import inspect
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from ansible_collections.streamops.runbook.plugins.module_utils import runtime
from ansible_collections.streamops.runbook.plugins.module_utils.errors import (
    DeadlineExceeded,
    Refused,
    RunbookError,
    ServiceError,
)
from ansible_collections.streamops.runbook.plugins.module_utils.runtime import systemd, systemd_states
from ansible_collections.streamops.runbook.plugins.module_utils.runtime.systemd import SystemdRuntime
from ansible_collections.streamops.runbook.plugins.module_utils.runtime.systemd_states import METRICS, Watch
from ansible_collections.streamops.runbook.plugins.module_utils.runtime.systemd_unit import WATCH, WATCH_UNIT, unit_text
from ansible_collections.streamops.runbook.plugins.module_utils.service import ServiceDefinition, parse_definition
from ansible_collections.streamops.runbook.plugins.module_utils.service_files import (
    commit_files,
    is_uncommitted,
    revert_files,
)
from prometheus_client.parser import text_string_to_metric_families

SLEEP = "import time; time.sleep(300)"
UNIT = "streamops-clock.service"
WORD = re.compile(r'"((?:[^"\\]|\\.)*)"')


def unquoted(line: str) -> list[str]:
    """The words of a line of a unit, as systemd reads them."""
    return [re.sub(r"\\(.)", r"\1", word).replace("%%", "%") for word in WORD.findall(line)]


class Manager:
    """The service's unit as systemd would keep it, and of the watch's whether it runs. An order blocks nothing, and a
    process ends when it is looked at.

    ``then`` is what becomes of the unit when its process ends by itself.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / UNIT
        self.text = ""
        self.enabled: set[str] = set()
        self.watches = False
        self.process: subprocess.Popen[bytes] | None = None
        self.then = {"ActiveState": "failed", "SubState": "failed", "Result": "exit-code"}
        self.said = {"ActiveState": "inactive", "SubState": "dead", "Result": "success"}
        self.said |= {"ExecMainStartTimestampMonotonic": "0", "ExecMainCode": "0", "ExecMainStatus": "0"}
        self.said |= {"NRestarts": "0", "InvocationID": ""}
        self.journal: list[str] = []
        self.orders: list[str] = []
        self.answers: dict[str, tuple[int, str]] = {}
        self.stops = True

    def __call__(self, command: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
        program, *arguments = command
        verb = "journal" if program == "journalctl" else arguments[0]
        if verb not in ("show", "journal"):
            self.orders.append(" ".join(arguments))
        code, said = self.answers.get(verb) or getattr(self, f"_{verb.replace('-', '_')}")(*arguments[1:])
        return subprocess.CompletedProcess(command, code, said if code == 0 else "", said if code else "")

    def _show(self, properties: str, *units: str) -> tuple[int, str]:
        self._look()
        names = properties.removeprefix("--property=").split(",")
        blocks = []
        for unit in units:
            said = self._service() if unit == UNIT else self._watch()
            said |= {"Id": unit, "UnitFileState": "enabled" if unit in self.enabled else "disabled"}
            blocks.append("".join(f"{name}={said[name]}\n" for name in names if name in said))
        return 0, "\n".join(blocks)

    def _service(self) -> dict[str, str]:
        text = self.path.read_text() if self.path.exists() else ""
        return {
            **self.said,
            "LoadState": "masked" if self.path.is_symlink() else "loaded" if self.text else "not-found",
            "NeedDaemonReload": "yes" if text != self.text else "no",
            "MainPID": str(self.process.pid if self.process else 0),
        }

    def _watch(self) -> dict[str, str]:
        return {"ActiveState": "active" if self.watches else "inactive", "NeedDaemonReload": "no"}

    def _look(self) -> None:
        code = self.process.poll() if self.process else None
        if code is None:
            return
        stopping = self.said["ActiveState"] == "deactivating"
        self.process = None
        self.said |= {"ExecMainCode": "2" if code < 0 else "1", "ExecMainStatus": str(abs(code))}
        self.said |= {"ActiveState": "inactive", "SubState": "dead", "Result": "success"} if stopping else self.then

    def _daemon_reload(self) -> tuple[int, str]:
        self.text = self.path.read_text() if self.path.exists() else ""
        return 0, ""

    def _enable(self, quiet: str, unit: str) -> tuple[int, str]:
        self.enabled.add(unit)
        return 0, ""

    def _disable(self, now: str, quiet: str, unit: str) -> tuple[int, str]:
        self.enabled.remove(unit)
        if unit == WATCH_UNIT:
            self.watches = False
        return 0, ""

    def _restart(self, unit: str) -> tuple[int, str]:
        assert unit == WATCH_UNIT
        self.watches = True
        return 0, ""

    def _reset_failed(self, which: str, pattern: str) -> tuple[int, str]:
        assert (which, pattern) == ("--all", "streamops-clock[.]service")
        if self.said["ActiveState"] == "failed":
            self.said |= {"ActiveState": "inactive", "SubState": "dead", "Result": "success"}
        return 0, ""

    def _start(self, unit: str) -> tuple[int, str]:
        assert self.text, "not loaded"
        lines = self.text.splitlines()
        (command,) = (line for line in lines if line.startswith("ExecStart=:"))
        environment = [unquoted(line)[0].split("=", 1) for line in lines if line.startswith("Environment=")]
        (folder,) = (line.partition("=")[2] for line in lines if line.startswith("WorkingDirectory="))
        self.process = subprocess.Popen(unquoted(command), env=dict(environment), cwd=folder)
        self.said |= {"ActiveState": "active", "SubState": "running", "Result": "success"}
        self.said |= {"ExecMainStartTimestampMonotonic": "7", "ExecMainCode": "0", "ExecMainStatus": "0"}
        self.said["InvocationID"] = uuid.uuid4().hex
        return 0, ""

    def _stop(self, block: str, unit: str) -> tuple[int, str]:
        assert block == "--no-block"
        if self.process:
            self.said |= {"ActiveState": "deactivating", "SubState": "stop-sigterm"}
            if self.stops:
                self.process.terminate()
                self.process.wait()
        elif self.said["SubState"] == "auto-restart":
            self.said |= {"ActiveState": "inactive", "SubState": "dead"}
        return 0, ""

    def _kill(self, which: str, unit: str) -> tuple[int, str]:
        assert which == "--signal=KILL"
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        return 0, ""

    def _journal(self, *arguments: str) -> tuple[int, str]:
        assert f"_SYSTEMD_UNIT={UNIT}" in arguments
        return 0, "".join(f"{line}\n" for line in self.journal)


class Host:
    """One host with its root, its units and its system manager."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "root"
        self.units = folder / "units"
        for path in (self.root, self.units):
            path.mkdir()
        self.systemd = Manager(self.units)
        # What the kernel tells of the manager: its limits and its rights, here those of a machine of its own.
        self.manager = folder / "manager"
        self.manager.mkdir()
        self.may(open_files=1024, rights=0x1FF_FFFF_FFFF)
        self.runtime = SystemdRuntime(self.units, folder, self.systemd, manager=self.manager)

    def may(self, open_files: int, rights: int) -> None:
        (self.manager / "limits").write_text(
            "Limit                     Soft Limit           Hard Limit           Units     \n"
            f"Max open files            {open_files:<21}{open_files:<21}files     \n"
        )
        (self.manager / "status").write_text(f"Name:\tsystemd\nCapEff:\t{rights:016x}\n")

    def define(self, code: str = SLEEP, **changes: Any) -> ServiceDefinition:
        base: dict[str, Any] = {
            "name": "clock",
            "host": "clock-1",
            "root": str(self.root),
            "address": "127.0.0.1",
            "command": [sys.executable, "-c", code],
            "directories": ["log"],
            "user": getpass.getuser(),
        }
        return parse_definition({**base, **changes})

    def running(self, code: str = SLEEP, **changes: Any) -> ServiceDefinition:
        definition = self.define(code, **changes)
        self.runtime.deploy(definition)
        self.runtime.start(definition.ref)
        return definition

    @property
    def pid(self) -> int:
        assert self.systemd.process is not None
        return self.systemd.process.pid

    def unit(self, definition: ServiceDefinition) -> dict[str, list[str]]:
        """The values of each setting of the unit."""
        found: dict[str, list[str]] = {}
        for line in unit_text(definition).splitlines():
            if "=" in line:
                name, _, value = line.partition("=")
                found.setdefault(name, []).append(value)
        return found


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    yield made
    if made.systemd.process is not None:
        made.systemd.process.kill()
        made.systemd.process.wait()


def wait_for(good: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not good():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# The unit


def test_the_registry_knows_it() -> None:
    assert isinstance(runtime.get("systemd"), SystemdRuntime)


def test_arguments_and_variables_reach_the_program_unchanged(host: Host) -> None:
    out = host.root / "out"
    code = f"import json,os,sys; open({str(out)!r},'w').write(json.dumps([sys.argv[1:],os.environ['ODD']]))"
    odd = [
        "a b",
        "50%",
        "%h",
        "semi ;",
        ";",
        "# hash",
        "it's",
        '"quoted"',
        "",
        "*",
        "$HOME",
        "${HOME}",
        "back\\slash\\",
    ]
    value = "50% 'it' \"is\" a=b $HOME \\n"
    definition = host.define(code, command=[sys.executable, "-c", code, *odd], environment={"ODD": value})
    host.runtime.deploy(definition)
    host.systemd._start(UNIT)
    wait_for(lambda: out.exists() and bool(out.read_text()))
    assert json.loads(out.read_text()) == [odd, value]


def test_a_unit_has_limits_and_a_sandbox_of_its_own(host: Host) -> None:
    definition = host.define(
        memory_limit="768m",
        directories=["etc/clock", "bin", "data/clock", "log"],
        volumes=["data/clock/inner"],
        stop_timeout=90,
    )
    unit = host.unit(definition)
    assert unit["MemoryMax"] == ["768M"]
    assert unit["MemorySwapMax"] == ["0"]
    root = host.root
    told = f'"{root}/services/watch.py" ended "{root}/services/clock"'
    assert unit["ExecStopPost"] == [
        f"-+:/usr/bin/env -u STREAMOPS_SERVICE -u STREAMOPS_ROOT /usr/bin/python3 -I {told}"
    ]
    assert unit["ReadWritePaths"] == [f'"{root}/data/clock"', f'"{root}/data/clock/inner"', f'"{root}/log"']
    assert unit["ProtectSystem"] == ["strict"]
    assert unit["NoNewPrivileges"] == unit["PrivateTmp"] == unit["ProtectHome"] == ["yes"]
    assert unit["UMask"] == ["0027"]
    assert unit["User"] == [getpass.getuser()]
    assert (unit["KillMode"], unit["KillSignal"], unit["TimeoutStopSec"]) == (["mixed"], ["SIGTERM"], ["90s"])
    assert unit["WantedBy"] == ["multi-user.target"]
    assert not {"MemoryMax", "ExecStopPost"} & host.unit(host.define()).keys()


@pytest.mark.parametrize(
    ("restart", "stop_signal", "expected"),
    [
        pytest.param(
            {"success_exit_codes": [0, 78]},
            "TERM",
            {
                "Restart": "on-failure",
                "SuccessExitStatus": "78 143",
                "RestartPreventExitStatus": "0 78",
                # Somebody else's SIGTERM is no decision that the service is to be down.
                "RestartForceExitStatus": "143 SIGHUP SIGINT SIGPIPE SIGTERM",
            },
            id="a-refusal-ends-it-for-good",
        ),
        pytest.param(
            {"success_exit_codes": [143]},
            "TERM",
            {
                "SuccessExitStatus": "143",
                "RestartPreventExitStatus": "143",
                "RestartForceExitStatus": "0 SIGHUP SIGINT SIGPIPE SIGTERM",
            },
            id="zero-is-a-failure-where-it-is-not-listed",
        ),
        pytest.param(
            {"policy": "always"},
            "QUIT",
            {
                "Restart": "always",
                "SuccessExitStatus": "131 SIGQUIT",
                "RestartPreventExitStatus": None,
                "RestartForceExitStatus": None,
            },
            id="always",
        ),
        pytest.param(
            {"policy": "never"},
            "KILL",
            {"Restart": "no", "SuccessExitStatus": None, "StartLimitBurst": "11"},
            id="never",
        ),
        pytest.param({"retries": 2}, "TERM", {"StartLimitBurst": "3", "StartLimitIntervalSec": "600s"}, id="retries"),
        pytest.param(
            {"retries": 999}, "TERM", {"StartLimitBurst": "1000", "StartLimitIntervalSec": "4000s"}, id="many"
        ),
        pytest.param(
            {"crashes": 3, "window_seconds": 900},
            "TERM",
            {"StartLimitBurst": "3", "StartLimitIntervalSec": "900s"},
            id="crashes",
        ),
    ],
)
def test_a_restart_policy_in_words_of_systemd(
    host: Host, restart: dict[str, Any], stop_signal: str, expected: dict[str, str | None]
) -> None:
    unit = host.unit(host.define(restart=restart, stop_signal=stop_signal))
    assert {name: unit.get(name, [None])[0] for name in expected} == expected


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"user": None}, r"clock\.user: found nothing"), ({"command": ["bin/clock"]}, r"command\[0\]: found 'bin/clock'")],
)
def test_what_a_unit_has_no_words_for_is_refused(host: Host, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(Refused, match=named):
        host.runtime.deploy(host.define(**changes))
    assert not list(host.units.iterdir())


# Deploying


def test_deploying_twice_changes_once_and_starts_nothing(host: Host) -> None:
    definition = host.define(files=[{"path": "etc/clock.conf", "content": "x", "mode": "0600", "sensitive": True}])
    planned = host.runtime.deploy(definition, check=True)
    assert f"enable {UNIT}" in planned.did
    assert not list(host.units.iterdir())
    first = host.runtime.deploy(definition)
    assert first.did == planned.did
    assert (host.units / UNIT).stat().st_mode & 0o777 == 0o644
    enabling = [f"enable --quiet {unit}" for unit in (UNIT, WATCH_UNIT)]
    assert host.systemd.orders == ["daemon-reload", *enabling, f"restart {WATCH_UNIT}"]
    again = host.runtime.deploy(definition)
    assert (again.did, again.diff, again.skipped) == ([], [], [])
    info = host.runtime.info(definition.ref)
    assert (info["state"], info["detail"]) == ("stopped", "not started since the machine was")
    assert info["digest_deployed"] == definition.digest


def test_what_was_undone_by_hand_is_put_right(host: Host) -> None:
    definition = host.define()
    host.runtime.deploy(definition)
    host.systemd.enabled.clear()
    assert host.runtime.deploy(definition).did == [f"enable {UNIT}", f"enable {WATCH_UNIT}"]
    host.systemd.watches = False
    assert host.runtime.deploy(definition).did == [f"start {WATCH_UNIT}"]
    (host.root / WATCH).write_text("of an older deployment")
    assert host.runtime.deploy(definition).did == [f"write {host.root / WATCH}", f"restart {WATCH_UNIT}"]
    host.systemd.text = "an older one"
    assert host.runtime.deploy(definition).did == [f"let systemd read {UNIT} again"]
    (host.units / UNIT).unlink()
    (host.units / UNIT).symlink_to("/dev/null")
    assert host.runtime.deploy(definition).did == [f"write {host.units / UNIT}"]
    assert not (host.units / UNIT).is_symlink()


def test_init_runs_as_the_account_before_the_unit_is_enabled(host: Host) -> None:
    init = {"command": ["sh", "-c", "id -un; exit 3"], "creates": "data/made"}
    definition = host.define(init=init, directories=["data"])
    with pytest.raises(ServiceError, match=rf"exit code 3: {getpass.getuser()}"):
        host.runtime.deploy(definition)
    assert not host.systemd.enabled
    init["command"] = ["touch", str(host.root / "data/made")]
    assert "init makes data/made" in host.runtime.deploy(host.define(init=init, directories=["data"])).did
    assert host.systemd.enabled


def test_a_host_without_the_account_is_planned_and_refused(host: Host) -> None:
    checker = [["/nonexistent/checker", "{root}"]]
    definition = host.define(user="nobody-of-that-name", validate=checker, files=[{"path": "etc/x", "content": "x"}])
    planned = host.runtime.deploy(definition, check=True)
    assert planned.did
    assert planned.skipped == ["validate: no account nobody-of-that-name yet, so the host is not prepared"]
    with pytest.raises(Refused, match="no account nobody-of-that-name"):
        host.runtime.deploy(definition)
    assert not list(host.units.iterdir())


def test_fewer_open_files_than_wanted_are_told_where_the_manager_may_give_no_more(host: Host) -> None:
    definition = host.define(nofile=50_000)
    assert host.unit(definition)["LimitNOFILE"] == ["50000"]
    assert host.runtime.deploy(definition).skipped == []
    # A machine that shares its kernel: all rights but that to raise limits.
    host.may(open_files=20_000, rights=0x1FF_FFFF_FFFF & ~(1 << 24))
    told = ["nofile 50000: the machine lets its system manager give 20000 and no more"]
    assert host.runtime.deploy(definition, check=True).skipped == told
    assert host.runtime.deploy(definition).skipped == told
    assert host.runtime.deploy(host.define(nofile=20_000)).skipped == []


def test_the_unit_of_another_root_is_left_alone(host: Host, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    host.runtime.deploy(host.define(root=str(tmp_path / "other")))
    with pytest.raises(Refused, match=r"streamops-clock\.service: found the unit of another root"):
        host.runtime.deploy(host.define())


# Starting and stopping


def test_start_runs_what_is_deployed_once(host: Host) -> None:
    definition = host.define()
    with pytest.raises(Refused, match="clock on clock-1: found nothing deployed"):
        host.runtime.start(definition.ref)
    host.runtime.deploy(definition)
    assert host.runtime.start(definition.ref, check=True).did == ["start clock"]
    assert host.systemd.process is None
    assert host.runtime.start(definition.ref).did == ["start clock"]
    info = host.runtime.info(definition.ref)
    assert (info["state"], info["pid"], info["digest_running"]) == ("running", host.pid, definition.digest)
    assert info["started_at"] is not None
    assert (info["memory_bytes"] or 0) > 1_000_000
    assert host.runtime.start(definition.ref).did == []


def test_a_changed_definition_waits_for_the_restart(host: Host) -> None:
    old = host.running()
    new = host.define(environment={"EDITION": "2"})
    assert host.runtime.deploy(new).did
    before = host.runtime.info(new.ref)
    assert (before["restart_needed"], before["digest_running"]) == (True, old.digest)
    assert host.runtime.restart(new.ref, check=True).did == ["stop clock", "start clock"]
    assert host.runtime.restart(new.ref).did == ["stop clock", "start clock"]
    after = host.runtime.info(new.ref)
    assert (after["restart_needed"], after["digest_running"]) == (False, new.digest)


def test_restart_leaves_alone_what_started_since(host: Host) -> None:
    definition = host.running()
    pid = host.pid
    assert host.runtime.restart(definition.ref, since=psutil.Process(pid).create_time() - 1).did == []
    assert host.pid == pid
    assert host.runtime.restart(definition.ref, since=time.time() + 1).did == ["stop clock", "start clock"]
    assert host.pid != pid


def test_a_unit_changed_by_hand_is_read_before_the_start(host: Host) -> None:
    definition = host.define()
    host.runtime.deploy(definition)
    host.systemd.text = ""
    host.systemd.orders.clear()
    host.runtime.start(definition.ref)
    assert host.systemd.orders == ["daemon-reload", "reset-failed --all streamops-clock[.]service", f"start {UNIT}"]


def test_a_unit_that_cannot_be_loaded_is_found_before_the_stop(host: Host) -> None:
    definition = host.running()
    (host.units / UNIT).unlink()
    with pytest.raises(ServiceError, match="LoadState not-found"):
        host.runtime.restart(definition.ref)
    assert host.systemd.process is not None
    (host.units / UNIT).symlink_to("/dev/null")
    with pytest.raises(Refused, match=r"found masked.*deploy the service again"):
        host.runtime.restart(definition.ref)
    assert host.systemd.process is not None


def test_stop_waits_for_the_end_and_is_told_from_an_end_by_itself(host: Host) -> None:
    graceful = (
        "import signal,sys,time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); open('up','w'); time.sleep(300)"
    )
    definition = host.running(graceful)
    wait_for((host.root / "up").exists)
    assert host.runtime.stop(definition.ref, check=True).did == ["stop clock"]
    assert host.systemd.process is not None
    assert host.runtime.stop(definition.ref).did == ["stop clock"]
    info = host.runtime.info(definition.ref)
    assert (info["state"], info["pid"], info["exit_code"]) == ("stopped", None, 0)
    assert host.runtime.stop(definition.ref).did == []
    # The same code without anybody having asked.
    host.systemd.then = {"ActiveState": "inactive", "SubState": "dead", "Result": "success"}
    (host.root / "up").unlink()
    host.runtime.start(definition.ref)
    wait_for((host.root / "up").exists)
    os.kill(host.pid, signal.SIGTERM)
    wait_for(lambda: host.runtime.info(definition.ref)["pid"] is None)
    info = host.runtime.info(definition.ref)
    assert (info["state"], info["detail"]) == ("exited", "ended by itself: exit code 0")


def test_an_end_that_does_not_come_is_a_deadline(host: Host) -> None:
    definition = host.running()
    host.systemd.stops = False
    with pytest.raises(DeadlineExceeded, match=rf"process {host.pid} still deactivating after 0.3 s") as failed:
        host.runtime.stop(definition.ref, timeout=0.3)
    assert failed.value.__notes__ == ["stop clock"]


def test_a_suspended_process_is_seen_left_alone_by_start_and_killed_by_restart(host: Host) -> None:
    definition = host.running()
    pid = host.pid
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: host.runtime.info(definition.ref)["state"] == "suspended")
    assert host.runtime.start(definition.ref).did == []
    host.systemd.then = {"ActiveState": "activating", "SubState": "auto-restart", "Result": "signal"}
    # Whenever it was started: it does nothing any more.
    did = host.runtime.restart(definition.ref, since=time.time() - 600).did
    assert did == ["stop clock", f"kill suspended {pid}", "start clock"]
    assert host.pid != pid


def test_what_waits_for_its_next_try_is_started_at_once_and_stopped_at_once(host: Host) -> None:
    definition = host.running()
    host.systemd.then = {"ActiveState": "activating", "SubState": "auto-restart", "Result": "signal"}
    os.kill(host.pid, signal.SIGKILL)
    wait_for(lambda: host.runtime.info(definition.ref)["state"] == "backoff")
    info = host.runtime.info(definition.ref)
    assert (info["exit_code"], info["detail"]) == (-9, "started again in a moment, last: signal 9")
    host.systemd.orders.clear()
    assert host.runtime.start(definition.ref).did == ["start clock"]
    assert host.systemd.orders[0] == f"stop --no-block {UNIT}"
    os.kill(host.pid, signal.SIGKILL)
    wait_for(lambda: host.runtime.info(definition.ref)["state"] == "backoff")
    assert host.runtime.stop(definition.ref).did == ["stop clock"]
    assert host.runtime.info(definition.ref)["state"] == "stopped"


def test_a_process_that_ends_at_once_is_told_with_its_last_words(host: Host) -> None:
    host.systemd.journal = ["no luck"]
    definition = host.define("raise SystemExit(3)")
    host.runtime.deploy(definition)
    with pytest.raises(ServiceError, match=r"fatal right after the start: exit code 3 \(no luck\)") as failed:
        host.runtime.start(definition.ref)
    assert failed.value.__notes__ == ["start clock"]
    assert host.runtime.stop(definition.ref).did == ["clear fatal clock"]
    assert host.runtime.info(definition.ref)["state"] == "stopped"


def test_an_order_that_systemd_refuses_is_told_in_its_words(host: Host) -> None:
    definition = host.define()
    host.runtime.deploy(definition)
    host.systemd.answers["start"] = (1, "A dependency job for it failed.\n")
    with pytest.raises(ServiceError, match="right after the start"):
        host.runtime.start(definition.ref)
    host.systemd.answers["show"] = (1, "Failed to connect to bus: No such file or directory\n")
    with pytest.raises(ServiceError, match="systemd on clock-1: found exit code 1: Failed to connect to bus"):
        host.runtime.start(definition.ref)
    info = host.runtime.info(definition.ref)
    assert info["state"] == "unknown"
    assert "Failed to connect to bus" in info["detail"]


def test_a_port_of_a_stranger_is_refused_by_name_before_anything_is_started(host: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        definition = host.define(ports=[port])
        host.runtime.deploy(definition)
        for check in (True, False):
            with pytest.raises(Refused, match=f"127.0.0.1:{port} is taken by process {os.getpid()}"):
                host.runtime.start(definition.ref, check=check)
    assert host.systemd.process is None
    assert host.runtime.start(definition.ref).did == ["start clock"]


def test_a_process_outside_of_its_unit_is_seen_and_ended_by_a_stop(host: Host) -> None:
    definition = host.define()
    host.runtime.deploy(definition)
    with subprocess.Popen([sys.executable, "-c", SLEEP], env=definition.tags()) as stray:
        info = host.runtime.info(definition.ref)
        assert (info["state"], info["detail"]) == ("unknown", f"process {stray.pid} runs outside of {UNIT}")
        assert host.runtime.start(definition.ref).did == [f"kill leftover {stray.pid}", "start clock"]
        assert stray.wait() == -9


def test_remove_takes_files_and_unit_away_and_leaves_data(host: Host) -> None:
    definition = host.running(directories=["log", "data"], files=[{"path": "etc/clock.conf", "content": "x"}])
    (host.root / "data" / "precious").write_text("x")
    planned = host.runtime.remove(definition.ref, check=True).did
    assert f"remove {host.units / UNIT}" in planned
    assert host.runtime.remove(definition.ref).did == planned
    assert host.systemd.process is None
    assert host.systemd.orders[-1] == "daemon-reload"
    # The last service takes what tells of services with it.
    assert not host.systemd.watches
    assert not host.systemd.enabled
    assert not list(host.units.iterdir())
    assert not list((host.root / "services").iterdir())
    assert not (host.root / "etc" / "clock.conf").exists()
    assert (host.root / "data" / "precious").exists()
    assert host.runtime.info(definition.ref)["state"] == "absent"
    assert host.runtime.remove(definition.ref).did == []


def test_logs_are_what_the_journal_has(host: Host) -> None:
    ref = host.define().ref
    host.systemd.journal = ["one", "two"]
    assert host.runtime.logs(ref, 1) == ["two"]
    assert host.runtime.logs(ref, 0) == []
    host.systemd.answers["journal"] = (1, "No journal files were opened due to insufficient permissions.")
    with pytest.raises(ServiceError, match="insufficient permissions"):
        host.runtime.logs(ref, 1)


def test_a_caller_without_rights_is_told_so(host: Host, tmp_path: Path) -> None:
    definition = host.define()
    host.runtime.deploy(definition)
    elsewhere = SystemdRuntime(host.units, tmp_path / "nowhere", host.systemd)
    with pytest.raises(RunbookError, match="expected root's rights"):
        elsewhere.start(definition.ref)


# Reloading


RELOADS = (
    "import signal, time\n"
    "def read(*_):\n"
    "    with open('read', 'a') as out:\n"
    "        out.write(open('etc/clock.conf').read() + ' ')\n"
    "signal.signal(signal.SIGHUP, read)\n"
    "read()\n"
    "while True: time.sleep(0.05)\n"
)


def test_a_changed_file_is_read_by_a_signal_once_and_by_the_same_process(host: Host) -> None:
    def define(content: str) -> ServiceDefinition:
        file = {"path": "etc/clock.conf", "content": content, "reloads": True}
        return host.define("exec(open('clock.py').read())", files=[file], reload_signal="HUP")

    def read() -> str:
        return (host.root / "read").read_text() if (host.root / "read").exists() else ""

    (host.root / "clock.py").write_text(RELOADS)
    host.runtime.deploy(define("one"))
    ref = define("one").ref
    host.runtime.start(ref)
    wait_for(lambda: read() == "one ")
    pid = host.pid
    assert host.runtime.reload(ref).did == []
    host.runtime.deploy(define("two"))
    needed = host.runtime.info(ref)
    assert (needed["reload_needed"], needed["restart_needed"]) == (True, False)
    assert host.runtime.reload(ref, check=True).did == ["reload clock"]
    assert host.runtime.reload(ref).did == ["reload clock"]
    wait_for(lambda: read() == "one two ")
    assert host.pid == pid
    assert host.runtime.reload(ref).did == []
    # The way back until it is committed, the unit with it.
    assert is_uncommitted(ref)
    assert revert_files(ref)
    assert host.runtime.reload(ref).did == ["reload clock"]
    wait_for(lambda: read() == "one two one ")
    assert not commit_files(ref)


def test_a_service_without_a_reload_signal_is_refused(host: Host) -> None:
    definition = host.running()
    with pytest.raises(Refused, match="no reload signal"):
        host.runtime.reload(definition.ref)


# What systemd says, in our words


ENDED_CODE = {"ExecMainStartTimestampMonotonic": "7", "ExecMainCode": "1", "ExecMainStatus": "4"}
ENDED = {"ExecMainStartTimestampMonotonic": "7", "InvocationID": "abc"}


@pytest.mark.parametrize(
    ("said", "definition", "expected"),
    [
        pytest.param(
            {"ActiveState": "activating", "SubState": "start"}, {}, ("starting", "", None), id="being-executed"
        ),
        pytest.param(
            {"ActiveState": "deactivating", "SubState": "stop-sigterm"},
            {},
            ("running", "stopping", None),
            id="stopping",
        ),
        pytest.param(
            {**ENDED, "ActiveState": "inactive", "ExecMainCode": "1", "ExecMainStatus": "78"},
            {},
            ("exited", "ended by itself: exit code 78", 78),
            id="refused-to-start",
        ),
        pytest.param(
            {**ENDED, "ActiveState": "inactive", "ExecMainCode": "1", "ExecMainStatus": "143"},
            {},
            ("stopped", "", 143),
            id="a-jvm-stopped-by-hand",
        ),
        pytest.param(
            {**ENDED, "ActiveState": "inactive", "ExecMainCode": "2", "ExecMainStatus": "15"},
            {},
            ("stopped", "", -15),
            id="stopped-by-hand",
        ),
        pytest.param(
            {**ENDED, "ActiveState": "inactive", "ExecMainCode": "1", "ExecMainStatus": "0"},
            {"restart": {"policy": "always"}},
            ("stopped", "", 0),
            id="always-is-down-only-when-asked",
        ),
        pytest.param(
            {**ENDED, "ActiveState": "failed", "Result": "exit-code", "ExecMainCode": "1", "ExecMainStatus": "4"},
            {"restart": {"policy": "never"}},
            ("exited", "ended by itself: exit code 4", 4),
            id="never",
        ),
        pytest.param(
            {
                **ENDED,
                "ActiveState": "failed",
                "Result": "start-limit-hit",
                "ExecMainCode": "1",
                "ExecMainStatus": "4",
                "NRestarts": "3",
            },
            {},
            ("fatal", "gave up after 3 starts, last: exit code 4", 4),
            id="gave-up",
        ),
        pytest.param(
            {**ENDED, "ActiveState": "failed", "Result": "signal", "ExecMainCode": "2", "ExecMainStatus": "9"},
            {"memory_limit": "64m"},
            ("fatal", "gave up after 1 start, last: killed by SIGKILL; memory limit 64m", -9),
            id="killed-under-a-limit",
        ),
        pytest.param(
            {**ENDED, "ActiveState": "failed", "Result": "oom-kill", "ExecMainCode": "2", "ExecMainStatus": "9"},
            {"memory_limit": "64m"},
            ("fatal", "gave up after 1 start, last: killed for memory; memory limit 64m", -9),
            id="out-of-memory",
        ),
        pytest.param(
            {
                **ENDED,
                "ActiveState": "activating",
                "SubState": "auto-restart",
                "ExecMainCode": "1",
                "ExecMainStatus": "226",
            },
            {},
            ("backoff", "started again in a moment, last: exit code 226, a folder that it writes to is missing", 226),
            id="not-made",
        ),
        pytest.param(
            {"ActiveState": "failed", "Result": "resources"},
            {"restart": {"policy": "never"}},
            ("fatal", "gave up after 1 start, last: no process, resources", None),
            id="no-process",
        ),
        pytest.param({"ActiveState": "maintenance"}, {}, ("unknown", "ActiveState maintenance", None), id="unknown"),
    ],
)
def test_what_systemd_says_in_our_words(
    host: Host, said: dict[str, str], definition: dict[str, Any], expected: tuple[str, str, int | None]
) -> None:
    deployed = host.define(**definition)
    host.runtime.deploy(deployed)
    host.systemd.said |= said
    info = host.runtime.info(deployed.ref)
    assert (info["state"], info["detail"], info["exit_code"]) == expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            {"ActiveState": "activating", "SubState": "auto-restart"},
            "started again in a moment, last: killed for memory",
        ),
        ({"ActiveState": "failed", "Result": "signal"}, "gave up after 1 start, last: killed for memory"),
        ({"ActiveState": "active", "InvocationID": "next"}, "started again after it was killed for memory over 64m"),
        # Of a later end nothing was kept.
        (
            {"ActiveState": "failed", "Result": "signal", "InvocationID": "next"},
            "gave up after 1 start, last: killed by",
        ),
    ],
    ids=["backoff", "fatal", "running", "another-end"],
)
def test_an_end_for_memory_is_told_though_systemd_has_forgotten_it(
    host: Host, said: dict[str, str], expected: str
) -> None:
    deployed = host.define(memory_limit="64m")
    host.runtime.deploy(deployed)
    systemd_states.note_end(deployed.ref.folder, "abc", 7, 1)
    host.systemd.said |= {**ENDED, "ExecMainCode": "2", "ExecMainStatus": "9", **said}
    assert host.runtime.info(deployed.ref)["detail"].startswith(expected)


def test_a_start_by_hand_forgets_how_it_ended_and_not_how_often(host: Host) -> None:
    deployed = host.define(memory_limit="64m")
    host.runtime.deploy(deployed)
    systemd_states.note_end(deployed.ref.folder, "abc", 7, 1)
    host.runtime.start(deployed.ref)
    assert host.runtime.info(deployed.ref)["detail"] == ""
    assert systemd_states.read_end(deployed.ref.folder).kills == 1


def test_ends_for_memory_are_told_from_others_by_the_kernels_count(tmp_path: Path) -> None:
    def noted(group: int, count: int) -> tuple[bool, int]:
        systemd_states.note_end(tmp_path, "abc", group, count)
        end = systemd_states.read_end(tmp_path)
        return end.oom, end.kills

    assert noted(7, 0) == (False, 0)
    assert noted(7, 1) == (True, 1)
    # The group stayed, and its count with it.
    assert noted(7, 1) == (False, 1)
    assert noted(7, 3) == (True, 2)
    # Another group, which begins anew.
    assert noted(8, 1) == (True, 3)
    (tmp_path / systemd_states.ENDED_MARK).write_text("[]")
    assert systemd_states.read_end(tmp_path) == systemd_states.End()


@pytest.mark.parametrize(
    ("groups", "folder", "file", "content"),
    [
        ("5:cpu:/other\n4:memory:/x/clock\n0::/x", "memory/x/clock", "memory.oom_control", "under_oom 0\noom_kill 2\n"),
        ("0::/x/clock\n", "x/clock", "memory.events", "low 0\noom_kill 2\n"),
        # Before Linux 4.13 nothing counts.
        ("4:memory:/x/clock\n", "memory/x/clock", "memory.oom_control", "under_oom 0\n"),
        ("0::/x/clock\n", "nowhere", "memory.events", ""),
    ],
    ids=["older", "newer", "oldest", "none"],
)
def test_the_kernels_count_of_the_own_group_is_read(
    tmp_path: Path, groups: str, folder: str, file: str, content: str
) -> None:
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / file).write_text(content)
    (tmp_path / "cgroup").write_text(groups)
    group, count = systemd_states.memory_kills(tmp_path, tmp_path)
    assert count == (2 if "oom_kill" in content else 0)
    assert group == (0 if folder == "nowhere" else (tmp_path / folder).stat().st_ino)


def test_a_lost_unit_file_is_named(host: Host) -> None:
    definition = host.define()
    host.runtime.deploy(definition)
    (host.units / UNIT).unlink()
    host.systemd.text = ""
    info = host.runtime.info(definition.ref)
    assert (info["state"], info["detail"]) == ("stopped", f"no unit {UNIT}")


def test_a_missing_systemd_is_named() -> None:
    with pytest.raises(ServiceError, match="no-such-program: found no such program, expected a host with systemd"):
        systemd._run(["no-such-program"], 1)
    with pytest.raises(ServiceError, match=r"sleep 5: found no answer after 0.1 s"):
        systemd._run(["sleep", "5"], 0.1)


# What an exporter is told


class Said:
    """What systemctl answers of several units."""

    def __init__(self) -> None:
        self.units: dict[str, dict[str, str]] = {}
        self.error: Exception | None = None

    def __call__(self, command: Sequence[str]) -> str:
        if self.error is not None:
            raise self.error
        asked = [word for word in command if word.endswith(".service")]
        return "\n".join(
            "".join(f"{key}={value}\n" for key, value in {"Id": unit, **self.units[unit]}.items()) for unit in asked
        )

    def put(self, service: str, active: str, **more: str) -> None:
        self.units[f"streamops-{service}.service"] = {"ActiveState": active, **more}


def told(watch: Watch, root: Path) -> dict[tuple[str, str, str | None], float]:
    watch.tell()
    return {
        (sample.name, sample.labels["service"], sample.labels.get("state")): sample.value
        for family in text_string_to_metric_families((root / METRICS).read_text())
        for sample in family.samples
    }


@pytest.fixture
def watched(tmp_path: Path) -> tuple[Watch, Said, Path]:
    (tmp_path / METRICS).parent.mkdir(parents=True)
    for name in ("clock", "bell"):
        (tmp_path / "services" / name).mkdir(parents=True)
        definition = {"name": name, "host": "clock-1", "digest": "0", "restart": {"policy": "on-failure"}}
        (tmp_path / "services" / name / "definition.json").write_text(json.dumps(definition))
    said = Said()
    return Watch(tmp_path, said), said, tmp_path


def test_the_states_of_all_services_are_told(watched: tuple[Watch, Said, Path]) -> None:
    watch, said, root = watched
    said.put("clock", "deactivating", InvocationID="a", MainPID="7")
    said.put("bell", "failed", NRestarts="3", InvocationID="b", Result="exit-code", **ENDED_CODE)
    seen = told(watch, root)
    assert [key[1:] for key, value in seen.items() if value and key[2]] == [("bell", "fatal"), ("clock", "stopping")]
    assert len([key for key in seen if key[1] == "clock" and key[2]]) == 8
    assert seen["runbook_service_memory_kills_total", "clock", None] == 0
    systemd_states.note_end(root / "services" / "clock", "a", 7, 2)
    assert told(watch, root)["runbook_service_memory_kills_total", "clock", None] == 1
    assert (root / METRICS).stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in (root / METRICS).parent.iterdir()] == ["services.prom"]


def test_starts_are_counted_though_nobody_looked_in_between(watched: tuple[Watch, Said, Path]) -> None:
    watch, said, root = watched

    def starts(invocation: str, restarts: str) -> float:
        said.put("clock", "active", InvocationID=invocation, NRestarts=restarts)
        return told(watch, root)["runbook_service_starts_total", "clock", None]

    said.put("bell", "inactive")
    assert starts("", "0") == 0
    assert starts("a", "0") == 1
    assert starts("a", "0") == 1
    assert starts("b", "2") == 3
    # Started by hand, which begins systemd's own count anew.
    assert starts("c", "0") == 4


def test_a_file_that_cannot_be_told_anew_grows_old_and_is_complained_of_once(
    watched: tuple[Watch, Said, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    watch, said, root = watched
    said.put("clock", "active")
    said.put("bell", "active")
    watch.tell()
    before = (root / METRICS).stat().st_mtime_ns
    said.error = subprocess.TimeoutExpired("systemctl", 5)
    watch.tell()
    watch.tell()
    assert (root / METRICS).stat().st_mtime_ns == before
    assert capsys.readouterr().err.count("no metrics:") == 1


def test_the_watch_runs_on_a_host_with_nothing_but_python(watched: tuple[Watch, Said, Path], tmp_path: Path) -> None:
    _, _, root = watched
    program = tmp_path / "watch.py"
    program.write_text(inspect.getsource(systemd_states))
    (tmp_path / "bin").mkdir()
    tool = tmp_path / "bin" / "systemctl"
    answer = "printf 'Id=%s\\nActiveState=active\\n\\n' $unit"
    tool.write_text(f"#!/bin/sh\nfor unit; do case $unit in *.service) {answer};; esac; done\n")
    tool.chmod(0o700)
    environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"}
    with subprocess.Popen([sys.executable, "-I", "-S", program, root], env=environment) as process:
        try:
            wait_for((root / METRICS).exists)
        finally:
            process.kill()
    text = (root / METRICS).read_text()
    assert 'runbook_service_state{service="clock",host="clock-1",state="running"} 1' in text
