"""The proof that data flows: canary events go in at the producer's end and are read from the table."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline.errors import Unavailable
from pipeline.events import CANARY_PREFIX, Devices, new_boot_id
from pipeline.sender import EventSender

log = logging.getLogger(__name__)

Sequences = Callable[[str, datetime], list[tuple[str, int]]]
"""Reads (device id, sequence) of each row of a boot id whose event time is not before a moment."""


@dataclass(frozen=True)
class Proof:
    """What became of the canaries.

    :param sent: how many were sent.
    :param found: how many of them are in the table.
    :param duplicates: rows beyond one for each.
    :param failed: how many were given up, which no wait brings into the table.
    :param seconds: from the first send to the last one seen, or to the deadline.
    """

    sent: int
    found: int
    duplicates: int
    failed: int
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether each canary is in the table exactly once."""
        return self.sent > 0 and self.found == self.sent and self.duplicates == 0

    def as_json(self) -> dict[str, Any]:
        """The proof as a JSON object."""
        return {"holds": self.holds, **self.__dict__}


def prove(
    sender: EventSender,
    read: Sequences,
    events: int,
    deadline_seconds: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    poll_seconds: float = 0.2,
) -> Proof:
    """Send canaries and wait until each is in the table, or one of them was given up.

    :param sender: open or not, nothing under way; the wait for Kafka counts towards the deadline.
    :param read: reads the canaries' rows from the newest version of the table.
    :param events: how many canaries, each a device of its own so that partitions are spread.
    :param deadline_seconds: how long all of it may take.
    :param poll_seconds: between two looks at the table, and so how exact the time found is.
    :raises Unavailable: Kafka did not answer in time, or the table could not be read until the deadline.
    """
    begun = clock()
    sent_before, acked_before, failed_before = sender.sent, sender.acked, sender.failed
    sender.open(timeout=deadline_seconds)
    boot_id = new_boot_id()
    moment = datetime.now(UTC)
    for event in Devices(CANARY_PREFIX, events, boot_id).stream(moment, events):
        sender.send(event, timeout=max(0.0, begun + deadline_seconds - clock()))
    sender.flush(max(0.0, begun + deadline_seconds - clock()))
    log.info("%d canaries acknowledged after %.2f s", sender.acked - acked_before, clock() - begun)
    while True:
        rows: Counter[tuple[str, int]] = Counter()
        silence: Unavailable | None = None
        try:
            rows.update(read(boot_id, moment))
        except Unavailable as error:
            # A store that has just come back may still fail a request; only at the deadline is that the answer.
            silence = error
            log.warning("the table can't be read now: %s", error)
        seconds, failed = clock() - begun, sender.failed - failed_before
        if silence is not None and seconds >= deadline_seconds:
            raise silence
        if len(rows) >= events or failed or seconds >= deadline_seconds:
            return Proof(
                sent=sender.sent - sent_before,
                found=len(rows),
                duplicates=rows.total() - len(rows),
                failed=failed,
                seconds=round(seconds, 3),
            )
        sleep(poll_seconds)
