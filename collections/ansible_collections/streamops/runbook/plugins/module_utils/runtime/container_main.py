"""First process of a service's container: it runs the service and judges its end; copied to the host and run.

Docker starts a container again after every exit code but 0, counts such ends over the container's whole life,
and forgets what came before the last. The rules here are those of the sandbox's supervisor (see
supervisord_main.py):

1. An exit code that ends the service for good does so at once.
2. A service that ends unexpectedly again and again is given up: ``crashes`` ends within ``window_seconds``, or
   more than ``retries`` before ``start_seconds`` in a row or within :data:`WINDOW_SECONDS`.

Docker is told by the exit code alone: 0 where the service may not be started again, another where it must. What
really happened stands in ``<folder>/<service>.json``, and the states of all services of the host as Prometheus
text in ``<folder>/metrics/services.prom``. It needs nothing but Python, and signals other than those of the
kernel go to the service as they come.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

WINDOW_SECONDS = 600
"""Unexpected ends are counted over this time where a service has no window of its own."""

TICK_SECONDS = 5.0
STALE_SECONDS = 3 * TICK_SECONDS
LINGER_SECONDS = 5.0
"""A child of the service (the JVM below the Spark driver) may need a moment to notice that its parent is gone."""

_LONGEST_RECORD = 1 << 16
_FOR_GOOD_SECONDS = 10 * 365 * 86_400

METRICS = "metrics/services.prom"
STATES = ("running", "starting", "backoff", "stopped", "exited", "fatal", "stopping", "unknown")
ALIVE = ("running", "starting", "stopping")

# Killed by the kernel for memory, counted by the container's own group; the newer hierarchy first.
_OOM_FILES = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")
# What a process can't survive or get from others is left alone.
_OWN_SIGNALS = ("SIGKILL", "SIGSTOP", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGTRAP", "SIGSYS")
_HANDLED = signal.valid_signals() - {getattr(signal, name) for name in _OWN_SIGNALS}


@dataclasses.dataclass(frozen=True)
class Rules:
    """What the definition says of the service's end; times in seconds.

    :param folder: where the records of the host's services stand.
    :param stop_signal: the signal's name without SIG; an end after it was wanted.
    """

    service: str
    host: str
    folder: str
    policy: str
    success_exit_codes: Sequence[int]
    retries: int
    crashes: int | None
    window_seconds: int | None
    start_seconds: float
    stop_signal: str


@dataclasses.dataclass
class Record:
    """What is known of a service, kept from one start of its container to the next; times in Unix seconds.

    :param early: unexpected ends in a row, each before ``start_seconds``.
    :param ends: unexpected ends that still count.
    :param code: exit code of the last end, negative for a signal; None before the first.
    :param oom: whether the kernel killed one of its processes for memory before that end.
    :param kills: how often that was so since somebody started it.
    :param reason: why it was given up.
    """

    service: str
    host: str
    state: str = "starting"
    began: float = 0.0
    updated: float = 0.0
    starts: int = 0
    early: int = 0
    ends: list[float] = dataclasses.field(default_factory=list)
    code: int | None = None
    oom: bool = False
    kills: int = 0
    reason: str = ""


def judge(rules: Rules, record: Record, code: int, *, wanted: bool, now: float) -> int:
    """Put an end into the record.

    :param code: the service's exit code, negative for a signal.
    :param wanted: whether somebody asked for the end.
    :returns: the exit code for Docker.
    """
    told = code if code >= 0 else 128 - code
    record.code, record.updated = code, now
    if wanted:
        record.early, record.ends, record.state = 0, [], "stopped"
        # An engine that goes down with the machine asks for this end too, and starts it again after any code but 0.
        return told or 128 + signal.SIGTERM
    if rules.policy == "never":
        record.state = "exited"
        return told
    if rules.policy == "on-failure" and code in rules.success_exit_codes:
        record.state = "exited"
        return 0
    early = now - record.began < rules.start_seconds
    record.early = record.early + 1 if early else 0
    limited = rules.crashes is not None and rules.window_seconds is not None
    limit, window = (rules.crashes, rules.window_seconds) if limited else (rules.retries + 1, WINDOW_SECONDS)
    record.ends = [end for end in record.ends if end > now - (window or 0)] + [now]
    if record.early > rules.retries:
        record.reason = f"ended {record.early} times in a row before {rules.start_seconds:g} s"
    elif len(record.ends) >= (limit or 0) and (limited or not early):
        record.reason = f"ended {len(record.ends)} times in {window} s"
    else:
        record.state = "backoff"
        return told or 1
    record.state = "fatal"
    return 0


def taken_up(rules: Rules, record: Record, now: float) -> Record:
    """The record with which a start begins; its state is ``fatal`` when the start may not be.

    A record that says that the service lives is one of a first process that was killed with it.
    """
    if record.state in ALIVE:
        end = max(record.updated, record.began)
        judge(rules, record, -signal.SIGKILL, wanted=record.state == "stopping", now=end)
        if record.state == "fatal":
            record.updated = now
            return record
    if record.state != "backoff":
        # Somebody started it by hand, or the engine after the machine's own start: the count begins anew.
        record.early, record.ends = 0, []
    record.state, record.began, record.updated, record.reason = "starting", now, now, ""
    record.starts += 1
    return record


def read_record(folder: Path, service: str, host: str) -> Record:
    """The record of a service; a fresh one where there is none that can be read."""
    try:
        # Whoever is in the container could put a link or a pipe here, which others are not to follow or wait for.
        descriptor = os.open(folder / f"{service}.json", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, encoding="utf-8") as stream:
            body = json.loads(stream.read(_LONGEST_RECORD))
        known = {field.name for field in dataclasses.fields(Record)}
        return Record(**{key: value for key, value in body.items() if key in known})
    except (OSError, ValueError, TypeError, AttributeError):
        return Record(service, host, state="unknown")


def write_record(folder: Path, record: Record) -> None:
    """Replace the record, and the text for the exporter with what all records of the host say.

    :raises OSError: when the folder can't be written.
    """
    _replace(folder / f"{record.service}.json", json.dumps(dataclasses.asdict(record)) + "\n")
    records = []
    for path in sorted(folder.glob("*.json")):
        other = read_record(folder, path.stem, record.host)
        # A first process that was killed leaves a record of a service that lives.
        if other.state in ALIVE and other.updated < record.updated - STALE_SECONDS:
            other.state = "unknown"
        records.append(other)
    _replace(folder / METRICS, metrics(records))
    states = {other.state for other in records}
    if states & {"exited", "fatal"} and states <= {"exited", "fatal", "stopped"}:
        # Nobody is left to write it anew, and what it says stays true: its age is no sign of silence.
        for_good = record.updated + _FOR_GOOD_SECONDS
        os.utime(folder / METRICS, (for_good, for_good))


def counter(name: str, what: str, counts: Iterable[tuple[str, str, int]]) -> list[str]:
    """A counter of services in Prometheus' text format.

    :param counts: service, host and count of each.
    """
    lines = [f"# HELP {name} {what}", f"# TYPE {name} counter"]
    return lines + [f'{name}{{service="{service}",host="{host}"}} {count}' for service, host, count in counts]


def metrics(records: Sequence[Record]) -> str:
    """The states of services in Prometheus' text format."""
    lines = [
        "# HELP runbook_service_state Whether a service is in this state, as its supervisor sees it.",
        "# TYPE runbook_service_state gauge",
    ]
    for record in records:
        for state in STATES:
            labels = f'service="{record.service}",host="{record.host}",state="{state}"'
            lines.append(f"runbook_service_state{{{labels}}} {int(state == record.state)}")
    lines += counter(
        "runbook_service_starts_total",
        "Processes spawned since the supervisor was started.",
        ((record.service, record.host, record.starts) for record in records),
    )
    lines += counter(
        "runbook_service_memory_kills_total",
        "Ends for which the kernel killed a process for memory.",
        ((record.service, record.host, record.kills) for record in records),
    )
    return "\n".join(lines) + "\n"


