"""Runtime ``supervisor``: one supervisord per logical host, below the host's root.

Processes die with their supervisord (``setpriv --pdeathsig KILL``), programs start only when they
are told to (``autostart=false``), and a definition that changed on disk is loaded only by start
and restart. The control socket stands in a short private folder, because a path to a Unix socket
may have about 100 bytes and a sandbox can stand anywhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import inspect
import os
import shlex
import signal
import socket
import stat
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import psutil
from ansible_collections.streamops.runbook.plugins.module_utils.errors import (
    DeadlineExceeded,
    Refused,
    ServiceError,
)
from ansible_collections.streamops.runbook.plugins.module_utils.runtime import (
    RUN_BASE,
    Outcome,
    run_folder,
    supervisord_main,
)
from ansible_collections.streamops.runbook.plugins.module_utils.runtime.processes import (
    absent_info,
    add_process,
    compare_digests,
    deployed,
    end,
    environment_of,
    environments,
    locked,
    mark_unread,
    noting,
    refuse_taken_ports,
    spared,
    suspended,
    sweep,
    tagged,
    tail,
)
from ansible_collections.streamops.runbook.plugins.module_utils.service import (
    TAG_DIGEST,
    TAG_SERVICE,
    ManagedFile,
    ServiceDefinition,
    ServiceInfo,
    ServiceRef,
    base_environment,
    init_needed,
    run_init,
    stored_definition,
    stored_identity,
)
from ansible_collections.streamops.runbook.plugins.module_utils.service_files import (
    PREVIOUS,
    READ_MARK,
    apply_files,
    mark_read,
    plan_files,
    validate_files,
)
from supervisor.states import RUNNING_STATES, ProcessStates
from supervisor.xmlrpc import Faults, SupervisorTransport, UnixStreamHTTPConnection

TAG_SUPERVISOR = "STREAMOPS_SUPERVISOR"
#: Digest of what the supervisord itself was started from, in its own environment.
TAG_EDITION = "STREAMOPS_SUPERVISOR_EDITION"
CONFIG = "etc/supervisord.conf"
LAUNCHER = "bin/supervisord.py"

_RPC_SECONDS = 3.0
_SPAWN_SECONDS = 20.0
_MOMENT_SECONDS = 0.3
_POLL_SECONDS = 0.1
_LEFTOVER_SECONDS = 5.0
_DYING_SECONDS = 2.0

_STATES = {
    ProcessStates.STOPPED: "stopped",
    ProcessStates.STARTING: "starting",
    ProcessStates.RUNNING: "running",
    ProcessStates.BACKOFF: "backoff",
    ProcessStates.STOPPING: "running",
    ProcessStates.EXITED: "exited",
    ProcessStates.FATAL: "fatal",
    ProcessStates.UNKNOWN: "unknown",
}
_RESTARTS = {"on-failure": "unexpected", "always": "true", "never": "false"}


class _Silent(Exception):
    """The supervisord is there and does not answer."""


class _Connection(UnixStreamHTTPConnection):  # type: ignore[misc]
    """supervisor's own connection lacks a timeout: a suspended supervisord would hang us."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.socketfile)


class _Transport(SupervisorTransport):  # type: ignore[misc]
    def __init__(self, path: Path) -> None:
        super().__init__(serverurl=f"unix://{path}")

        def connection() -> _Connection:
            made = _Connection("localhost", timeout=_RPC_SECONDS)
            made.socketfile = str(path)
            return made

        self._get_connection = connection


