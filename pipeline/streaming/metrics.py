"""The metrics of the streaming job."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge

STATES = ("waiting-for-dependencies", "starting", "running", "stopping")


class StreamingMetrics:
    """The metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._state = Gauge(
            "spark_streaming_state",
            "What the job is doing: 1 for the current state, 0 for the others.",
            ["state"],
            registry=self.registry,
        )
        self._batch_time = Gauge(
            "spark_streaming_batch_processing_time",
            "Seconds that the last batch took, from its trigger to its end.",
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

    def batch(self, batch_id: int, seconds: float, rows: int) -> None:
        """Note a finished batch."""
        self._batch_id.set(batch_id)
        self._batch_time.set(seconds)
        self._input_rows.set(rows)
        self.alive()

    def alive(self) -> None:
        """Note that a trigger came to its end, with or without a batch."""
        self._last_progress.set(time.time())

    def dead_letters(self, count: int) -> None:
        """Count messages that went to the dead letters."""
        self._dead_letters.inc(count)
