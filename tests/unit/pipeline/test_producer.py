"""The producer service: a metrics endpoint, steady events, and a flush at the end."""

from __future__ import annotations

import socket
import threading
import time
import urllib.request

import pytest

from pipeline import config, producer
from pipeline.errors import EXIT_OK, Unavailable
from tests.unit.pipeline.support import FakeProducer, LateProducers
from tests.unit.pipeline.test_config import producer as producer_config


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def settings(port: int) -> config.ProducerConfig:
    values = producer_config(events_per_second=500, metrics={"host": "127.0.0.1", "port": port})
    return config.parse(config.ProducerConfig, values, "producer.json")


def sample(port: int, name: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


def test_it_sends_until_stopped_and_flushes() -> None:
    port, stop, fake = free_port(), threading.Event(), FakeProducer()
    codes: list[int] = []
    connect = LateProducers(fake, tries=1)
    service = threading.Thread(target=lambda: codes.append(producer.run(settings(port), connect, stop)))
    service.start()
    deadline = time.monotonic() + 10
    while len(fake.sent) < 50 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert sample(port, "producer_events_sent_total") >= 50
    assert sample(port, "producer_events_acked_total") == 0
    assert sample(port, "producer_last_ack_timestamp_seconds") == 0
    stop.set()
    service.join(10)
    assert codes == [EXIT_OK]
    assert sample(port, "producer_events_acked_total") == len(fake.sent)
    assert sample(port, "producer_events_failed_total") == 0
    assert sample(port, "producer_last_ack_timestamp_seconds") > 0
    assert fake.closed


def test_a_taken_port_is_named() -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        with pytest.raises(Unavailable, match=f"127.0.0.1:{port}"):
            producer.run(settings(port), FakeProducer, threading.Event())
