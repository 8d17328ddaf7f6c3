"""Runtime ``systemd``: each service a unit of the host's own system manager, with its limits and its sandbox.

A unit is enabled, so a service comes back by itself after a machine's restart. What a service prints goes to the
journal. A definition that changed on disk is taken up only by start and restart, for systemd keeps a running
process as it is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import inspect
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from ansible_collections.streamops.runbook.plugins.module_utils.errors import (
    DeadlineExceeded,
    Refused,
    ServiceError,
)
from ansible_collections.streamops.runbook.plugins.module_utils.runtime import Outcome, systemd_states
from ansible_collections.streamops.runbook.plugins.module_utils.runtime.processes import (
    absent_info,
    add_process,
    compare_digests,
    deployed,
    end,
    environment_of,
    locked,
    mark_unread,
    noting,
    refuse_taken_ports,
    spared,
    suspended,
    sweep,
    tagged,
)
from ansible_collections.streamops.runbook.plugins.module_utils.runtime.systemd_states import (
    ENDED_MARK,
    METRICS,
    STOPPED_MARK,
    Unit,
    ending,
    forget_end,
    judge,
    parse_units,
    show_command,
    unit_name,
)
from ansible_collections.streamops.runbook.plugins.module_utils.runtime.systemd_unit import (
    WATCH,
    WATCH_UNIT,
    root_line,
    unit_text,
    watch_text,
)
from ansible_collections.streamops.runbook.plugins.module_utils.service import (
    TAG_DIGEST,
    TAG_ROOT,
    ManagedFile,
    ServiceDefinition,
    ServiceInfo,
    ServiceRef,
    init_needed,
    run_init,
    stored_definition,
    stored_identity,
)
from ansible_collections.streamops.runbook.plugins.module_utils.service_files import (
    PREVIOUS,
    READ_MARK,
    FilePlan,
    Owner,
    apply_files,
    find_owner,
    mark_read,
    plan_files,
    validate_files,
    write_atomic,
)

Run = Callable[[Sequence[str], float], "subprocess.CompletedProcess[str]"]

_ANSWER_SECONDS = 30.0
_START_SECONDS = 10.0
_MOMENT_SECONDS = 0.3
_POLL_SECONDS = 0.1
_LEFTOVER_SECONDS = 5.0
_LOG_LINES_MAX = 10_000
#: Number of the right to raise limits beyond one's own.
_CAP_SYS_RESOURCE = 24


def _run(command: Sequence[str], seconds: float) -> subprocess.CompletedProcess[str]:
    """Run one of systemd's own commands.

    :raises ServiceError: there is no such program, or it gives no answer in time.
    """
    try:
        return subprocess.run(
            command,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=seconds,
            check=False,
        )
    except FileNotFoundError as error:
        raise ServiceError(command[0], "no such program", "a host with systemd") from error
    except subprocess.TimeoutExpired as error:
        raise ServiceError(" ".join(command[:2]), f"no answer after {seconds:g} s", "an answer") from error


class SystemdRuntime:
    """The verbs of :class:`Runtime`, by the host's system manager; needs the rights of root.

    :param unit_folder: where units of the administrator stand.
    :param lock_folder: where only root may write, and which is empty after a restart of the machine.
    :param run: runs a command for at most so many seconds.
    :param manager: where the kernel tells of the system manager's own process.
    """

    def __init__(
        self,
        unit_folder: Path = Path("/etc/systemd/system"),
        lock_folder: Path = Path("/run"),
        run: Run = _run,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        manager: Path = Path("/proc/1"),
    ) -> None:
        self._unit_folder = unit_folder
        self._lock_folder = lock_folder
        self._run = run
        self._clock = clock
        self._sleep = sleep
        self._manager = manager

    # Verbs

    def deploy(self, definition: ServiceDefinition, *, check: bool = False) -> Outcome:
        """Write files, unit and definition, enable the unit; run init once. See :class:`Runtime`."""
        unit_file = ManagedFile(str(self._unit_path(definition.ref)), unit_text(definition), "0644")
        owner = self._owner(definition, check)
        for path in (self._unit_path(definition.ref), self._unit_folder / WATCH_UNIT):
            _refuse_foreign_unit(path, definition.root)
        plan = plan_files(definition, [unit_file, *self._watch_files(definition.root)], owner)
        outcome = Outcome(did=plan.summary(), diff=plan.diff)
        outcome.skipped += self._skipped_nofile(definition)
        if owner is None:
            outcome.skipped.append(f"validate: no account {definition.user} yet, so the host is not prepared")
        else:
            validate_files(definition, plan)
        prepare = init_needed(definition)
        if prepare and definition.init is not None:
            outcome.did.append(f"init makes {definition.init.creates}")
        told = (Path(definition.root) / METRICS).parent
        if not told.is_dir():
            outcome.did.append(f"create {told}/")
        orders = self._orders(definition, plan)
        outcome.did += [phrase for phrase, _ in orders if phrase]
        if not check and owner is not None:
            apply_files(plan, definition.ref if definition.reload_signal else None)
            _make_public(told)
            mark_unread(definition.ref, plan)
            if prepare:
                # Before the unit is enabled: what has no data yet is not to be started by the next boot.
                self._init(definition, owner)
            for _, order in orders:
                self._systemctl(*order)
        return outcome

    def start(self, ref: ServiceRef, *, timeout: float | None = None, check: bool = False) -> Outcome:
        """Start what is deployed unless it runs. See :class:`Runtime`."""
        stored = deployed(ref)
        outcome = Outcome()
        with self._locked(ref, check), noting(outcome):
            if not self._show(ref).runs:
                self._start_stopped(ref, stored, outcome, timeout, check)
        return outcome

    def stop(self, ref: ServiceRef, *, timeout: float | None = None, check: bool = False) -> Outcome:
        """End the unit's processes. It stays enabled: the next boot of the machine starts it."""
        outcome = Outcome()
        with self._locked(ref, check), noting(outcome):
            self._stop(ref, outcome, timeout, check)
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
            if not check:
                # A unit that can't be loaded is found before the service is stopped.
                self._load(ref)
            if since is not None and spared(self._show(ref).pid, since):
                return outcome
            self._stop(ref, outcome, timeout, check)
            self._start_stopped(ref, stored, outcome, timeout, check)
        return outcome

    def reload(self, ref: ServiceRef, *, check: bool = False) -> Outcome:
        """Send the reload signal unless the process has read the deployed files already. See :class:`Runtime`."""
        stored = deployed(ref)
        outcome = Outcome()
        if not stored.get("reload_signal"):
            raise Refused(f"service {ref.name}", "no reload signal", "a definition with one", "restart the service")
        with self._locked(ref, check), noting(outcome):
            info = self.info(ref)
            if not info["reload_needed"] or info["pid"] is None:
                return outcome
            outcome.did.append(f"reload {ref.name}")
            if check:
                return outcome
            # After a way back, systemd still holds the unit of what was tried.
            self._load(ref)
            try:
                process = psutil.Process(info["pid"])
                process.send_signal(signal.Signals[f"SIG{stored['reload_signal']}"])
                mark_read(ref, process.pid, process.create_time(), stored["reload_digest"])
            except psutil.NoSuchProcess as error:
                raise ServiceError(f"service {ref.name} on {ref.host}", "an end meanwhile", "a process") from error
        return outcome

    def remove(self, ref: ServiceRef, *, timeout: float | None = None, check: bool = False) -> Outcome:
        """Stop it, forget it, delete its files; data and journal stay."""
        stored = stored_definition(ref)
        if stored is None:
            return Outcome()
        outcome = self.stop(ref, timeout=timeout, check=check)
        paths = [Path(ref.root) / entry["path"] for entry in stored.get("files", [])]
        paths += [self._unit_path(ref), ref.folder / "definition.json"]
        marks = [ref.folder / name for name in (STOPPED_MARK, ENDED_MARK, READ_MARK, PREVIOUS)]
        units = [unit_name(ref.name)]
        if len(list(ref.folder.parent.glob("*/definition.json"))) == 1:
            # The last one: nothing is left to be told of.
            units.append(WATCH_UNIT)
            paths += [Path(ref.root) / WATCH, Path(ref.root) / METRICS, self._unit_folder / WATCH_UNIT]
        outcome.did += [f"remove {path}" for path in paths if path.is_file()]
        if check:
            return outcome
        with self._locked(ref, check):
            for name in units:
                if (self._unit_folder / name).exists():
                    self._systemctl("disable", "--now", "--quiet", name)
            for path in (*paths, *marks):
                path.unlink(missing_ok=True)
            ref.folder.rmdir()
            self._systemctl("daemon-reload")
        return outcome

    def info(self, ref: ServiceRef) -> ServiceInfo:
        """What systemd and the process itself say. See :class:`ServiceInfo`."""
        info = absent_info(ref)
        try:
            stored = stored_definition(ref)
            if stored is None:
                return info
            info["digest_deployed"] = stored["digest"]
            info["identity"] = stored_identity(ref, stored)
            unit = self._show(ref)
            # What is left of a unit that ends is in it.
            others = [] if unit.pid or unit.active == "deactivating" else tagged(ref)
            if others:
                # It may have been started between the two looks.
                unit = self._show(ref)
        except ServiceError as error:
            info["state"], info["detail"] = "unknown", str(error)
            return info
        info["state"], info["detail"] = judge(unit, stored, ref.folder)
        if unit.pid:
            add_process(info, unit.pid)
        else:
            info["exit_code"] = unit.exit_code
            if others:
                info["state"] = "unknown"
                info["detail"] = f"process {others[0].pid} runs outside of {unit_name(ref.name)}"
        compare_digests(info, ref, stored)
        return info

    def logs(self, ref: ServiceRef, lines: int) -> list[str]:
        """What the service printed, as the journal has it; systemd's own words about it are left out."""
        if lines <= 0:
            return []
        wanted = f"--lines={min(lines, _LOG_LINES_MAX)}"
        match = f"_SYSTEMD_UNIT={unit_name(ref.name)}"
        done = self._run(["journalctl", "--quiet", "--no-pager", "--output=cat", wanted, match], _ANSWER_SECONDS)
        if done.returncode != 0:
            raise ServiceError(f"journal of {unit_name(ref.name)}", _last_line(done), "a journal that can be read")
        return done.stdout.splitlines()[-lines:]

    def _skipped_nofile(self, definition: ServiceDefinition) -> list[str]:
        """Tell that systemd, as it does silently, will give the service fewer open files than it wants."""
        wanted = definition.nofile
        try:
            limits, status = ((self._manager / name).read_text() for name in ("limits", "status"))
        except OSError:
            return []
        most = re.search(r"^Max open files +\d+ +(\d+)", limits, re.MULTILINE)
        rights = re.search(r"^CapEff:\s+([0-9a-f]+)$", status, re.MULTILINE)
        if wanted is None or most is None or rights is None:
            return []
        if wanted <= int(most[1]) or int(rights[1], 16) >> _CAP_SYS_RESOURCE & 1:
            return []
        return [f"nofile {wanted}: the machine lets its system manager give {most[1]} and no more"]

    # Files

    def _unit_path(self, ref: ServiceRef) -> Path:
        return self._unit_folder / unit_name(ref.name)

    def _owner(self, definition: ServiceDefinition, check: bool) -> Owner | None:
        """The account of the definition; None under ``check`` when the host is not prepared yet.

        :raises Refused: when there is no such account.
        """
        owner = find_owner(str(definition.user))
        if owner is None and not check:
            raise Refused(
                f"service {definition.name} on {definition.host}",
                f"no account {definition.user}",
                "a system account to run as",
                "prepare the host first: role service, entry point prepare",
            )
        return owner

    def _watch_files(self, root: str) -> list[ManagedFile]:
        """The unit that tells an exporter of the root's services, and its program."""
        return [
            ManagedFile(WATCH, inspect.getsource(systemd_states), "0644"),
            ManagedFile(str(self._unit_folder / WATCH_UNIT), watch_text(root, f"{root}/{WATCH}"), "0644"),
        ]

    def _orders(self, definition: ServiceDefinition, plan: FilePlan) -> list[tuple[str, list[str]]]:
        """What systemd has to be told once the files stand there, each with its phrase for people, if it needs one."""
        names = (unit_name(definition.name), WATCH_UNIT)
        units = self._show_all(definition.host, *names)
        paths = {path for path, _ in plan.writes}
        written = [name for name in names if self._unit_folder / name in paths]
        outdated = [name for name in names if units[name].outdated and name not in written]
        orders = []
        if written or outdated:
            orders.append((f"let systemd read {' and '.join(outdated)} again" if outdated else "", ["daemon-reload"]))
        orders += [(f"enable {name}", ["enable", "--quiet", name]) for name in names if not units[name].enabled]
        if not units[WATCH_UNIT].runs:
            orders.append((f"start {WATCH_UNIT}", ["restart", WATCH_UNIT]))
        elif WATCH_UNIT in written or Path(definition.root) / WATCH in paths:
            orders.append((f"restart {WATCH_UNIT}", ["restart", WATCH_UNIT]))
        return orders

    def _init(self, definition: ServiceDefinition, owner: Owner) -> None:
        """Prepare the data as the account that will use it."""
        if definition.init is not None:
            init = dataclasses.replace(definition.init, command=(*owner.prefix(), *definition.init.command))
            run_init(dataclasses.replace(definition, init=init))

    # systemd

    @contextlib.contextmanager
    def _locked(self, ref: ServiceRef, check: bool) -> Iterator[None]:
        """One actor at a time per root."""
        if check:
            yield
            return
        key = hashlib.sha256(os.path.realpath(ref.root).encode()).hexdigest()[:8]
        path = self._lock_folder / f"streamops-{key}.lock"
        try:
            path.touch(mode=0o600)
        except OSError as error:
            raise ServiceError(str(path), error.strerror or str(error), "root's rights", "set become") from error
        with locked(path, self._clock, self._sleep):
            yield

    def _show(self, ref: ServiceRef) -> Unit:
        """What systemd says of the service's unit.

        :raises ServiceError: without an answer.
        """
        return self._show_all(ref.host, unit_name(ref.name))[unit_name(ref.name)]

    def _show_all(self, host: str, *names: str) -> dict[str, Unit]:
        done = self._run(show_command(names), _ANSWER_SECONDS)
        units = parse_units(done.stdout)
        if done.returncode != 0 or not units.keys() >= set(names):
            raise ServiceError(f"systemd on {host}", _last_line(done), f"what it knows of {' and '.join(names)}")
        return units

    def _systemctl(self, *arguments: str, seconds: float = _ANSWER_SECONDS) -> None:
        """Give systemd an order.

        :raises ServiceError: with the last line that it answered.
        """
        done = self._run(["systemctl", *arguments], seconds)
        if done.returncode != 0:
            raise ServiceError(f"systemctl {' '.join(arguments)}", _last_line(done), "its success")

    def _reset(self, ref: ServiceRef) -> None:
        """Let systemd forget failures, and how often it started the unit lately.

        As a pattern, the name may also be that of a unit which systemd does not hold in memory just now; without
        ``--all`` a pattern passes over units that are inactive, and their starts would go on being counted.
        """
        self._systemctl("reset-failed", "--all", unit_name(ref.name).replace(".", "[.]"))

    def _load(self, ref: ServiceRef) -> None:
        """See to it that systemd knows the unit as it stands on disk.

        :raises Refused: when somebody has masked it.
        :raises ServiceError: when it can't be loaded.
        """
        unit = self._show(ref)
        if unit.outdated:
            self._systemctl("daemon-reload")
            unit = self._show(ref)
        seen = unit.said.get("LoadState", "")
        if seen == "masked":
            raise Refused(unit_name(ref.name), "masked", "a unit that may be started", "deploy the service again")
        if seen != "loaded":
            raise ServiceError(
                unit_name(ref.name), f"LoadState {seen}", "a unit that systemd can load", "deploy the service again"
            )

    # Processes

    def _start_stopped(
        self,
        ref: ServiceRef,
        stored: dict[str, Any],
        outcome: Outcome,
        timeout: float | None,
        check: bool,
    ) -> None:
        if check:
            if not outcome.did:
                refuse_taken_ports(ref, stored, self._clock, self._sleep)
            outcome.did.append(f"start {ref.name}")
            return
        self._load(ref)
        if self._show(ref).occupied:
            # Between two tries, or still stopping.
            self._end_unit(ref, _stop_limit(stored, None))
        self._sweep(ref, outcome, wait=0)
        refuse_taken_ports(ref, stored, self._clock, self._sleep)
        self._reset(ref)
        forget_end(ref.folder)
        limit = timeout if timeout is not None else _START_SECONDS
        outcome.did.append(f"start {ref.name}")
        done = self._run(["systemctl", "start", unit_name(ref.name)], limit + _ANSWER_SECONDS)
        if done.returncode != 0:
            self._refuse_ended(ref, self._show(ref), stored)
            raise ServiceError(f"service {ref.name} on {ref.host}", _last_line(done), "a process")
        self._see_alive(ref, stored, limit)

    def _see_alive(self, ref: ServiceRef, stored: dict[str, Any], limit: float) -> None:
        """Wait until the process carries the definition's digest and lived for a moment."""
        deadline = self._clock() + limit
        while True:
            self._sleep(_MOMENT_SECONDS)
            unit = self._show(ref)
            self._refuse_ended(ref, unit, stored)
            if unit.pid and environment_of(unit.pid).get(TAG_DIGEST) == stored["digest"]:
                return
            if self._clock() > deadline:
                raise DeadlineExceeded(
                    f"service {ref.name} on {ref.host}",
                    f"process {unit.pid} without the deployed definition",
                    f"definition {stored['digest']}",
                )

    def _refuse_ended(self, ref: ServiceRef, unit: Unit, stored: dict[str, Any]) -> None:
        """Tell how a process ended that was to live.

        :raises ServiceError: with what it printed last.
        """
        if unit.runs:
            return
        state, _ = judge(unit, stored, ref.folder)
        said = " / ".join(self.logs(ref, 3)) or "nothing printed"
        raise ServiceError(
            f"service {ref.name} on {ref.host}",
            f"{state} right after the start: {ending(unit, stored, ref.folder)} ({said})",
            "a process that lives",
        )

    def _stop(self, ref: ServiceRef, outcome: Outcome, timeout: float | None, check: bool) -> None:
        try:
            stored = stored_definition(ref) or {}
        except ServiceError:
            stored = {}
        unit = self._show(ref)
        if unit.occupied:
            outcome.did.append(f"stop {ref.name}")
            if not check:
                if unit.pid and suspended(unit.pid):
                    # systemd would wake it up to let it end, and it would first go on with what it was doing.
                    self._systemctl("kill", "--signal=KILL", unit_name(ref.name))
                    outcome.did.append(f"kill suspended {unit.pid}")
                self._end_unit(ref, _stop_limit(stored, timeout))
        elif unit.active == "failed":
            outcome.did.append(f"clear fatal {ref.name}")
            if not check:
                self._reset(ref)
                self._mark_stopped(ref, unit)
        if check:
            outcome.did += [f"kill leftover {p.pid}" for p in tagged(ref) if not outcome.did]
        else:
            self._sweep(ref, outcome, wait=_LEFTOVER_SECONDS)

    def _end_unit(self, ref: ServiceRef, limit: float) -> None:
        self._systemctl("stop", "--no-block", unit_name(ref.name))
        deadline = self._clock() + limit
        while (unit := self._show(ref)).occupied:
            if self._clock() > deadline:
                raise DeadlineExceeded(
                    f"service {ref.name} on {ref.host}",
                    f"process {unit.pid or '(none)'} still {unit.active} after {limit:g} s",
                    "its end",
                )
            self._sleep(_POLL_SECONDS)
        if unit.active == "failed":
            # Killed because it took too long: it is down as it was asked to be.
            self._reset(ref)
        self._mark_stopped(ref, unit)

    def _sweep(self, ref: ServiceRef, outcome: Outcome, wait: float) -> None:
        """End what carries the service's tags outside of its unit, see :func:`processes.sweep`."""
        killed = sweep(ref, outcome, wait, self._clock, self._sleep)
        end(killed, _LEFTOVER_SECONDS, self._clock, self._sleep)

    def _mark_stopped(self, ref: ServiceRef, unit: Unit) -> None:
        if ref.folder.is_dir():
            mark = {"invocation": unit.said.get("InvocationID", "")}
            write_atomic(ref.folder / STOPPED_MARK, json.dumps(mark) + "\n", 0o600)


def _make_public(folder: Path) -> None:
    """Make a folder, and the one above it, for an exporter of any account to read.

    :raises ServiceError: when it can't be made.
    """
    try:
        for path in (folder.parent, folder):
            if not path.is_dir():
                path.mkdir()
                # Whatever the umask of the caller is.
                path.chmod(0o755)
    except OSError as error:
        raise ServiceError(str(folder), error.strerror or str(error), "a folder that can be made") from error


def _refuse_foreign_unit(path: Path, root: str) -> None:
    """Refuse to overwrite the unit of another root: a machine is one host, with one service of a name.

    :raises Refused: naming the unit.
    """
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    if f"{TAG_ROOT}=" in text and root_line(root) not in text:
        raise Refused(
            str(path),
            "the unit of another root",
            f"one of {root}, or none",
            "remove the services of that root first, or take another machine",
        )


def _stop_limit(stored: dict[str, Any], timeout: float | None) -> float:
    """Seconds to wait for an end: ten more than systemd itself takes before it kills."""
    return timeout if timeout is not None else float(stored.get("stop_timeout", 30)) + 10


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return f"exit code {done.returncode}: {said[-1] if said else 'nothing printed'}"
