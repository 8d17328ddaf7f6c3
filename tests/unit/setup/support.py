"""A machine that the set-up scripts find themselves on: a PATH with chosen programs and nothing else."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
SETUP = ROOT / ".config" / "setup"
# What fails in a test fails again at once.
ENVIRONMENT = {"STREAMOPS_RETRY_SECONDS": "0"}


class Machine:
    """A folder that is the whole PATH.

    :param folder: where the programs go.
    :param programs: those of this machine that are there too.
    """

    def __init__(self, folder: Path, programs: Iterable[str]) -> None:
        self.folder = folder
        self.environment: dict[str, str] = dict(ENVIRONMENT)
        for name in programs:
            found = shutil.which(name)
            assert found is not None, name
            (folder / name).symlink_to(found)

    def add(self, name: str, script: str) -> Path:
        """Put a program of this name there, made of ``script``."""
        path = self.folder / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)
        return path

    def run(self, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a set-up script on this machine."""
        return subprocess.run(
            [SETUP / script, *arguments],
            env={"PATH": str(self.folder), **self.environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
