from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from ansible_collections.streamops.runbook.plugins.module_utils import plan
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused
from ansible_collections.streamops.runbook.plugins.module_utils.probes import Check

NOW = datetime(2030, 1, 1, 3, 0, tzinfo=UTC)
OLD = NOW - timedelta(hours=2)
GRACE = {"kafka": 45.0, "spark-streaming": 75.0}


def service(name: str, host: str, state: str = "running", started: datetime = OLD, **more: Any) -> dict[str, Any]:
    return {
        "service": name,
        "host": host,
        "state": state,
        "started_at": started.isoformat(),
        **more,
    }


def stack(**changed: dict[str, Any]) -> list[dict[str, Any]]:
    hosts = {
        "kafka-1": "kafka",
        "kafka-2": "kafka",
        "kafka-3": "kafka",
        "minio-1": "minio",
        "spark-1": "spark-streaming",
        "producer-1": "producer",
    }
    return [service(name, host, **changed.get(host.replace("-", "_"), {})) for host, name in hosts.items()]


def bad(name: str, host: str = "", check: str = "probe", seen: str = "no answer") -> Check:
    return Check(check, name, host, False, seen, "an answer")


def make(services: list[dict[str, Any]], checks: list[Check], intent: str = "recover", **more: Any) -> plan.Plan:
    given = {"since": NOW, "now": NOW, "grace": GRACE, "cluster_id": "C", **more}
    return plan.make(services, checks, intent=intent, **given)


def verbs(made: plan.Plan) -> list[tuple[str, str]]:
    return [(action.verb, action.host) for action in made.actions]


def test_healthy_stack_leaves_nothing_to_do() -> None:
    made = make(stack(), [])
    assert made.actions == ()
    assert made.as_dict()["hosts"] == []


def test_whole_outage_starts_all_with_the_producer_late() -> None:
    down = {
        host: {"state": "stopped"} for host in ("kafka_1", "kafka_2", "kafka_3", "minio_1", "spark_1", "producer_1")
    }
    made = make(stack(**down), [bad("kafka")])
    assert {verb for verb, _ in verbs(made)} == {"start"}
    assert made.actions[-1].service == "producer"
    rows = {row["host"]: row for row in made.as_dict()["hosts"]}
    assert (bool(rows["producer-1"]["late"]), bool(rows["producer-1"]["early"])) == (True, False)
    assert (bool(rows["spark-1"]["late"]), bool(rows["spark-1"]["early"])) == (False, True)


def test_suspended_broker_is_restarted_and_its_dependants_only_watched() -> None:
    made = make(
        stack(kafka_2={"state": "suspended"}),
        [bad("kafka", "kafka-2"), bad("kafka"), bad("spark-streaming", "spark-1")],
    )
    assert verbs(made) == [("restart", "kafka-2"), ("wait", "spark-1")]


def test_young_process_is_given_its_time() -> None:
    made = make(stack(kafka_1={"started": NOW - timedelta(seconds=5)}), [bad("kafka", "kafka-1")])
    assert verbs(made) == [("wait", "kafka-1")]


def test_old_process_that_does_not_answer_is_restarted() -> None:
    assert verbs(make(stack(), [bad("kafka", "kafka-1")])) == [("restart", "kafka-1")]


def test_replicas_catching_up_are_waited_for() -> None:
    made = make(stack(), [bad("kafka", seen="2 under-replicated partitions")])
    assert [(action.verb, action.subject) for action in made.actions] == [("wait", "kafka")]
    assert made.as_dict()["hosts"] == []


def test_restart_all_takes_only_what_started_before_since() -> None:
    made = make(stack(kafka_1={"started": NOW + timedelta(seconds=1)}), [], intent="restart")
    hosts = [host for verb, host in verbs(made) if verb == "restart"]
    assert "kafka-1" not in hosts
    assert len(hosts) == 5
    rows = made.as_dict()["hosts"]
    assert all(row["stop"] for row in rows)


