"""The proof: canaries, each in the table exactly once, before the deadline."""

from __future__ import annotations

import threading
from datetime import datetime

import pytest

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
