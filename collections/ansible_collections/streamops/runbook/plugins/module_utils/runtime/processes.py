"""What the processes of a service say of themselves, for every runtime that sees them.

They are found by their environment, which carries the tags of :class:`ServiceDefinition`, and are known
by their start time: a number alone may be another's by the next look.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from ansible_collections.streamops.runbook.plugins.module_utils.errors import (
    DeadlineExceeded,
    Refused,
    RunbookError,
    ServiceError,
)
from ansible_collections.streamops.runbook.plugins.module_utils.processes import Process
from ansible_collections.streamops.runbook.plugins.module_utils.runtime import Outcome
from ansible_collections.streamops.runbook.plugins.module_utils.runtime import absent_info as absent_info
from ansible_collections.streamops.runbook.plugins.module_utils.service import (
    TAG_DIGEST,
    TAG_RELOADABLE,
    TAG_ROOT,
    TAG_SERVICE,
    ServiceInfo,
    ServiceRef,
    stored_definition,
)
from ansible_collections.streamops.runbook.plugins.module_utils.service_files import (
    FilePlan,
    mark_read,
    read_mark,
)

_POLL_SECONDS = 0.1
_DYING_SECONDS = 2.0
_LOCK_SECONDS = 60


def environments() -> Iterator[tuple[psutil.Process, dict[str, str]]]:
    """Each process whose environment may be read, with it."""
    for process in psutil.process_iter():
        try:
            yield process, process.environ()
        except psutil.Error:
            # Ended meanwhile, or another user's: not ours.
            continue


def environment_of(pid: int) -> dict[str, str]:
    """The environment that a process was started with; empty when it can't be read."""
    try:
        return psutil.Process(pid).environ()
    except psutil.Error:
        return {}


def tagged(ref: ServiceRef) -> list[psutil.Process]:
    """Processes of this service, oldest first, whoever started them."""
    return [
        process
        for process, environment in environments()
        if environment.get(TAG_SERVICE) == ref.name and environment.get(TAG_ROOT) == ref.root
    ]


def alive(pid: int) -> psutil.Process | None:
    """The process of that number; None when it has ended, whether or not its parent knows yet."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process
    except psutil.NoSuchProcess:
        return None


def suspended(pid: int) -> bool:
    """Whether a signal has stopped it (state T)."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.NoSuchProcess:
        return False


def spared(pid: int, since: float | None) -> bool:
    """Whether a restart of what started before ``since`` (Unix seconds) leaves it alone: it is younger, and works."""
    if since is None:
        return False
    process = alive(pid)
    return process is not None and process.create_time() >= since and not suspended(pid)


def end(
    processes: list[psutil.Process],
    wait: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
    reap: Callable[[], None] = lambda: None,
) -> None:
    """Wait until all of them have ended.

    :param wait: seconds at most.
    :param reap: called before each look; collects children of ours.
    :raises ServiceError: naming the first that is still there.
    """
    deadline = clock() + wait
    while True:
        reap()
        # A zombie has ended; some first processes take their time to collect it.
        left = [process for process in processes if process.is_running() and alive(process.pid)]
        if not left:
            return
        if clock() > deadline:
            raise ServiceError(f"process {left[0].pid}", f"still there after {wait:g} s", "its end")
        sleep(0.05)


def sweep(
    ref: ServiceRef,
    outcome: Outcome,
    wait: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
) -> list[psutil.Process]:
    """Kill what is left of a stopped service.

    A child of the service (the JVM below the Spark driver) may need a moment to notice that its parent is
    gone; what is still there after ``wait`` seconds is killed and reported.

    :returns: the killed ones, whose end is still to be waited for.
    """
    deadline = clock() + wait
    while True:
        leftovers = tagged(ref)
        if not leftovers:
            return []
        if clock() >= deadline:
            break
        sleep(_POLL_SECONDS)
    for process in leftovers:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
        outcome.did.append(f"kill leftover {process.pid}")
    return leftovers


def add_process(info: ServiceInfo, pid: int) -> None:
    """Fill in what the process itself says; one that just ended leaves the fields empty."""
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            status, created = process.status(), process.create_time()
            memory = process.memory_info().rss
            digest = process.environ().get(TAG_DIGEST)
        children = process.children(recursive=True)
    except psutil.Error:
        return
    for child in children:
        with contextlib.suppress(psutil.Error):
            memory += child.memory_info().rss
    info["pid"] = pid
    info["memory_bytes"] = memory
    info["digest_running"] = digest
    moment = datetime.datetime.fromtimestamp(created, tz=datetime.UTC)
    info["started_at"] = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if status == psutil.STATUS_STOPPED and info["state"] != "unknown":
        info["state"], info["detail"] = "suspended", "stopped by a signal (state T)"


