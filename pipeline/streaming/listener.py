"""Listening to the query: metrics, and what was read for the group that shows lag."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any, Protocol

from pipeline.streaming.metrics import StreamingMetrics
from pipeline.streaming.offsets import EndOffsets


class SourceProgress(Protocol):
    """What is used of pyspark's SourceProgress."""

    @property
    def endOffset(self) -> str: ...


class Progress(Protocol):
    """What is used of pyspark's StreamingQueryProgress."""

    @property
    def batchId(self) -> int: ...
    @property
    def numInputRows(self) -> int: ...
    @property
    def durationMs(self) -> dict[str, int]: ...
    @property
    def sources(self) -> list[Any]: ...


class ProgressListener:
    """Turns the query's events into metrics and offsets.

    :param metrics: of the job; the state becomes ``running`` with the first finished trigger.
    :param offer_offsets: takes what was read, and must return at once.
    """

    def __init__(
        self, metrics: StreamingMetrics, offer_offsets: Callable[[EndOffsets], None]
    ) -> None:
        self._metrics = metrics
        self._offer_offsets = offer_offsets
        self._running = False
        self._last_batch = -1
        self._changed = threading.Condition()

    def progress(self, progress: Progress) -> None:
        """A batch was finished."""
        if progress.numInputRows:
            seconds = progress.durationMs.get("triggerExecution", 0) / 1000
            self._metrics.batch(progress.batchId, seconds, progress.numInputRows)
        self.idle()
        for source in progress.sources:
            if source.endOffset:
                self._offer_offsets(json.loads(source.endOffset))
        with self._changed:
            self._last_batch = max(self._last_batch, progress.batchId)
            self._changed.notify_all()

    def idle(self) -> None:
        """A trigger ended without anything to do."""
        self._metrics.alive()
        if not self._running:
            self._running = True
            self._metrics.state("running")

    def wait_for_batch(self, batch: int, timeout: float) -> None:
        """Wait for the event of a batch: events come up to half a second late."""
        with self._changed:
            self._changed.wait_for(lambda: self._last_batch >= batch, timeout)

    def spark_listener(self) -> Any:
        """This listener in the form that Spark takes."""
        from pyspark.sql.streaming import StreamingQueryListener
        from pyspark.sql.streaming.listener import (
            QueryIdleEvent,
            QueryProgressEvent,
            QueryStartedEvent,
            QueryTerminatedEvent,
        )

        outer = self

        class Listener(StreamingQueryListener):
            def onQueryStarted(self, event: QueryStartedEvent) -> None:
                pass

            def onQueryProgress(self, event: QueryProgressEvent) -> None:
                outer.progress(event.progress)

            def onQueryIdle(self, event: QueryIdleEvent) -> None:
                outer.idle()

            def onQueryTerminated(self, event: QueryTerminatedEvent) -> None:
                pass

        return Listener()
