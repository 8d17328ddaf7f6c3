"""How far a consumer group is behind, read from Kafka whenever Prometheus asks.

A reading that fails says so (``pipeline_exporter_up`` is 0) and shows no offsets at all: values from
before an outage would look like a stream that keeps up.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from pipeline.errors import Unavailable

log = logging.getLogger(__name__)


class Admin(Protocol):
    """What is used of kafka-python's KafkaAdminClient."""

    def describe_topics(self, topics: list[str]) -> Any: ...
    def list_group_offsets(self, group_specs: Any) -> Any: ...
    def list_partition_offsets(self, topic_partition_specs: Any) -> Any: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Offsets:
    """Offsets of one topic and of one group on it, each by partition.

    :param oldest: the first offset that Kafka still has.
    :param newest: the offset that the next event will get.
    :param committed: the first offset that the group has not read; no entry without a commit.
    """

    oldest: Mapping[int, int]
    newest: Mapping[int, int]
    committed: Mapping[int, int]

    def lag(self, partition: int) -> int:
        """How many events the group has not read; without a commit all that there are."""
        begin = self.committed.get(partition, self.oldest[partition])
        # A topic that was made anew is shorter than what was committed on the old one.
        return max(0, self.newest[partition] - begin)


def read_offsets(admin: Admin, topic: str, group: str) -> Offsets:
    """Ask Kafka: four requests, and one more for each broker that leads partitions.

    :raises Unavailable: there is no such topic, or a partition has no leader.
    :raises kafka.errors.KafkaError: no answer, or a refusal.
    """
    from kafka import TopicPartition
    from kafka.admin import OffsetSpec

    described = admin.describe_topics([topic])[0]
    if described["error_code"]:
        raise Unavailable(f"topic {topic}", f"error {described['error_code']}", "a topic")
    without = [p["partition_index"] for p in described["partitions"] if p["leader_id"] < 0]
    if without:
        raise Unavailable(f"topic {topic}", f"no leader of {without}", "a leader of each partition")
    partitions = [TopicPartition(topic, p["partition_index"]) for p in described["partitions"]]
    # The commits before the ends: a commit that comes in between would else be beyond the end.
    committed = admin.list_group_offsets({group: partitions})[group]
    oldest = admin.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.EARLIEST))
    newest = admin.list_partition_offsets(dict.fromkeys(partitions, OffsetSpec.LATEST))
    return Offsets(
        oldest={partition.partition: found.offset for partition, found in oldest.items()},
        newest={partition.partition: found.offset for partition, found in newest.items()},
        committed={
            partition.partition: found.offset
            for partition, found in committed.items()
            if partition.topic == topic and found.offset >= 0
        },
    )


class OffsetReader:
    """Reads offsets in one thread of its own, so that a Kafka that hangs holds up nobody.

    However many ask while a reading hangs, there is one thread and one connection. The connection is
    kept; after an error a new one is made, at once if time is left.

    :param connect: makes a connected client, raising KafkaError while there is no broker.
    :param timeout: seconds that :meth:`read` waits at most.
    """

    def __init__(
        self,
        connect: Callable[[], Admin],
        topic: str,
        group: str,
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect = connect
        self._topic = topic
        self._group = group
        self._timeout = timeout
        self._clock = clock
        self._admin: Admin | None = None
        self._changed = threading.Condition()
        # Readings are numbered; the three are the newest one asked for, begun, and done.
        self._asked = self._begun = self._done = 0
        self._outcome: Offsets | Unavailable = Unavailable("offsets", "no reading yet")
        threading.Thread(target=self._run, name="offset-reader", daemon=True).start()

    def read(self) -> Offsets:
        """The offsets of a reading that began after the call.

        :raises Unavailable: they could not be read, or not in time.
        """
        with self._changed:
            mine = self._asked = self._begun + 1
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: self._done >= mine, self._timeout):
                raise Unavailable("offsets", f"no answer for {self._timeout:g} s", "an answer of Kafka")
            outcome = self._outcome
        if isinstance(outcome, Unavailable):
            raise outcome
        return outcome

    def _run(self) -> None:
        said = ""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._asked > self._begun)
                self._begun += 1
            outcome = self._reading()
            text = str(outcome) if isinstance(outcome, Unavailable) else ""
            if text != said:
                log.warning("offsets not read: %s", text) if text else log.info("offsets are read again")
                said = text
            with self._changed:
                self._outcome = outcome
                self._done = self._begun
                self._changed.notify_all()

    def _reading(self) -> Offsets | Unavailable:
        begun = self._clock()
        while True:
            kept = self._admin is not None
            try:
                if self._admin is None:
                    self._admin = self._connect()
                return read_offsets(self._admin, self._topic, self._group)
            except Unavailable as error:
                return error
            except Exception as error:  # noqa: BLE001 - the library raises more than its own errors
                self._drop()
                # A kept connection is expected to fail after brokers were restarted.
                if not kept or self._clock() - begun > self._timeout / 2:
                    return Unavailable("offsets", f"{type(error).__name__}: {error}", "an answer of Kafka")

    def _drop(self) -> None:
        admin, self._admin = self._admin, None
        if admin is not None:
            with contextlib.suppress(Exception):
                admin.close()


class LagCollector(Collector):
    """The metrics of lag, made of one reading for each scrape.

    :param read: reads the offsets, raising Unavailable.
    """

    def __init__(
        self,
        read: Callable[[], Offsets],
        topic: str,
        group: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._topic = topic
        self._group = group
        self._clock = clock

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Read, and give what was read; without offsets when that failed."""
        begun = self._clock()
        offsets: Offsets | None = None
        with contextlib.suppress(Unavailable):
            offsets = self._read()
        yield _family(
            "pipeline_exporter_up",
            "Whether the source could be read for this scrape: 1 or 0.",
            {"source": "kafka"},
            float(offsets is not None),
        )
        yield _family(
            "pipeline_exporter_read_seconds",
            "Seconds that reading the source took for this scrape.",
            {"source": "kafka"},
            self._clock() - begun,
        )
        if offsets is not None:
            yield from self._families(offsets)

    def _families(self, offsets: Offsets) -> Iterator[GaugeMetricFamily]:
        lags = {partition: offsets.lag(partition) for partition in sorted(offsets.newest)}
        yield _family(
            "kafka_consumer_lag_sum",
            "Events of the topic that the group has not read, over all partitions.",
            {"group": self._group, "topic": self._topic},
            sum(lags.values()),
        )
        group = {"consumergroup": self._group, "topic": self._topic}
        topic = {"topic": self._topic}
        for name, text, labels, values in (
            ("kafka_consumergroup_lag", "Events of the partition that the group has not read.", group, lags),
            (
                "kafka_consumergroup_current_offset",
                "The first offset that the group has not read; absent before its first commit.",
                group,
                offsets.committed,
            ),
            (
                "kafka_topic_partition_current_offset",
                "The offset that the next event will get.",
                topic,
                offsets.newest,
            ),
            ("kafka_topic_partition_oldest_offset", "The first offset that Kafka still has.", topic, offsets.oldest),
        ):
            family = GaugeMetricFamily(name, text, labels=[*labels, "partition"])
            for partition, value in sorted(values.items()):
                family.add_metric([*labels.values(), str(partition)], value)
            yield family


def _family(name: str, text: str, labels: Mapping[str, str], value: float) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family
