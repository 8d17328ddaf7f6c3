"""Spreading work evenly over time."""

from __future__ import annotations

import time
from collections.abc import Callable


class Pace:
    """Says how many events are due, at a steady rate, in ticks.

    After a pause (throttled, suspended) at most one second's worth is made up for (two events at a rate
    below that), so that no flood follows an outage.

    :param rate: events per second, above 0.
    :param clock: seconds, monotonic.
    """

    TICK_SECONDS = 0.02

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._paid_until = clock()
        self._most_made_up = max(1.0, 2 / rate)

    def due(self) -> int:
        """How many events have become due since the last call."""
        now = self._clock()
        self._paid_until = max(self._paid_until, now - self._most_made_up)
        count = int((now - self._paid_until) * self._rate)
        self._paid_until += count / self._rate
        return count

    def wait_seconds(self) -> float:
        """How long until the next event is due, at least one tick."""
        return max(self.TICK_SECONDS, self._paid_until + 1 / self._rate - self._clock())
