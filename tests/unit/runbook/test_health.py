from __future__ import annotations

import pytest
from ansible_collections.streamops.runbook.plugins.module_utils import assessment, card, health
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


def failing(host: str = "", blames: tuple[str, ...] = (), name: str = "probe", service: str = "kafka") -> Check:
    return Check(name, service, host, False, "seen", "expected", blames=blames)


@pytest.mark.parametrize(
    ("found", "excused"),
    [
        (failing("kafka-3"), True),
        (failing("kafka-1"), False),
        (failing(blames=("kafka-3",)), True),
        (failing(blames=("kafka-1", "kafka-3")), False),
        # Nobody is blamed: it may have any cause.
        (failing(), False),
    ],
)
def test_only_what_hosts_out_of_reach_account_for_is_excused(found: Check, excused: bool) -> None:
    assert health.excused(found, {"kafka-3", "minio-1"}) is excused


def test_rest_of_a_stack_may_be_healthy() -> None:
    time = Clock()
    checks = [check(True), failing("kafka-3"), failing(blames=("kafka-3",))]
    reading = health.watch(lambda: checks, polls=2, deadline=5, clock=time, sleep=time.sleep, away=["kafka-3"])
    assert reading.healthy
    assert reading.good_polls == 2
    assert (len(reading.failed), reading.pressing) == (2, ())


def test_host_out_of_reach_excuses_no_other() -> None:
    time = Clock()
    sick = failing("kafka-1")
    reading = health.watch(
        lambda: [failing("kafka-3"), sick], polls=1, deadline=2, clock=time, sleep=time.sleep, away=["kafka-3"]
    )
    assert not reading.healthy
    assert reading.pressing == (sick,)
    assert assessment.complaint(reading).splitlines()[0].startswith("kafka on kafka-1")


def answers(host: str) -> Check:
    return Check("kafka.answers", "kafka", host, True, "answers", "an answer")


@pytest.mark.parametrize(
    ("voters", "away", "answering", "lost"),
    [
        (3, 1, 0, False),
        (3, 2, 0, True),
        (3, 2, 1, False),
        (4, 1, 0, False),
        (4, 2, 0, True),
        (5, 2, 0, False),
        (5, 3, 0, True),
        (1, 1, 0, True),
        (1, 0, 0, False),
    ],
)
def test_quorum_is_a_majority_of_voters_that_are_reached_or_answer(
    voters: int, away: int, answering: int, lost: bool
) -> None:
    names = [f"kafka-{number}" for number in range(voters)]
    checks = [answers(name) for name in names[:answering]]
    assert bool(health.lost_quorum(names, names[:away], checks)) is lost


def test_active_controller_shows_that_there_is_a_quorum() -> None:
    leads = Check("kafka.quorum", "kafka", "", True, "controller 1", "an active controller")
    assert health.lost_quorum(["a", "b", "c"], ["b", "c"], [leads]) == ""


def test_way_into_the_table_that_is_out_of_reach_is_named() -> None:
    services = [{"service": name} for name in ("kafka", "minio", "minio", "producer")]
    assert health.lost_flow(services, {"spark-1": ["spark-streaming"]}, []) == (
        "spark-streaming is on spark-1, which can't be reached"
    )
    progress = Check("spark-streaming.progress", "spark-streaming", "spark-1", True, "now", "now")
    assert health.lost_flow(services, {"spark-1": ["spark-streaming"]}, [progress]) == ""
    assert health.lost_flow(services, {"minio-3": ["minio"], "kafka-3": ["kafka"]}, []) == ""
    assert "minio is on minio-3, minio-4" in health.lost_flow(
        services, {"minio-3": ["minio"], "minio-4": ["minio"]}, []
    )
    assert health.lost_flow([*services, {"service": "spark-worker"}], {"spark-3": ["spark-worker"]}, []) == ""


def test_host_out_of_reach_is_told_with_what_ran_there_and_why() -> None:
    told = health.next_steps({"kafka-3": ["kafka"], "ops-1": []})
    assert told[0].startswith("kafka-3 (kafka) can't be reached: start the machine")
    assert told[1].startswith("ops-1 can't be reached")
    assert assessment._reason("\nTask failed: no route\n") == ": no route"
    assert assessment._reason("") == ""


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
    assert table[0].split() == ["service", "host", "state", "healthy", "since", "pid", "memory", "detail"]
    assert "unknown" in table[3]
