"""supervisord with two rules that its own exit-code handling lacks; copied to the host and run.

1. An exit code that ends the service for good does so at once. Plain supervisord looks at
   ``exitcodes`` only after ``startsecs``, and would start a service again that refused to start.
2. A program that ends unexpectedly again and again ends up FATAL. Plain supervisord starts one
   that dies after ``startsecs`` again for ever, so nobody would ever see it fail.

It also keeps the exit code of every end, negative for a signal.
"""

from __future__ import annotations

import os
import time
from typing import Any

WINDOW_SECONDS = 600
"""Unexpected ends are counted over this time; more than ``startretries`` of them are too many."""


def install() -> None:
    """Make supervisord build its programs with the rules above."""
    from supervisor import process
    from supervisor.datatypes import RestartUnconditionally
    from supervisor.options import decode_wait_status
    from supervisor.states import ProcessStates

    class Program(process.Subprocess):  # type: ignore[misc]
        laststart: float

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.unexpected_ends: list[float] = []

        def finish(self, pid: int, sts: int) -> None:
            code, reason = decode_wait_status(sts)
            now = time.time()
            wanted = self.killing
            final = code in self.config.exitcodes and self.config.autorestart is not RestartUnconditionally
            if final and not wanted:
                # Pretend that it ran for startsecs: supervisord then takes the code seriously.
                self.laststart = min(self.laststart, now - self.config.startsecs - 1)
            super().finish(pid, sts)
            self.exitstatus = -os.WTERMSIG(sts) if os.WIFSIGNALED(sts) else code
            if wanted:
                self.unexpected_ends.clear()
            elif not final and self.config.autorestart:
                self.unexpected_ends = [end for end in self.unexpected_ends if end > now - WINDOW_SECONDS] + [now]
                ends = len(self.unexpected_ends)
                if self.state == ProcessStates.EXITED and ends > self.config.startretries:
                    self.spawnerr = f"ended {ends} times within {WINDOW_SECONDS} s, last: {reason}"
                    self.backoff = self.config.startretries
                    self.change_state(ProcessStates.BACKOFF)

    process.Subprocess = Program


if __name__ == "__main__":
    from supervisor import supervisord

    install()
    supervisord.main()
