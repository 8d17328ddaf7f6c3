"""A process as messages and records may name it."""

from __future__ import annotations

from dataclasses import dataclass

import psutil


@dataclass(frozen=True)
class Process:
    """Pid, program and user; what it was called with may hold a stranger's secrets and is told nowhere."""

    pid: int
    program: str
    user: str

    @classmethod
    def of(cls, process: psutil.Process) -> Process:
        """Read it from the process itself.

        :raises psutil.Error: it ended meanwhile, or may not be looked at.
        """
        return cls(process.pid, process.name(), process.username())

    def __str__(self) -> str:
        return f"process {self.pid} ({self.program} of user {self.user})"
