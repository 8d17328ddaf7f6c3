"""The unit file of a service: its definition in systemd's words, and in the quotes that systemd takes off again."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from pathlib import PurePosixPath

from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused
from ansible_collections.streamops.runbook.plugins.module_utils.service import TAG_ROOT, TAG_SERVICE, ServiceDefinition

#: Of a definition that does not say. A broker keeps each segment of each partition and each client's connection open
#: as a file; the usual 1,024 last for some hundred partitions.
LIMIT_NOFILE = 100_000
#: Long enough that a program which fails at once does not use a core by itself, short beside the boot of any service.
RESTART_SECONDS = 2
#: Failures are counted over this time where a service has no window of its own, as under supervisor.
WINDOW_SECONDS = 600

#: Ends that systemd takes for success by itself. Nobody who sends one of these to a process decides that the service
#: is to be down: that is what stopping the unit is for.
_CLEAN_SIGNALS = ("HUP", "INT", "PIPE", "TERM")
_RESTARTS = {"on-failure": "on-failure", "always": "always", "never": "no"}
#: Folders that hold what is deployed and that no service writes to.
_DEPLOYED = ("etc", "bin", "services")


#: Where the program stands, below the root, that tells of services and of their ends (see systemd_states.py).
WATCH = "services/watch.py"
#: The unit that tells an exporter of all services of the root; no service's can have this name.
WATCH_UNIT = "streamops.service"


def root_line(root: str) -> str:
    """The line of a unit that tells whose it is."""
    return f"Environment={_word(f'{TAG_ROOT}={root}')}\n"


def unit_text(definition: ServiceDefinition) -> str:
    """The whole unit file.

    It holds the service's environment and can be read by everybody on the host, as systemd shows it to everybody
    anyway: secrets belong into files of the definition.

    :raises Refused: for what has no spelling here: no account, or a program's path that is neither absolute nor a name.
    """
    if definition.user is None:
        raise Refused(f"service {definition.name}.user", "nothing", "the system account that it runs as under systemd")
    program = definition.command[0]
    if "/" in program and not program.startswith("/"):
        raise Refused(f"service {definition.name}.command[0]", repr(program), "an absolute path under systemd")
    burst, interval = _start_limit(definition)
    environment = {**definition.environment, **definition.tags()}
    lines = [
        "# Written by the runbook; change the inventory and run site.yml",
        "[Unit]",
        f"Description=streamops {definition.name} on {definition.host}",
        "Wants=network-online.target",
        "After=network-online.target",
        f"RequiresMountsFor={_word(definition.root)}",
        f"StartLimitBurst={burst}",
        f"StartLimitIntervalSec={interval}s",
        "",
        "[Service]",
        # The start fails when the program can't be executed, and not only its process later.
        "Type=exec",
        f"User={definition.user}",
        f"WorkingDirectory={definition.root}",
        *(f"Environment={_word(f'{key}={value}')}" for key, value in sorted(environment.items())),
        # The colon: a dollar sign is a dollar sign.
        f"ExecStart=:{' '.join(_word(part) for part in definition.command)}",
        f"SyslogIdentifier={definition.name}",
        f"KillSignal=SIG{definition.stop_signal}",
        "KillMode=mixed",
        f"TimeoutStopSec={definition.stop_timeout:g}s",
        *_restart_lines(definition),
        *_memory_lines(definition),
        f"LimitNOFILE={definition.nofile or LIMIT_NOFILE}",
        "UMask=0027",
        "NoNewPrivileges=yes",
        "PrivateTmp=yes",
        "ProtectHome=yes",
        "ProtectSystem=strict",
        *(f"ReadWritePaths={_word(path)}" for path in _writable(definition)),
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"


def watch_text(root: str, program: str) -> str:
    """The unit that tells an exporter of all services of the root.

    :param program: path of systemd_states.py on the host. Only root may write there and above it.
    """
    lines = [
        "# Written by the runbook; change the inventory and run site.yml",
        "[Unit]",
        f"Description=streamops, states of the services below {root}",
        f"RequiresMountsFor={_word(root)}",
        # It is what tells that others were given up.
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        "Type=exec",
        # It reads what only root may read, the services' definitions, and has none of root's other rights.
        "CapabilityBoundingSet=",
        root_line(root).rstrip(),
        f"ExecStart=:/usr/bin/python3 -I {_word(program)} {_word(root)}",
        "SyslogIdentifier=streamops",
        "Restart=always",
        f"RestartSec={RESTART_SECONDS}s",
        "Nice=5",
        "UMask=0022",
        "NoNewPrivileges=yes",
        "PrivateTmp=yes",
        "ProtectHome=yes",
        "ProtectSystem=strict",
        f"ReadWritePaths={_word(f'{root}/state')}",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
    ]
    return "\n".join(lines) + "\n"


def _start_limit(definition: ServiceDefinition) -> tuple[int, int]:
    """How many starts within how many seconds; the next one after that is refused and the unit has failed."""
    restart = definition.restart
    if restart.crashes is not None and restart.window_seconds is not None:
        return restart.crashes, restart.window_seconds
    tries = restart.retries + 1
    # The window holds all tries, however many and with their pauses.
    return tries, max(WINDOW_SECONDS, 2 * RESTART_SECONDS * tries)


def _restart_lines(definition: ServiceDefinition) -> list[str]:
    restart = definition.restart
    asked = 128 + signal.Signals[f"SIG{definition.stop_signal}"]
    final = set(restart.success_exit_codes)
    # A JVM that was asked to end answers with 128 and the signal's number.
    success = _codes((final - {0}) | {asked})
    lines = [f"Restart={_RESTARTS[restart.policy]}", f"RestartSec={RESTART_SECONDS}s"]
    if definition.stop_signal == "KILL":
        success = _codes(final - {0})
    elif definition.stop_signal not in _CLEAN_SIGNALS:
        success += f" SIG{definition.stop_signal}"
    if success:
        lines.append(f"SuccessExitStatus={success}")
    if restart.policy == "on-failure":
        lines.append(f"RestartPreventExitStatus={_codes(final)}")
        forced = [_codes({0, asked} - final), *(f"SIG{name}" for name in _CLEAN_SIGNALS)]
        lines.append(f"RestartForceExitStatus={' '.join(part for part in forced if part)}")
    return lines


def _memory_lines(definition: ServiceDefinition) -> list[str]:
    if definition.memory_limit is None:
        return []
    watch, folder = f"{definition.root}/{WATCH}", f"{definition.root}/services/{definition.name}"
    return [
        f"MemoryMax={definition.memory_limit.upper()}",
        # Without it a service over its limit would swap itself to a standstill.
        "MemorySwapMax=0",
        # As root, for it writes where only root may; without the tags, for it is no process of the service. That it
        # fails changes nothing of the service.
        f"ExecStopPost=-+:/usr/bin/env -u {TAG_SERVICE} -u {TAG_ROOT} /usr/bin/python3 -I {_word(watch)} ended "
        f"{_word(folder)}",
    ]


def _writable(definition: ServiceDefinition) -> list[str]:
    """The service's own folders, and no other's."""
    folders = {*definition.directories, *definition.volumes}
    own = {folder for folder in folders if PurePosixPath(folder).parts[0] not in _DEPLOYED}
    return [f"{definition.root}/{folder}" for folder in sorted(own)]


def _codes(codes: Iterable[int]) -> str:
    return " ".join(str(code) for code in sorted(codes))


def _word(text: str) -> str:
    """One word as systemd's splitting, its escapes and its specifiers give it back."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'
