"""Runtime ``docker``: every service a container of the engine on this machine, with its host's name and address.

Files and the deployed definition stand below the host's root as with every runtime; the container sees them at
the same place (see container.py). A container's first process judges the service's end (see container_main.py), so
that a service is given up after the same failures everywhere. What belongs to us is known by its labels, never
by its name (see container_host.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import inspect
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.streamops.runbook.plugins.module_utils import docker_client
from ansible_collections.streamops.runbook.plugins.module_utils.docker_client import Body, Engine, said, talking
from ansible_collections.streamops.runbook.plugins.module_utils.errors import (
    DeadlineExceeded,
    Refused,
    ServiceError,
)
from ansible_collections.streamops.runbook.plugins.module_utils.runtime import (
    Outcome,
    container,
    container_main,
)
from ansible_collections.streamops.runbook.plugins.module_utils.runtime.container import (
    FIRST,
    STATE,
    Definition,
    Image,
)
from ansible_collections.streamops.runbook.plugins.module_utils.runtime.container_host import (
    HostContainers,
    Process,
    kept_log,
    name_of,
    started,
)
from ansible_collections.streamops.runbook.plugins.module_utils.runtime.processes import (
    absent_info,
    deployed,
    locked,
    noting,
    tail,
)
from ansible_collections.streamops.runbook.plugins.module_utils.service import (
    TAG_DIGEST,
    ManagedFile,
    ServiceDefinition,
    ServiceInfo,
    ServiceRef,
    stored_definition,
)
from ansible_collections.streamops.runbook.plugins.module_utils.service_files import (
    PREVIOUS,
    READ_MARK,
    FilePlan,
    Owner,
    apply_files,
    mark_read,
    plan_files,
    read_mark,
    validate_files,
)
from docker.errors import APIError

_POLL_SECONDS = 0.1
_MOMENT_SECONDS = 0.3
_ALIVE_SECONDS = 10
_MORE_SECONDS = 10


class DockerRuntime:
    """The verbs of :class:`Runtime`, by the Docker engine.

    :param connect: gives the engine; asked once, when the first call needs it.
    :param now: the time in Unix seconds, which the engine and the containers share with this machine.
    """

    def __init__(
        self,
        connect: Callable[[], Engine] = docker_client.connect,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._now = now
        self._host = HostContainers(connect, clock, sleep)

    # Verbs

    def deploy(self, definition: ServiceDefinition, *, check: bool = False) -> Outcome:
        """Write files and definition, make the container where there is none, run init once. See :class:`Runtime`."""
        ref = definition.ref
        for file in definition.files:
            if "/" not in file.path:
                raise Refused(f"service {ref.name}.files", file.path, "a file in a folder, which can be mounted")
        # As it will be stored, so that every verb reads the same.
        wanted: dict[str, Any] = json.loads(json.dumps(definition.public()))
        with talking(_thing(ref)), self._locked(ref, check):
            image = self._host.image(wanted, check=check)
            plan = _plan(definition, wanted, image)
            # The checkers are this machine's own, and what runs them is what reads the files.
            validate_files(definition, dataclasses.replace(plan, owner=None))
            self._host.refuse_address_outside(wanted, check=check)
            there = self._host.find(ref)
            self._host.refuse_strangers(wanted, there)
            outcome = Outcome(did=plan.summary(), diff=plan.diff)
            if there is None:
                outcome.did.append(f"create container {name_of(wanted)}")
            if check:
                initial = self._host.init_needed(wanted, there)
            else:
                _refuse_missing_mounts(wanted)
                apply_files(plan, ref if definition.reload_signal else None)
                _make_state(ref, image.owner)
                _mark_unread(ref, plan, there)
                there = there or self._host.create(wanted, image)
                initial = self._host.prepare_data(definition, wanted, image, there)
            if initial:
                outcome.did.append(f"init makes {wanted['init']['creates']}")
        return outcome

    def start(self, ref: ServiceRef, *, timeout: float | None = None, check: bool = False) -> Outcome:
        """Start what is deployed unless it runs, and mend what keeps a running one from working.

        A paused container goes on, one that was cut off from its network joins it again.
        """
        stored = _complete(deployed(ref))
        outcome = Outcome()
        with noting(outcome), talking(_thing(ref)), self._locked(ref, check):
            image = self._host.image(stored)
            there = self._host.find(ref)
            if there is not None and _lives(there):
                if not self._host.lost_address(stored, there):
                    self._mend(stored, there, outcome, check)
                    return outcome
                self._stop(ref, stored, outcome, timeout, check)
            self._start_stopped(ref, stored, image, outcome, timeout, check)
        return outcome

    def stop(self, ref: ServiceRef, *, timeout: float | None = None, check: bool = False) -> Outcome:
        """End the service; the container stays, and what holds the host's address ends with the last one."""
        outcome = Outcome()
        with noting(outcome), talking(_thing(ref)), self._locked(ref, check):
            self._stop(ref, _stored_or_nothing(ref), outcome, timeout, check)
            if not check:
                self._host.release_address(ref)
        return outcome

    def restart(
        self,
        ref: ServiceRef,
        *,
        since: float | None = None,
        timeout: float | None = None,
        check: bool = False,
    ) -> Outcome:
        """Stop and start; a changed definition takes a new container. See :class:`Runtime` for ``since``."""
        stored = _complete(deployed(ref))
        outcome = Outcome()
        with noting(outcome), talking(_thing(ref)), self._locked(ref, check):
            # An image that is not there is found before the service is stopped.
            image = self._host.image(stored)
            there = self._host.find(ref)
            if since is not None and there is not None and _lives(there) and started(there) >= since:
                suspended = any(process.suspended for process in self._host.processes(there))
                if not suspended and not self._host.lost_address(stored, there):
                    # Young as it is, it may be paused, or have been started again by Docker off its network as before.
                    self._mend(stored, there, outcome, check)
                    return outcome
            self._stop(ref, stored, outcome, timeout, check)
            self._start_stopped(ref, stored, image, outcome, timeout, check)
        return outcome

    def reload(self, ref: ServiceRef, *, check: bool = False) -> Outcome:
        """Send the reload signal unless the process has read the deployed files already. See :class:`Runtime`."""
        stored = _complete(deployed(ref))
        outcome = Outcome()
        if not stored.get("reload_signal"):
            raise Refused(f"service {ref.name}", "no reload signal", "a definition with one", "restart the service")
        with noting(outcome), talking(_thing(ref)), self._locked(ref, check):
            there = self._host.find(ref)
            if there is None or not _lives(there) or not _reload_needed(ref, stored, there):
                return outcome
            outcome.did.append(f"reload {ref.name}")
            if not check:
                self._host.engine.kill(there["Id"], signal=f"SIG{stored['reload_signal']}")
                mark_read(ref, there["State"]["Pid"], started(there), stored["reload_digest"])
        return outcome

    def remove(self, ref: ServiceRef, *, timeout: float | None = None, check: bool = False) -> Outcome:
        """Stop it, remove its container and files; its volumes and the end of its log stay."""
        stored = stored_definition(ref)
        if stored is None:
            return Outcome()
        outcome = self.stop(ref, timeout=timeout, check=check)
        root = Path(ref.root)
        paths = [root / entry["path"] for entry in stored.get("files", [])]
        paths += [ref.folder / name for name in (FIRST, READ_MARK, PREVIOUS, "definition.json")]
        paths.append(_record_path(ref))
        outcome.did += [f"remove {path}" for path in paths if path.is_file()]
        with noting(outcome), talking(_thing(ref)), self._locked(ref, check):
            there = self._host.find(ref)
            if there is not None:
                outcome.did.append(f"remove container {name_of(stored)}")
            if check:
                return outcome
            if there is not None:
                self._host.discard(ref, there)
            for path in paths:
                path.unlink(missing_ok=True)
            ref.folder.rmdir()
            if not self._host.listed(ref.root, ref.host, "service"):
                for holder in self._host.listed(ref.root, ref.host, "address"):
                    self._host.engine.remove_container(holder["Id"], force=True)
                (root / STATE / container_main.METRICS).unlink(missing_ok=True)
        return outcome

    def info(self, ref: ServiceRef) -> ServiceInfo:
        """What the engine and the first process of the container say. See :class:`ServiceInfo`."""
        info = absent_info(ref)
        try:
            stored = stored_definition(ref)
            if stored is None:
                return info
            info["digest_deployed"] = stored["digest"]
            with talking(_thing(ref)):
                there = self._host.find(ref)
                if there is None:
                    info["state"], info["detail"] = "stopped", "no container"
                elif _lives(there):
                    self._describe_living(info, ref, _complete(stored), there)
                else:
                    _describe_ended(info, ref, there)
        except ServiceError as error:
            info["state"], info["detail"] = "unknown", str(error)
        return info

    def logs(self, ref: ServiceRef, lines: int) -> list[str]:
        """The newest lines that Docker kept; before them the end of what the container before this one printed."""
        if lines <= 0:
            return []
        with talking(_thing(ref)):
            there = self._host.find(ref)
            newest = [] if there is None else self._host.printed(there, lines)
        return tail(kept_log(ref), lines - len(newest)) + newest

    @contextlib.contextmanager
    def _locked(self, ref: ServiceRef, check: bool) -> Iterator[None]:
        """One actor at a time per host root."""
        if check:
            yield
            return
        root = Path(ref.root)
        root.mkdir(parents=True, exist_ok=True, mode=0o750)
        with locked(root / ".lock", self._clock, self._sleep):
            yield

    # Start

    def _start_stopped(
        self,
        ref: ServiceRef,
        stored: Definition,
        image: Image,
        outcome: Outcome,
        timeout: float | None,
        check: bool,
    ) -> None:
        there = self._host.find(ref)
        self._host.refuse_taken_address(stored, there)
        self._host.refuse_strangers(stored, there)
        _refuse_missing_mounts(stored)
        if check:
            outcome.did.append(f"start {ref.name}")
            return
        _make_state(ref, image.owner)
        there = self._current(ref, stored, image, there, outcome)
        # What was counted before does not count against whoever starts it now.
        _record_path(ref).unlink(missing_ok=True)
        self._host.engine.update_container(there["Id"], restart_policy=container.restart_policy(stored))
        self._host.engine.start(there["Id"])
        outcome.did.append(f"start {ref.name}")
        self._see_alive(ref, there["Id"], timeout)

    def _current(self, ref: ServiceRef, stored: Definition, image: Image, there: Body | None, outcome: Outcome) -> Body:
        """The container to start: the one that is there, or another where it was made from something else."""
        holder = self._host.hold_address(stored, image)
        if holder is not None:
            self._host.start_holder(stored, holder, outcome)
        if there is not None and there["State"]["Restarting"]:
            # Docker waits between two tries, and would not let it be started before.
            self._host.engine.stop(there["Id"], timeout=0)
        if there is not None and container.differs(there, self._host.body(stored, image, holder)):
            self._host.discard(ref, there)
            outcome.did.append(f"remove outdated container {name_of(stored)}")
            there = None
        if there is None:
            there = self._host.create(stored, image)
            outcome.did.append(f"create container {name_of(stored)}")
        if holder is None:
            self._host.join(stored, there, outcome)
        return there

    def _see_alive(self, ref: ServiceRef, container_id: str, timeout: float | None) -> None:
        """Wait until the service has lived for a moment."""
        deadline = self._clock() + (timeout if timeout is not None else _ALIVE_SECONDS)
        while True:
            self._sleep(_MOMENT_SECONDS)
            there = self._host.engine.inspect_container(container_id)
            record = _record(ref)
            if not _lives(there):
                tail_lines = " / ".join(self._host.printed(there, 3)) or "nothing printed"
                raise ServiceError(
                    _thing(ref),
                    f"{there['State']['Status']} with {_ending(there, record)} right after the start ({tail_lines})",
                    "a process that lives",
                )
            # Nothing is written before the service itself has come to be.
            if record.state in ("starting", "running") and self._now() - record.began >= _MOMENT_SECONDS:
                return
            if self._clock() > deadline:
                raise DeadlineExceeded(_thing(ref), "a container whose service does not show", "the service's process")

    def _mend(self, stored: Definition, there: Body, outcome: Outcome, check: bool) -> None:
        """What keeps a running container from working, short of a restart."""
        name = there["Name"].lstrip("/")
        if there["State"]["Paused"]:
            outcome.did.append(f"unpause {name}")
            if not check:
                self._host.engine.unpause(there["Id"])
        lonely = self._host.cut_off(stored, there)
        if lonely is not None and check:
            outcome.did.append(f"connect {lonely['Name'].lstrip('/')} to network {stored['network']}")
        elif lonely is not None:
            self._host.join(stored, lonely, outcome)
        policy = container.restart_policy(stored)
        if there["HostConfig"]["RestartPolicy"]["Name"] != policy["Name"]:
            outcome.did.append(f"let Docker start {name} again when it fails")
            if not check:
                self._host.engine.update_container(there["Id"], restart_policy=policy)

    # Stop

    def _stop(self, ref: ServiceRef, stored: Definition, outcome: Outcome, timeout: float | None, check: bool) -> None:
        there = self._host.find(ref)
        if there is None:
            return
        if there["State"]["Running"]:
            outcome.did.append(f"stop {ref.name}")
        elif _record(ref).state == "fatal":
            outcome.did.append(f"clear fatal {ref.name}")
        if check:
            return
        # Or the engine would start it again together with the machine.
        self._host.engine.update_container(there["Id"], restart_policy=container.no_restart())
        if there["State"]["Restarting"]:
            self._host.engine.stop(there["Id"], timeout=0)
        elif there["State"]["Running"]:
            self._end(ref, there, stored, timeout, outcome)
            if _record(ref).state not in container_main.ALIVE:
                return
        # Its first process was killed and could not say so, or what it said last is not so any more.
        _record_path(ref).unlink(missing_ok=True)

    def _end(self, ref: ServiceRef, there: Body, stored: Definition, timeout: float | None, outcome: Outcome) -> None:
        """Send the stop signal and wait; what takes no signal, or takes it for too long, is killed."""
        patience = float(stored.get("stop_timeout", 30))
        limit = timeout if timeout is not None else patience + _MORE_SECONDS
        if there["State"]["Paused"]:
            self._host.engine.unpause(there["Id"])
        suspended = next((process for process in self._host.processes(there) if process.suspended), None)
        if suspended is not None:
            # A suspended process takes no signal but this one; the others of the container go with it.
            outcome.did.append(f"kill suspended {suspended.pid}")
        self._kill(there, "KILL" if suspended is not None else stored.get("stop_signal", "TERM"))
        killed = suspended is not None
        began = self._clock()
        while self._host.engine.inspect_container(there["Id"])["State"]["Running"]:
            elapsed = self._clock() - began
            if not killed and elapsed > patience:
                killed = True
                self._kill(there, "KILL")
                outcome.did.append(f"kill {ref.name}, which did not end within {patience:g} s")
            if elapsed > limit:
                raise DeadlineExceeded(_thing(ref), f"its container still running after {limit:g} s", "its end")
            self._sleep(_POLL_SECONDS)

    def _kill(self, there: Body, name: str) -> None:
        try:
            self._host.engine.kill(there["Id"], signal=f"SIG{name}")
        except APIError as error:
            # It ended meanwhile, which whoever waits for it sees as well.
            if "is not running" not in said(error):
                raise

    # What is there

    def _describe_living(self, info: ServiceInfo, ref: ServiceRef, stored: Definition, there: Body) -> None:
        processes = self._host.processes(there)
        first = there["State"]["Pid"]
        info["pid"] = next((one.pid for one in processes if one.parent == first), first)
        info["memory_bytes"] = sum(one.memory for one in processes)
        moment = datetime.datetime.fromtimestamp(started(there), tz=datetime.UTC)
        info["started_at"] = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        info["digest_running"] = container.variable(there, TAG_DIGEST)
        info["state"], info["detail"] = self._living_state(ref, stored, there, processes)
        info["restart_needed"] = info["digest_running"] != info["digest_deployed"] or self._host.outdated(stored, there)
        info["reload_needed"] = _reload_needed(ref, stored, there)

    def _living_state(
        self, ref: ServiceRef, stored: Definition, there: Body, processes: Sequence[Process]
    ) -> tuple[str, str]:
        """State and detail of a container that runs."""
        if there["State"]["Paused"]:
            return "suspended", "its container is paused"
        if any(process.suspended for process in processes):
            return "suspended", "stopped by a signal (state T)"
        if lost := self._host.lost_address(stored, there):
            return "isolated", lost
        if self._host.cut_off(stored, there) is not None:
            return "isolated", f"cut off from network {stored['network']}"
        health = (there["State"].get("Health") or {}).get("Status")
        young = self._now() - started(there) < stored["start_seconds"] and health != "healthy"
        detail = ""
        if health == "unhealthy":
            detail = f"nothing takes connections at port {stored['ports'][0]}"
        elif _record(ref).oom:
            detail = f"started again after it was killed for memory over {stored['memory_limit']}"
        return "starting" if young else "running", detail


