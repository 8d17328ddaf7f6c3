"""Listening to the query: metrics, and what was read for the group that shows lag."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.streaming.metrics import StreamingMetrics
from pipeline.streaming.offsets import EndOffsets


class ProgressListener:
    """Turns the query's events into metrics and offsets.

    :param metrics: of the job; the state becomes ``running`` with the first finished trigger.
    :param offer_offsets: takes what was read, and must return at once.
    """

    def __init__(self, metrics: StreamingMetrics, offer_offsets: Callable[[EndOffsets], None]) -> None:
        self._metrics = metrics
        self._offer_offsets = offer_offsets
        self._running = False
        self._last_batch = -1
        self._changed = threading.Condition()

    def progress(self, progress: Mapping[str, Any]) -> None:
        """A batch was finished.

        :param progress: Spark's StreamingQueryProgress, from its JSON.
        """
        batch, rows = int(progress["batchId"]), int(progress["numInputRows"])
        if rows:
            seconds = progress["durationMs"].get("triggerExecution", 0) / 1000
            self._metrics.batch(batch, seconds, rows)
        self.idle()
        for source in progress["sources"]:
            if source["endOffset"]:
                self._offer_offsets(source["endOffset"])
        with self._changed:
            self._last_batch = max(self._last_batch, batch)
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
        from pyspark.sql.streaming.listener import StreamingQueryListener

        outer = self

        class Listener(StreamingQueryListener):
            """The names of the methods are Spark's."""

            def onQueryStarted(self, event: Any) -> None:  # noqa: N802
                pass

            def onQueryProgress(self, event: Any) -> None:  # noqa: N802
                outer.progress(json.loads(event.progress.json))

            def onQueryIdle(self, _event: Any) -> None:  # noqa: N802
                outer.idle()

            def onQueryTerminated(self, _event: Any) -> None:  # noqa: N802
                pass

        return Listener()
