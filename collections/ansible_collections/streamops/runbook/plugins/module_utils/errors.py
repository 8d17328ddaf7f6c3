"""The one error tree of the runbook: every message names the thing, what was found, what was expected."""

from __future__ import annotations


class RunbookError(Exception):
    """Base of every error that an operator may read.

    :param thing: what the error is about, by name.
    :param found: what was seen there.
    :param expected: what would have been right.
    :param next_step: what to type or look at next; may be empty.
    """

    def __init__(self, thing: str, found: str, expected: str = "", next_step: str = "") -> None:
        self.thing = thing
        self.found = found
        self.expected = expected
        self.next_step = next_step
        parts = [f"{thing}: found {found}"]
        if expected:
            parts.append(f"expected {expected}")
        message = ", ".join(parts) + "."
        if next_step:
            message += f" Next: {next_step}"
        super().__init__(message)


class Refused(RunbookError):
    """Acting would be wrong; nothing was touched."""


class DeadlineExceeded(RunbookError):
    """What was waited for did not come in time; carries the last thing seen."""


class ServiceError(RunbookError):
    """A service runtime could not do what it was asked."""


class ArtifactError(RunbookError):
    """An artifact is missing, can't be made, or is not the one that was committed."""


class ProbeError(RunbookError):
    """A probe could not even ask its question."""
