"""The driver: waits for what it needs while Spark warms, refuses what would lose data, streams."""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pipeline.config import StreamingConfig
from pipeline.errors import EXIT_OK, QueryFailed, StartRefused
from pipeline.metrics import serve
from pipeline.objectstore import ObjectStore, spark_uri, split_uri
from pipeline.streaming import checkpoint, tables
from pipeline.streaming.dependencies import TopicReady, buckets_ready, wait_for
from pipeline.streaming.lease import Lease, LeaseLost, connect, this_process
from pipeline.streaming.listener import ProgressListener
from pipeline.streaming.metrics import StreamingMetrics
from pipeline.streaming.offsets import KafkaGroupOffsets, OffsetCommitter
from pipeline.streaming.schema import EventField, event_columns, event_fields, judge
from pipeline.streaming.session import Jvm
from pipeline.streaming.sink import DeltaWriter, Sink
from pipeline.streaming.source import kafka_options
from pipeline.streaming.warmup import Warmup

if TYPE_CHECKING:
    from pyspark.sql import SparkSession
    from pyspark.sql.streaming.query import StreamingQuery

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Start:
    """What was found and approved before the query starts.

    :param checkpoint: s3:// address of the current checkpoint.
    :param starting_offsets: for Spark's Kafka source, used while the checkpoint is empty.
    """

    checkpoint: str
    starting_offsets: str


def run(config: StreamingConfig, stop: threading.Event) -> int:
    """Run the job until it is stopped or fails.

    Must be called in the main thread (see :class:`pipeline.streaming.session.Jvm`).

    :param stop: set by SIGTERM; the batch under way is finished, then the job ends.
    :returns: the exit code of a graceful stop.
    :raises StartRefused: starting would lose or double data.
    :raises Unavailable: a dependency did not come in time.
    :raises QueryFailed: the query or its JVM ended by an error.
    """
    metrics = StreamingMetrics()
    metrics.state("waiting-for-dependencies")
    fields = event_fields(config.event_schema)
    serve(config.metrics, metrics.registry, config.endpoints.tls)
    jvm = Jvm(config)
    lease: Lease | None = None
    try:
        lease = _lease(config)
        warmup = Warmup(jvm, config, fields)
        start = prepare(config, fields, stop, lease)
        if start is None:
            return EXIT_OK
        metrics.state("starting")
        session = warmup.session()
        return _stream(config, fields, metrics, session, start, stop, lease)
    finally:
        jvm.stop()
        # Only now: while the JVM lives it could still write.
        if lease is not None:
            lease.release()


def prepare(config: StreamingConfig, fields: list[EventField], stop: threading.Event, lease: Lease) -> Start | None:
    """Wait for the object store, take the lease, approve the start, make the tables, wait for the topic.

    :returns: None when stopped first.
    :raises StartRefused: starting would lose or double data, or another job runs.
    :raises Unavailable: something did not come in time.
    """
    deadline = time.monotonic() + config.dependency_timeout_seconds
    endpoints = config.endpoints
    store = ObjectStore(endpoints.s3, config.credentials.s3)
    addresses = (endpoints.tables.events, endpoints.tables.dead_letters, endpoints.checkpoint_pointer)
    buckets = sorted({split_uri(uri)[0] for uri in addresses})
    found: list[Start] = []
    topic = TopicReady(endpoints.kafka, config.credentials.kafka)

    def take_lease() -> None:
        # False only when stopped, which the wait that follows sees as well.
        lease.acquire(stop)

    try:
        ready = (
            wait_for(partial(buckets_ready, store, buckets), stop, deadline)
            # Before anything of the checkpoint is read: what another job is writing could look broken.
            and wait_for(take_lease, stop, deadline)
            # Asked again as a whole if the store falters in between: nothing of it is done twice.
            and wait_for(lambda: found.append(_approved(config, fields, store)), stop, deadline)
            and wait_for(topic, stop, deadline)
        )
    finally:
        topic.close()
    return found[-1] if ready else None


def _lease(config: StreamingConfig) -> Lease:
    endpoints = config.endpoints
    uri = f"{endpoints.checkpoint_pointer.rpartition('/')[0]}/lease.json"
    life = config.lease_seconds
    store = connect(endpoints.s3, config.credentials.s3, uri, life)
    return Lease(store, this_process(config.metrics.host), life, on_lost=_end_at_once)


