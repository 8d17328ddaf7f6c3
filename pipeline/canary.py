"""Canaries at an interval: does an event that is sent now arrive in the table?

A round sends one event and looks for it until the deadline. Connection and table are kept from round
to round and made anew after one that failed, so that there are never more than one of each.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge

from pipeline.events import Event
from pipeline.prove import Sequences, prove
from pipeline.sender import EventSender, Producer

log = logging.getLogger(__name__)


class CanaryMetrics:
    """What became of the canaries.

    :param registry: takes the metrics.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.last_success = Gauge(
            "pipeline_canary_last_success_timestamp_seconds",
            "Unix time at which a canary was last found in the table, that of the start before the first.",
            registry=registry,
        )
        self.last_success.set(time.time())
        self.latency = Gauge(
            "pipeline_canary_latency_seconds",
            "Seconds from sending to finding of the last canary that was found.",
            registry=registry,
        )
        self.sent = Counter("pipeline_canary_sent", "Canaries handed to the Kafka client.", registry=registry)
        self.failures = Counter(
            "pipeline_canary_failures",
            "Rounds without a canary in the table exactly once by the deadline.",
            registry=registry,
        )


class _Stopped(Exception):
    """The service ends in the middle of a round."""


class Canary:
    """Sends canaries until stopped.

    :param topic: where to.
    :param connect: makes a connected producer, raising KafkaError while there is no broker.
    :param open_table: makes a reader of the events table; must not fail while there is none.
    :param interval: seconds from the start of a round to the start of the next.
    :param deadline: seconds after which a canary counts as lost.
    :param stop: ends everything, a round under way too.
    """

    # How exact the latency is, and how often a round looks at the table.
    _POLL_SECONDS = 0.5
    # A round that failed says that something is wrong or not there yet; the next one need not wait for its turn.
    _RETRY_SECONDS = 5.0

    def __init__(
        self,
        topic: str,
        connect: Callable[[], Producer],
        open_table: Callable[[], Sequences],
        metrics: CanaryMetrics,
        interval: float,
        deadline: float,
        stop: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._topic = topic
        self._connect = connect
        self._open_table = open_table
        self._metrics = metrics
        self._interval = interval
        self._deadline = deadline
        self._stop = stop
        self._clock = clock
        self._sender: EventSender | None = None
        self._read: Sequences | None = None

    def run(self) -> None:
        """Round after round; a round that takes longer than the interval leaves the next ones out."""
        while not self._stop.is_set():
            begun = self._clock()
            good = self.round()
            left = self._interval - (self._clock() - begun) % self._interval
            self._stop.wait(left if good else min(left, self._RETRY_SECONDS))
        self._drop()

    def round(self) -> bool:
        """One canary, and the metrics of what became of it; returns whether it went well or was stopped."""
        if self._sender is None:
            self._sender = EventSender(self._topic, self._connect, self._stop, buffer_events=1, on_failure=_given_up)
        sender, sent = self._sender, self._sender.sent
        try:
            why = self._try(sender)
        except _Stopped:
            return True
        except Exception as error:  # noqa: BLE001 - whatever it was, the next round tries again
            why = f"{type(error).__name__}: {error}"
        self._metrics.sent.inc(sender.sent - sent)
        if not why or self._stop.is_set():
            return True
        log.warning("canary failed: %s", why)
        self._metrics.failures.inc()
        self._drop()
        return False

    def _try(self, sender: EventSender) -> str:
        """Send and look; returns what was wrong, nothing if all was well."""
        begun = self._clock()
        if self._read is None:
            self._read = self._open_table()
        # Before the clock of the latency starts: a new connection takes a time that no event takes.
        if not sender.open(timeout=self._deadline):
            raise _Stopped
        left = max(0.0, begun + self._deadline - self._clock())
        proof = prove(sender, self._read, 1, left, self._clock, self._pause, self._POLL_SECONDS)
        if not proof.holds:
            return f"sent {proof.sent}, given up {proof.failed}, found {proof.found}, beyond one {proof.duplicates}"
        self._metrics.latency.set(proof.seconds)
        self._metrics.last_success.set(time.time())
        return ""

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise _Stopped

    def _drop(self) -> None:
        sender, self._sender = self._sender, None
        self._read = None
        if sender is not None:
            with contextlib.suppress(Exception):
                sender.close()


def _given_up(_: Event, error: Exception) -> None:
    log.warning("the canary was given up: %s: %s", type(error).__name__, error)
