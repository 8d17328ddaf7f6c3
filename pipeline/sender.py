"""Sending events so that none is lost: a wrapper of kafka-python's producer for all senders.

acks=all and idempotent, a delivery timeout of a day (an outage of minutes is waited out, never
answered by dropping), a bound on what is under way (kafka-python's own buffer has none), and a
start that waits for Kafka.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from pipeline.clients import kafka_settings
from pipeline.config import KafkaEndpoint, KafkaLogin
from pipeline.errors import Unavailable
from pipeline.events import Event

log = logging.getLogger(__name__)

Acked = Callable[[Event, int, int], None]
"""Called with the event, its partition and its offset, in the sender's own thread."""
Failed = Callable[[Event, Exception], None]
"""Called with the event and the reason, in the sender's own thread."""

_DAY_MS = 24 * 3600 * 1000


class Producer(Protocol):
    """What is used of kafka-python's KafkaProducer."""

    def send(self, topic: str, *, value: bytes, key: bytes) -> Any: ...
    def partitions_for(self, topic: str) -> Any: ...
    def flush(self, timeout: float | None = None) -> None: ...
    def close(self, timeout: float | None = None) -> None: ...


def make_producer(endpoint: KafkaEndpoint, login: KafkaLogin, client_id: str) -> Producer:
    """A producer of kafka-python, connected.

    :raises kafka.errors.KafkaError: no broker answered within ten seconds.
    """
    from kafka import KafkaProducer
    from kafka.errors import KafkaTimeoutError

    class GivingUpProducer(KafkaProducer):  # type: ignore[misc]
        """A producer that can be closed while events are under way.

        The library's own flushes first, and when that is not done in time it raises and leaves its
        thread running, which would deliver for as long as the delivery timeout.
        """

        def close(self, timeout: float | None = None, null_logger: bool = False) -> None:
            try:
                super().close(timeout, null_logger)
            except KafkaTimeoutError:
                self._sender.force_close()
                self._closed = True

    producer: Producer = GivingUpProducer(
        **kafka_settings(endpoint, login),
        client_id=client_id,
        acks="all",
        enable_idempotence=True,
        allow_auto_create_topics=False,
        delivery_timeout_ms=_DAY_MS,
        # A broker that is suspended keeps its connections open: what is in flight to it is only
        # sent elsewhere after this time.
        request_timeout_ms=10_000,
        linger_ms=20,
        batch_size=65_536,
        max_block_ms=5_000,
        bootstrap_timeout_ms=10_000,
        metrics_enabled=False,
    )
    return producer


class EventSender:
    """Sends events to one topic and counts what became of them.

    Safe for one sending thread beside the producer's own thread, which delivers the acks.

    :param topic: where to.
    :param connect: makes a connected producer, raising KafkaError while there is no broker.
    :param stop: ends every wait; set by SIGTERM.
    :param buffer_events: how many events may be under way; :meth:`send` waits beyond that.
    :param on_ack: told of each acknowledged event.
    :param on_failure: told of each event that will never be acknowledged.
    """

    def __init__(
        self,
        topic: str,
        connect: Callable[[], Producer],
        stop: threading.Event,
        buffer_events: int,
        on_ack: Acked | None = None,
        on_failure: Failed | None = None,
    ) -> None:
        self._topic = topic
        self._connect = connect
        self._stop = stop
        self._buffer_events = buffer_events
        self._on_ack = on_ack
        self._on_failure = on_failure
        self._producer: Producer | None = None
        self._room = threading.Condition()
        self.sent = 0
        self.acked = 0
        self.failed = 0

    @property
    def pending(self) -> int:
        """How many events are under way: handed over, neither acknowledged nor failed."""
        return self.sent - self.acked - self.failed

    def open(self, timeout: float | None = None) -> bool:
        """Connect and wait until the topic is there.

        :param timeout: seconds; None waits until stopped.
        :returns: False when stopped first.
        :raises Unavailable: not there in time, with the last thing that Kafka said.
        """
        from kafka.errors import KafkaError

        deadline = None if timeout is None else time.monotonic() + timeout
        said = ""
        while not self._stop.is_set():
            try:
                if self._producer is None:
                    self._producer = self._connect()
                self._producer.partitions_for(self._topic)
                return True
            except KafkaError as error:
                text = f"{type(error).__name__}: {error}"
                if text != said:
                    log.warning("waiting for Kafka and topic %s: %s", self._topic, text)
                    said = text
                if deadline is not None and time.monotonic() > deadline:
                    raise Unavailable(f"topic {self._topic}", text, f"a topic within {timeout:g} s") from error
                self._stop.wait(0.5)
        return False

    def has_room(self) -> bool:
        """Whether an event can be handed over without waiting."""
        return self.pending < self._buffer_events

    def send(self, event: Event, timeout: float | None = None) -> bool:
        """Hand over one event; waits while the buffer is full or Kafka's metadata is missing.

        :param timeout: seconds after which no new try is made; None tries until stopped.
        :returns: False when stopped or out of time before the event was handed over: it was not sent.
        """
        from kafka.errors import KafkaError

        if self._producer is None:
            raise RuntimeError("send() before open()")
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        with self._room:
            while not self.has_room():
                if self._stop.is_set() or time.monotonic() > deadline:
                    return False
                self._room.wait(0.5)
        said = ""
        while not self._stop.is_set() and time.monotonic() <= deadline:
            try:
                future = self._producer.send(self._topic, value=event.value(), key=event.key())
            except KafkaError as error:
                # Raised before the event entered the buffer, so that trying again sends it once.
                if str(error) != said:
                    log.warning("event not taken, trying again: %s", error)
                    said = str(error)
                self._stop.wait(0.2)
                continue
            with self._room:
                self.sent += 1
            future.add_callback(self._acked, event)
            future.add_errback(self._not_acked, event)
            return True
        return False

    def flush(self, timeout: float) -> int:
        """Wait for what is under way.

        :param timeout: seconds.
        :returns: how many events are still neither acknowledged nor failed.
        """
        from kafka.errors import KafkaError

        if self._producer is not None and self.pending:
            try:
                self._producer.flush(timeout=timeout)
            except KafkaError as error:
                log.warning("flush ended after %g s: %s", timeout, error)
        return self.pending

    def close(self) -> None:
        """Drop the connection; what was not flushed is given up."""
        if self._producer is not None:
            self._producer.close(timeout=0)
            self._producer = None

    def _acked(self, event: Event, metadata: Any) -> None:
        if self._on_ack is not None:
            self._on_ack(event, metadata.partition, metadata.offset)
        with self._room:
            self.acked += 1
            self._room.notify()

    def _not_acked(self, event: Event, error: Exception) -> None:
        if self._on_failure is not None:
            self._on_failure(event, error)
        with self._room:
            self.failed += 1
            self._room.notify()