def _plan(definition: ServiceDefinition, wanted: Definition, image: Image) -> FilePlan:
    """What differs on this machine; folders that are on volumes are not made here."""
    first = ManagedFile(f"services/{definition.name}/{FIRST}", inspect.getsource(container_main), "0644")
    # Before the image is built, nobody knows whose the files will be.
    plan = plan_files(definition, [first], image.owner if image.id else None)
    for paths in (plan.folders, plan.given):
        paths[:] = [path for path in paths if not container.on_volume(wanted, str(path.relative_to(definition.root)))]
    return plan


def _thing(ref: ServiceRef) -> str:
    return f"service {ref.name} on {ref.host}"


def _record_path(ref: ServiceRef) -> Path:
    return Path(ref.root) / STATE / f"{ref.name}.json"


def _record(ref: ServiceRef) -> container_main.Record:
    return container_main.read_record(Path(ref.root) / STATE, ref.name, ref.host)


def _stored_or_nothing(ref: ServiceRef) -> Definition:
    try:
        return stored_definition(ref) or {}
    except ServiceError:
        return {}


def _complete(stored: dict[str, Any]) -> dict[str, Any]:
    """A definition that another runtime may have stored, which knows nothing of containers."""
    return {"image": None, "network": None, "user": None, "volumes": [], "mounts": [], **stored}