def _end_at_once(error: LeaseLost) -> None:
    """End the process without a word to the JVM, which dies with it: no batch may be finished any more."""
    log.critical("%s", error)
    logging.shutdown()
    os._exit(error.exit_code)


def _approved(config: StreamingConfig, fields: list[EventField], store: ObjectStore) -> Start:
    uri = config.endpoints.checkpoint_pointer
    events = tables.EventsTable(config, event_columns(fields))
    pointer = checkpoint.read_or_create_pointer(store, uri, events.facts(query_id=None))
    facts = checkpoint.read_checkpoint(store, pointer.checkpoint)
    checkpoint.approve(pointer.checkpoint, facts, uri, pointer.start, events.facts(facts.query_id))
    events.require()
    log.info(
        "checkpoint %s, batch %s, query %s",
        pointer.checkpoint,
        "none" if facts.newest_offsets is None else facts.newest_offsets,
        facts.query_id or "new",
    )
    return Start(
        pointer.checkpoint,
        checkpoint.starting_offsets(pointer.start, config.endpoints.kafka.topic),
    )


def _stream(
    config: StreamingConfig,
    fields: list[EventField],
    metrics: StreamingMetrics,
    session: SparkSession,
    start: Start,
    stop: threading.Event,
    lease: Lease,
) -> int:
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    store = ObjectStore(config.endpoints.s3, config.credentials.s3)
    committer = OffsetCommitter(partial(KafkaGroupOffsets, config.endpoints.kafka, config.credentials.kafka))
    listener = ProgressListener(metrics, committer.offer)
    sink = Sink(
        DeltaWriter(
            partial(_query_id, store, start.checkpoint),
            files_per_batch=session.sparkContext.defaultParallelism,
        ),
        config.endpoints.tables.events,
        config.endpoints.tables.dead_letters,
        list(event_columns(fields)),
        end_offsets=partial(checkpoint.read_end_offsets, store, start.checkpoint),
        on_dead_letters=metrics.dead_letters,
        require_lease=lease.require,
    )
    try:
        session.streams.addListener(listener.spark_listener())
        query = _start_query(config, fields, session, start, sink)
        while not stop.wait(1.0) and query.isActive:
            metrics.trigger(query.status["isTriggerActive"])
        if query.isActive:
            metrics.state("stopping")
            log.info("stopping after the batch under way")
            _stop_query(query, sink, config.stop_timeout_seconds)
        error = query.exception()
    except (Py4JError, PySparkException, ConnectionError) as problem:
        raise QueryFailed("streaming query", _first_lines(str(problem)), "a running query") from None
    if error is not None and not stop.is_set():
        raise QueryFailed("streaming query", _first_lines(str(error)), "a running query")
    listener.wait_for_batch(sink.last_batch, timeout=1.0)
    committer.close()
    log.info("stopped after batch %d", sink.last_batch)
    return EXIT_OK


def _start_query(
    config: StreamingConfig,
    fields: list[EventField],
    session: SparkSession,
    start: Start,
    sink: Sink,
) -> StreamingQuery:
    messages = session.readStream.format("kafka").options(**kafka_options(config, start.starting_offsets))
    return (
        judge(messages.load(), fields, config.max_event_bytes)
        .writeStream.foreachBatch(sink)
        .option("checkpointLocation", spark_uri(start.checkpoint))
        .trigger(processingTime=f"{round(config.trigger_seconds * 1000)} milliseconds")
        .start()
    )


def _stop_query(query: StreamingQuery, sink: Sink, timeout: float) -> None:
    if not sink.stop(timeout):
        log.warning("batch not done after %g s, interrupted; the next start runs it again", timeout)
    # The sink is done before Spark notes the batch as done in the checkpoint; what ends the wait
    # otherwise is a new batch, which the sink refuses.
    deadline = time.monotonic() + 5.0
    while query.isActive and query.status["isTriggerActive"] and time.monotonic() < deadline:
        time.sleep(0.05)
    query.stop()


def _query_id(store: ObjectStore, folder: str) -> str:
    found = checkpoint.read_checkpoint(store, folder).query_id
    if found is None:
        raise StartRefused(f"checkpoint {folder}", "no metadata", "the query id that Spark wrote")
    return found


def _first_lines(text: str, lines: int = 3) -> str:
    return " ".join(line.strip() for line in text.splitlines()[:lines])[:500]
