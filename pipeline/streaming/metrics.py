"""The metrics of the streaming job."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

STATES = ("waiting-for-dependencies", "starting", "running", "stopping")
BUCKETS = (0.5, 1, 2, 5, 10, 20, 30, 60, 120)
"""Upper bounds of the histogram of batches, in seconds."""


class StreamingMetrics:
    """The metrics, in a registry of their own.

    :param clock: seconds, for the trigger under way.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._last_seconds = 0.0
        self._trigger_began: float | None = None
        self.registry = CollectorRegistry()
        self._state = Gauge(
            "spark_streaming_state",
            "What the job is doing: 1 for the current state, 0 for the others.",
            ["state"],
            registry=self.registry,
        )
        Gauge(
            "spark_streaming_batch_processing_time",
            "Seconds that the last batch took, from its trigger to its end; "
            "of the batch under way if that has been running for longer.",
            registry=self.registry,
        ).set_function(self._batch_seconds)
        self._durations = Histogram(
            "spark_streaming_batch_duration_seconds",
            "Seconds that finished batches took, from trigger to end.",
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._rows = Counter(
            "spark_streaming_rows",
            "Messages in finished batches since the start of the job.",
            registry=self.registry,
        )
        self._last_progress = Gauge(
            "spark_streaming_last_progress_timestamp_seconds",
            "Unix time of the last batch or idle trigger, 0 before the first.",
            registry=self.registry,
        )
        self._batch_id = Gauge(
            "spark_streaming_batch_id", "The last batch, -1 before the first.", registry=self.registry
        )
        self._batch_id.set(-1)
        self._input_rows = Gauge("spark_streaming_input_rows", "Messages in the last batch.", registry=self.registry)
        self._dead_letters = Counter(
            "spark_streaming_dead_letters",
            "Messages written to the dead letters since the start of the job.",
            registry=self.registry,
        )

    def state(self, state: str) -> None:
        """Say what the job is doing: one of :data:`STATES`."""
        for name in STATES:
            self._state.labels(name).set(name == state)

    def trigger(self, active: bool) -> None:
        """Note whether a trigger is under way; asked every second, since Spark tells only of ends.

        A batch can get stuck before it reaches the sink and after it has left it: what counts is the whole
        trigger, from the first look at it.
        """
        with self._lock:
            if not active:
                self._trigger_began = None
            elif self._trigger_began is None:
                self._trigger_began = self._clock()

    def batch(self, batch_id: int, seconds: float, rows: int) -> None:
        """Note a finished batch of some messages."""
        self._batch_id.set(batch_id)
        self._durations.observe(seconds)
        self._rows.inc(rows)
        self._input_rows.set(rows)
        with self._lock:
            self._last_seconds = seconds
        self.alive()

    def _batch_seconds(self) -> float:
        with self._lock:
            if self._trigger_began is None:
                return self._last_seconds
            return max(self._last_seconds, self._clock() - self._trigger_began)

    def alive(self) -> None:
        """Note that a trigger came to its end, with or without a batch."""
        self._last_progress.set(time.time())
        # Triggers may follow each other without a gap that a look could see.
        self.trigger(active=False)

    def dead_letters(self, count: int) -> None:
        """Count messages that went to the dead letters."""
        self._dead_letters.inc(count)
