"""Offsets for lag, progress, waiting, the driver's command line, and the schema's reader."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from kafka.errors import KafkaConnectionError
from prometheus_client import generate_latest

from pipeline import config
from pipeline.errors import ConfigError, Unavailable
from pipeline.streaming import session
from pipeline.streaming.dependencies import buckets_ready, wait_for
from pipeline.streaming.listener import ProgressListener
from pipeline.streaming.metrics import STATES, StreamingMetrics
from pipeline.streaming.offsets import EndOffsets, OffsetCommitter
from pipeline.streaming.schema import event_columns, event_fields
from pipeline.streaming.sink import Sink, StopRequested
from pipeline.streaming.source import kafka_options
from tests.unit.pipeline.support import SCHEMA, FakeClock
from tests.unit.pipeline.test_config import streaming


def sample(metrics: StreamingMetrics, line: str) -> float:
    text = generate_latest(metrics.registry).decode()
    found = [row for row in text.splitlines() if row.startswith(line + " ")]
    assert len(found) == 1, f"{line} in\n{text}"
    return float(found[0].split()[-1])


def progress(batch: int, rows: int, end: int) -> dict[str, Any]:
    return {
        "batchId": batch,
        "numInputRows": rows,
        "durationMs": {"triggerExecution": 1500},
        "sources": [{"endOffset": {"iot-events": {"0": end}}}],
    }


def test_progress_becomes_metrics_and_offsets() -> None:
    metrics = StreamingMetrics()
    offered: list[EndOffsets] = []
    listener = ProgressListener(metrics, offered.append)
    metrics.state("starting")
    before = time.time()
    listener.progress(progress(4, 5000, 77))
    assert sample(metrics, "spark_streaming_batch_id") == 4
    assert sample(metrics, "spark_streaming_input_rows") == 5000
    assert sample(metrics, "spark_streaming_batch_processing_time") == 1.5
    assert sample(metrics, "spark_streaming_last_progress_timestamp_seconds") >= before
    assert sample(metrics, 'spark_streaming_state{state="running"}') == 1
    assert sample(metrics, 'spark_streaming_state{state="starting"}') == 0
    assert offered == [{"iot-events": {"0": 77}}]


def test_an_idle_trigger_is_progress_too() -> None:
    metrics = StreamingMetrics()
    ProgressListener(metrics, lambda _: None).idle()
    assert sample(metrics, "spark_streaming_last_progress_timestamp_seconds") > 0
    assert sample(metrics, 'spark_streaming_state{state="running"}') == 1


def test_a_stop_is_not_undone_by_a_late_event() -> None:
    metrics = StreamingMetrics()
    listener = ProgressListener(metrics, lambda _: None)
    listener.idle()
    metrics.state("stopping")
    listener.progress(progress(5, 1, 78))
    assert sample(metrics, 'spark_streaming_state{state="stopping"}') == 1


def test_every_state_has_a_sample_and_one_is_set() -> None:
    metrics = StreamingMetrics()
    for state in STATES:
        metrics.state(state)
        values = {name: sample(metrics, f'spark_streaming_state{{state="{name}"}}') for name in STATES}
        assert values == {name: float(name == state) for name in STATES}


BATCH_TIME = "spark_streaming_batch_processing_time"


def test_a_trigger_under_way_shows_once_it_is_longer_than_the_last_batch() -> None:
    clock = FakeClock()
    metrics = StreamingMetrics(clock)
    metrics.trigger(active=True)
    clock.sleep(4)
    metrics.trigger(active=True)
    assert sample(metrics, BATCH_TIME) == 4
    metrics.batch(0, 5.0, 10)
    clock.sleep(100)
    metrics.trigger(active=False)
    assert sample(metrics, BATCH_TIME) == 5
    metrics.trigger(active=True)
    clock.sleep(3)
    assert sample(metrics, BATCH_TIME) == 5
    clock.sleep(40)
    assert sample(metrics, BATCH_TIME) == 43


def test_triggers_without_a_gap_are_told_apart_by_their_ends() -> None:
    clock = FakeClock()
    metrics = StreamingMetrics(clock)
    listener = ProgressListener(metrics, lambda _: None)
    metrics.trigger(active=True)
    clock.sleep(20)
    listener.progress(progress(4, 0, 77))
    metrics.trigger(active=True)
    clock.sleep(2)
    assert sample(metrics, BATCH_TIME) == 2


def test_batches_fill_the_histogram_and_the_counter_of_rows() -> None:
    metrics = StreamingMetrics()
    listener = ProgressListener(metrics, lambda _: None)
    listener.progress(progress(4, 5000, 77))
    listener.progress(progress(5, 100, 78))
    listener.progress(progress(6, 0, 78))
    assert sample(metrics, "spark_streaming_rows_total") == 5100
    assert sample(metrics, "spark_streaming_batch_duration_seconds_count") == 2
    assert sample(metrics, "spark_streaming_batch_duration_seconds_sum") == 3
    assert sample(metrics, 'spark_streaming_batch_duration_seconds_bucket{le="1.0"}') == 0
    assert sample(metrics, 'spark_streaming_batch_duration_seconds_bucket{le="2.0"}') == 2
    assert sample(metrics, 'spark_streaming_batch_duration_seconds_bucket{le="120.0"}') == 2


def test_dead_letters_are_counted() -> None:
    metrics = StreamingMetrics()
    metrics.dead_letters(3)
    assert sample(metrics, "spark_streaming_dead_letters_total") == 3


class FakeGroup:
    """A group that fails some times and then notes what is committed."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.committed: list[EndOffsets] = []
        self.closed = False

    def commit(self, offsets: EndOffsets) -> None:
        if self.failures:
            self.failures -= 1
            raise KafkaConnectionError("coordinator not there")
        self.committed.append(offsets)

    def close(self) -> None:
        self.closed = True


