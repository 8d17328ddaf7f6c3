"""The error tree of the pipeline: a message names the thing, what was found, what was expected.

Every error carries the exit code with which the process ends, after sysexits(3) where a meaning
exists there.
"""

from __future__ import annotations

from typing import ClassVar

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_UNAVAILABLE = 69
"""A dependency did not come in time; trying again later can help."""
EXIT_REFUSED = 78
"""Configuration or state that no restart can heal; service managers never restart on it."""


class PipelineError(Exception):
    """Base of every error that an operator may read.

    :param thing: what the error is about, by name.
    :param found: what was seen there.
    :param expected: what would have been right; may be empty.
    :param next_step: what to do next; may be empty.
    """

    exit_code: ClassVar[int] = EXIT_FAILED

    def __init__(self, thing: str, found: str, expected: str = "", next_step: str = "") -> None:
        self.thing = thing
        self.found = found
        self.expected = expected
        self.next_step = next_step
        message = f"{thing}: found {found}"
        if expected:
            message += f", expected {expected}"
        message += "."
        if next_step:
            message += f" Next: {next_step}"
        super().__init__(message)


class ConfigError(PipelineError):
    """A configuration file is missing, unreadable, or holds a value that is not allowed."""

    exit_code = EXIT_REFUSED


class StartRefused(PipelineError):
    """Starting the stream would lose or double data."""

    exit_code = EXIT_REFUSED


class Unavailable(PipelineError):
    """Kafka, the object store, or something in them is not there, or not in time."""

    exit_code = EXIT_UNAVAILABLE


class QueryFailed(PipelineError):
    """The streaming query ended by an error; a restart goes on from its checkpoint."""


class LedgerError(PipelineError):
    """A ledger file cannot be read or is held by another load."""
