"""Leases: locks of resources that hold across controllers, kept as files on one control host.

A flock holds on one machine. Where several controllers may act on the same hosts, each of them also takes
a lease of each resource on the host that the inventory names: ``<folder>/<resource>.json``, read and replaced
only under a flock there. A lease is free again when its owner gives it back, when its time has passed, or
when its owner's own controller says that the process is gone; nothing else frees it. The fencing number grows
with each change of the owner and survives it, so that whoever comes late sees that the lease is another's.

Times are those of the control host alone. Whether a lease has expired is measured on a clock that nobody
sets, as long as that host was not restarted meanwhile.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from .errors import Refused, ServiceError
from .runs import age_text, process_start, write_json

CONTROLLER_VARIABLE = "RUNBOOK_CONTROLLER"
"""Environment variable that names this controller in place of its host name and machine id."""

_RESOURCE = re.compile(r"^[a-z0-9][a-z0-9-]*$")
_CONTROLLER = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
_RUN_ID = re.compile(r"^[0-9]{8}T[0-9]{6}Z-[a-z0-9-]+$")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MACHINE_ID = Path("/etc/machine-id")
_PATIENCE_SECONDS = 10.0


def rfc3339(moment: datetime) -> str:
    """Return a time as RFC 3339, UTC, whole seconds."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        # A container may have neither; what is compared then is the host name alone.
        return ""


def controller_id(environment: Mapping[str, str], host: str | None = None, machine_id: Path = _MACHINE_ID) -> str:
    """Return the name by which this controller owns leases: host name and a hash of the machine's id.

    :param environment: ``RUNBOOK_CONTROLLER`` names it otherwise.
    """
    named = environment.get(CONTROLLER_VARIABLE, "")
    if named:
        return named
    machine = _text(machine_id)
    suffix = f"-{hashlib.sha256(machine.encode()).hexdigest()[:12]}" if machine else ""
    return f"{host or socket.gethostname()}{suffix}"


@dataclass(frozen=True)
class Owner:
    """The run that owns a lease, and the process by which its own controller knows whether it still runs.

    :param pid_start: when the process started, in clock ticks since the machine's boot.
    :param boot_id: which boot of the controller that was.
    :param pid_namespace: in which its pid means anything; containers of one machine share the boot.
    """

    controller: str
    run: str
    procedure: str
    pid: int
    pid_start: float
    boot_id: str = ""
    pid_namespace: str = ""

    @classmethod
    def here(cls, run: str, procedure: str, environment: Mapping[str, str]) -> Owner:
        """Return this very process as an owner."""
        pid = os.getpid()
        return cls(
            controller_id(environment),
            run,
            procedure,
            pid,
            process_start(pid) or 0.0,
            _text(_BOOT_ID),
            _pid_namespace(),
        )

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Owner:
        """Read an owner from a file or from a module's parameter.

        :raises ValueError, KeyError, TypeError: where it is none.
        """
        return cls(
            str(raw["controller"]),
            str(raw["run"]),
            str(raw["procedure"]),
            int(raw["pid"]),
            float(raw["pid_start"]),
            str(raw.get("boot_id", "")),
            str(raw.get("pid_namespace", "")),
        )

    def gone(self, here: Owner, start: Callable[[int], float | None] = process_start) -> bool:
        """Tell whether the process is surely gone; only its own controller can say so.

        :param here: this process, whose controller it must be.
        """
        if self.controller != here.controller:
            return False
        if self.boot_id != here.boot_id:
            return True
        # In another container of the same name the pid would be somebody else's.
        return self.pid_namespace == here.pid_namespace and start(self.pid) != self.pid_start


def _pid_namespace() -> str:
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


@dataclass(frozen=True)
class Moment:
    """One reading of a machine's clocks: the wall's, and seconds since a boot of it."""

    wall: datetime
    since_boot: float
    boot_id: str

    @classmethod
    def now(cls) -> Moment:
        return cls(datetime.now(UTC), time.clock_gettime(time.CLOCK_BOOTTIME), _text(_BOOT_ID))

    def since(self, earlier: Moment) -> float:
        """Return the seconds that have passed; a clock that was set counts only across a restart."""
        if self.boot_id and self.boot_id == earlier.boot_id:
            return self.since_boot - earlier.since_boot
        return (self.wall - earlier.wall).total_seconds()

    def as_dict(self) -> dict[str, Any]:
        return {"wall": self.wall.isoformat(), "since_boot": self.since_boot, "boot_id": self.boot_id}

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Moment:
        wall = datetime.fromisoformat(raw["wall"])
        if wall.tzinfo is None:
            raise ValueError(raw["wall"])
        return cls(wall, float(raw["since_boot"]), str(raw["boot_id"]))