def test_the_newest_offsets_are_committed_before_the_end() -> None:
    group = FakeGroup()
    committer = OffsetCommitter(lambda: group)
    for end in range(20):
        committer.offer({"iot-events": {"0": end}})
    committer.close()
    assert group.committed[-1] == {"iot-events": {"0": 19}}


def test_a_failed_commit_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OffsetCommitter, "_RETRY_SECONDS", 0.01)
    group = FakeGroup(failures=2)
    committer = OffsetCommitter(lambda: group)
    committer.offer({"iot-events": {"0": 5}})
    deadline = time.monotonic() + 5
    while not group.committed and time.monotonic() < deadline:
        time.sleep(0.01)
    committer.close()
    assert group.committed == [{"iot-events": {"0": 5}}]


def test_whoever_failed_to_commit_is_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OffsetCommitter, "_RETRY_SECONDS", 0.01)
    made: list[FakeGroup] = []

    def connect() -> FakeGroup:
        # The first one knows none but a coordinator that is dead for good.
        made.append(FakeGroup(failures=0 if made else 10**9))
        return made[-1]

    committer = OffsetCommitter(connect)
    committer.offer({"iot-events": {"0": 5}})
    deadline = time.monotonic() + 5
    while len(made) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    committer.close()
    assert [group.closed for group in made] == [True, True]
    assert made[1].committed == [{"iot-events": {"0": 5}}]


def test_a_kafka_that_is_away_does_not_hold_up_the_end() -> None:
    committer = OffsetCommitter(lambda: FakeGroup(failures=10**9))
    committer.offer({"iot-events": {"0": 5}})
    begun = time.monotonic()
    committer.close(timeout=5)
    assert time.monotonic() - begun < 1


