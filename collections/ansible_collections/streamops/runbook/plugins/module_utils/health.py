"""Health: healthy means N good polls in a row within a deadline. The same in check and in prove."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import commands
from .probes import Check

# Without one of these no event gets into the table.
_DATA_PATH = {"minio": "minio.write_quorum", "spark-streaming": "spark-streaming.progress"}


def excused(check: Check, away: Collection[str]) -> bool:
    """Tell whether a failed check says no more than that hosts which can't be reached do not do their part.

    :param away: the hosts that can't be reached.
    """
    if check.host:
        return check.host in away
    return bool(check.blames) and set(check.blames) <= set(away)


def pressing(checks: Sequence[Check], away: Collection[str]) -> tuple[Check, ...]:
    """Return the failed checks that something reachable has to answer for."""
    return tuple(check for check in checks if not check.healthy and not excused(check, away))


@dataclass(frozen=True)
class Reading:
    """The last poll, how many good ones stood in a row, and the seconds that it all took.

    :param healthy: all that can be reached is well; what is ``away`` is not judged.
    :param away: the hosts that can't be reached.
    """

    checks: tuple[Check, ...]
    good_polls: int
    seconds: float
    healthy: bool
    away: frozenset[str] = frozenset()

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.healthy)

    @property
    def pressing(self) -> tuple[Check, ...]:
        return pressing(self.checks, self.away)

    def as_dict(self) -> dict[str, Any]:
        return {
            "healthy": self.healthy,
            "good_polls": self.good_polls,
            "seconds": round(self.seconds, 2),
            "checks": [check.as_dict() for check in self.checks],
            "failed": [check.as_dict() for check in self.failed],
        }


def watch(
    poll: Callable[[], Sequence[Check]],
    *,
    polls: int,
    deadline: float,
    interval: float = 1.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    report: Callable[[str], None] = lambda _: None,
    away: Collection[str] = (),
) -> Reading:
    """Poll until ``polls`` good readings stand in a row or ``deadline`` seconds have passed.

    A deadline of 0 polls just as often as ``polls`` says while all is good, and ends at the first bad reading.

    :param away: hosts that can't be reached; what they alone account for makes no reading bad.
    """
    silent = frozenset(away)
    began = clock()
    told = began
    good = 0
    while True:
        checks = tuple(poll())
        failed = pressing(checks, silent)
        good = 0 if failed else good + 1
        spent = clock() - began
        if good >= polls:
            return Reading(checks, good, spent, True, silent)
        if failed and spent >= deadline:
            return Reading(checks, good, spent, False, silent)
        if failed and clock() - told >= 5.0:
            told = clock()
            more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
            report(f"{spent:.0f} of {deadline:.0f} s: {failed[0].subject}: {failed[0].seen}{more}")
        sleep(interval)


def lost_nodes(nodes: Collection[str], away: Collection[str], checks: Sequence[Check]) -> list[str]:
    """Return the hosts of Kafka's nodes that are lost for this run: out of reach, and their Kafka does not answer."""
    answering = {check.host for check in checks if check.name == "kafka.answers" and check.healthy}
    return sorted(host for host in nodes if host in away and host not in answering)


def lost_quorum(voters: Collection[str], away: Collection[str], checks: Sequence[Check]) -> str:
    """Say why no quorum is possible, since the voters that are left are no majority; nothing when one is.

    :param voters: the hosts of all Kafka nodes that vote.
    :param away: the hosts that can't be reached.
    """
    lost = lost_nodes(voters, away, checks)
    left, needed = len(voters) - len(lost), len(voters) // 2 + 1
    leads = any(check.name == "kafka.quorum" and check.healthy for check in checks)
    if not lost or left >= needed or leads:
        return ""
    return f"{', '.join(lost)} out of reach and without an answer, which leaves {left} of {len(voters)} controllers"


def lost_brokers(brokers: Collection[str], fewest: int, away: Collection[str], checks: Sequence[Check]) -> str:
    """Say why no write can be acknowledged, since the brokers that are left are too few; nothing when they are not.

    :param brokers: the hosts of all brokers.
    :param fewest: in how many brokers a write must be.
    :param away: the hosts that can't be reached.
    """
    lost = lost_nodes(brokers, away, checks)
    left = len(brokers) - len(lost)
    acknowledged = any(check.name == "producer.progress" and check.healthy for check in checks)
    if not lost or left >= fewest or acknowledged:
        return ""
    return f"{', '.join(lost)} out of reach and without an answer, which leaves {left} of {len(brokers)} brokers"


def lost_flow(
    services: Sequence[Mapping[str, Any]], unreachable: Mapping[str, Sequence[str]], checks: Sequence[Check]
) -> str:
    """Say which part of the way into the table is on hosts that can't be reached, or nothing.

    :param services: the ServiceInfo of every service that could be read.
    """
    for service, proof in _DATA_PATH.items():
        silent = sorted(host for host, names in unreachable.items() if service in names)
        left = sum(info["service"] == service for info in services)
        working = any(check.name == proof and check.healthy for check in checks)
        # No object store takes writes with half of its nodes; of the others one instance is enough.
        enough = left > len(silent) if service == "minio" else left > 0
        if silent and not enough and not working:
            return f"{service} is on {', '.join(silent)}, which can't be reached"
    return ""


def silent_lines(unreachable: Mapping[str, Sequence[str]]) -> list[str]:
    """Say of each host that can't be reached what ran there."""
    return [f"{host} ({', '.join(names)})" if names else host for host, names in sorted(unreachable.items())]


def next_steps(unreachable: Mapping[str, Sequence[str]]) -> list[str]:
    """Say what to do about the hosts that can't be reached."""
    return [
        f"{line} can't be reached: start the machine or repair the way to it, then run this again"
        for line in silent_lines(unreachable)
    ]


def warning_steps(checks: Sequence[Check]) -> list[str]:
    """Say what is well and will not be for long, and what to do about it; once, however many services show it."""
    return list(dict.fromkeys(f"{check.seen}: {commands.line(check.procedure)}" for check in checks if check.warns))


def service_health(
    services: Sequence[Mapping[str, Any]],
    checks: Sequence[Check],
    unreachable: Mapping[str, Sequence[str]],
) -> list[dict[str, Any]]:
    """Return each ServiceInfo with ``healthy`` filled in: its process runs and no check of its own failed.

    :param unreachable: services by host that could not be read; they appear with the state ``unknown``.
    """
    bad = {(check.service, check.host) for check in checks if not check.healthy}
    silent = [
        {
            "service": name,
            "host": host,
            "state": "unknown",
            "healthy": False,
            "pid": None,
            "started_at": None,
            "memory_bytes": None,
            "detail": "the host can't be reached",
        }
        for host, names in unreachable.items()
        for name in names
    ]
    return [{**service, "healthy": (service["service"], service["host"]) not in bad} for service in services] + silent
