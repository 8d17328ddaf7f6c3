"""The sender: waits instead of losing, and knows what became of each event."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import pytest

from pipeline.errors import Unavailable
from pipeline.events import Event
from pipeline.sender import EventSender
from tests.unit.pipeline.support import FakeProducer, LateProducers

NOW = datetime(2026, 1, 31, tzinfo=UTC)


def event(sequence: int) -> Event:
    return Event("load-0001", "boot-1", sequence, NOW, {"a": 1.0})


class QuickStop(threading.Event):
    """A stop flag whose waits take no time."""

    def wait(self, timeout: float | None = None) -> bool:
        return self.is_set()


def test_it_waits_for_kafka_and_for_the_topic() -> None:
    connect = LateProducers(FakeProducer(topic_after=2), tries=3)
    sender = EventSender("iot-events", connect, QuickStop(), buffer_events=10)
    assert sender.open()
    assert connect.tries == 0


def test_a_wait_with_a_limit_ends_with_the_last_word() -> None:
    sender = EventSender("iot-events", LateProducers(FakeProducer(), 10**9), QuickStop(), buffer_events=10)
    with pytest.raises(Unavailable, match="KafkaConnectionError"):
        sender.open(timeout=0.01)


def test_a_stop_ends_the_wait() -> None:
    stop = QuickStop()
    stop.set()
    sender = EventSender("iot-events", LateProducers(FakeProducer(), 10**9), stop, buffer_events=10)
    assert not sender.open()


def test_every_event_is_accounted_for() -> None:
    producer = FakeProducer()
    acked: list[tuple[int, int, int]] = []
    failed: list[int] = []
    sender = EventSender(
        "iot-events",
        lambda: producer,
        QuickStop(),
        buffer_events=10,
        on_ack=lambda e, partition, offset: acked.append((e.sequence, partition, offset)),
        on_failure=lambda e, error: failed.append(e.sequence),
    )
    sender.open()
    for n in range(3):
        assert sender.send(event(n))
    assert sender.pending == 3
    producer.futures[0].ack(4, 7)
    producer.futures[1].fail(RuntimeError("given up"))
    assert acked == [(0, 4, 7)]
    assert failed == [1]
    assert (sender.sent, sender.acked, sender.failed, sender.pending) == (3, 1, 1, 1)


def test_an_event_that_was_not_taken_is_sent_once_in_the_end() -> None:
    producer = FakeProducer(refuse=5)
    sender = EventSender("iot-events", lambda: producer, QuickStop(), buffer_events=10)
    sender.open()
    assert sender.send(event(0))
    assert len(producer.sent) == 1
    assert producer.sent[0] == ("iot-events", b"load-0001", event(0).value())


def test_a_full_buffer_makes_the_sender_wait_for_an_ack() -> None:
    producer = FakeProducer()
    sender = EventSender("iot-events", lambda: producer, threading.Event(), buffer_events=2)
    sender.open()
    assert sender.send(event(0))
    assert sender.send(event(1))
    assert not sender.has_room()
    third = threading.Thread(target=sender.send, args=(event(2),), daemon=True)
    third.start()
    third.join(0.2)
    assert third.is_alive()
    assert len(producer.sent) == 2
    producer.futures[0].ack(0, 0)
    third.join(5)
    assert not third.is_alive()
    assert len(producer.sent) == 3


def test_a_stop_ends_the_wait_for_room_without_sending() -> None:
    stop = QuickStop()
    producer = FakeProducer()
    sender = EventSender("iot-events", lambda: producer, stop, buffer_events=1)
    sender.open()
    sender.send(event(0))
    stop.set()
    assert not sender.send(event(1))
    assert (sender.sent, len(producer.sent)) == (1, 1)


def test_a_flush_says_what_is_left() -> None:
    sender = EventSender("iot-events", lambda: FakeProducer(keep=1), QuickStop(), buffer_events=10)
    sender.open()
    for n in range(3):
        sender.send(event(n))
    assert sender.flush(1.0) == 1
    assert sender.acked == 2


def test_an_event_that_is_not_taken_in_time_was_not_sent() -> None:
    producer = FakeProducer(refuse=10**9)
    sender = EventSender("iot-events", lambda: producer, QuickStop(), buffer_events=1)
    sender.open()
    assert not sender.send(event(0), timeout=0.05)
    assert (sender.sent, sender.pending) == (0, 0)


def test_a_buffer_that_stays_full_ends_the_wait_in_time() -> None:
    producer = FakeProducer()
    sender = EventSender("iot-events", lambda: producer, QuickStop(), buffer_events=1)
    sender.open()
    assert sender.send(event(0), timeout=5)
    assert not sender.send(event(1), timeout=0.05)
    assert (sender.sent, len(producer.sent)) == (1, 1)
