"""Using the time in which Kafka still starts: the session, and then the classes of a first batch.

A first batch in a cold JVM takes ten seconds, nearly all of it loading and compiling. The warm-up
runs the same code on a few made-up messages and writes them to a Delta table on the local disk; it
ends as soon as the job can go on, because the first real batch warms as well.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from typing import TYPE_CHECKING

from pipeline.config import StreamingConfig
from pipeline.errors import QueryFailed
from pipeline.streaming.schema import EventField, event_columns, judge
from pipeline.streaming.session import Jvm

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

log = logging.getLogger(__name__)


class Warmup:
    """Makes the session in a thread of its own and warms it until it is asked for.

    :param jvm: the driver's JVM.
    :param config: the job's configuration.
    :param fields: what an event must be.
    """

    _ROUNDS = 3

    def __init__(self, jvm: Jvm, config: StreamingConfig, fields: list[EventField]) -> None:
        self._jvm = jvm
        self._config = config
        self._fields = fields
        self._asked_for = threading.Event()
        self._ready = threading.Event()
        self._session: SparkSession | None = None
        self._error: Exception | None = None
        threading.Thread(target=self._run, name="warm-up", daemon=True).start()

    def session(self) -> SparkSession:
        """The session, as soon as it is there; ends the warm-up.

        :raises QueryFailed: the JVM ended or the session could not be made.
        """
        self._asked_for.set()
        self._ready.wait()
        if self._session is None:
            raise QueryFailed("Spark session", str(self._error), "a session") from self._error
        return self._session

    def _run(self) -> None:
        begun = time.monotonic()
        try:
            self._session = self._jvm.session()
        except Exception as error:  # noqa: BLE001 - handed to whoever asks for the session
            self._error = error
            return
        finally:
            self._ready.set()
        log.info("Spark session after %.1f s", time.monotonic() - begun)
        try:
            self._warm(self._session)
        except Exception as error:  # noqa: BLE001 - the stream does not depend on it
            log.info("warm-up ended: %s", type(error).__name__)
        else:
            log.info("warm after %.1f s", time.monotonic() - begun)

    def _warm(self, session: SparkSession) -> None:
        from pyspark.sql import functions as fn

        if not self._config.master.startswith("local"):
            # It writes to the driver's disk, which executors do not have.
            log.info("no warm-up: the tasks run elsewhere")
            return
        session = session.newSession()
        # Delta writes its checksums by the stream's checkpoint manager, which knows no local disk.
        session.conf.set("spark.databricks.delta.writeChecksumFile.enabled", "false")
        folder = self._config.local_dir / "warm-up"
        shutil.rmtree(folder, ignore_errors=True)
        for number in range(self._ROUNDS):
            if self._asked_for.is_set():
                return
            messages = session.range(100).select(
                fn.lit(None).cast("binary").alias("key"),
                fn.lit(json.dumps({"n": 0})).cast("binary").alias("value"),
                fn.lit("warm-up").alias("topic"),
                fn.lit(0).alias("partition"),
                fn.col("id").alias("offset"),
                fn.current_timestamp().alias("timestamp"),
            )
            judged = judge(messages, self._fields, self._config.max_event_bytes)
            (
                judged.select(*event_columns(self._fields))
                .write.format("delta")
                .mode("append")
                .partitionBy("ingest_date")
                .option("txnAppId", "warm-up")
                .option("txnVersion", str(number))
                .save(f"file://{folder}")
            )
        shutil.rmtree(folder, ignore_errors=True)
