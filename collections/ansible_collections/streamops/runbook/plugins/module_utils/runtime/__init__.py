"""Service runtimes: what starts, stops and watches the processes of a service.

A new runtime is one file here and one line in :func:`get`; modules and roles only ever name it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path
from typing import Protocol

from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused, ServiceError
from ansible_collections.streamops.runbook.plugins.module_utils.service import (
    DiffEntry,
    ServiceDefinition,
    ServiceInfo,
    ServiceRef,
)

NAMES = ("supervisor", "systemd", "docker")
# Fixed, not the caller's TMPDIR: two callers would not find the same supervisor.
RUN_BASE = Path("/tmp")  # noqa: S108 - what stands there is private and checked


@dataclasses.dataclass
class Outcome:
    """What a verb did, or under ``check`` would do.

    :param did: one phrase per act, in order; empty means that nothing changed.
    :param diff: differences of files, for ``--diff``.
    :param skipped: parts of the definition that this runtime can't enforce, with the reason.
    """

    did: list[str] = dataclasses.field(default_factory=list)
    diff: list[DiffEntry] = dataclasses.field(default_factory=list)
    skipped: list[str] = dataclasses.field(default_factory=list)


class Runtime(Protocol):
    """The verbs that every runtime offers. ``check`` plans and touches nothing.

    All raise ServiceError when the runtime can't do it, Refused when it would be wrong, and
    DeadlineExceeded when ``timeout`` (seconds, None for the service's own) runs out; what was done
    before the error stands in its notes.
    """

    def deploy(self, definition: ServiceDefinition, *, check: bool = False) -> Outcome:
        """Write files and definition and prepare the data once; never restart anything."""

    def start(self, ref: ServiceRef, *, timeout: float | None = None, check: bool = False) -> Outcome:
        """Spawn the deployed definition and see it live for a moment; not until it is ready."""

    def stop(self, ref: ServiceRef, *, timeout: float | None = None, check: bool = False) -> Outcome:
        """Ask the service to end and wait for it; nothing of it is left behind."""

    def restart(
        self,
        ref: ServiceRef,
        *,
        since: float | None = None,
        timeout: float | None = None,
        check: bool = False,
    ) -> Outcome:
        """Stop and start; with ``since`` (Unix seconds) only what started before that or works no more."""

    def reload(self, ref: ServiceRef, *, check: bool = False) -> Outcome:
        """Make the running process read its reloadable files again, unless it has read these already."""

    def remove(self, ref: ServiceRef, *, timeout: float | None = None, check: bool = False) -> Outcome:
        """Stop it and take its definition and files away; its data stays."""

    def info(self, ref: ServiceRef) -> ServiceInfo:
        """What is there now; reads only."""

    def logs(self, ref: ServiceRef, lines: int) -> list[str]:
        """The newest ``lines`` lines that the service printed, oldest first."""


def run_folder(root: str | Path, base: Path = RUN_BASE) -> Path:
    """Where a runtime keeps sockets and locks for the root of a host: a path to a socket must be short."""
    key = hashlib.sha256(os.path.realpath(root).encode()).hexdigest()[:8]
    return base / f"streamops-{os.getuid()}-{key}"


def absent_info(ref: ServiceRef) -> ServiceInfo:
    """A service of which nothing is known yet."""
    return ServiceInfo(
        service=ref.name,
        host=ref.host,
        state="absent",
        healthy=None,
        pid=None,
        started_at=None,
        memory_bytes=None,
        exit_code=None,
        detail="nothing deployed",
        digest_deployed=None,
        digest_running=None,
        restart_needed=False,
        reload_needed=False,
        identity=None,
    )


class Unprepared(ServiceError):
    """A host lacks what the runtime itself needs there."""


def get(name: str) -> Runtime:
    """The runtime of that name; its libraries are loaded only now.

    :raises Refused: when there is no such runtime.
    :raises Unprepared: when a library of it is not installed here.
    """
    if name not in NAMES:
        raise Refused("service runtime", repr(name), " | ".join(NAMES))
    try:
        return _load(name)
    except ImportError as error:
        raise Unprepared(
            f"service runtime {name}",
            f"no Python package {error.name}",
            "what the runtime needs on a host",
            "prepare the host: run site.yml",
        ) from error


def _load(name: str) -> Runtime:
    if name == "systemd":
        from ansible_collections.streamops.runbook.plugins.module_utils.runtime.systemd import SystemdRuntime

        return SystemdRuntime()
    if name == "docker":
        from ansible_collections.streamops.runbook.plugins.module_utils.runtime.docker_engine import DockerRuntime

        return DockerRuntime()
    from ansible_collections.streamops.runbook.plugins.module_utils.runtime.supervisor import SupervisorRuntime

    return SupervisorRuntime()
