"""What a run leaves behind: kernel locks, and the pair of files ID.started.json and ID.finished.json.

A lock is a ``flock`` on a file that stays; the kernel frees it with the last process that holds it,
so no lock is ever stale and none is ever deleted. A run that has a started file, no finished one and
a process that is gone was interrupted: the next run says so, closes its record and goes on.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .errors import Refused, RunbookError

STATUSES = (
    "completed",
    "degraded",
    "failed",
    "refused",
    "locked",
    "interrupted",
    "rolled_back",
    "failed_rollback",
)
EXIT_CODES = {
    "completed": 0,
    "failed": 2,
    "rolled_back": 2,
    "failed_rollback": 2,
    "refused": 3,
    "degraded": 4,
    "locked": 75,
}
_SECRET_WORDS = ("password", "secret", "token", "credential", "_key")


def now_text() -> str:
    """Return the present time as RFC 3339, UTC, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def new_run_id(procedure: str) -> str:
    """Return an id that sorts by time and names its procedure."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{procedure}-{secrets.token_hex(2)}"


def process_start(pid: int) -> float | None:
    """Return when a process started, in clock ticks since boot (proc(5), field 22); None if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rsplit(")", 1)[1].split()
    return None if fields[0] == "Z" else float(fields[19])


def write_json(path: Path, document: Mapping[str, Any], *, new: bool = False, durable: bool = False) -> bool:
    """Write ``document`` whole or not at all, readable by the owner alone.

    :param new: leave a file alone that is there already, be it since this very moment.
    :param durable: a loss of power right afterwards leaves the new content or the old, never an empty file.
    :returns: whether it was written.
    """
    spare = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(spare, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
        json.dump(document, stream, indent=2, default=str)
        stream.write("\n")
        if durable:
            stream.flush()
            os.fsync(stream.fileno())
    if not new:
        spare.replace(path)
        return True
    try:
        path.hardlink_to(spare)
    except FileExistsError:
        return False
    finally:
        spare.unlink()
    return True


def without_secrets(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters with the value of every secret-looking name blotted out."""
    return {
        name: "(not recorded)" if any(word in name.lower() for word in _SECRET_WORDS) else value
        for name, value in parameters.items()
    }


def age_text(seconds: float) -> str:
    """Say an age in the two largest units."""
    whole = max(0, int(seconds))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


@dataclass(frozen=True)
class Holder:
    """The run that holds a lock, as its lock file tells."""

    run: str
    procedure: str
    pid: int
    start: float
    since: str

    @classmethod
    def read(cls, path: Path) -> Holder | None:
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            return cls(raw["run"], raw["procedure"], int(raw["pid"]), float(raw["start"]), raw["since"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def alive(self) -> bool:
        """Tell whether the recorded process still runs (the pid may belong to another by now)."""
        return process_start(self.pid) == self.start

    def age(self) -> float:
        """Return the seconds since the lock was taken."""
        return (datetime.now(UTC) - datetime.fromisoformat(self.since)).total_seconds()


class Locked(RunbookError):
    """Another run holds a resource."""

    def __init__(self, resource: str, holder: Holder | None) -> None:
        self.resource = resource
        self.holder = holder
        if holder is None:
            found, step = "held by a run that has not said its name yet", "try again"
        else:
            found = f"held by run {holder.run} for {age_text(holder.age())}"
            step = f"wait for it, or end it with -e takeover={holder.run}"
            if not holder.alive():
                found += " (that process is gone; the task that it had in flight still runs)"
                step = "wait for that task to end and try again"
        super().__init__(f"lock {resource}", found, "a free lock", step)


class Locks:
    """The flocks of one run; kept open for its whole life and inherited by Ansible's workers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._streams: list[Any] = []

    def take(self, resources: Iterable[str], run: str, procedure: str, patience: float = 0.0) -> None:
        """Take every lock or none; :class:`Locked` names the holder.

        :param patience: seconds to wait for a lock that is held.
        """
        wanted, end = sorted(resources), time.monotonic() + patience
        while True:
            try:
                self._take_now(wanted, run, procedure)
                return
            except Locked:
                if time.monotonic() >= end:
                    raise
            time.sleep(0.5)

    def _take_now(self, resources: Iterable[str], run: str, procedure: str) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for resource in resources:
            path = self._folder / f"{resource}.lock"
            stream = path.open("a+", encoding="utf-8")
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                stream.close()
                self.release()
                raise Locked(resource, Holder.read(path)) from None
            self._streams.append(stream)
            stream.seek(0)
            stream.truncate()
            json.dump(
                {
                    "run": run,
                    "procedure": procedure,
                    "pid": os.getpid(),
                    "start": process_start(os.getpid()),
                    "since": now_text(),
                },
                stream,
            )
            stream.flush()

    def release(self) -> None:
        """Let go of everything (the end of the process does it as well)."""
        for stream in self._streams:
            stream.close()
        self._streams = []


def take_over(
    locked: Locked,
    run: str,
    *,
    grace: float = 15.0,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """End the holder of a lock: only the recorded process, only while its start time still matches.

    :param run: the id that the operator repeated; it must be the holder's.
    :param grace: seconds between SIGTERM and SIGKILL.
    """
    holder = locked.holder
    if holder is None or holder.run != run:
        raise Refused(
            "takeover",
            run,
            f"the id of the holder, {holder.run if holder else 'which is not known yet'}",
            "repeat the id that the lock names",
        )
    for sign in (signal.SIGTERM, signal.SIGKILL):
        waited = 0.0
        if holder.alive():
            os.kill(holder.pid, sign)
        while holder.alive() and waited < grace:
            sleep(0.2)
            waited += 0.2
        if not holder.alive():
            return
    raise Refused(
        "takeover",
        f"process {holder.pid} survived SIGKILL",
        "a process that ends",
        "look at it by hand",
    )


@dataclass
class Run:
    """The record of one run while it grows."""

    folder: Path
    id: str
    procedure: str
    started: dict[str, Any]
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def started_path(self) -> Path:
        return self.folder / f"{self.id}.started.json"

    @property
    def finished_path(self) -> Path:
        return self.folder / f"{self.id}.finished.json"

    @property
    def journal_path(self) -> Path:
        return self.folder / f"{self.id}.journal.jsonl"

    @property
    def progress_path(self) -> Path:
        return self.folder / f"{self.id}.progress"

    def begin(self) -> None:
        """Write the started file."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_json(self.started_path, self.started)

    def note(self, entry: Mapping[str, Any]) -> None:
        """Append one line to the journal: what is left of a run that gets killed."""
        if not self.folder.is_dir():
            # The run has just removed the deployment and its records with it.
            return
        with os.fdopen(os.open(self.journal_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a") as stream:
            stream.write(json.dumps({"at": now_text(), **entry}, default=str) + "\n")

    def finish(self, status: str, **more: Any) -> dict[str, Any]:
        """Write the finished file once; a second call changes nothing.

        :returns: the record as it stands in the file.
        """
        document = {
            **self.started,
            **self.data,
            **more,
            "status": status,
            "exit_code": EXIT_CODES.get(status),
            "finished_at": now_text(),
        }
        if not self.folder.is_dir():
            return document
        if not write_json(self.finished_path, document, new=True):
            done: dict[str, Any] = json.loads(self.finished_path.read_text(encoding="utf-8"))
            return done
        self.progress_path.unlink(missing_ok=True)
        return document

    def add(self, record: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
        """Note in the finished file what came to pass after it was written.

        :param record: the record as :meth:`finish` returned it.
        :returns: the record with that.
        """
        document = {**record, **more}
        if more and self.finished_path.exists():
            write_json(self.finished_path, document)
        return document


class Outbox:
    """Which finished records are still to be kept on the control host as well: an empty file named by the run each."""

    # What one call carries; what waits beyond that goes with the next.
    MOST = 20

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, run: str) -> None:
        """Note that the record of a run is to be sent."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self._folder / run).touch(mode=0o600)

    def waiting(self, records: Path) -> list[Path]:
        """Return the finished records to send, oldest first.

        :param records: the folder of all records; a name without a record there is dropped.
        """
        if not self._folder.is_dir():
            return []
        found = []
        for path in sorted(self._folder.iterdir()):
            record = records / f"{path.name}.finished.json"
            if record.exists():
                found.append(record)
            else:
                path.unlink()
        return found[: self.MOST]

    def sent(self, runs: Iterable[str]) -> None:
        """Note that these records are kept there now."""
        for run in runs:
            (self._folder / run).unlink(missing_ok=True)


def _journal(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            # The last line of a killed run may be cut short; what stands before it counts.
            continue
    return entries


def close_interrupted(folder: Path) -> list[dict[str, Any]]:
    """Close the record of every run that began, never finished and whose process is gone.

    :returns: for each: id, procedure, started_at, the last phase and what it had done by then.
    """
    found = []
    for path in sorted(folder.glob("*.started.json")):
        run_id = path.name.removesuffix(".started.json")
        finished = folder / f"{run_id}.finished.json"
        if finished.exists():
            continue
        started = json.loads(path.read_text(encoding="utf-8"))
        if process_start(int(started["pid"])) == started["pid_start"]:
            continue
        journal = _journal(folder / f"{run_id}.journal.jsonl")
        left = {
            "run": run_id,
            "procedure": started["procedure"],
            "started_at": started["started_at"],
            "phase": next((entry["phase"] for entry in reversed(journal) if "phase" in entry), "check"),
            "planned": next((entry["plan"] for entry in reversed(journal) if "plan" in entry), []),
            "done": [entry["did"] for entry in journal if "did" in entry],
        }
        document = {
            **started,
            "status": "interrupted",
            "exit_code": None,
            "left": left,
            "finished_at": now_text(),
        }
        # Runs with different locks may come by at the same moment: one of them closes it.
        if write_json(finished, document, new=True):
            (folder / f"{run_id}.progress").unlink(missing_ok=True)
            found.append(left)
    return found


def is_over(folder: Path, run_id: str) -> bool:
    """Tell whether a run of this deployment has come to its end, and its record been closed."""
    return (folder / f"{run_id}.finished.json").exists()


def last_completed(folder: Path) -> dict[str, Any] | None:
    """Return the newest record of a run that completed and proved, or None."""
    for path in sorted(folder.glob("*.finished.json"), reverse=True):
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if document.get("status") == "completed" and document.get("proof") and not document.get("check"):
            return document
    return None
