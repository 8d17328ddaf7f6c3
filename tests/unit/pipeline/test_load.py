"""The load generator: ledger and result agree with what Kafka said."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pipeline.ledger import LedgerWriter, read_ledger
from pipeline.load import Load, LoadResult
from tests.unit.pipeline.support import FakeProducer, LateProducers


def run(tmp_path: Path, producer: FakeProducer, stop: threading.Event | None = None, **changes: float) -> LoadResult:
    path = tmp_path / "ledger.tsv"
    ledger = LedgerWriter(path)
    load = Load(ledger, "iot-events", LateProducers(producer, 1), stop or threading.Event())
    options = {"rate": 5000.0, "seconds": None, "count": 50, "devices": 5, "flush_seconds": 1.0, **changes}
    result = load.run(**options, ledger_path=path)  # type: ignore[arg-type]
    ledger.close()
    return result


def test_all_acknowledged(tmp_path: Path) -> None:
    result = run(tmp_path, FakeProducer())
    assert (result.sent, result.acked, result.never_acked, result.examples) == (50, 50, 0, [])
    ledger = read_ledger(tmp_path / "ledger.tsv")
    assert len(ledger.sent) == 50
    assert ledger.acked == ledger.sent
    assert ledger.boot_ids == {result.boot_id}


def test_what_was_never_acknowledged_is_named(tmp_path: Path) -> None:
    result = run(tmp_path, FakeProducer(keep=2))
    assert (result.sent, result.acked, result.never_acked) == (50, 48, 2)
    assert result.examples == [
        {"device_id": "load-0004", "sequence": 9},
        {"device_id": "load-0005", "sequence": 9},
    ]
    assert len(read_ledger(tmp_path / "ledger.tsv").acked) == 48


def test_the_ledger_knows_an_event_before_kafka_does(tmp_path: Path) -> None:
    path = tmp_path / "ledger.tsv"
    known: list[bool] = []

    class Watching(FakeProducer):
        def send(self, topic: str, *, value: bytes, key: bytes) -> object:  # type: ignore[override]
            known.append(len(read_ledger(path).sent) > len(self.sent))
            return super().send(topic, value=value, key=key)

    run(tmp_path, Watching(), count=20)
    assert known == [True] * 20


def test_the_time_ends_it(tmp_path: Path) -> None:
    result = run(tmp_path, FakeProducer(), seconds=0.3, count=10**9, rate=100.0)
    assert 10 <= result.sent <= 60


def test_a_stop_ends_the_sending_and_still_flushes(tmp_path: Path) -> None:
    stop = threading.Event()

    class Stopping(FakeProducer):
        def send(self, topic: str, *, value: bytes, key: bytes) -> object:  # type: ignore[override]
            if len(self.sent) == 9:
                stop.set()
            return super().send(topic, value=value, key=key)

    result = run(tmp_path, Stopping(), stop)
    # What was not handed over any more was not sent.
    assert (result.sent, result.acked, result.never_acked) == (10, 10, 0)


def test_a_stop_before_kafka_was_there_sends_nothing(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    result = run(tmp_path, FakeProducer(), stop)
    assert (result.sent, result.acked) == (0, 0)


@pytest.mark.parametrize("count", [1, 49])
def test_the_count_is_exact(tmp_path: Path, count: int) -> None:
    assert run(tmp_path, FakeProducer(), count=count).sent == count