@dataclass(frozen=True)
class Lease:
    """The lease of one resource.

    :param fence: one more with each change of the owner.
    :param owner: None when it was given back.
    :param acquired: when the owner got it, on the control host's clocks.
    :param seconds: how long it lasts from then.
    """

    resource: str
    fence: int
    owner: Owner | None
    acquired: Moment
    seconds: float

    def expired(self, now: Moment) -> bool:
        return now.since(self.acquired) >= self.seconds

    def as_dict(self, now: Moment) -> dict[str, Any]:
        """Return what the file holds and, for people, its age in seconds and its end."""
        return {
            "resource": self.resource,
            "fence": self.fence,
            "owner": asdict(self.owner) if self.owner else None,
            "acquired": self.acquired.as_dict(),
            "seconds": self.seconds,
            "acquired_at": rfc3339(self.acquired.wall),
            "expires_at": rfc3339(self.acquired.wall + timedelta(seconds=self.seconds)),
            "age": round(max(0.0, now.since(self.acquired)), 1),
        }

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Lease:
        owner = raw["owner"]
        return cls(
            str(raw["resource"]),
            int(raw["fence"]),
            Owner.parse(owner) if owner is not None else None,
            Moment.parse(raw["acquired"]),
            float(raw["seconds"]),
        )


@dataclass(frozen=True)
class Taken:
    """What a call of :meth:`Leases.take` came to.

    :param held: leases of other owners; where there is one, nothing was taken.
    :param left: the leases that others had left behind and that are ours now, each with ``why``.
    """

    leases: tuple[dict[str, Any], ...] = ()
    held: tuple[dict[str, Any], ...] = ()
    left: tuple[dict[str, Any], ...] = ()


