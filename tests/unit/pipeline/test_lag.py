"""Lag: computed from what Kafka says now, and absent when Kafka does not say."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.admin import OffsetSpec
from kafka.errors import KafkaConnectionError, NotCoordinatorError
from prometheus_client import CollectorRegistry, generate_latest

from pipeline.errors import Unavailable
from pipeline.lag import LagCollector, OffsetReader, Offsets, read_offsets

TOPIC, GROUP = "iot-events", "spark-streaming-group"


class FakeAdmin:
    """A cluster with one topic: partition to (oldest, newest, committed or -1)."""

    def __init__(self, partitions: dict[int, tuple[int, int, int]]) -> None:
        self.partitions = partitions
        self.leaderless: set[int] = set()
        self.error_code = 0
        self.failures: list[Exception] = []
        self.before: Callable[[], object] = lambda: None
        self.asked: list[str] = []
        self.closed = 0

    def describe_topics(self, topics: list[str]) -> list[dict[str, Any]]:
        self.before()
        if self.failures:
            raise self.failures.pop()
        assert topics == [TOPIC]
        partitions = [{"partition_index": n, "leader_id": -1 if n in self.leaderless else 1} for n in self.partitions]
        return [{"error_code": self.error_code, "partitions": partitions}]

    def list_group_offsets(self, group_specs: dict[str, list[TopicPartition]]) -> dict[str, dict[Any, Any]]:
        self.asked.append("committed")
        (group,) = group_specs
        assert group == GROUP
        return {group: {tp: SimpleNamespace(offset=self.partitions[tp.partition][2]) for tp in group_specs[group]}}

    def list_partition_offsets(self, specs: dict[TopicPartition, OffsetSpec]) -> dict[TopicPartition, Any]:
        (spec,) = set(specs.values())
        self.asked.append(spec.name)
        index = {OffsetSpec.EARLIEST: 0, OffsetSpec.LATEST: 1}[spec]
        return {tp: SimpleNamespace(offset=self.partitions[tp.partition][index]) for tp in specs}

    def close(self) -> None:
        self.closed += 1


def reader(connect: Callable[[], FakeAdmin], timeout: float = 5.0) -> OffsetReader:
    return OffsetReader(connect, TOPIC, GROUP, timeout)


def scrape(read: Callable[[], Offsets]) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(LagCollector(read, TOPIC, GROUP))
    rows = [row for row in generate_latest(registry).decode().splitlines() if not row.startswith("#")]
    return {row.rpartition(" ")[0]: float(row.rpartition(" ")[2]) for row in rows}


def test_every_metric_of_a_reading() -> None:
    admin = FakeAdmin({0: (0, 100, 90), 1: (50, 80, -1), 2: (0, 5, 1000)})
    found = scrape(reader(lambda: admin).read)
    assert found.pop('pipeline_exporter_read_seconds{source="kafka"}') < 1
    group, topic = f'consumergroup="{GROUP}",', f'topic="{TOPIC}"}}'
    assert found == {
        'pipeline_exporter_up{source="kafka"}': 1,
        f'kafka_consumer_lag_sum{{group="{GROUP}",{topic}': 10 + 30 + 0,
        **{
            f'{name}{{{labels}partition="{partition}",{topic}': value
            for name, labels, values in (
                ("kafka_consumergroup_lag", group, {0: 10, 1: 30, 2: 0}),
                ("kafka_consumergroup_current_offset", group, {0: 90, 2: 1000}),
                ("kafka_topic_partition_current_offset", "", {0: 100, 1: 80, 2: 5}),
                ("kafka_topic_partition_oldest_offset", "", {0: 0, 1: 50, 2: 0}),
            )
            for partition, value in values.items()
        },
    }


def test_commits_are_read_before_the_ends() -> None:
    admin = FakeAdmin({0: (0, 1, 1)})
    read_offsets(admin, TOPIC, GROUP)
    assert admin.asked.index("committed") < admin.asked.index("LATEST")


def test_each_scrape_reads_anew_on_one_connection() -> None:
    admin = FakeAdmin({0: (0, 100, 90)})
    connected: list[int] = []
    read = reader(lambda: connected.append(1) or admin).read  # type: ignore[func-returns-value]
    lag = f'kafka_consumer_lag_sum{{group="{GROUP}",topic="{TOPIC}"}}'
    assert scrape(read)[lag] == 10
    admin.partitions[0] = (0, 200, 90)
    assert scrape(read)[lag] == 110
    assert (len(connected), admin.closed) == (1, 0)


def only_down(found: dict[str, float]) -> bool:
    return found['pipeline_exporter_up{source="kafka"}'] == 0 and not any(name.startswith("kafka_") for name in found)


def test_an_outage_shows_no_old_offsets_and_ends_by_itself() -> None:
    admin = FakeAdmin({0: (0, 100, 90)})
    down = False

    def connect() -> FakeAdmin:
        if down:
            raise KafkaConnectionError("nobody there")
        return admin

    read = reader(connect).read
    assert scrape(read)['pipeline_exporter_up{source="kafka"}'] == 1
    down = True
    admin.failures = [KafkaConnectionError("gone")]
    assert only_down(scrape(read))
    assert only_down(scrape(read))
    assert admin.closed == 1
    down = False
    assert scrape(read)['pipeline_exporter_up{source="kafka"}'] == 1


def test_a_kept_connection_that_fails_is_replaced_within_the_scrape() -> None:
    first, second = FakeAdmin({0: (0, 1, 0)}), FakeAdmin({0: (0, 7, 0)})
    connections = iter([first, second])
    read = reader(lambda: next(connections)).read
    read()
    first.failures = [NotCoordinatorError("moved")]
    assert read().newest == {0: 7}
    assert (first.closed, second.closed) == (1, 0)


def test_an_error_that_is_not_kafkas_is_survived() -> None:
    admin = FakeAdmin({0: (0, 1, 0)})
    admin.failures = [ValueError("the library's own"), RuntimeError("closed")]
    read = reader(lambda: admin).read
    assert only_down(scrape(read))
    assert only_down(scrape(read))
    assert not only_down(scrape(read))


@pytest.mark.parametrize("change", ["leader", "topic"])
def test_a_topic_that_cannot_be_read_is_named(change: str) -> None:
    admin = FakeAdmin({0: (0, 1, 0), 1: (0, 1, 0)})
    if change == "leader":
        admin.leaderless = {1}
    else:
        admin.error_code = 3
    with pytest.raises(Unavailable, match=TOPIC):
        read_offsets(admin, TOPIC, GROUP)
    read = reader(lambda: admin).read
    assert only_down(scrape(read))
    assert admin.closed == 0


def test_a_kafka_that_hangs_holds_up_no_scrape_and_no_second_thread() -> None:
    admin, leave = FakeAdmin({0: (0, 1, 0)}), threading.Event()
    admin.before = lambda: leave.wait(20)
    read = reader(lambda: admin, timeout=0.2).read
    threads = threading.active_count()
    begun = time.monotonic()
    for _ in range(5):
        assert only_down(scrape(read))
    assert time.monotonic() - begun < 3
    assert threading.active_count() == threads
    admin.partitions[0] = (0, 9, 0)
    leave.set()
    assert read().newest == {0: 9}


def test_a_reading_that_hung_is_not_shown_later() -> None:
    admin, hang, inside = FakeAdmin({0: (0, 1, 0)}), threading.Event(), threading.Event()
    real, calls = admin.list_partition_offsets, []

    def slow(specs: dict[TopicPartition, OffsetSpec]) -> dict[TopicPartition, Any]:
        found = real(specs)
        calls.append(1)
        if len(calls) == 2:
            inside.set()
            hang.wait(20)
        return found

    admin.list_partition_offsets = slow  # type: ignore[method-assign]
    read = reader(lambda: admin, timeout=0.3).read
    with pytest.raises(Unavailable, match="no answer"):
        read()
    assert inside.wait(5)
    admin.partitions[0] = (0, 500, 0)
    threading.Timer(0.1, hang.set).start()
    assert read().newest == {0: 500}