class _Supervisord:
    """The control socket of one supervisord."""

    def __init__(self, path: Path) -> None:
        self._transport = _Transport(path)
        self._proxy = xmlrpc.client.ServerProxy(
            "http://localhost", transport=cast(xmlrpc.client.Transport, self._transport)
        )

    def call(self, method: str, *arguments: object) -> Any:
        """Call ``supervisor.<method>``.

        :raises _Silent: without an answer in time.
        :raises xmlrpc.client.Fault: as supervisord answered.
        """
        try:
            return getattr(self._proxy.supervisor, method)(*arguments)
        except (OSError, http.client.HTTPException, xmlrpc.client.ProtocolError) as error:
            # A connection that failed half-way can't carry another question.
            self._transport.close()
            raise _Silent(str(error) or type(error).__name__) from error

    def process(self, name: str) -> dict[str, Any] | None:
        """supervisord's view of one program; None when it has not loaded it."""
        try:
            return cast(dict[str, Any], self.call("getProcessInfo", name))
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == Faults.BAD_NAME:
                return None
            raise


class SupervisorRuntime:
    """The verbs of :class:`Runtime`, by supervisord.

    :param run_base: where the private folders with sockets and locks stand.
    """

    def __init__(
        self,
        run_base: Path = RUN_BASE,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._run_base = run_base
        self._clock = clock
        self._sleep = sleep
        self._spawned: list[subprocess.Popen[bytes]] = []

    # Verbs

    def deploy(self, definition: ServiceDefinition, *, check: bool = False) -> Outcome:
        """Write files, program and definition; run init once. See :class:`Runtime`."""
        plan = plan_files(definition, self._files(definition))
        outcome = Outcome(did=plan.summary(), diff=plan.diff)
        if definition.memory_limit is not None:
            outcome.skipped.append(f"memory_limit {definition.memory_limit}: supervisor can't enforce it")
        if definition.nofile is not None:
            outcome.skipped.append(f"nofile {definition.nofile}: under supervisor a service has what its starter has")
        validate_files(definition, plan)
        prepare = init_needed(definition)
        if prepare and definition.init is not None:
            outcome.did.append(f"init makes {definition.init.creates}")
        if not check:
            apply_files(plan, definition.ref if definition.reload_signal else None)
            mark_unread(definition.ref, plan)
            if prepare:
                run_init(definition)
        return outcome

    def start(self, ref: ServiceRef, *, timeout: float | None = None, check: bool = False) -> Outcome:
        """Spawn what is deployed unless it runs. See :class:`Runtime`."""
        stored = deployed(ref)
        outcome = Outcome()
        with self._locked(ref, check), noting(outcome):
            daemon = self._daemon(ref)
            program = None
            if daemon is not None:
                try:
                    program = daemon.process(ref.name)
                except _Silent as error:
                    raise self._silent(ref, error) from error
            if program is not None and program["state"] in (ProcessStates.STARTING, ProcessStates.RUNNING):
                return outcome
            if program is not None and daemon is not None and not check:
                self._settle(ref, daemon, program, stored)
            self._start_stopped(ref, stored, daemon, outcome, timeout, check)
        return outcome

    def stop(self, ref: ServiceRef, *, timeout: float | None = None, check: bool = False) -> Outcome:
        """End the process; the last one on a host ends the supervisord too."""
        outcome = Outcome()
        with self._locked(ref, check), noting(outcome):
            self._stop(ref, outcome, timeout, check)
            daemon = None if check else self._daemon(ref)
            if daemon is not None:
                self._retire(ref, daemon)
        return outcome

    def restart(
        self,
        ref: ServiceRef,
        *,
        since: float | None = None,
        timeout: float | None = None,
        check: bool = False,
    ) -> Outcome:
        """Stop and start; see :class:`Runtime` for ``since``."""
        stored = deployed(ref)
        outcome = Outcome()
        with self._locked(ref, check), noting(outcome):
            daemon = self._daemon(ref)
            if daemon is not None:
                try:
                    program = daemon.process(ref.name)
                    # A definition that can't be loaded is found before the service is stopped.
                    if not check:
                        self._reload(ref, daemon)
                    if program is not None and program["pid"] and spared(program["pid"], since):
                        return outcome
                except _Silent:
                    daemon = None
            self._stop(ref, outcome, timeout, check)
            if not check:
                daemon = self._daemon(ref)
            self._start_stopped(ref, stored, daemon, outcome, timeout, check)
        return outcome

    def reload(self, ref: ServiceRef, *, check: bool = False) -> Outcome:
        """Send the reload signal unless the process has read the deployed files already. See :class:`Runtime`."""
        stored = deployed(ref)
        outcome = Outcome()
        if not stored.get("reload_signal"):
            raise Refused(f"service {ref.name}", "no reload signal", "a definition with one", "restart the service")
        with self._locked(ref, check), noting(outcome):
            if not self.info(ref)["reload_needed"]:
                return outcome
            outcome.did.append(f"reload {ref.name}")
            daemon = self._daemon(ref)
            program = daemon.process(ref.name) if daemon is not None else None
            if check or daemon is None or program is None:
                return outcome
            created = psutil.Process(program["pid"]).create_time()
            daemon.call("signalProcess", ref.name, stored["reload_signal"])
            mark_read(ref, program["pid"], created, stored["reload_digest"])
        return outcome

    def remove(self, ref: ServiceRef, *, timeout: float | None = None, check: bool = False) -> Outcome:
        """Stop it, forget it, delete its files; data and logs stay."""
        stored = stored_definition(ref)
        if stored is None:
            return Outcome()
        outcome = self.stop(ref, timeout=timeout, check=check)
        root = Path(ref.root)
        paths = [root / entry["path"] for entry in stored.get("files", [])]
        paths += [ref.folder / name for name in ("program.conf", READ_MARK, PREVIOUS, "definition.json")]
        outcome.did += [f"remove {path}" for path in paths if path.is_file()]
        if check:
            return outcome
        with self._locked(ref, check):
            for path in paths:
                path.unlink(missing_ok=True)
            ref.folder.rmdir()
            daemon = self._daemon(ref)
            if daemon is not None:
                self._reload(ref, daemon)
                with contextlib.suppress(xmlrpc.client.Fault):
                    daemon.call("removeProcessGroup", ref.name)
            elif not any((root / "services").glob("*/program.conf")):
                for name in (CONFIG, LAUNCHER):
                    (root / name).unlink(missing_ok=True)
        return outcome

    def info(self, ref: ServiceRef) -> ServiceInfo:
        """What supervisord and the process itself say. See :class:`ServiceInfo`."""
        info = absent_info(ref)
        try:
            stored = stored_definition(ref)
        except ServiceError as error:
            info["state"], info["detail"] = "unknown", str(error)
            return info
        if stored is None:
            return info
        info["digest_deployed"] = stored["digest"]
        info["identity"] = stored_identity(ref, stored)
        daemon = self._daemon(ref)
        program = None
        pid = 0
        if daemon is None:
            info["state"], info["detail"] = "stopped", "no supervisor"
        else:
            try:
                program = daemon.process(ref.name)
            except _Silent as error:
                info["state"], info["detail"] = "unknown", str(self._silent(ref, error))
                pid = next((process.pid for process in tagged(ref)), 0)
        if program is not None:
            info["state"] = _STATES[program["state"]]
            info["detail"] = _describe(program)
            pid = program["pid"]
            if not pid and program["start"]:
                info["exit_code"] = program["exitstatus"]
        elif daemon is not None and info["state"] == "absent":
            info["state"], info["detail"] = "stopped", "not started yet"
        if pid:
            add_process(info, pid)
        else:
            leftovers = tagged(ref)
            if leftovers:
                info["state"] = "unknown"
                info["detail"] = f"process {leftovers[0].pid} runs without its supervisor"
        compare_digests(info, ref, stored)
        return info

    def logs(self, ref: ServiceRef, lines: int) -> list[str]:
        """The end of the service's log file; empty when it never wrote one."""
        return tail(Path(ref.root) / "log" / f"{ref.name}.log", lines)

    # Files

    def _files(self, definition: ServiceDefinition) -> list[ManagedFile]:
        return [
            ManagedFile(CONFIG, self._supervisord_conf(definition.ref), "0600"),
            ManagedFile(LAUNCHER, inspect.getsource(supervisord_main), "0640"),
            ManagedFile(f"services/{definition.name}/program.conf", _program_conf(definition), "0600"),
        ]

    def _supervisord_conf(self, ref: ServiceRef) -> str:
        run = self._run_dir(ref)
        return (
            "[unix_http_server]\n"
            f"file = {run}/supervisor.sock\n"
            "chmod = 0700\n"
            "\n[supervisord]\n"
            f"logfile = {ref.root}/log/supervisord.log\n"
            "logfile_maxbytes = 2MB\n"
            "logfile_backups = 2\n"
            f"pidfile = {run}/supervisord.pid\n"
            f"childlogdir = {ref.root}/log\n"
            f"identifier = {ref.host}\n"
            "umask = 027\n"
            "nodaemon = true\n"
            "silent = true\n"
            "\n[rpcinterface:supervisor]\n"
            "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n"
            "\n[include]\n"
            "files = ../services/*/program.conf\n"
        )

    def _run_dir(self, ref: ServiceRef) -> Path:
        return run_folder(ref.root, self._run_base)

    def _private_run_dir(self, ref: ServiceRef) -> Path:
        """The folder of socket and lock, made or checked: nobody else may own or enter it."""
        path = self._run_dir(ref)
        path.mkdir(mode=0o700, exist_ok=True)
        seen = path.lstat()
        if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.getuid() or seen.st_mode & 0o077:
            raise Refused(
                str(path),
                f"owner {seen.st_uid}, mode {stat.S_IMODE(seen.st_mode):04o}",
                f"a folder of user {os.getuid()} with mode 0700",
            )
        return path

    @contextlib.contextmanager
    def _locked(self, ref: ServiceRef, check: bool) -> Iterator[None]:
        """One actor at a time per host root; the kernel frees the lock of whoever dies."""
        if check:
            yield
            return
        with locked(self._private_run_dir(ref) / "lock", self._clock, self._sleep):
            yield

    # supervisord

    def _daemon(self, ref: ServiceRef) -> _Supervisord | None:
        """The control socket of the host's supervisord; None when no supervisord runs."""
        path = self._run_dir(ref) / "supervisor.sock"
        probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        probe.settimeout(_RPC_SECONDS)
        with contextlib.closing(probe):
            try:
                probe.connect(str(path))
            except (FileNotFoundError, ConnectionRefusedError):
                # No listener. A supervisord whose socket was deleted still counts as there.
                return _Supervisord(path) if self._supervisord_processes(ref) else None
            except OSError:
                # Somebody listens and takes nobody any more: the first question will tell.
                return _Supervisord(path)
        return _Supervisord(path)

    def _supervisord_processes(self, ref: ServiceRef) -> list[psutil.Process]:
        root = os.path.realpath(ref.root)
        return [
            process
            for process, environment in environments()
            if environment.get(TAG_SUPERVISOR) == root and TAG_SERVICE not in environment
        ]

    def _silent(self, ref: ServiceRef, error: _Silent) -> ServiceError:
        pids = ", ".join(str(process.pid) for process in self._supervisord_processes(ref))
        return ServiceError(
            f"supervisord of {ref.host}",
            f"process {pids or 'unknown'} does not answer ({error})",
            f"an answer within {_RPC_SECONDS:g} s",
            "restart the service: that replaces the supervisord too",
        )

    def _spawn_daemon(self, ref: ServiceRef) -> _Supervisord:
        run = self._private_run_dir(ref)
        root = Path(ref.root)
        (root / "log").mkdir(mode=0o750, exist_ok=True)
        output = root / "log" / "supervisord.out"
        with output.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, str(root / LAUNCHER), "-c", str(root / CONFIG)],
                cwd=root,
                env={
                    **base_environment(),
                    TAG_SUPERVISOR: os.path.realpath(ref.root),
                    TAG_EDITION: _edition(root),
                },
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._spawned.append(process)
        daemon = _Supervisord(run / "supervisor.sock")
        deadline = self._clock() + _SPAWN_SECONDS
        while True:
            try:
                daemon.call("getState")
                return daemon
            except _Silent as error:
                if process.poll() is not None:
                    said = " / ".join(tail(output, 3)) or "nothing printed"
                    raise ServiceError(
                        f"supervisord of {ref.host}",
                        f"exit code {process.returncode} at start: {said}",
                        "a running supervisord",
                    ) from error
                if self._clock() > deadline:
                    raise DeadlineExceeded(
                        f"supervisord of {ref.host}",
                        f"no answer after {_SPAWN_SECONDS:g} s ({error})",
                        "an answer",
                    ) from error
            self._sleep(0.05)

    def _reload(self, ref: ServiceRef, daemon: _Supervisord) -> None:
        try:
            daemon.call("reloadConfig")
        except xmlrpc.client.Fault as fault:
            raise ServiceError(
                f"supervisord of {ref.host}", fault.faultString, "a definition that it can read"
            ) from fault

    def _retire(self, ref: ServiceRef, daemon: _Supervisord) -> None:
        """End a supervisord that has nothing left to watch."""
        try:
            programs = daemon.call("getAllProcessInfo")
            if any(program["state"] in RUNNING_STATES for program in programs):
                return
            processes = self._supervisord_processes(ref)
            daemon.call("shutdown")
        except (_Silent, xmlrpc.client.Fault) as error:
            raise ServiceError(f"supervisord of {ref.host}", str(error), "an orderly end") from error
        self._end(processes, _LEFTOVER_SECONDS)

    def _replaceable(self, ref: ServiceRef, daemon: _Supervisord) -> bool:
        """Whether it was started from other files than the deployed ones, and nothing else depends on it.

        Its rules come with its start alone. While it watches another service, or holds the last
        words of one that ended, it stays as it is.
        """
        processes = self._supervisord_processes(ref)
        edition = _edition(Path(ref.root))
        if all(environment_of(process.pid).get(TAG_EDITION) == edition for process in processes):
            return False
        programs = daemon.call("getAllProcessInfo")
        return all(one["name"] == ref.name or one["state"] == ProcessStates.STOPPED for one in programs)

    # Processes

    def _start_stopped(
        self,
        ref: ServiceRef,
        stored: dict[str, Any],
        daemon: _Supervisord | None,
        outcome: Outcome,
        timeout: float | None,
        check: bool,
    ) -> None:
        if check:
            if not outcome.did:
                refuse_taken_ports(ref, stored, self._clock, self._sleep)
            outcome.did.append(f"start {ref.name}")
            return
        self._sweep(ref, outcome, wait=0)
        refuse_taken_ports(ref, stored, self._clock, self._sleep)
        if daemon is not None and self._replaceable(ref, daemon):
            processes = self._supervisord_processes(ref)
            daemon.call("shutdown")
            self._end(processes, _LEFTOVER_SECONDS)
            outcome.did.append(f"end outdated supervisord of {ref.host}")
            daemon = None
        if daemon is None:
            daemon = self._spawn_daemon(ref)
            outcome.did.append(f"start supervisord of {ref.host}")
        else:
            self._reload(ref, daemon)
            if daemon.process(ref.name) is not None:
                daemon.call("removeProcessGroup", ref.name)
            daemon.call("addProcessGroup", ref.name)
        try:
            daemon.call("startProcess", ref.name, False)
        except xmlrpc.client.Fault as fault:
            raise ServiceError(f"service {ref.name} on {ref.host}", fault.faultString, "a process") from fault
        outcome.did.append(f"start {ref.name}")
        self._see_alive(ref, daemon, stored["digest"], timeout)

    def _see_alive(self, ref: ServiceRef, daemon: _Supervisord, digest: str, timeout: float | None) -> None:
        """Wait until the process carries the definition's digest and lived for a moment."""
        deadline = self._clock() + (timeout if timeout is not None else 10)
        while True:
            self._sleep(_MOMENT_SECONDS)
            program = daemon.process(ref.name)
            state = ProcessStates.UNKNOWN if program is None else program["state"]
            if program is None or state not in (ProcessStates.STARTING, ProcessStates.RUNNING):
                said = " / ".join(self.logs(ref, 3)) or "nothing printed"
                code = "unknown" if program is None else program["exitstatus"]
                raise ServiceError(
                    f"service {ref.name} on {ref.host}",
                    f"{_STATES.get(state, 'unknown')} with exit code {code} right after the start ({said})",
                    "a process that lives",
                )
            if environment_of(program["pid"]).get(TAG_DIGEST) == digest:
                return
            if self._clock() > deadline:
                raise DeadlineExceeded(
                    f"service {ref.name} on {ref.host}",
                    f"process {program['pid']} without the deployed definition",
                    f"definition {digest}",
                )

    def _stop(self, ref: ServiceRef, outcome: Outcome, timeout: float | None, check: bool) -> None:
        try:
            stored = stored_definition(ref) or {}
        except ServiceError:
            stored = {}
        limit = timeout if timeout is not None else float(stored.get("stop_timeout", 30)) + 10
        daemon = self._daemon(ref)
        if daemon is not None:
            try:
                program = daemon.process(ref.name)
                if program is not None and program["state"] in (*RUNNING_STATES, ProcessStates.STOPPING):
                    outcome.did.append(f"stop {ref.name}")
                    if not check:
                        self._stop_program(ref, daemon, program, limit, outcome)
                elif program is not None and program["state"] == ProcessStates.FATAL:
                    outcome.did.append(f"clear fatal {ref.name}")
            except _Silent:
                self._kill_silent(ref, outcome, check)
        if check:
            outcome.did += [f"kill leftover {p.pid}" for p in tagged(ref) if not outcome.did]
        else:
            self._sweep(ref, outcome, wait=_LEFTOVER_SECONDS)

    def _settle(self, ref: ServiceRef, daemon: _Supervisord, program: dict[str, Any], stored: dict[str, Any]) -> None:
        """End what is between two tries, and wait for what is still stopping, before a start."""
        if program["state"] == ProcessStates.BACKOFF:
            with contextlib.suppress(xmlrpc.client.Fault):
                daemon.call("stopProcess", ref.name, False)
        self._await_end(ref, daemon, float(stored.get("stop_timeout", 30)) + 10)

    def _stop_program(
        self,
        ref: ServiceRef,
        daemon: _Supervisord,
        program: dict[str, Any],
        limit: float,
        outcome: Outcome,
    ) -> None:
        with contextlib.suppress(xmlrpc.client.Fault):
            # The fault says that it is not running any more, which the loop sees as well.
            daemon.call("stopProcess", ref.name, False)
        if program["pid"] and suspended(program["pid"]):
            # A suspended process takes no signal but this one; its own group goes with it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program["pid"], signal.SIGKILL)
            outcome.did.append(f"kill suspended {program['pid']}")
        self._await_end(ref, daemon, limit)

    def _await_end(self, ref: ServiceRef, daemon: _Supervisord, limit: float) -> None:
        deadline = self._clock() + limit
        while True:
            seen = daemon.process(ref.name)
            if seen is None or seen["state"] not in (*RUNNING_STATES, ProcessStates.STOPPING):
                return
            if self._clock() > deadline:
                raise DeadlineExceeded(
                    f"service {ref.name} on {ref.host}",
                    f"process {seen['pid']} still {seen['statename'].lower()} after {limit:g} s",
                    "its end",
                )
            self._sleep(_POLL_SECONDS)

    def _kill_silent(self, ref: ServiceRef, outcome: Outcome, check: bool) -> None:
        """A supervisord that does not answer is ended; its processes die with it."""
        processes = self._supervisord_processes(ref)
        for process in processes:
            outcome.did.append(f"kill silent supervisord {process.pid} of {ref.host}")
            if not check:
                process.kill()
        if not check:
            self._end(processes, _LEFTOVER_SECONDS)

    def _sweep(self, ref: ServiceRef, outcome: Outcome, wait: float) -> None:
        """Make sure that no process of a stopped service is left, see :func:`processes.sweep`."""
        killed = sweep(ref, outcome, wait, self._clock, self._sleep)
        self._end(killed, _LEFTOVER_SECONDS)

    def _end(self, processes: list[psutil.Process], wait: float) -> None:
        end(processes, wait, self._clock, self._sleep, self._reap)

    def _reap(self) -> None:
        for child in self._spawned:
            child.poll()


