"""The proof: canaries, each in the table exactly once, before the deadline."""

from __future__ import annotations

import threading
from datetime import datetime

import pytest

from pipeline.errors import Unavailable
from pipeline.events import CANARY_PREFIX
from pipeline.prove import Proof, prove
from pipeline.sender import EventSender
from tests.unit.pipeline.support import FakeClock, FakeProducer


def run(after: float, copies: int = 1, events: int = 3, missing: int = 0, deadline: float = 20.0) -> Proof:
    """Prove against a table in which the canaries appear after some seconds."""
    clock = FakeClock()
    producer = FakeProducer()
    sender = EventSender("iot-events", lambda: producer, threading.Event(), buffer_events=events)

    def read(boot_id: str, since: datetime) -> list[tuple[str, int]]:
        if clock.now - 1000 < after:
            return []
        devices = [key.decode() for _, key, _ in producer.sent]
        return [(device, 0) for device in devices[missing:] for _ in range(copies)]

    proof = prove(sender, read, events, deadline, clock, clock.sleep)
    assert all(key.decode().startswith(CANARY_PREFIX) for _, key, _ in producer.sent)
    return proof


def test_found_once_each() -> None:
    proof = run(after=4)
    assert proof.holds
    assert (proof.sent, proof.found, proof.duplicates) == (3, 3, 0)
    assert proof.seconds == pytest.approx(4, abs=0.3)


def test_nothing_arrives() -> None:
    proof = run(after=10**6)
    assert not proof.holds
    assert (proof.sent, proof.found) == (3, 0)
    assert proof.seconds == pytest.approx(20, abs=0.3)


def test_one_is_missing() -> None:
    assert not run(after=1, missing=1).holds


def test_one_is_there_twice() -> None:
    proof = run(after=1, copies=2)
    assert (proof.found, proof.duplicates, proof.holds) == (3, 3, False)


def test_what_was_given_up_is_not_waited_for() -> None:
    clock, producer = FakeClock(), FakeProducer(deny=True)
    sender = EventSender("iot-events", lambda: producer, threading.Event(), buffer_events=2)
    proof = prove(sender, lambda *_: [], 2, 20.0, clock, clock.sleep)
    assert (proof.holds, proof.sent, proof.failed, proof.found) == (False, 2, 2, 0)
    assert clock.slept == []


def test_a_second_proof_on_one_connection_counts_its_own_canaries() -> None:
    clock, producer = FakeClock(), FakeProducer()
    sender = EventSender("iot-events", lambda: producer, threading.Event(), buffer_events=3)
    connections: list[str] = []

    def read(boot_id: str, since: datetime) -> list[tuple[str, int]]:
        connections.append(boot_id)
        return [("canary-0001", 0), ("canary-0002", 0)]

    for _ in range(2):
        proof = prove(sender, read, 2, 20.0, clock, clock.sleep)
        assert (proof.holds, proof.sent, proof.found) == (True, 2, 2)
    assert len(set(connections)) == 2


def test_a_look_at_the_table_comes_as_often_as_asked() -> None:
    clock, producer = FakeClock(), FakeProducer()
    sender = EventSender("iot-events", lambda: producer, threading.Event(), buffer_events=1)
    prove(sender, lambda *_: [], 1, 2.0, clock, clock.sleep, poll_seconds=0.5)
    assert clock.slept == [0.5] * 4


def unreadable(until: float, deadline: float = 20.0) -> Proof:
    """Prove against a table that can't be read for some seconds."""
    clock = FakeClock()
    producer = FakeProducer()
    sender = EventSender("iot-events", lambda: producer, threading.Event(), buffer_events=1)

    def read(boot_id: str, since: datetime) -> list[tuple[str, int]]:
        if clock.now - 1000 < until:
            raise Unavailable("s3://b/t", "a request that failed", "a readable table")
        return [(key.decode(), 0) for _, key, _ in producer.sent]

    return prove(sender, read, 1, deadline, clock, clock.sleep)


def test_a_table_that_can_not_be_read_for_a_while_is_looked_at_again() -> None:
    assert unreadable(until=5).holds


def test_a_table_that_can_not_be_read_until_the_deadline_is_the_answer() -> None:
    with pytest.raises(Unavailable, match="a request that failed"):
        unreadable(until=10**6)
