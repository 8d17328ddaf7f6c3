"""Inject faults into the lab, and nowhere else.

Processes are found by the marks that the service runtime puts into their environment (service, root of the
host, supervisor) and by nothing else: a name or a port could belong to somebody's real pipeline. A fault
that hits nothing is an error.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
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
    """End the load of a scenario, which still waits for what is on its way; returns what was ended."""
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
    """Kill what its supervisor brings back, until it has died ``times`` times; each is left to run for two seconds.

    :returns: what was hit, and after how many seconds each next one was there.
    :raises TimeoutError: it did not come back in ``patience`` seconds, before the last time.
    """

    def there() -> set[int]:
        return {
            process.pid for process, where, service in marked(root) if service in services and host in (None, where)
        }

    told: list[str] = []
    dead: set[int] = set()
    for number in range(1, times + 1):
        died = time.monotonic()
        # The dead take a moment to go.
        while not there() - dead:
            if time.monotonic() > died + patience:
                raise TimeoutError(f"nothing came back in {patience:g} s after death {number - 1}")
            time.sleep(0.1)
        if dead:
            told.append(f"came back after {time.monotonic() - died:.1f} s")
            time.sleep(2)
        dead |= there()
        told += [f"{number}. {line}" for line in inject(root, signal.SIGKILL, services, host)]
    return told


def first_deed(runs: Path, procedure: str, before: set[Path], containing: str = "") -> str | None:
    """Return the journal line of the first deed of a run that began since ``before`` was taken.

    :param runs: the folder of the run records.
    :param before: the journals that were there.
    :param containing: the first deed that holds this text.
    """
    for journal in set(runs.glob(f"*-{procedure}-*.journal.jsonl")) - before:
        for line in journal.read_text(encoding="utf-8").splitlines():
            # The last line may be cut short: it is being written.
            if '"did"' in line and containing in line:
                return line
    return None


def await_deed(root: Path, procedure: str, containing: str, patience: float) -> None:
    """Wait until a run of the procedure tells of a deed.

    :raises TimeoutError: none did in ``patience`` seconds.
    """
    runs = root / "state" / "runs"
    before, end = set(runs.glob("*.journal.jsonl")), time.monotonic() + patience
    while first_deed(runs, procedure, before, containing) is None:
        if time.monotonic() > end:
            raise TimeoutError(f"no run of {procedure} told of {containing!r} in {patience:g} s")
        time.sleep(0.05)


def black_hole(address: str, until: Path, patience: float) -> None:
    """Take connections and give no answer.

    :param address: ``host:port``.
    :param until: ends it as soon as this file is there.
    :param patience: seconds after which it ends in any case.
    """
    host, _, port = address.rpartition(":")
    end = time.monotonic() + patience
    with socket.create_server((host, int(port)), backlog=128):
        while not until.exists() and time.monotonic() < end:
            time.sleep(0.2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fault", choices=[*SIGNALS, "kill-again", "end-load", "black-hole"])
    parser.add_argument("--root", type=Path, required=True, help="the lab's root")
    parser.add_argument("--service", action="append", default=[], help="only these services")
    parser.add_argument("--host", help="only this logical host")
    parser.add_argument("--times", type=int, default=3, help="with kill-again, how often")
    parser.add_argument("--after", metavar="PROCEDURE", help="wait until a run of this procedure tells of a deed")
    parser.add_argument("--deed", default="", help="with --after, a deed that holds this text")
    parser.add_argument("--address", help="with black-hole, host:port to listen on")
    parser.add_argument("--until", type=Path, help="with black-hole, the file that ends it")
    parser.add_argument("--patience", type=float, default=600, help="seconds that --after and black-hole wait (600)")
    given = parser.parse_args()
    if not (given.root / ".streamops-sandbox").is_file():
        print(f"{given.root} carries no mark of a sandbox; nothing was touched", file=sys.stderr)
        return 1
    if given.fault == "end-load":
        print("\n".join(end_load(given.root)) or "no load runs")
        return 0
    if given.fault == "black-hole":
        black_hole(given.address, given.until, given.patience)
        return 0
    services = set(given.service)
    if given.fault != "kill-everything" and not services:
        print("name the services to hit with --service", file=sys.stderr)
        return 1
    if given.after:
        await_deed(given.root, given.after, given.deed, given.patience)
    if given.fault == "kill-again":
        hit = kill_again(given.root, services, given.host, given.times)
    else:
        hit = inject(given.root, SIGNALS[given.fault], services, given.host)
    print("\n".join(hit) or "nothing was hit")
    return 0 if hit else 1


if __name__ == "__main__":
    sys.exit(main())
