"""Writing a batch to the Delta tables exactly once.

Each commit carries the query id of the checkpoint and the batch id (Delta's txnAppId and
txnVersion): a batch that is run again after a crash is skipped by each table that has it already.
The commit's userMetadata holds where the batch ends in Kafka, so that a lost checkpoint can be
replaced by what the table itself says.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.errors import PipelineError, Unavailable
from pipeline.objectstore import spark_uri
from pipeline.streaming.offsets import EndOffsets
from pipeline.streaming.schema import DEAD_LETTER_COLUMNS

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, Observation

log = logging.getLogger(__name__)

#: Between two calls of an object store that gives no answer.
_PAUSE_SECONDS = 1.0


class StopRequested(PipelineError):
    """A new batch was refused because the job is stopping; the next start runs it."""


class Writer(Protocol):
    """Appends rows to a table once for each batch, however often it is asked."""

    def append(self, rows: DataFrame, table: str, batch_id: int, user_metadata: str) -> None: ...


class DeltaWriter:
    """Appends to Delta tables.

    :param query_id: reads the query id from the checkpoint's metadata; asked once.
    :param files_per_batch: how many tasks write a batch, and so how many files it makes.
    """

    def __init__(self, query_id: Callable[[], str], files_per_batch: int) -> None:
        self._read_query_id = query_id
        self._query_id = ""
        self._files_per_batch = files_per_batch

    def append(self, rows: DataFrame, table: str, batch_id: int, user_metadata: str) -> None:
        """Append rows in one commit; does nothing when the table has the batch already.

        :param table: s3:// address.
        """
        if not self._query_id:
            self._query_id = self._read_query_id()
        (
            rows.coalesce(self._files_per_batch)
            .write.format("delta")
            .mode("append")
            .option("txnAppId", self._query_id)
            .option("txnVersion", str(batch_id))
            .option("userMetadata", user_metadata)
            .save(spark_uri(table))
        )


class Sink:
    """Takes one batch of judged messages after the other, as foreachBatch calls it.

    :param writer: appends to the tables.
    :param events: s3:// address of the events table.
    :param dead_letters: s3:// address of the dead letters.
    :param event_columns: columns of the events table.
    :param end_offsets: reads where a batch ends from the checkpoint; None for an unknown batch.
    :param on_dead_letters: told how many messages of a batch went to the dead letters.
    :param require_lease: raises LeaseLost when another job may be writing; asked before each batch and each commit.
    """

    def __init__(
        self,
        writer: Writer,
        events: str,
        dead_letters: str,
        event_columns: list[str],
        end_offsets: Callable[[int], EndOffsets | None],
        on_dead_letters: Callable[[int], None],
        require_lease: Callable[[], None] | None = None,
    ) -> None:
        self._writer = writer
        self._events = events
        self._dead_letters = dead_letters
        self._event_columns = event_columns
        self._end_offsets = end_offsets
        self._on_dead_letters = on_dead_letters
        self._require_lease = require_lease or (lambda: None)
        self._stopping = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self.last_batch = -1

    def stop(self, timeout: float) -> bool:
        """Refuse further batches and wait for the one under way.

        :returns: False when it was not done in time.
        """
        self._stopping.set()
        return self._idle.wait(timeout)

    def __call__(self, judged: DataFrame, batch_id: int) -> None:
        """Write one batch.

        :param judged: what :func:`pipeline.streaming.schema.judge` made of the messages.
        :raises StopRequested: the job is stopping.
        :raises LeaseLost: the checkpoint may be another job's.
        """
        self._idle.clear()
        try:
            # Asked after the line above: whoever stops the job sees either a batch to wait for or
            # one that is refused here.
            if self._stopping.is_set():
                raise StopRequested("batch", str(batch_id), "no new batch while the job stops")
            self._require_lease()
            self._write(judged, batch_id)
            self.last_batch = batch_id
        finally:
            self._idle.set()

    def _write(self, judged: DataFrame, batch_id: int) -> None:
        from pyspark.sql import Observation
        from pyspark.sql import functions as fn

        note = json.dumps({"batch": batch_id, "end_offsets": self._read_end_offsets(batch_id)})
        seen = Observation()
        observed = judged.observe(seen, fn.count("reason").alias("dead_letters"))
        events = observed.where(fn.col("reason").isNull()).select(*self._event_columns)
        self._require_lease()
        self._writer.append(events, self._events, batch_id, note)
        if _observed(seen) == 0:
            # Nearly every batch: no second commit, and no second pass over the messages.
            return
        dead = judged.where(fn.col("reason").isNotNull()).select(*DEAD_LETTER_COLUMNS)
        count = dead.count()
        if count:
            self._require_lease()
            self._writer.append(dead, self._dead_letters, batch_id, note)
            self._on_dead_letters(count)
            log.warning("batch %d: %d messages to the dead letters", batch_id, count)

    def _read_end_offsets(self, batch_id: int) -> EndOffsets | None:
        """Read them, however long the object store says nothing: Spark's own calls are as patient, and the lease ends
        that.
        """
        while True:
            try:
                return self._end_offsets(batch_id)
            except Unavailable as error:
                log.warning("batch %d: its end offsets are not read yet: %s", batch_id, error)
            self._require_lease()
            if self._stopping.wait(_PAUSE_SECONDS):
                raise StopRequested("batch", str(batch_id), "no new batch while the job stops")


def _observed(seen: Observation) -> int | None:
    """What was counted while writing; None when nothing was, because the table had the batch already.

    Whoever gets None has to count for himself, which is always right and only slower.
    ``Observation.get`` would wait for ever or fail, as the case may be.
    """
    from py4j.protocol import Py4JJavaError

    observation: Any = seen
    try:
        counted = observation._jo.getOrEmpty().get("dead_letters")  # noqa: SLF001 - has no public form
    except Py4JJavaError:
        # An observation of a write that was skipped holds a row without a schema.
        return None
    return int(counted.get()) if counted.isDefined() else None
