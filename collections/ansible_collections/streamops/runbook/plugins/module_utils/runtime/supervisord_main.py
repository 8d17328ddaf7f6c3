"""supervisord with three rules that its own exit-code handling lacks; copied to the host and run.

1. An exit code that ends the service for good does so at once. Plain supervisord looks at
   ``exitcodes`` only after ``startsecs``, and would start a service again that refused to start.
2. A program that ends unexpectedly again and again ends up FATAL. Plain supervisord starts one
   that dies after ``startsecs`` again for ever, so nobody would ever see it fail. How often is too
   often stands in the program's section (``crash_limit`` ends within ``crash_window`` seconds); without
   them it is more than ``startretries`` within :data:`WINDOW_SECONDS`.
3. With a ``crash_limit`` there is a pause before each further try, twice as long each time.

It also keeps the exit code of every end, negative for a signal, and writes the state of each program as
Prometheus text to ``<root>/state/metrics/services.prom``. The text is written by hand because this file
must run on a host with nothing but supervisor.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from supervisor import events, process, supervisord
from supervisor.datatypes import RestartUnconditionally
from supervisor.options import ServerOptions, decode_wait_status
from supervisor.process import Subprocess
from supervisor.states import ProcessStates, getProcessStateDescription

WINDOW_SECONDS = 600
"""Unexpected ends are counted over this time where a program has no window of its own."""

PAUSE_SECONDS = 2.0
"""Before the try that follows the second counted end; twice as long after each further one."""

LONGEST_PAUSE_SECONDS = 60.0

METRICS = "state/metrics/services.prom"
STATES = ("running", "starting", "backoff", "stopped", "exited", "fatal", "stopping", "unknown")


class StateFile:
    """The states of a supervisord's programs as a file for an exporter.

    Its age tells whether the supervisord lives: it is written every 5 s, and nobody removes it.

    :param path: the file; missing folders above it are made, readable for everybody.
    :param host: the label ``host``.
    :param warn: told once of each spell in which the file can't be written.
    """

    def __init__(self, path: Path, host: str, warn: Callable[[str], object]) -> None:
        self._path = path
        self._host = host
        self._warn = warn
        self._failed = False
        self.starts: dict[str, int] = {}

    def started(self, service: str) -> None:
        """Count a spawned process. The count outlives the program's section, which each start loads anew."""
        self.starts[service] = self.starts.get(service, 0) + 1

    def write(self, states: dict[str, str]) -> None:
        """Replace the file; what goes wrong is only reported, for this runs inside the supervisord.

        :param states: service to one of :data:`STATES`.
        """
        try:
            self._replace(self.text(states).encode())
            self._failed = False
        except Exception as error:  # noqa: BLE001 - whatever it is, it may not end the supervisord and its services
            if not self._failed:
                self._warn(f"no metrics: {self._path} can't be written ({error})")
            self._failed = True

    def text(self, states: dict[str, str]) -> str:
        """The file's content in Prometheus' text format."""
        lines = [
            "# HELP runbook_service_state Whether a service is in this state, as its supervisor sees it.",
            "# TYPE runbook_service_state gauge",
        ]
        for service, current in sorted(states.items()):
            for state in STATES:
                labels = f'service="{service}",host="{self._host}",state="{state}"'
                lines.append(f"runbook_service_state{{{labels}}} {int(state == current)}")
        lines += [
            "# HELP runbook_service_starts_total Processes spawned since the supervisor was started.",
            "# TYPE runbook_service_starts_total counter",
        ]
        for service in sorted(states):
            labels = f'service="{service}",host="{self._host}"'
            lines.append(f"runbook_service_starts_total{{{labels}}} {self.starts.get(service, 0)}")
        return "\n".join(lines) + "\n"

    def _replace(self, content: bytes) -> None:
        for folder in (self._path.parent.parent, self._path.parent):
            if not folder.is_dir():
                folder.mkdir()
                # The umask of a supervisord keeps others out.
                folder.chmod(0o755)
        fresh = self._path.with_name(f".{self._path.name}.new")
        with fresh.open("wb") as stream:
            os.fchmod(stream.fileno(), 0o644)
            stream.write(content)
        fresh.replace(self._path)


