"""Pace: steady, and no flood after a pause."""

from __future__ import annotations

import pytest

from pipeline.pace import Pace
from tests.unit.pipeline.support import FakeClock


@pytest.mark.parametrize("rate", [0.5, 7, 1000])
def test_the_rate_is_kept(rate: float) -> None:
    clock = FakeClock()
    pace = Pace(rate, clock)
    count = 0
    begun = clock.now
    while clock.now - begun < 60:
        clock.sleep(pace.wait_seconds())
        count += pace.due()
    assert count == pytest.approx(rate * (clock.now - begun), abs=1)


def test_after_a_pause_one_second_is_made_up_for() -> None:
    clock = FakeClock()
    pace = Pace(1000, clock)
    clock.sleep(120)
    assert pace.due() == pytest.approx(1000, abs=1)
    assert pace.due() == 0


def test_a_slow_pace_sleeps_until_the_next_event() -> None:
    clock = FakeClock()
    assert Pace(0.1, clock).wait_seconds() == pytest.approx(10)
    assert Pace(10_000, clock).wait_seconds() == Pace.TICK_SECONDS