def compare_digests(info: ServiceInfo, ref: ServiceRef, stored: dict[str, Any]) -> None:
    """Say whether the process runs an older definition, or has not read the newest reloadable files."""
    running = info["digest_running"]
    info["restart_needed"] = running is not None and running != info["digest_deployed"]
    if info["pid"] is not None and stored.get("reload_digest") is not None:
        info["reload_needed"] = _read_by(ref, info["pid"]) != stored["reload_digest"]


def _read_by(ref: ServiceRef, pid: int) -> str | None:
    """Digest of the reloadable files that a process has read: at its last signal, else at its start."""
    mark = read_mark(ref)
    with contextlib.suppress(psutil.Error):
        if mark is not None and mark["pid"] == pid and mark["created"] == psutil.Process(pid).create_time():
            return None if mark["digest"] is None else str(mark["digest"])
    # No signal yet, or the process that got one is gone: what it was started with counts.
    return environment_of(pid).get(TAG_RELOADABLE)


def mark_unread(ref: ServiceRef, plan: FilePlan) -> None:
    """Where reloadable files changed under a running process, what it has read does not count any more.

    The digest alone would not tell: somebody damaged a file by hand, and the same content was put back.
    """
    if any(file.reloads for _, file in plan.writes):
        for process in tagged(ref)[:1]:
            mark_read(ref, process.pid, process.create_time(), None)


def refuse_taken_ports(
    ref: ServiceRef, stored: dict[str, Any], clock: Callable[[], float], sleep: Callable[[float], None]
) -> None:
    """Refuse a start when one of the service's ports can't be had.

    :raises Refused: naming the process that holds it, where one can be named.
    """
    address = ref.address or stored["address"]
    deadline = clock() + _DYING_SECONDS
    for port in stored.get("ports", []):
        while (error := _bind_error(address, port)) is not None:
            holder = _holder(address, port)
            # A process that was just killed keeps its port until the kernel took it apart.
            if holder is None and clock() < deadline:
                sleep(_POLL_SECONDS)
                continue
            raise Refused(
                f"service {ref.name} on {ref.host}",
                f"{address}:{port} {holder or f'not to be had: {error.strerror}'}",
                "a free port",
                "end what holds it, or give the service another port",
            )


def _bind_error(address: str, port: int) -> OSError | None:
    """Why this address can't be listened at now; None when it can."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        # Without this option a port of a process that just ended counts as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError as error:
            return error
    return None


def _holder(address: str, port: int) -> str | None:
    """Which living process listens there, in words; None when none can be named."""
    wildcards = {address, "0.0.0.0", "::"}  # noqa: S104 - compared, not bound
    for connection in psutil.net_connections("tcp"):
        if (
            connection.status == psutil.CONN_LISTEN
            and connection.laddr
            and connection.laddr.port == port
            and connection.laddr.ip in wildcards
            and connection.pid is not None
        ):
            try:
                return f"is taken by {Process.of(psutil.Process(connection.pid))}"
            except psutil.Error:
                return None
    return None


def deployed(ref: ServiceRef) -> dict[str, Any]:
    """The stored definition of a service that has one.

    :raises Refused: when nothing was deployed.
    """
    stored = stored_definition(ref)
    if stored is None:
        raise Refused(f"service {ref.name} on {ref.host}", "nothing deployed", "a deployed definition")
    return stored


@contextlib.contextmanager
def noting(outcome: Outcome) -> Iterator[None]:
    """Let an error carry what was done before it, as notes."""
    try:
        yield
    except RunbookError as error:
        for phrase in outcome.did:
            error.add_note(phrase)
        raise


@contextlib.contextmanager
def locked(path: Path, clock: Callable[[], float], sleep: Callable[[float], None]) -> Iterator[None]:
    """One actor at a time; the kernel frees the lock of whoever dies.

    :raises DeadlineExceeded: when another run holds it for a minute.
    """
    with path.open("a") as stream:
        deadline = clock() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if clock() > deadline:
                    found = f"held for {_LOCK_SECONDS} s by another run"
                    raise DeadlineExceeded(str(path), found, "a free lock") from error
                sleep(_POLL_SECONDS)
        yield


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a file, read from its end; empty when there is no such file.

    :raises ServiceError: when it can't be read.
    """
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - 400 * max(lines, 1) - 4096))
            text = stream.read().decode(errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ServiceError(str(path), error.strerror or str(error), "a readable log") from error
    return text.splitlines()[-lines:] if lines > 0 else []
