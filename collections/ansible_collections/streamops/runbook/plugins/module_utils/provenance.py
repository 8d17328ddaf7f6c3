"""Where a run came from: who asked for it, at which commit, with which inventory and versions."""

from __future__ import annotations

import getpass
import hashlib
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

TRIGGERS = ("human", "cron", "awx", "alert")


def trigger(environment: Mapping[str, str]) -> str:
    """Return what started the run: human, cron, awx or alert.

    Schedules set RUNBOOK_TRIGGER; AWX is known by the variables that it gives to each job.
    """
    named = environment.get("RUNBOOK_TRIGGER", "")
    if named in TRIGGERS:
        return named
    return "awx" if "AWX_HOST" in environment or "TOWER_HOST" in environment else "human"


def actor(environment: Mapping[str, str]) -> str:
    """Return the account behind the run, through sudo where that was used."""
    return environment.get("SUDO_USER") or getpass.getuser()


def commit(project: Path) -> dict[str, Any]:
    """Return the commit id and whether the work tree differs from it; ids are None outside of git."""
    try:
        head = subprocess.run(
            ["git", "-C", str(project), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        ).stdout.strip()
        status = subprocess.run(
            ["git", "-C", str(project), "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
    return {"commit": head, "dirty": bool(status.strip())}


def fingerprint(project: Path, sources: Sequence[str]) -> dict[str, str]:
    """Return sha256 (12 hex digits) by path of what steers a deployment: inventory, versions, packages.

    :param sources: the inventory sources of the run (files or folders).
    """
    paths: list[Path] = [project / "config" / "artifacts.yml", project / "requirements.txt"]
    for source in sources:
        path = Path(source)
        paths += sorted(path.rglob("*.yml")) if path.is_dir() else [path]
    found = {}
    for path in paths:
        if path.is_file():
            name = os.path.relpath(path, project)
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return found


def changed_since(last: Mapping[str, Any] | None, present: Mapping[str, Any]) -> list[str]:
    """Say what differs from the last run that proved a healthy pipeline.

    :param last: that run's record, or None.
    :param present: the started record of this run (keys commit, dirty, fingerprint).
    """
    if last is None:
        return ["no earlier run has proven this pipeline"]
    told = []
    if last.get("commit") != present["commit"]:
        told.append(f"commit {str(last.get('commit'))[:12]} -> {str(present['commit'])[:12]}")
    if present["dirty"] and not last.get("dirty"):
        told.append("files changed since that commit")
    before: Mapping[str, str] = last.get("fingerprint", {})
    after: Mapping[str, str] = present["fingerprint"]
    told += [f"{name} changed" for name in sorted(after) if name in before and before[name] != after[name]]
    told += [f"{name} added" for name in sorted(set(after) - set(before))]
    told += [f"{name} removed" for name in sorted(set(before) - set(after))]
    return told or [f"nothing (last proven by {last['id']})"]