def _edition(root: Path) -> str:
    """16 hexadecimal digits over the launcher and the configuration as they are deployed."""
    digest = hashlib.sha256()
    for name in (LAUNCHER, CONFIG):
        path = root / name
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()[:16]


def _describe(program: dict[str, Any]) -> str:
    state = program["state"]
    if state == ProcessStates.STOPPING:
        return "stopping"
    if state in (ProcessStates.BACKOFF, ProcessStates.FATAL):
        code = program["exitstatus"]
        ending = f"signal {-code}" if code < 0 else f"exit code {code}"
        return f"{program['spawnerr'] or 'keeps ending'}, last {ending}"
    if state == ProcessStates.EXITED:
        return f"ended by itself with exit code {program['exitstatus']}"
    return ""


def _program_conf(definition: ServiceDefinition) -> str:
    """The program's section.

    :raises Refused: for an environment value that this format has no spelling for.
    """
    command = ["setpriv", "--pdeathsig", "KILL", "--", *definition.command]
    environment = {**definition.environment, **definition.tags()}
    codes = ",".join(str(code) for code in definition.restart.success_exit_codes)
    log = f"{definition.root}/log/{definition.name}.log"
    restart = definition.restart
    limit = ""
    if restart.crashes is not None:
        # Read by our launcher; plain supervisord passes over names that it does not know.
        limit = f"crash_limit = {restart.crashes}\ncrash_window = {restart.window_seconds}\n"
    return (
        f"[program:{definition.name}]\n"
        f"command = {' '.join(_argument(part) for part in command)}\n"
        f"environment = {','.join(_variable(*item) for item in sorted(environment.items()))}\n"
        f"directory = {definition.root}\n"
        "autostart = false\n"
        f"autorestart = {_RESTARTS[definition.restart.policy]}\n"
        f"exitcodes = {codes}\n"
        f"startsecs = {round(definition.start_seconds)}\n"
        f"startretries = {definition.restart.retries}\n"
        f"{limit}"
        f"stopsignal = {definition.stop_signal}\n"
        f"stopwaitsecs = {round(definition.stop_timeout)}\n"
        "killasgroup = true\n"
        "redirect_stderr = true\n"
        f"stdout_logfile = {log}\n"
        "stdout_logfile_maxbytes = 10MB\n"
        "stdout_logfile_backups = 3\n"
    )


def _argument(text: str) -> str:
    """One argument as supervisord's ini, expansion and shell-like splitting give it back.

    A ; or # behind a space would begin a comment, even inside quotes: it gets quotes of its own.
    """
    quoted = shlex.quote(text).replace("%", "%%")
    return quoted.replace(";", "'\";\"'").replace("#", "'\"#\"'")


def _variable(key: str, value: str) -> str:
    where = f"environment.{key}"
    if '"' in value and "'" in value:
        raise Refused(where, "both kinds of quotes", "one kind at most under supervisor")
    if value and (value[0] in "'\"" or value[-1] in "'\""):
        raise Refused(where, "a quote at an end", "quotes only inside under supervisor")
    if " ;" in value or " #" in value or value[:1] in (";", "#"):
        raise Refused(where, "a ; or # behind a space", "none under supervisor")
    quote = "'" if '"' in value else '"'
    return f"{key}={quote}{value.replace('%', '%%')}{quote}"
