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
from typing import TYPE_CHECKING, Any

from pipeline.errors import PipelineError
from pipeline.objectstore import spark_uri
from pipeline.streaming.offsets import EndOffsets
from pipeline.streaming.schema import DEAD_LETTER_COLUMNS

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, Observation

log = logging.getLogger(__name__)


class StopRequested(PipelineError):
    """A new batch was refused because the job is stopping; the next start runs it."""


class Sink:
    """Takes one batch of judged messages after the other, as foreachBatch calls it.

    :param events: s3:// address of the events table.
    :param dead_letters: s3:// address of the dead letters.
    :param event_columns: columns of the events table.
    :param files_per_batch: how many files (and tasks) a batch is written with.
    :param query_id: reads the query id from the checkpoint's metadata.
    :param end_offsets: reads where a batch ends from the checkpoint; None for an unknown batch.
    :param on_dead_letters: told how many messages of a batch went to the dead letters.
    """

    def __init__(
        self,
        events: str,
        dead_letters: str,
        event_columns: list[str],
        files_per_batch: int,
        query_id: Callable[[], str],
        end_offsets: Callable[[int], EndOffsets | None],
        on_dead_letters: Callable[[int], None],
    ) -> None:
        self._events = spark_uri(events)
        self._dead_letters = spark_uri(dead_letters)
        self._event_columns = event_columns
        self._files_per_batch = files_per_batch
        self._read_query_id = query_id
        self._end_offsets = end_offsets
        self._on_dead_letters = on_dead_letters
        self._query_id = ""
        self.last_batch = -1
        self._stopping = threading.Event()
        self._idle = threading.Event()
        self._idle.set()

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
        """
        self._idle.clear()
        try:
            # Asked after the line above: whoever stops the job sees either a batch to wait for or
            # one that is refused here.
            if self._stopping.is_set():
                raise StopRequested("batch", str(batch_id), "no new batch while the job stops")
            self._write(judged, batch_id)
            self.last_batch = batch_id
        finally:
            self._idle.set()

    def _write(self, judged: DataFrame, batch_id: int) -> None:
        from pyspark.sql import Observation
        from pyspark.sql import functions as F

        if not self._query_id:
            self._query_id = self._read_query_id()
        ends = self._end_offsets(batch_id)
        seen = Observation()
        events = judged.observe(seen, F.count("reason").alias("dead_letters"))
        events = events.where(F.col("reason").isNull()).select(*self._event_columns)
        self._append(events, self._events, batch_id, ends)
        if _observed(seen) == 0:
            # Nearly every batch: no second commit, and no second pass over the messages.
            return
        dead = judged.where(F.col("reason").isNotNull()).select(*DEAD_LETTER_COLUMNS)
        count = dead.count()
        if count:
            self._append(dead, self._dead_letters, batch_id, ends)
            self._on_dead_letters(count)
            log.warning("batch %d: %d messages to the dead letters", batch_id, count)

    def _append(
        self, rows: DataFrame, path: str, batch_id: int, ends: EndOffsets | None
    ) -> None:
        (
            rows.coalesce(self._files_per_batch)
            .write.format("delta")
            .mode("append")
            .option("txnAppId", self._query_id)
            .option("txnVersion", str(batch_id))
            .option("userMetadata", json.dumps({"batch": batch_id, "end_offsets": ends}))
            .save(path)
        )


def _observed(seen: Observation) -> int | None:
    """What was counted while writing; None when nothing was, because the table had the batch.

    ``Observation.get`` would wait for ever in that case.
    """
    counted: Any = seen._jo.getOrEmpty().get("dead_letters")  # type: ignore[union-attr]
    return int(counted.get()) if counted.isDefined() else None
