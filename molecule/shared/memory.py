"""Let a service of the lab go over its memory limit: it grows in its own control group, and the kernel ends it.

A process of ours joins the group and takes memory, as a leak of the service would, until the kernel has to kill one
of the group: the service, which is first in its list. What runs the service then starts another process; that is
waited for. The container is found by its labels and by nothing else, and no limit is touched.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import docker
import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "collections"))

from ansible_collections.streamops.runbook.plugins.module_utils.runtime.systemd_states import (  # noqa: E402
    memory_group as group_of,
)
from ansible_collections.streamops.runbook.plugins.module_utils.service import TAG_SERVICE  # noqa: E402

STEP = 4 << 20


class Unhit(Exception):
    """The fault could not be brought about; says what was found."""


def limit_of(group: Path) -> int:
    """Return the limit of a control group in bytes.

    :raises Unhit: it has none.
    """
    for name in ("memory.limit_in_bytes", "memory.max"):
        if (group / name).exists():
            text = (group / name).read_text().strip()
            # The older hierarchy has a number for no limit, more than any machine has.
            if text != "max" and int(text) < psutil.virtual_memory().total:
                return int(text)
    raise Unhit(f"{group}: found no limit")


def processes_of(container: str, service: str) -> list[psutil.Process]:
    """Return what carries the service's mark in a container, the largest first."""
    found = []
    for process in psutil.process_iter():
        try:
            if (
                process.environ().get(TAG_SERVICE) == service
                and container in Path(f"/proc/{process.pid}/cgroup").read_text()
            ):
                found.append((process.memory_info().rss, process.pid, process))
        except (psutil.Error, OSError):
            # Ended meanwhile, or another user's: not the lab's.
            continue
    return [process for _, _, process in sorted(found, reverse=True)]


def grow(group: Path, limit: int, watched: int) -> None:
    """Take memory in the group, up to its limit, until the watched process is gone."""
    (group / "cgroup.procs").write_text(str(os.getpid()))
    blocks = []
    for _ in range(limit // STEP):
        if not psutil.pid_exists(watched) or psutil.Process(watched).status() == psutil.STATUS_ZOMBIE:
            return
        # Written to, for memory that nobody has touched counts for nothing.
        blocks.append(b"x" * STEP)


def exceed(process: psutil.Process, patience: float) -> float:
    """Let the process go over its limit; returns the seconds until it was gone.

    :raises Unhit: it lives on.
    """
    group = group_of(Path(f"/proc/{process.pid}/cgroup").read_text())
    limit, began = limit_of(group), time.monotonic()
    # Of all in the group the kernel is to take the service, whose memory it is in truth.
    Path(f"/proc/{process.pid}/oom_score_adj").write_text("1000")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            grow(group, limit, process.pid)
            code = 0
        finally:
            os._exit(code)
    try:
        process.wait(patience)
    except psutil.TimeoutExpired:
        raise Unhit(f"process {process.pid} still lives with {limit} bytes in {group}") from None
    finally:
        # Its own end, or nothing would be left to wait for.
        psutil.Process(child).kill()
        os.waitpid(child, 0)
    return time.monotonic() - began


def hit(labels: Sequence[str], service: str, patience: float) -> str:
    """Bring it about; returns what happened.

    :raises Unhit: no such container or service, or the service did not end or did not come back.
    """
    containers = docker.from_env().containers.list(filters={"label": list(labels)})
    if len(containers) != 1:
        raise Unhit(f"{' '.join(labels)}: found {len(containers)} running containers, expected one")
    before = processes_of(containers[0].id, service)
    if not before:
        raise Unhit(f"{service}: no process in {containers[0].name}")
    seconds = exceed(before[0], patience)
    ended = time.monotonic()
    # The container's own first process carries the mark too, and takes a moment to go.
    while not (after := set(processes_of(containers[0].id, service)) - set(before)):
        if time.monotonic() > ended + patience:
            raise Unhit(f"{service} did not come back in {patience:g} s")
        time.sleep(0.1)
    came = ", ".join(str(process.pid) for process in after)
    back = time.monotonic() - ended
    return f"{service}: {before[0].pid} went over its limit in {seconds:.1f} s, {came} came {back:.1f} s later"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--label", action="append", required=True, metavar="KEY=VALUE", help="of the container")
    parser.add_argument("--service", required=True)
    parser.add_argument("--patience", type=float, default=60.0, help="seconds for the end, and for the next process")
    given = parser.parse_args()
    try:
        print(hit(given.label, given.service, given.patience))
    except Unhit as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