class Leases:
    """The leases of one folder on this machine, the control host.

    :param clock: reads this machine's clocks.
    :param patience: seconds to wait for another call that is just reading or writing.
    """

    def __init__(
        self,
        folder: Path,
        clock: Callable[[], Moment] = Moment.now,
        sleep: Callable[[float], None] = time.sleep,
        patience: float = _PATIENCE_SECONDS,
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._sleep = sleep
        self._patience = patience

    def take(
        self,
        resources: Iterable[str],
        owner: Owner,
        seconds: float,
        gone: Sequence[Mapping[str, Any]] = (),
        *,
        plan_only: bool = False,
    ) -> Taken:
        """Take every lease or none.

        :param seconds: how long they last.
        :param gone: ``resource`` and ``fence`` of leases of the same controller whose process, as it says
            itself, is gone.
        :param plan_only: write nothing.
        :raises Refused: a name that is none, or a file that is no lease.
        """
        wanted = sorted(set(resources))
        with self._alone():
            now = self._clock()
            found = {resource: self._read(resource) for resource in wanted}
            held, left = [], []
            for lease in found.values():
                if lease is None or lease.owner is None:
                    continue
                if (lease.owner.run, lease.owner.controller) == (owner.run, owner.controller):
                    # A call whose answer got lost, asked again.
                    continue
                if why := self._why_free(lease, owner, gone, now):
                    left.append({**lease.as_dict(now), "why": why})
                else:
                    held.append(lease.as_dict(now))
            if held:
                return Taken(held=tuple(held))
            taken = [
                Lease(resource, (lease.fence if lease else 0) + 1, owner, now, seconds)
                for resource, lease in found.items()
            ]
            if not plan_only:
                for lease in taken:
                    self._write(lease, now)
            return Taken(tuple(lease.as_dict(now) for lease in taken), left=tuple(left))

    @staticmethod
    def _why_free(lease: Lease, owner: Owner, gone: Sequence[Mapping[str, Any]], now: Moment) -> str:
        """Say why a lease that another run owns may be taken all the same; nothing when it may not."""
        if lease.expired(now):
            return f"it expired {age_text(now.since(lease.acquired) - lease.seconds)} ago"
        named = any(entry["resource"] == lease.resource and int(entry["fence"]) == lease.fence for entry in gone)
        if named and lease.owner is not None and lease.owner.controller == owner.controller:
            return "its process on the same controller is gone"
        return ""

    def release(self, fences: Mapping[str, int], run: str, *, plan_only: bool = False) -> tuple[list[str], list[str]]:
        """Give back the leases that are still this run's with the same fencing number.

        :param fences: fencing number by resource, as taken.
        :returns: the resources given back, and a sentence on each lease that is no longer this run's.
        """
        released, foreign = [], []
        with self._alone():
            now = self._clock()
            for resource, fence in sorted(fences.items()):
                lease = self._read(resource)
                if lease is not None and lease.fence == fence and lease.owner is None:
                    # A second call after an answer that got lost: it is given back already.
                    continue
                if lease is None or lease.fence != fence or lease.owner is None or lease.owner.run != run:
                    foreign.append(self._no_longer(resource, fence, lease))
                    continue
                released.append(resource)
                if not plan_only:
                    self._write(Lease(resource, fence, None, lease.acquired, lease.seconds), now)
        return released, foreign

    @staticmethod
    def _no_longer(resource: str, fence: int, lease: Lease | None) -> str:
        if lease is None:
            return f"lease {resource}: its file is gone, fencing number {fence} was ours"
        if lease.owner is None:
            return f"lease {resource}: another owner had it and gave it back, fencing number {lease.fence}, not {fence}"
        owner = lease.owner
        return (
            f"lease {resource}: run {owner.run} of controller {owner.controller} has it now, "
            f"fencing number {lease.fence}, not {fence}"
        )

    def read(self, resources: Iterable[str]) -> list[dict[str, Any]]:
        """Return the leases that there are."""
        if not self._folder.is_dir():
            return []
        with self._alone():
            now = self._clock()
            found = [self._read(resource) for resource in sorted(set(resources))]
        return [lease.as_dict(now) for lease in found if lease is not None]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._folder / ".lock"
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "w") as stream:
            waited = 0.0
            while True:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    # Not for ever: whoever asked has a limit, and must not get a lease after it has given up.
                    if waited >= self._patience:
                        raise ServiceError(
                            f"lease folder {self._folder}",
                            f"locked by another call for {self._patience:g} s",
                            "a call that ends within a second",
                            f"fuser {path} names the process",
                        ) from None
                self._sleep(0.1)
                waited += 0.1
            yield

    def _path(self, resource: str) -> Path:
        if not _RESOURCE.match(resource):
            raise Refused(f"resource {resource!r}", "no name of a resource", "small letters, digits and hyphens")
        return self._folder / f"{resource}.json"

    def _read(self, resource: str) -> Lease | None:
        path = self._path(resource)
        try:
            return Lease.parse(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            # Whose it is can't be told, so nobody may take it.
            raise Refused(
                f"lease file {path}",
                f"no lease ({type(error).__name__})",
                "what this module wrote",
                "make sure that no run is under way, then move it away",
            ) from None

    def _write(self, lease: Lease, now: Moment) -> None:
        write_json(self._path(lease.resource), lease.as_dict(now), durable=True)


def keep_records(folder: Path, records: Sequence[str], *, plan_only: bool = False) -> tuple[list[str], list[str]]:
    """Keep finished records of other machines' runs here, each in a file of its own with mode 0600.

    :param records: JSON texts as they stand in the files ``ID.finished.json``.
    :returns: the ids that are kept, and a sentence on each record that could not be.
    """
    kept, errors = [], []
    for text in records:
        try:
            document = json.loads(text)
            run = str(document["id"])
            if not _RUN_ID.match(run):
                raise ValueError(f"{run!r} is no id of a run")
            if not plan_only:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                write_json(folder / f"{run}.finished.json", document)
            kept.append(run)
        except (OSError, ValueError, KeyError, TypeError) as error:
            errors.append(f"record not kept in {folder}: {type(error).__name__}: {error}")
    return kept, errors


def keep_figures(folder: Path, controller: str, text: str, *, plan_only: bool = False) -> list[str]:
    """Put the figures of a controller's runs where this machine's exporter reads text files.

    :param folder: of text files.
    :param controller: whose they are; each has a file of its own, which it replaces.
    :returns: a sentence where they could not be put there.
    """
    path = folder / f"runs-{controller}.prom"
    try:
        if not _CONTROLLER.match(controller):
            raise ValueError(f"{controller!r} is no name of a controller")
        if not plan_only:
            folder.mkdir(parents=True, exist_ok=True, mode=0o755)
            fresh = folder / f".{path.name}.{os.getpid()}"
            # Whole or not at all: a scrape may come at any moment.
            fresh.write_text(text, encoding="utf-8")
            fresh.chmod(0o644)
            fresh.replace(path)
    except (OSError, ValueError) as error:
        return [f"figures not kept in {folder}: {type(error).__name__}: {error}"]
    return []
