"""The producer service: simulated devices that send to Kafka for as long as the service runs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge

from pipeline.config import ProducerConfig
from pipeline.errors import EXIT_OK
from pipeline.events import Devices, Event, new_boot_id
from pipeline.metrics import serve
from pipeline.pace import Pace
from pipeline.sender import EventSender, Producer

log = logging.getLogger(__name__)

DEVICE_PREFIX = "device-"


class ProducerMetrics:
    """The metrics of the service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.sent = Counter("producer_events_sent", "Events handed to the Kafka client.", registry=self.registry)
        self.acked = Counter("producer_events_acked", "Events that Kafka acknowledged.", registry=self.registry)
        self.failed = Counter(
            "producer_events_failed",
            "Events that the Kafka client gave up.",
            registry=self.registry,
        )
        self.last_ack = Gauge(
            "producer_last_ack_timestamp_seconds",
            "Unix time of the last acknowledgement, 0 before the first.",
            registry=self.registry,
        )
        self.pending = Gauge(
            "producer_events_pending",
            "Events handed over, neither acknowledged nor given up.",
            registry=self.registry,
        )

    def acknowledged(self, _event: Event, _partition: int, _offset: int) -> None:
        """Count an acknowledgement."""
        self.acked.inc()
        self.last_ack.set(time.time())

    def gave_up(self, event: Event, error: Exception) -> None:
        """Count an event that will never be acknowledged."""
        self.failed.inc()
        log.error("event %s/%d given up: %s", event.device_id, event.sequence, error)


def run(config: ProducerConfig, connect: Callable[[], Producer], stop: threading.Event) -> int:
    """Run the service until it is stopped.

    Waits for Kafka instead of ending, at the start and in between; pauses the devices while the
    buffer is full.

    :param connect: makes a connected producer, raising KafkaError while there is no broker.
    :param stop: set by SIGTERM; what is under way is flushed, then the service ends.
    :returns: the exit code.
    :raises Unavailable: the metrics address cannot be used.
    """
    metrics = ProducerMetrics()
    serve(config.metrics, metrics.registry, config.endpoints.tls)
    sender = EventSender(
        config.endpoints.kafka.topic,
        connect,
        stop,
        config.buffer_events,
        on_ack=metrics.acknowledged,
        on_failure=metrics.gave_up,
    )
    metrics.pending.set_function(lambda: sender.pending)
    boot_id = new_boot_id()
    log.info("boot %s: %d devices, %g events/s", boot_id, config.devices, config.events_per_second)
    if sender.open():
        log.info("connected to %s", config.endpoints.kafka.bootstrap)
        devices = Devices(DEVICE_PREFIX, config.devices, boot_id)
        pace = Pace(config.events_per_second)
        while not stop.is_set():
            now = datetime.now(UTC)
            for event in devices.stream(now, pace.due()):
                if sender.send(event):
                    metrics.sent.inc()
            stop.wait(pace.wait_seconds())
    left = sender.flush(config.stop_timeout_seconds)
    log.info("stopped: sent %d, acked %d, left behind %d", sender.sent, sender.acked, left)
    sender.close()
    return EXIT_OK