def _refuse_missing_mounts(stored: Definition) -> None:
    for name in stored["mounts"]:
        if not Path(name).exists():
            raise Refused(f"mount {name} of service {stored['name']}", "nothing there", "what it reads", "run site.yml")


def _make_state(ref: ServiceRef, owner: Owner) -> None:
    """Make the folders that the service itself writes to on this machine; everybody may read what is in there.

    :raises ServiceError: naming the folder that can't be made or given.
    """
    state = Path(ref.root) / STATE
    for folder in (state, (state / container_main.METRICS).parent):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Whoever is in the container could put a link in the second one's place.
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                os.fchown(descriptor, owner.uid, owner.gid)
                os.fchmod(descriptor, 0o755)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise ServiceError(str(folder), error.strerror or str(error), f"a folder for {owner.name}") from error


def _mark_unread(ref: ServiceRef, plan: FilePlan, there: Body | None) -> None:
    """Where reloadable files changed under a running process, what it has read does not count any more."""
    if there is not None and _lives(there) and any(file.reloads for _, file in plan.writes):
        mark_read(ref, there["State"]["Pid"], started(there), None)


def _lives(there: Body) -> bool:
    """Whether its service runs, be it paused; between two tries of Docker it does not."""
    return bool(there["State"]["Running"]) and not there["State"]["Restarting"]