def test_stop_goes_from_the_producer_to_the_store() -> None:
    made = make(stack(), [], intent="stop")
    assert [action.service for action in made.actions] == [
        "producer",
        "spark-streaming",
        "kafka",
        "kafka",
        "kafka",
        "minio",
    ]


def test_start_never_restarts_what_runs() -> None:
    made = make(stack(minio_1={"state": "exited"}), [bad("kafka", "kafka-1")], intent="start")
    assert verbs(made) == [("start", "minio-1")]


@pytest.mark.parametrize("intent", ["recover", "restart", "start", "stop"])
def test_foreign_live_cluster_is_refused(intent: str) -> None:
    foreign = bad("kafka", check="kafka.identity", seen="cluster id OTHER")
    with pytest.raises(Refused, match=r"OTHER.*cluster id C"):
        make(stack(), [foreign], intent=intent)


def test_foreign_disk_is_refused_while_kafka_is_down() -> None:
    with pytest.raises(Refused, match="kafka on kafka-2"):
        make(stack(kafka_2={"state": "stopped", "identity": "OTHER"}), [])


def test_missing_service_is_refused_with_the_way_out() -> None:
    with pytest.raises(Refused, match="make up"):
        make(stack(minio_1={"state": "absent"}), [])


def test_stream_that_refused_to_start_is_not_started_blindly() -> None:
    with pytest.raises(Refused, match="exit code 78"):
        make(stack(spark_1={"state": "exited", "exit_code": 78}), [])


def test_refused_stream_does_not_hold_up_the_repair_of_the_rest() -> None:
    made = make(stack(spark_1={"state": "exited", "exit_code": 78}, kafka_1={"state": "fatal"}), [])
    assert ("start", "kafka-1") in verbs(made)


def test_settle_tells_waited_from_restart() -> None:
    made = make(
        stack(kafka_1={"started": NOW}, kafka_2={"started": NOW}),
        [bad("kafka", "kafka-1"), bad("kafka", "kafka-2")],
    )
    restarts, decisions = plan.settle(made.as_dict(), [bad("kafka", "kafka-2")], 9.0)
    assert [(action.verb, action.host) for action in restarts] == [("restart", "kafka-2")]
    assert [decision["subject"] for decision in decisions] == ["kafka on kafka-1"]


def test_settle_never_acts_twice_on_one_service() -> None:
    acted = {
        "actions": [
            {"service": "kafka", "host": "kafka-1", "verb": "restart", "why": "x"},
            {"service": "kafka", "host": "kafka-1", "verb": "wait", "why": "x"},
        ]
    }
    assert plan.settle(acted, [bad("kafka", "kafka-1")], 1.0) == ([], [])


def watched() -> list[dict[str, Any]]:
    names = ("prometheus", "alertmanager", "node-exporter", "pipeline-exporter", "inbox")
    return [service(name, "monitoring-1") for name in names]


def test_what_watches_stays_up_while_the_rest_is_restarted() -> None:
    made = make([*stack(), *watched()], [], intent="restart")
    assert "monitoring-1" not in {action.host for action in made.actions}


def test_what_watches_is_restarted_last_to_stop_and_beside_the_boot_of_kafka_where_the_procedure_says_so() -> None:
    made = make([*stack(), *watched()], [], intent="restart", restart_monitoring=True)
    (row,) = [row for row in made.as_dict()["hosts"] if row["host"] == "monitoring-1"]
    assert len(row["stop"]) == len(row["watch"]) == 5
    assert row["early"] == row["late"] == []
    assert {action.service for action in make(watched(), [], intent="stop").actions} == set(row["stop"])


def test_dead_monitoring_is_brought_back_by_a_recovery() -> None:
    services = [*stack(), *({**info, "state": "stopped"} for info in watched())]
    assert verbs(make(services, [])) == [("start", "monitoring-1")] * 5


def test_a_target_that_is_not_scraped_restarts_nobody() -> None:
    made = make([*stack(), *watched()], [bad("prometheus", check="prometheus.targets", seen="11 targets up")])
    assert verbs(made) == [("wait", "")]
    assert made.as_dict()["waits"] == ["monitoring"]
