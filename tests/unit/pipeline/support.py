"""Fakes and samples that the tests of the pipeline share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from kafka.errors import KafkaConnectionError, KafkaTimeoutError, TopicAuthorizationFailedError

SCHEMA = Path(__file__).parents[3] / "config" / "schemas" / "iot-event.json"

ENDPOINTS: dict[str, Any] = {
    "cluster_id": "MkU3OEVBNTcwNTJENDM2Qg",
    "root": "/somewhere",
    "kafka": {
        "bootstrap": "127.0.77.11:9092,127.0.77.12:9092",
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "PLAIN",
        "topic": "iot-events",
        "group": "spark-streaming-group",
    },
    "s3": {"endpoint": "http://127.0.77.21:9000", "region": "us-east-1"},
    "tables": {"events": "s3://iot-lakehouse/tables/events", "dead_letters": "s3://iot-lakehouse/tables/dead_letters"},
    "checkpoint_pointer": "s3://iot-checkpoints/streaming/current.json",
    "metrics": {},
}


def endpoints() -> dict[str, Any]:
    """A valid endpoints.json, the caller's own copy."""
    return deepcopy(ENDPOINTS)


class FakeClock:
    """A clock that only moves when someone sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Move on."""
        self.slept.append(seconds)
        self.now += seconds


class FakeFuture:
    """What kafka-python's producer returns for an event."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[], None]] = []
        self._on_success: list[tuple[Callable[..., None], Any]] = []
        self._on_failure: list[tuple[Callable[..., None], Any]] = []

    def add_callback(self, function: Callable[..., None], argument: Any) -> None:
        """Remember whom to tell of an ack."""
        self._on_success.append((function, argument))

    def add_errback(self, function: Callable[..., None], argument: Any) -> None:
        """Remember whom to tell of a failure."""
        self._on_failure.append((function, argument))

    def ack(self, partition: int, offset: int) -> None:
        """Acknowledge the event."""
        for function, argument in self._on_success:
            function(argument, SimpleNamespace(partition=partition, offset=offset))

    def fail(self, error: Exception) -> None:
        """Give the event up."""
        for function, argument in self._on_failure:
            function(argument, error)


class FakeProducer:
    """A producer whose acks come when flushed, or when the test says so.

    :param keep: how many events are never acknowledged, the last ones.
    :param refuse: how many sends raise before one is taken.
    :param deny: whether every event is given up when flushed.
    """

    def __init__(self, keep: int = 0, refuse: int = 0, topic_after: int = 0, deny: bool = False) -> None:
        self.futures: list[FakeFuture] = []
        self.sent: list[tuple[str, bytes, bytes]] = []
        self._keep = keep
        self._refuse = refuse
        self._topic_after = topic_after
        self._deny = deny
        self._done = 0
        self.closed = False

    def send(self, topic: str, *, value: bytes, key: bytes) -> FakeFuture:
        """Take an event."""
        if self._refuse:
            self._refuse -= 1
            raise KafkaTimeoutError("no metadata")
        self.sent.append((topic, key, value))
        self.futures.append(FakeFuture())
        return self.futures[-1]

    def partitions_for(self, topic: str) -> set[int]:
        """Know the topic, after some tries."""
        if self._topic_after:
            self._topic_after -= 1
            raise KafkaTimeoutError(f"no {topic}")
        return {0}

    def flush(self, timeout: float | None = None) -> None:
        """Acknowledge what may be acknowledged."""
        end = len(self.futures) - self._keep
        for offset in range(self._done, end):
            if self._deny:
                self.futures[offset].fail(TopicAuthorizationFailedError())
            else:
                self.futures[offset].ack(0, offset)
        self._done = max(self._done, end)
        if self._keep:
            raise KafkaTimeoutError("not all")

    def close(self, timeout: float | None = None) -> None:
        """Remember it."""
        self.closed = True


class LateProducers:
    """Connects only after some tries, as Kafka that is still starting."""

    def __init__(self, producer: FakeProducer, tries: int) -> None:
        self._producer = producer
        self.tries = tries

    def __call__(self) -> FakeProducer:
        if self.tries:
            self.tries -= 1
            raise KafkaConnectionError("nobody there")
        return self._producer


class MemoryStore:
    """An object store in a dict, uri to content."""

    def __init__(self, **objects: bytes) -> None:
        self.objects: dict[str, bytes] = dict(objects)
        self.before_create: Callable[[], object] = lambda: None

    def get(self, uri: str) -> bytes | None:
        """The content, None without."""
        return self.objects.get(uri)

    def create(self, uri: str, body: bytes) -> bool:
        """Create if there is none."""
        self.before_create()
        if uri in self.objects:
            return False
        self.objects[uri] = body
        return True

    def names(self, prefix: str) -> Iterator[str]:
        """Names below a prefix."""
        return (uri.removeprefix(prefix) for uri in sorted(self.objects) if uri.startswith(prefix))
