"""The ledger of a load: each send and each ack, on disk before anything else happens with it.

A text file of lines with tabs between the fields::

    load    <boot id>  <RFC 3339 start>
    sent    <device id>  <sequence>  <unix ms>
    acked   <device id>  <sequence>  <partition>  <offset>  <unix ms>
    failed  <device id>  <sequence>  <reason>
    end     <sent>  <acked>  <failed>

``sent`` is written before the event is handed to Kafka, ``acked`` after Kafka acknowledged it, each
by one write to the operating system: the file tells the truth whoever is killed (only the machine
itself going down could cut its end off). A later load may append to the same file; the lines after
its ``load`` line belong to it.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import LedgerError
from pipeline.events import Event


class LedgerWriter:
    """Appends to a ledger, holding it against a second writer.

    :param path: the file; made with its folder if it is not there.
    :raises LedgerError: another load writes it.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._descriptor)
            raise LedgerError(str(path), "another load writing it", "a ledger of its own") from None
        size = os.fstat(self._descriptor).st_size
        if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
            # The writer before was killed inside a line; the reader skips that line.
            self._write("\n")

    def begin(self, boot_id: str, started: str) -> None:
        """Open the part of one load."""
        self._write(f"load\t{boot_id}\t{started}\n")

    def sent(self, events: Iterable[Event]) -> None:
        """Note events that are about to be handed over."""
        now = _now_ms()
        self._write("".join(f"sent\t{e.device_id}\t{e.sequence}\t{now}\n" for e in events))

    def acked(self, event: Event, partition: int, offset: int) -> None:
        """Note an event that Kafka acknowledged."""
        self._write(f"acked\t{event.device_id}\t{event.sequence}\t{partition}\t{offset}\t{_now_ms()}\n")

    def failed(self, event: Event, error: Exception) -> None:
        """Note an event that will never be acknowledged; it may be in the topic all the same."""
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        self._write(f"failed\t{event.device_id}\t{event.sequence}\t{reason}\n")

    def end(self, sent: int, acked: int, failed: int) -> None:
        """Close the part of one load with its own counts."""
        self._write(f"end\t{sent}\t{acked}\t{failed}\n")

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._descriptor)

    def _write(self, text: str) -> None:
        data = text.encode()
        while data:
            data = data[os.write(self._descriptor, data) :]


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass
class Ledger:
    """What a ledger says.

    ``sent`` and ``acked`` hold (boot id, device id, sequence); ``started`` is the start of the
    earliest load, RFC 3339.
    """

    boot_ids: set[str] = field(default_factory=set)
    sent: set[tuple[str, str, int]] = field(default_factory=set)
    acked: set[tuple[str, str, int]] = field(default_factory=set)
    failed: int = 0
    started: str = ""


def read_ledger(path: Path) -> Ledger:
    """Read a ledger, also one that is being written or whose writer was killed.

    :raises LedgerError: missing, without any load, or with lines that are no ledger's.
    """
    try:
        # Without the last line if it has no end yet.
        lines = path.read_bytes().decode().split("\n")[:-1]
    except OSError as error:
        raise LedgerError(str(path), error.strerror or str(error), "a ledger of a load") from None
    except UnicodeDecodeError as error:
        raise LedgerError(str(path), f"no text ({error})", "a ledger of a load") from None
    reader = _Reader()
    for number, line in enumerate(lines, 1):
        try:
            reader.line(line.split("\t"))
        except (ValueError, IndexError, KeyError):
            # A writer that was killed leaves a cut line, and the next writer begins after it.
            if not (number < len(lines) and lines[number].startswith("load\t")):
                raise LedgerError(f"{path}, line {number}", repr(line[:80]), "a ledger's line") from None
    if not reader.ledger.boot_ids:
        raise LedgerError(str(path), "no load", "at least one line 'load'")
    return reader.ledger


class _Reader:
    """Reads lines one after the other; each kind has a method of its name."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self._boot_id: str | None = None

    def line(self, fields: list[str]) -> None:
        """Take one line; ValueError, IndexError or KeyError for what is none."""
        {
            "load": self._load,
            "sent": self._sent,
            "acked": self._acked,
            "failed": self._failed,
            "end": self._end,
        }[fields[0]](fields)

    def _load(self, fields: list[str]) -> None:
        self._boot_id = fields[1]
        self.ledger.boot_ids.add(fields[1])
        self.ledger.started = min(filter(None, (self.ledger.started, fields[2])))

    def _sent(self, fields: list[str]) -> None:
        self.ledger.sent.add(self._event(fields))

    def _acked(self, fields: list[str]) -> None:
        int(fields[5])
        self.ledger.acked.add(self._event(fields))

    def _failed(self, fields: list[str]) -> None:
        self._event(fields)
        self.ledger.failed += 1

    def _end(self, fields: list[str]) -> None:
        int(fields[1])

    def _event(self, fields: list[str]) -> tuple[str, str, int]:
        if self._boot_id is None:
            raise ValueError("before any load")
        return (self._boot_id, fields[1], int(fields[2]))
