"""Inject faults into the lab, and nowhere else.

Processes are found by the marks that the service runtime puts into their environment (service, root of the
host, supervisor) and by nothing else: a name or a port could belong to somebody's real pipeline. A fault
that hits nothing is an error.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

SIGNALS = {
    "kill": signal.SIGKILL,
    "kill-everything": signal.SIGKILL,
    "suspend": signal.SIGSTOP,
    "resume": signal.SIGCONT,
    "reload": signal.SIGHUP,
}


def marked(root: Path) -> Iterator[tuple[psutil.Process, str, str]]:
    """Yield (process, host, service) of everything below ``root``; the service of a supervisor is ``supervisor``."""
    hosts = root.resolve() / "hosts"
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except psutil.Error:
            # Ended meanwhile, or another user's: not the lab's.
            continue
        place = environment.get("STREAMOPS_ROOT") or environment.get("STREAMOPS_SUPERVISOR")
        if place and Path(place).parent == hosts:
            yield process, Path(place).name, environment.get("STREAMOPS_SERVICE", "supervisor")


def inject(root: Path, sign: signal.Signals, services: set[str], host: str | None) -> list[str]:
    """Send ``sign`` to the chosen processes, supervisors first; returns what was hit."""
    chosen = [
        found for found in marked(root) if (not services or found[2] in services) and (host is None or found[1] == host)
    ]
    # A supervisor that outlived its program for a moment would start it again.
    chosen.sort(key=lambda found: found[2] != "supervisor")
    hit = []
    for process, where, service in chosen:
        try:
            os.kill(process.pid, sign)
        except ProcessLookupError:
            # It died with its supervisor, as it should.
            continue
        hit.append(f"{sign.name} {service} on {where} (process {process.pid})")
    return hit


def end_load(root: Path, patience: float = 30.0) -> list[str]:
    """End the load of a scenario that failed half-way; returns what was ended."""
    endpoints = str(root.resolve() / "endpoints.json")
    loads = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("PIPELINE_ENDPOINTS") == endpoints and "load" in process.cmdline():
                process.terminate()
                loads.append(process)
        except psutil.Error:
            # Ended meanwhile, or another user's: not the lab's.
            continue
    _, left = psutil.wait_procs(loads, timeout=patience)
    for process in left:
        process.kill()
    return [f"ended load {process.pid}" for process in loads]


def kill_again(root: Path, services: set[str], host: str | None, times: int, patience: float = 60.0) -> list[str]:
    """Kill what its supervisor brings back, until it has died ``times`` times.

    :raises TimeoutError: it did not come back in ``patience`` seconds, before the last time.
    """
    hit: list[str] = []
    for number in range(1, times + 1):
        deadline = time.monotonic() + patience
        while not (killed := inject(root, signal.SIGKILL, services, host)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"nothing came back in {patience:g} s after death {number - 1}")
            time.sleep(0.2)
        hit += [f"{number}. {line}" for line in killed]
        # The dead take a moment to go; what comes after is the next one.
        time.sleep(2)
    return hit


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fault", choices=[*SIGNALS, "kill-again", "end-load"])
    parser.add_argument("--root", type=Path, required=True, help="the lab's root")
    parser.add_argument("--service", action="append", default=[], help="only these services")
    parser.add_argument("--host", help="only this logical host")
    parser.add_argument("--times", type=int, default=3, help="with kill-again, how often")
    given = parser.parse_args()
    if not (given.root / ".streamops-sandbox").is_file():
        print(f"{given.root} carries no mark of a sandbox; nothing was touched", file=sys.stderr)
        return 1
    if given.fault == "end-load":
        print("\n".join(end_load(given.root)) or "no load runs")
        return 0
    services = set(given.service)
    if given.fault != "kill-everything" and not services:
        print("name the services to hit with --service", file=sys.stderr)
        return 1
    if given.fault == "kill-again":
        hit = kill_again(given.root, services, given.host, given.times)
    else:
        hit = inject(given.root, SIGNALS[given.fault], services, given.host)
    print("\n".join(hit) or "nothing was hit")
    return 0 if hit else 1


if __name__ == "__main__":
    sys.exit(main())
