"""Health: healthy means N good polls in a row within a deadline. The same in check and in prove."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .probes import Check


@dataclass(frozen=True)
class Reading:
    """The last poll, how many good ones stood in a row, and the seconds that it all took."""

    checks: tuple[Check, ...]
    good_polls: int
    seconds: float
    healthy: bool

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.healthy)

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
) -> Reading:
    """Poll until ``polls`` good readings stand in a row or ``deadline`` seconds have passed.

    A deadline of 0 polls just as often as ``polls`` says while all is good, and ends at the first bad reading.
    """
    began = clock()
    told = began
    good = 0
    while True:
        checks = tuple(poll())
        failed = [check for check in checks if not check.healthy]
        good = 0 if failed else good + 1
        spent = clock() - began
        if good >= polls:
            return Reading(checks, good, spent, True)
        if failed and spent >= deadline:
            return Reading(checks, good, spent, False)
        if failed and clock() - told >= 5.0:
            told = clock()
            more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
            report(f"{spent:.0f} of {deadline:.0f} s: {failed[0].subject}: {failed[0].seen}{more}")
        sleep(interval)


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