def _reload_needed(ref: ServiceRef, stored: Definition, there: Body) -> bool:
    """Whether the process has not read the reloadable files that are deployed."""
    if stored.get("reload_digest") is None:
        return False
    since = started(there)
    mark = read_mark(ref)
    if mark is not None and (mark["pid"], mark["created"]) == (there["State"]["Pid"], since):
        return bool(mark["digest"] != stored["reload_digest"])
    # No signal yet, or the process that got one is gone: it has read what was there at its start.
    paths = [Path(ref.root) / entry["path"] for entry in stored["files"] if entry["reloads"]]
    return any(path.exists() and path.stat().st_mtime > since for path in paths)


def _exit_code(state: Mapping[str, Any], record: container_main.Record) -> int:
    """The service's own exit code, negative for a signal.

    The first process turns some codes into others, and is not asked when it is killed itself.
    """
    if record.state not in (*container_main.ALIVE, "unknown") and record.code is not None:
        return record.code
    code = int(state["ExitCode"])
    return 128 - code if 128 < code <= 128 + 64 else code


def _ending(there: Body, record: container_main.Record) -> str:
    code = _exit_code(there["State"], record)
    ending = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"{ending}, killed for memory" if record.oom or there["State"]["OOMKilled"] else ending


def _describe_ended(info: ServiceInfo, ref: ServiceRef, there: Body) -> None:
    """State, detail and exit code of a container whose service does not run."""
    state, record = there["State"], _record(ref)
    if state["Status"] == "created":
        info["state"], info["detail"] = "stopped", "not started yet"
        return
    info["exit_code"] = _exit_code(state, record)
    ending = _ending(there, record)
    # Whoever stops it clears the record of a service that had ended before, and lets Docker start it no more.
    cleared = record.state == "unknown" and there["HostConfig"]["RestartPolicy"]["Name"] == "no"
    if state["Restarting"]:
        info["state"], info["detail"] = "backoff", f"keeps ending, last {ending}"
    elif state["Status"] in ("dead", "removing"):
        info["state"], info["detail"] = "unknown", f"its container is {state['Status']}"
    elif record.state == "fatal":
        info["state"], info["detail"] = "fatal", f"{record.reason}, last {ending}"
    elif state["Error"]:
        info["state"], info["detail"] = "fatal", f"Docker could not start it again: {state['Error']}"
    elif record.state == "stopped" or cleared:
        info["state"], info["detail"] = "stopped", ""
    elif record.state == "exited":
        info["state"], info["detail"] = "exited", f"ended by itself with {ending}"
    else:
        info["state"], info["detail"] = "exited", f"ended with {ending}, and Docker does not start it again"