class FakeBuckets:
    """An object store with these buckets."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def has_bucket(self, bucket: str) -> bool:
        return bucket in self.names


def test_a_missing_bucket_is_named() -> None:
    buckets_ready(FakeBuckets("a", "b"), ["a", "b"])
    with pytest.raises(Unavailable, match="bucket b"):
        buckets_ready(FakeBuckets("a"), ["a", "b"])


def test_the_wait_for_a_dependency() -> None:
    tries = iter([False, False, True])

    def check() -> None:
        if not next(tries):
            raise Unavailable("topic iot-events", "none")

    assert wait_for(check, threading.Event(), deadline=FakeClock().now + 10**9)


def test_the_wait_ends_with_what_is_missing() -> None:
    def check() -> None:
        raise Unavailable("topic iot-events", "none")

    clock = FakeClock()
    with pytest.raises(Unavailable, match="topic iot-events"):
        wait_for(check, threading.Event(), deadline=clock.now, clock=clock)


def test_a_stop_ends_the_wait_for_a_dependency() -> None:
    stop = threading.Event()
    stop.set()
    assert not wait_for(lambda: pytest.fail("asked after the stop"), stop, deadline=10**9)


def test_a_batch_is_refused_while_the_job_stops() -> None:
    sink = Sink(None, "e", "d", [], lambda _: None, lambda _: None)  # type: ignore[arg-type]
    assert sink.stop(timeout=0)
    with pytest.raises(StopRequested, match="batch"):
        sink(None, 5)  # type: ignore[arg-type]
    assert sink.last_batch == -1


def test_a_stop_waits_for_the_batch_under_way() -> None:
    inside, leave = threading.Event(), threading.Event()

    class Slow(Sink):
        def _write(self, judged: Any, batch_id: int) -> None:
            inside.set()
            leave.wait(10)

    sink = Slow(None, "e", "d", [], lambda _: None, lambda _: None)  # type: ignore[arg-type]
    batch = threading.Thread(target=sink, args=(None, 7))
    batch.start()
    assert inside.wait(5)
    assert not sink.stop(timeout=0.05)
    leave.set()
    assert sink.stop(timeout=5)
    batch.join(5)
    assert sink.last_batch == 7


def test_the_fields_of_the_contract() -> None:
    fields = event_fields(json.loads(SCHEMA.read_text()))
    assert {field.name: field.kind for field in fields} == {
        "schema_version": "integer",
        "device_id": "string",
        "boot_id": "string",
        "sequence": "integer",
        "event_time": "date-time",
        "readings": "numbers",
    }
    assert all(field.required for field in fields)
    assert list(event_columns(fields))[-5:] == ["topic", "partition", "offset", "kafka_timestamp", "ingest_date"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"type": "array"}, "event_schema"),
        ({"additionalProperties": False}, "event_schema"),
        ({"allOf": []}, "allOf"),
        ({"required": []}, "required"),
        ({"required": ["nobody"]}, "nobody"),
        ({"properties": {"a": {"type": "boolean"}}, "required": ["a"]}, r"properties\.a"),
        ({"properties": {"a": {"type": "string", "enum": ["x"]}}, "required": ["a"]}, "enum"),
        ({"properties": {"Bad Name": {"type": "string"}}, "required": ["Bad Name"]}, "Bad Name"),
        ({"properties": {"offset": {"type": "integer"}}, "required": ["offset"]}, "offset"),
    ],
)
def test_a_schema_that_is_not_understood_is_refused(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        event_fields({**json.loads(SCHEMA.read_text()), **change})


def parsed(tmp_path: Path, **changes: Any) -> config.StreamingConfig:
    return config.parse(config.StreamingConfig, streaming(tmp_path, **changes), "f")


def test_no_secret_stands_on_the_command_line(tmp_path: Path) -> None:
    settings = parsed(tmp_path)
    command = session.java_command(session.spark_conf(settings), settings.jars_dir, settings.local_dir)
    assert not any("kafka-canary" in word or "s3-canary" in word for word in command)
    assert "-Xmx768m" in command
    assert command[-1] == "pyspark-shell"


def test_the_inventory_wins_over_the_jobs_own_settings(tmp_path: Path) -> None:
    settings = parsed(tmp_path, spark_conf={"spark.sql.shuffle.partitions": "64"})
    assert session.spark_conf(settings)["spark.sql.shuffle.partitions"] == "64"


def test_a_missing_java_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = parsed(tmp_path)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="java"):
        session.java_command(session.spark_conf(settings), settings.jars_dir, settings.local_dir)


def test_lost_offsets_fail_the_query_and_the_login_is_quoted(tmp_path: Path) -> None:
    settings = parsed(
        tmp_path,
        credentials={
            "kafka": {"username": "spark", "password": 'a"b\\c'},
            "s3": {"access_key": "a", "secret_key": "b"},
        },
    )
    options = kafka_options(settings, "earliest")
    assert options["failOnDataLoss"] == "true"
    assert options["kafka.sasl.jaas.config"].endswith('username="spark" password="a\\"b\\\\c";')
