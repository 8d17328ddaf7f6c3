"""What systemd says of services, in the runbook's words: for the runtime, and for an exporter.

The runtime imports this file, and copies it to the host, where a unit of its own runs it for all services of a
root: every 5 s it writes their states as Prometheus text to ``<root>/state/metrics/services.prom``, as the
sandbox's supervisor does (see supervisord_main.py). The file's age tells whether it lives. The unit of each service
with a memory limit runs it too, after its process ended (``ended FOLDER``): systemd forgets how that was with the
next start, and not with every kernel it knows that memory was the reason. It needs nothing but Python.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

METRICS = "state/metrics/services.prom"
STATES = ("running", "starting", "backoff", "stopped", "exited", "fatal", "stopping", "unknown")
TICK_SECONDS = 5.0
#: Which run of a unit was ended on purpose. systemd does not tell that from a process that ended by itself with 0.
STOPPED_MARK = "stopped.json"
#: How the last run of a unit ended, see :func:`note_end`.
ENDED_MARK = "ended.json"
#: Where the kernel shows control groups.
HIERARCHIES = Path("/sys/fs/cgroup")

PROPERTIES = (
    "Id",
    "LoadState",
    "ActiveState",
    "SubState",
    "Result",
    "MainPID",
    "ExecMainCode",
    "ExecMainStatus",
    "ExecMainStartTimestampMonotonic",
    "NRestarts",
    "InvocationID",
    "NeedDaemonReload",
    "UnitFileState",
)
#: What systemd ends with when it could not even make the process as the unit says.
_NOT_MADE = {
    200: "its folder is missing",
    203: "its program can't be executed",
    216: "its group does not exist",
    217: "its account does not exist",
    226: "a folder that it writes to is missing",
}


def unit_name(service: str) -> str:
    """What systemd calls the service."""
    return f"streamops-{service}.service"


@dataclasses.dataclass(frozen=True)
class Unit:
    """What systemd says of a unit, see systemctl(1) ``show`` and org.freedesktop.systemd1(5)."""

    said: Mapping[str, str]

    def number(self, name: str) -> int:
        """A property as a number; 0 where there is none."""
        text = self.said.get(name, "")
        return int(text) if text.isdigit() else 0

    @property
    def active(self) -> str:
        """active | reloading | inactive | failed | activating | deactivating."""
        return self.said.get("ActiveState", "")

    @property
    def pid(self) -> int:
        """Its main process; 0 for none."""
        return self.number("MainPID")

    @property
    def waits(self) -> bool:
        """Whether it is between two tries."""
        return self.active == "activating" and self.said.get("SubState") == "auto-restart"

    @property
    def runs(self) -> bool:
        """Whether it has a process that is to live."""
        return self.active in ("active", "reloading", "activating") and not self.waits

    @property
    def occupied(self) -> bool:
        """Whether a stop has anything to end or to wait for."""
        return self.runs or self.waits or self.active == "deactivating"

    @property
    def outdated(self) -> bool:
        """Whether its file on disk is not the one that systemd has read."""
        return self.said.get("NeedDaemonReload") == "yes"

    @property
    def enabled(self) -> bool:
        """Whether the next boot starts it."""
        return self.said.get("UnitFileState") == "enabled"

    @property
    def exit_code(self) -> int | None:
        """How its process ended last, negative for a signal; None when none has since the machine was started."""
        if not self.number("ExecMainStartTimestampMonotonic") or not self.number("ExecMainCode"):
            return None
        status = self.number("ExecMainStatus")
        return status if self.number("ExecMainCode") == 1 else -status


@dataclasses.dataclass(frozen=True)
class End:
    """What the unit itself kept of the end of its last run.

    :param invocation: systemd's id of that run.
    :param oom: whether the kernel killed one of its processes for memory.
    :param kills: how many runs have ended so since the service was deployed.
    :param group: number of the control group that ``seen`` is of, and ``seen`` the kernel's own count at that time:
        some systemd keep the group from one run to the next, and with it the count.
    """

    invocation: str = ""
    oom: bool = False
    kills: int = 0
    group: int = 0
    seen: int = 0


def read_end(folder: Path) -> End:
    """The end that was kept in the service's folder; a fresh one where there is none that can be read."""
    try:
        return End(**json.loads((folder / ENDED_MARK).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return End()


def note_end(folder: Path, invocation: str, group: int, count: int) -> None:
    """Keep how a run ended.

    :param group: number of its control group.
    :param count: how many of the group's processes the kernel has killed for memory so far.
    :raises OSError: when the folder can't be written.
    """
    before = read_end(folder)
    oom = count > (before.seen if group == before.group else 0)
    end = End(invocation, oom, before.kills + oom, group, count)
    _replace(folder / ENDED_MARK, json.dumps(dataclasses.asdict(end)) + "\n", 0o600)


def forget_end(folder: Path) -> None:
    """Somebody starts the service: how it ended before says nothing of what comes; what was counted stays."""
    before = read_end(folder)
    if before.oom:
        end = dataclasses.replace(before, oom=False)
        _replace(folder / ENDED_MARK, json.dumps(dataclasses.asdict(end)) + "\n", 0o600)


def memory_group(text: str, hierarchies: Path = HIERARCHIES) -> Path:
    """The folder of the control group that limits the memory of a process.

    :param text: its /proc/PID/cgroup.
    """
    entries = [line.split(":", 2) for line in text.splitlines()]
    # The older hierarchies have one for memory, the newer one has none by name.
    older = [group for _, controllers, group in entries if "memory" in controllers.split(",")]
    newer = [group for _, controllers, group in entries if not controllers]
    group, *_ = older or newer or [""]
    return hierarchies / ("memory" if older else "") / group.lstrip("/")


def memory_kills(hierarchies: Path = HIERARCHIES, process: Path = Path("/proc/self")) -> tuple[int, int]:
    """Number of the control group that this process is in, and how many of the group's the kernel killed for memory."""
    folder = memory_group((process / "cgroup").read_text(encoding="utf-8"), hierarchies)
    for file in ("memory.oom_control", "memory.events"):
        if (folder / file).is_file():
            said = dict(entry.split() for entry in (folder / file).read_text(encoding="utf-8").splitlines())
            return folder.stat().st_ino, int(said.get("oom_kill", "0"))
    return 0, 0


def show_command(units: Sequence[str]) -> list[str]:
    """All that is asked of units, in one question."""
    return ["systemctl", "show", f"--property={','.join(PROPERTIES)}", *units]


def parse_units(text: str) -> dict[str, Unit]:
    """What systemctl answered, by unit."""
    found = {}
    for block in text.split("\n\n"):
        said = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if "Id" in said and "ActiveState" in said:
            found[said["Id"]] = Unit(said)
    return found


def judge(unit: Unit, definition: Mapping[str, Any], folder: Path) -> tuple[str, str]:
    """State and detail of a service as ServiceInfo has them.

    :param definition: the deployed one, as :meth:`ServiceDefinition.public` wrote it.
    :param folder: where that stands.
    """
    if unit.waits:
        return "backoff", f"started again in a moment, last: {ending(unit, definition, folder)}"
    if unit.runs:
        again = f"started again after it was killed for memory over {definition.get('memory_limit')}"
        state = "starting" if unit.active == "activating" else "running"
        return state, again if read_end(folder).oom else ""
    if unit.active == "deactivating":
        return "running", "stopping"
    policy = (definition.get("restart") or {}).get("policy")
    if unit.active == "failed" and (policy != "never" or unit.exit_code is None):
        # The restart that was refused is counted too.
        tries = max(unit.number("NRestarts"), 1)
        last = ending(unit, definition, folder)
        return "fatal", f"gave up after {tries} {'start' if tries == 1 else 'starts'}, last: {last}"
    if unit.active not in ("inactive", "failed"):
        return "unknown", f"ActiveState {unit.active}"
    return _judge_ended(unit, definition, folder, str(policy))


def _judge_ended(unit: Unit, definition: Mapping[str, Any], folder: Path, policy: str) -> tuple[str, str]:
    code = unit.exit_code
    if unit.said.get("LoadState") == "not-found":
        return "stopped", f"no unit {unit.said.get('Id')}"
    if code is None:
        return "stopped", "not started since the machine was"
    asked = signal.Signals[f"SIG{definition.get('stop_signal', 'TERM')}"]
    # A process that was ended behind systemd's back would have been started again, but for policy never.
    if _stopped_on_purpose(folder, unit) or policy == "always" or code in (-asked, 128 + asked):
        return "stopped", ""
    return "exited", f"ended by itself: {ending(unit, definition, folder)}"


def _stopped_on_purpose(folder: Path, unit: Unit) -> bool:
    try:
        mark = json.loads((folder / STOPPED_MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(mark, dict) and mark.get("invocation") == unit.said.get("InvocationID", "")


def ending(unit: Unit, definition: Mapping[str, Any], folder: Path) -> str:
    """How the last process ended, in words."""
    code = unit.exit_code
    limit = definition.get("memory_limit")
    end = read_end(folder)
    if unit.said.get("Result") == "oom-kill" or (end.oom and end.invocation == unit.said.get("InvocationID")):
        return f"killed for memory; memory limit {limit}"
    if code is None:
        return f"no process, {unit.said.get('Result') or 'unknown'}"
    if code in _NOT_MADE:
        return f"exit code {code}, {_NOT_MADE[code]}"
    if code == -signal.SIGKILL and limit is not None:
        return f"killed by SIGKILL; memory limit {limit}"
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def counter(name: str, what: str, counts: Iterable[tuple[str, str, int]]) -> list[str]:
    """A counter of services in Prometheus' text format.

    :param counts: service, host and count of each.
    """
    lines = [f"# HELP {name} {what}", f"# TYPE {name} counter"]
    return lines + [f'{name}{{service="{service}",host="{host}"}} {count}' for service, host, count in counts]


class Watch:
    """The states of a root's services, told again and again.

    :param ask: runs a command and returns what it printed.
    """

    def __init__(self, root: Path, ask: Callable[[Sequence[str]], str]) -> None:
        self._root = root
        self._ask = ask
        self._starts: dict[str, int] = {}
        self._runs: dict[str, tuple[str, int]] = {}
        self._failed = False

    def tell(self) -> None:
        """Write the file anew; what goes wrong is reported once, and the file grows old."""
        try:
            _replace(self._root / METRICS, self.text())
            self._failed = False
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            if not self._failed:
                print(f"no metrics: {error}", file=sys.stderr, flush=True)
            self._failed = True

    def text(self) -> str:
        """The states in Prometheus' text format."""
        services = {}
        for path in sorted(self._root.glob("services/*/definition.json")):
            services[path.parent] = json.loads(path.read_text(encoding="utf-8"))
        units = {}
        if services:
            units = parse_units(self._ask(show_command([unit_name(folder.name) for folder in services])))
        lines = [
            "# HELP runbook_service_state Whether a service is in this state, as its supervisor sees it.",
            "# TYPE runbook_service_state gauge",
        ]
        for folder, definition in services.items():
            unit = units.get(unit_name(folder.name), Unit({}))
            self._count(folder.name, unit)
            current = "stopping" if unit.active == "deactivating" else judge(unit, definition, folder)[0]
            for state in STATES:
                labels = f'service="{folder.name}",host="{definition["host"]}",state="{state}"'
                lines.append(f"runbook_service_state{{{labels}}} {int(state == current)}")
        hosts = {folder: str(definition["host"]) for folder, definition in services.items()}
        lines += counter(
            "runbook_service_starts_total",
            "Processes spawned since the supervisor was started.",
            ((folder.name, host, self._starts[folder.name]) for folder, host in hosts.items()),
        )
        lines += counter(
            "runbook_service_memory_kills_total",
            "Ends for which the kernel killed a process for memory.",
            ((folder.name, host, read_end(folder).kills) for folder, host in hosts.items()),
        )
        return "\n".join(lines) + "\n"

    def _count(self, service: str, unit: Unit) -> None:
        """Count the starts since the last look: each run has an id of its own, and some may have come and gone."""
        run = (unit.said.get("InvocationID", ""), unit.number("NRestarts"))
        before = self._runs.get(service, ("", 0))
        self._starts.setdefault(service, 0)
        if run[0] and run[0] != before[0]:
            self._starts[service] += max(run[1] - before[1], 1) if service in self._runs else 1
        self._runs[service] = run


def _replace(path: Path, content: str, mode: int = 0o644) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(content)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink()
        raise


def _ask(command: Sequence[str]) -> str:
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=TICK_SECONDS, check=True).stdout


if __name__ == "__main__":
    if sys.argv[1] == "ended":
        note_end(Path(sys.argv[2]), os.environ.get("INVOCATION_ID", ""), *memory_kills())
        sys.exit()
    watch = Watch(Path(sys.argv[1]), _ask)
    while True:
        watch.tell()
        time.sleep(TICK_SECONDS)
