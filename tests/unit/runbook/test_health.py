from __future__ import annotations

from ansible_collections.streamops.runbook.plugins.module_utils import card, health
from ansible_collections.streamops.runbook.plugins.module_utils.probes import Check

from tests.unit.runbook.support import Clock


def check(healthy: bool) -> Check:
    return Check("probe", "kafka", "kafka-1", healthy, "seen", "expected")


def watch(answers: list[bool], polls: int, deadline: float) -> health.Reading:
    left = iter(answers)
    time = Clock()
    return health.watch(lambda: [check(next(left))], polls=polls, deadline=deadline, clock=time, sleep=time.sleep)


def test_healthy_wants_good_polls_in_a_row() -> None:
    reading = watch([True, False, True, True, True], polls=3, deadline=10)
    assert reading.healthy
    assert reading.good_polls == 3
    assert reading.seconds == 4


def test_one_good_poll_after_a_bad_one_is_not_enough() -> None:
    assert not watch([True, False], polls=2, deadline=0).healthy


def test_deadline_ends_the_wait() -> None:
    reading = watch([False] * 10, polls=1, deadline=3)
    assert not reading.healthy
    assert reading.seconds == 3


def test_good_polls_may_run_past_a_deadline_of_zero() -> None:
    assert watch([True, True], polls=2, deadline=0).healthy


def test_service_health_marks_the_sick_and_the_unreachable() -> None:
    services = [
        {"service": "kafka", "host": "kafka-1", "state": "running"},
        {"service": "kafka", "host": "kafka-2", "state": "running"},
    ]
    rows = health.service_health(services, [check(False)], {"minio-1": ["minio"]})
    assert [(row["host"], row["healthy"]) for row in rows] == [
        ("kafka-1", False),
        ("kafka-2", True),
        ("minio-1", False),
    ]
    table = card.table(rows)
    assert table[0].split() == ["service", "host", "state", "healthy", "since", "pid", "memory"]
    assert "unknown" in table[3]
