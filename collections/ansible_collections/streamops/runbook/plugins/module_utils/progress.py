"""One line of progress from inside a long module, shown live by whoever reads the file."""

from __future__ import annotations

import os

PROGRESS_VARIABLE = "RUNBOOK_PROGRESS"


def report(text: str) -> None:
    """Append one line to the file that the environment variable RUNBOOK_PROGRESS names.

    Does nothing when the variable is unset or empty. Safe to call from threads: a line is one
    write in append mode. A progress file that can't be written never ends the work that it
    reports on.

    :param text: one short sentence; line breaks in it become spaces.
    """
    path = os.environ.get(PROGRESS_VARIABLE)
    if not path:
        return
    line = " ".join(text.split()) + "\n"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    except OSError:
        return
    try:
        os.write(descriptor, line.encode())
    except OSError:
        return
    finally:
        os.close(descriptor)