class Program(Subprocess):  # type: ignore[misc]
    """A program that gives up by the rules above."""

    laststart: float
    backoff: int

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.unexpected_ends: list[float] = []
        self.pause_until = 0.0
        self.on_spawn: Callable[[str], object] = lambda _: None

    def spawn(self) -> Any:
        """Start it; the count of starts holds only processes that came to be."""
        pid = super().spawn()
        if pid:
            self.on_spawn(self.config.name)
        return pid

    def transition(self) -> None:
        """Go on as supervisord does, but not within a pause: its own may not be longer than its count of tries."""
        if self.state != ProcessStates.BACKOFF or time.monotonic() >= self.pause_until:
            super().transition()

    def finish(self, pid: int, sts: int) -> None:
        """Judge an end."""
        code, _ = decode_wait_status(sts)
        now = time.time()
        wanted = self.killing
        final = code in self.config.exitcodes and self.config.autorestart is not RestartUnconditionally
        if final and not wanted:
            # Pretend that it ran for startsecs: supervisord then takes the code seriously.
            self.laststart = min(self.laststart, now - self.config.startsecs - 1)
        super().finish(pid, sts)
        self.exitstatus = -os.WTERMSIG(sts) if os.WIFSIGNALED(sts) else code
        if wanted:
            self.unexpected_ends.clear()
        elif not final and self.config.autorestart:
            self._count_end()

    def _count_end(self) -> None:
        now = time.monotonic()
        limit, window = self.config.crash_limit, self.config.crash_window
        limited = limit is not None
        if not limited:
            limit, window = self.config.startretries + 1, WINDOW_SECONDS
        self.unexpected_ends = [end for end in self.unexpected_ends if end > now - window] + [now]
        ends = len(self.unexpected_ends)
        early = self.state == ProcessStates.BACKOFF
        if ends >= limit and (limited or not early):
            # supervisord itself counts the ends before startsecs, which is enough for the general rule.
            self.spawnerr = f"ended {ends} times in {window} s"
            self.change_state(ProcessStates.BACKOFF)
            self.give_up()
        elif limited and ends > 1:
            self.change_state(ProcessStates.BACKOFF)
            if not early:
                # This one came up: the tries that supervisord counts in a row begin again.
                self.backoff = 0
            self.pause_until = now + min(PAUSE_SECONDS * 2 ** (ends - 2), LONGEST_PAUSE_SECONDS)


class Options(ServerOptions):  # type: ignore[misc]
    """Options that know the limit of crashes in a program's section."""

    def processes_from_section(self, parser: Any, section: str, *arguments: Any, **named: Any) -> Any:
        """The programs of a section, each with crash_limit and crash_window; None where it has none."""
        configs = super().processes_from_section(parser, section, *arguments, **named)
        for config in configs:
            for name in ("crash_limit", "crash_window"):
                value = parser.saneget(section, name, None)
                setattr(config, name, None if value is None else int(value))
        return configs


class Daemon(supervisord.Supervisor):  # type: ignore[misc]
    """A supervisord that writes what it sees."""

    def runforever(self) -> None:
        """Subscribe, then go on. Earlier it would be forgotten again before the programs are loaded."""
        root = Path(self.options.configfile).resolve().parents[1]
        self._file = StateFile(root / METRICS, self.options.identifier, self.options.logger.warn)
        for kind in (events.ProcessStateEvent, events.ProcessGroupEvent, events.Tick5Event):
            events.subscribe(kind, self._write)
        self._write(None)
        super().runforever()

    def _write(self, _event: object) -> None:
        states = {}
        for group in self.process_groups.values():
            for program in group.processes.values():
                # A start loads its section anew, so the program may be one that was not there before.
                program.on_spawn = self._file.started
                states[program.config.name] = getProcessStateDescription(program.state).lower()
        self._file.write(states)


def install() -> None:
    """Make supervisord use the classes above."""
    process.Subprocess = Program
    supervisord.ServerOptions = Options
    supervisord.Supervisor = Daemon


if __name__ == "__main__":
    install()
    supervisord.main()
