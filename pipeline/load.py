"""The load generator: a steady stream of events from outside the stack, with a ledger."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.events import Devices, Event, new_boot_id, rfc3339
from pipeline.ledger import LedgerWriter
from pipeline.pace import Pace
from pipeline.sender import EventSender, Producer

log = logging.getLogger(__name__)

DEVICE_PREFIX = "load-"
BUFFER_EVENTS = 200_000
"""About 250 MB: more than three minutes of a total outage at 1,000 events per second. Beyond that
new sends wait for room."""
_NAMED_AT_MOST = 20
_PROGRESS_SECONDS = 5.0


@dataclass(frozen=True)
class LoadResult:
    """What a load did.

    :param sent: events written to the ledger as sent.
    :param acked: events that Kafka acknowledged.
    :param failed: events that the client gave up; they may be in the topic all the same.
    :param never_acked: how many were not acknowledged when the load ended, failed ones included.
    :param examples: the first of those, as device and sequence.
    :param seconds: from the first event to the end of the flush.
    """

    boot_id: str
    ledger: str
    sent: int
    acked: int
    failed: int
    never_acked: int
    seconds: float
    examples: list[dict[str, Any]] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """The result as a JSON object."""
        return asdict(self)


class Load:
    """One run of the generator.

    :param ledger: where sends and acks are written.
    :param topic: where to send.
    :param connect: makes a connected producer, raising KafkaError while there is no broker.
    :param stop: ends the sending early; what is under way is still flushed.
    """

    def __init__(
        self,
        ledger: LedgerWriter,
        topic: str,
        connect: Callable[[], Producer],
        stop: threading.Event,
        buffer_events: int = BUFFER_EVENTS,
    ) -> None:
        self._ledger = ledger
        self._stop = stop
        self._open: dict[tuple[str, int], None] = {}
        self._sender = EventSender(topic, connect, stop, buffer_events, on_ack=self._acked, on_failure=self._failed)
        self._sent = 0

    def run(
        self,
        *,
        rate: float,
        seconds: float | None,
        count: int | None,
        devices: int,
        flush_seconds: float,
        ledger_path: Path,
    ) -> LoadResult:
        """Send until the time is over or the count is reached, then wait for the acks.

        Waits for Kafka before the first event, as long as it takes. The time runs on through an
        outage: events go to the buffer, and wait for room when it is full.

        :param rate: events per second.
        :param seconds: how long; None for no limit.
        :param count: how many at most; None for no limit.
        :param devices: how many simulated devices take turns.
        :param flush_seconds: how long to wait for acks at the end.
        """
        boot_id = new_boot_id()
        simulated = Devices(DEVICE_PREFIX, devices, boot_id)
        opened = self._sender.open()
        self._ledger.begin(boot_id, rfc3339(datetime.now(UTC)))
        begun = time.monotonic()
        if opened:
            self._send(simulated, Pace(rate), begun, seconds, count)
        log.info("sent %d, waiting for %d acks", self._sent, len(self._open))
        self._sender.flush(flush_seconds)
        self._sender.close()
        never = list(self._open)
        self._ledger.end(self._sent, self._sender.acked, self._sender.failed)
        return LoadResult(
            boot_id=boot_id,
            ledger=str(ledger_path),
            sent=self._sent,
            acked=self._sender.acked,
            failed=self._sender.failed,
            never_acked=self._sent - self._sender.acked,
            seconds=round(time.monotonic() - begun, 3),
            examples=[{"device_id": device, "sequence": sequence} for device, sequence in never[:_NAMED_AT_MOST]],
        )

    def _send(
        self,
        simulated: Devices,
        pace: Pace,
        begun: float,
        seconds: float | None,
        count: int | None,
    ) -> None:
        progress = begun
        while not self._stop.is_set():
            now = time.monotonic()
            if seconds is not None and now - begun >= seconds:
                return
            due = pace.due()
            if count is not None:
                due = min(due, count - self._sent)
            if not self._hand_over(list(simulated.stream(datetime.now(UTC), due))):
                return
            if count is not None and self._sent >= count:
                return
            if now - progress >= _PROGRESS_SECONDS:
                progress = now
                log.info(
                    "%.0f s: sent %d, acked %d, under way %d",
                    now - begun,
                    self._sent,
                    self._sender.acked,
                    self._sender.pending,
                )
            self._stop.wait(pace.wait_seconds())

    def _hand_over(self, events: list[Event]) -> bool:
        if not events:
            return True
        self._ledger.sent(events)
        self._sent += len(events)
        for event in events:
            self._open[(event.device_id, event.sequence)] = None
        for position, event in enumerate(events):
            if not self._sender.send(event):
                self._take_back(events[position:])
                return False
        return True

    def _take_back(self, events: list[Event]) -> None:
        """Stopped before these were handed over: Kafka never saw them, and nobody waits for them.

        The ledger has them as sent, which it says before; they need not be in the table for that.
        """
        self._sent -= len(events)
        for event in events:
            del self._open[event.device_id, event.sequence]

    def _acked(self, event: Event, partition: int, offset: int) -> None:
        self._ledger.acked(event, partition, offset)
        self._open.pop((event.device_id, event.sequence), None)

    def _failed(self, event: Event, error: Exception) -> None:
        self._ledger.failed(event, error)