def _replace(path: Path, content: str) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            os.fchmod(stream.fileno(), 0o644)
            stream.write(content)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink()
        raise


def _oom_kills() -> int:
    """How many processes of this container the kernel has killed for memory since its start."""
    for name in _OOM_FILES:
        with contextlib.suppress(OSError, ValueError):
            for line in Path(name).read_text().splitlines():
                key, _, value = line.partition(" ")
                if key == "oom_kill":
                    return int(value)
    return 0


class First:
    """The first process, from the start of the service to its end."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._folder = Path(rules.folder)
        self._record = read_record(self._folder, rules.service, rules.host)
        self._told = False

    def run(self, command: Sequence[str]) -> int:
        """Run the service to its end.

        :returns: the exit code for Docker.
        """
        record = taken_up(self._rules, self._record, time.time())
        if record.state == "fatal":
            return self._over(0)
        # Blocked signals wait for sigtimedwait; the first process of a container would never see those that it
        # neither blocks nor handles.
        signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
        child = _spawn(command)
        self._write()
        code = self._attend(child)
        record.oom = _oom_kills() > 0
        record.kills += record.oom
        told = judge(self._rules, record, code, wanted=record.state == "stopping", now=time.time())
        self._write()
        _linger()
        return self._over(told)

    def _attend(self, child: int) -> int:
        """Pass signals on and tell the state until the service ends; its exit code, negative for a signal."""
        record = self._record
        while True:
            left = record.began + self._rules.start_seconds - time.time()
            if record.state == "starting" and left <= 0:
                record.state = "running"
                self._write()
            wait = min(TICK_SECONDS, max(left, 0.05)) if record.state == "starting" else TICK_SECONDS
            seen = signal.sigtimedwait(_HANDLED, wait)
            if seen is None:
                record.updated = time.time()
                self._write()
            elif seen.si_signo == signal.SIGCHLD:
                code = _reap(child)
                if code is not None:
                    return code
            else:
                if seen.si_signo == getattr(signal, f"SIG{self._rules.stop_signal}"):
                    record.state, record.updated = "stopping", time.time()
                    self._write()
                os.kill(child, seen.si_signo)

    def _write(self) -> None:
        try:
            write_record(self._folder, self._record)
            self._told = False
        except OSError as error:
            # A full disk may not end the service.
            if not self._told:
                _say(f"no record: {self._folder} can't be written ({error.strerror})")
            self._told = True

    def _over(self, code: int) -> int:
        record = self._record
        ending = f"exit code {record.code}"
        if record.code is not None and record.code < 0:
            ending = f"signal {-record.code}"
        memory = ", killed for memory" if record.oom else ""
        if record.state == "fatal":
            _say(f"given up: {record.reason}, last with {ending}{memory}; nothing starts it again")
            self._write()
        elif record.state == "exited":
            _say(f"ended with {ending}{memory}, after which it is not started again")
        elif record.state == "backoff":
            _say(f"ended with {ending}{memory}; Docker starts it again")
        return code


def _spawn(command: Sequence[str]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        os.umask(0o027)
        # What Python or whoever started it ignores, and what is blocked, would be inherited.
        for number in _HANDLED:
            if signal.getsignal(number) is signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execvp(command[0], list(command))  # noqa: S606 - the service's own command, as a list
    except OSError as error:
        _say(f"{command[0]}: {error.strerror}")
    finally:
        os._exit(127)


def _reap(child: int) -> int | None:
    """Collect whoever has ended; the service's own exit code once it is among them."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == child:
            code = os.waitstatus_to_exitcode(status)


def _linger() -> None:
    """Wait for what the service left behind: with this process the kernel kills it."""
    deadline = time.monotonic() + LINGER_SECONDS
    while time.monotonic() < deadline:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            time.sleep(0.05)


def _say(text: str) -> None:
    print(f"container: {text}", file=sys.stderr, flush=True)


def rules_of(definition: Mapping[str, Any], folder: str) -> Rules:
    """The rules that a deployed definition asks for.

    :param definition: as :meth:`ServiceDefinition.public` wrote it.
    """
    restart = definition["restart"]
    return Rules(
        service=definition["name"],
        host=definition["host"],
        folder=folder,
        policy=restart["policy"],
        success_exit_codes=list(restart["success_exit_codes"]),
        retries=restart["retries"],
        crashes=restart["crashes"],
        window_seconds=restart["window_seconds"],
        start_seconds=definition["start_seconds"],
        stop_signal=definition["stop_signal"],
    )


if __name__ == "__main__":
    sys.exit(First(Rules(**json.loads(sys.argv[1]))).run(sys.argv[2:]))
