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


@pytest.mark.parametrize("started", [OLD, NOW - timedelta(seconds=5)])
def test_what_lost_its_network_is_restarted_at_once_whatever_else_is_down(started: datetime) -> None:
    cut_off = {"state": "isolated", "detail": "cut off from network pipe", "started": started}
    made = make(stack(kafka_2={"state": "exited"}, producer_1=cut_off), [bad("kafka"), bad("producer", "producer-1")])
    assert verbs(made) == [("start", "kafka-2"), ("restart", "producer-1")]
    assert made.actions[1].why == "it runs and reaches nobody: cut off from network pipe"


@pytest.mark.parametrize(("intent", "verb"), [("start", "restart"), ("restart", "restart"), ("stop", "stop")])
def test_what_lost_its_network_is_no_more_than_a_process(intent: str, verb: str) -> None:
    made = make(stack(producer_1={"state": "isolated"}), [], intent=intent)
    assert (verb, "producer-1") in verbs(made)


@pytest.mark.parametrize("state", ["suspended", "isolated"])
def test_restart_all_takes_what_is_stuck_whenever_it_started(state: str) -> None:
    made = make(stack(kafka_1={"state": state, "started": NOW + timedelta(seconds=1)}), [], intent="restart")
    assert ("restart", "kafka-1") in verbs(made)


def test_young_process_is_given_its_time() -> None:
    made = make(stack(kafka_1={"started": NOW - timedelta(seconds=5)}), [bad("kafka", "kafka-1")])
    assert verbs(made) == [("wait", "kafka-1")]


def test_old_process_that_does_not_answer_is_restarted() -> None:
    assert verbs(make(stack(), [bad("kafka", "kafka-1")])) == [("restart", "kafka-1")]


@pytest.mark.parametrize(
    ("changed", "intent", "rests_on_it"),
    [
        ({}, "recover", True),
        ({"state": "suspended"}, "recover", False),
        ({"state": "exited"}, "recover", False),
        ({"started": NOW - timedelta(seconds=5)}, "recover", False),
        ({}, "restart", False),
    ],
    ids=["silent", "suspended", "dead", "young", "told-to"],
)
def test_the_repair_of_what_runs_rests_on_its_answer(changed: dict[str, Any], intent: str, rests_on_it: bool) -> None:
    services = stack(kafka_1=changed)
    made = make(services, [bad("kafka", "kafka-1")], intent)
    assert made.actions
    assert (("kafka", "kafka-1") in plan.unsure(made, services)) is rests_on_it


def test_what_watches_is_asked_though_all_else_restarts() -> None:
    made = make(watched(), [bad("inbox", "monitoring-1")], "restart")
    assert list(plan.unsure(made, watched())) == [("inbox", "monitoring-1")]


def test_only_who_fails_both_times_is_restarted() -> None:
    checks = {host: bad("kafka", host) for host in ("kafka-1", "kafka-2", "kafka-3")}
    first = make(stack(), [checks["kafka-1"], checks["kafka-2"]])
    second = make(stack(), [checks["kafka-2"], checks["kafka-3"]])
    made, decisions = plan.confirmed(first, second, stack())
    assert verbs(made) == [("restart", "kafka-2"), ("wait", "kafka-3")]
    assert [(one["subject"], one["decision"]) for one in decisions] == [("kafka on kafka-1", "left")]
    restarts, _ = plan.settle(made.as_dict(), [checks["kafka-3"]], 90)
    assert [action.host for action in restarts] == ["kafka-3"]


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


@pytest.mark.parametrize(("intent", "refused"), [("restart", True), ("recover", False), ("stop", False)])
def test_nothing_is_restarted_with_a_certificate_that_has_ended(intent: str, refused: bool) -> None:
    ended = Check(
        "certificate.holds", "kafka", "", False, "certificate of kafka-3 expired", "one", "site", ("kafka-3",)
    )
    if not refused:
        assert make(stack(), [ended], intent).intent == intent
        return
    with pytest.raises(Refused, match=r"certificates: found certificate of kafka-3 expired.*make up"):
        make(stack(), [ended], intent)


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


def spark() -> list[dict[str, Any]]:
    return [service("spark-master", "spark-1"), service("spark-worker", "spark-2"), service("spark-worker", "spark-3")]


def test_what_runs_the_streams_tasks_stops_after_it_and_starts_before_it() -> None:
    stopped = [action.service for action in make([*stack(), *spark()], [], intent="stop").actions]
    assert stopped[:5] == ["producer", "spark-streaming", "spark-worker", "spark-worker", "spark-master"]
    down = [{**info, "state": "stopped"} for info in [*stack(), *spark()]]
    made = make(down, []).as_dict()
    (row,) = [row for row in made["hosts"] if row["host"] == "spark-1"]
    assert [step["name"] for step in row["early"]] == ["spark-master", "spark-streaming"]
    assert set(made["disturbed"]) == {"kafka", "minio", "spark-streaming", "producer", "runbook"}


def test_dead_worker_is_left_out_and_the_stream_keeps_going() -> None:
    services = [info for info in [*stack(), *spark()] if info["host"] != "spark-3"]
    gone = Check("service.running", "spark-worker", "spark-3", False, "the host can't be reached", "running")
    assert make(services, [gone], unreachable={"spark-3": ["spark-worker"]}, voters=BROKERS).actions == ()


def test_what_lost_another_node_of_its_own_is_waited_for() -> None:
    services = [*stack(), service("minio", "minio-2"), service("minio", "minio-3")]
    gone = Check("service.running", "minio", "minio-4", False, "the host can't be reached", "running")
    silent = bad("minio", "minio-1", "minio.write_quorum", "timed out")
    made = make(services, [gone, silent], unreachable={"minio-4": ["minio"]}, voters=BROKERS)
    assert verbs(made) == [("wait", "minio-1")]
    assert verbs(make(services, [silent])) == [("restart", "minio-1")]


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


BROKERS = ("kafka-1", "kafka-2", "kafka-3")


def without(*hosts: str, **changed: dict[str, Any]) -> list[dict[str, Any]]:
    return [info for info in stack(**changed) if info["host"] not in hosts]


def away(*hosts: str) -> dict[str, Any]:
    services = {info["host"]: [info["service"]] for info in stack()}
    return {"unreachable": {host: services[host] for host in hosts}, "voters": BROKERS}


def short_of(*hosts: str) -> list[Check]:
    """What the cluster says of itself when these brokers are gone, and what each of them does not answer."""
    late = Check("kafka.in_sync", "kafka", "", False, "6 under-replicated partitions", "0", blames=hosts)
    few = Check("kafka.brokers", "kafka", "", False, "too few", "3", blames=hosts)
    return [late, few, *(bad("kafka", host, "kafka.answers") for host in hosts)]


def test_machine_out_of_reach_is_left_out_and_the_rest_repaired() -> None:
    services = without("kafka-3", minio_1={"state": "stopped"})
    made = make(services, short_of("kafka-3"), **away("kafka-3"))
    assert verbs(made) == [("start", "minio-1")]
    plan_made = made.as_dict()
    assert [row["host"] for row in plan_made["hosts"]] == ["minio-1"]
    assert plan_made["lines"][-1] == "leave out kafka-3 (kafka): the host can't be reached"
    assert plan_made["unreachable"] == {"kafka-3": ["kafka"]}
    assert plan_made["lost"] == ["kafka-3"]


@pytest.mark.parametrize("intent", ["recover", "restart", "start", "stop"])
@pytest.mark.parametrize("host", ["kafka-3", "minio-1", "spark-1", "producer-1"])
def test_nobody_acts_on_a_machine_out_of_reach(intent: str, host: str) -> None:
    down = {name: {"state": "stopped"} for name in ("kafka_1", "spark_1", "producer_1", "minio_1")}
    made = make(without(host, **down), [*short_of("kafka-3"), bad("minio", host)], intent=intent, **away(host))
    assert host not in {action.host for action in made.actions}
    assert host not in {row["host"] for row in made.as_dict()["hosts"]}


def test_what_a_dead_machine_accounts_for_is_not_waited_for() -> None:
    made = make(without("kafka-3"), short_of("kafka-3"), **away("kafka-3"))
    assert made.actions == ()
    assert made.as_dict()["waits"] == []
    assert not made.as_dict()["changes"]


def test_broker_that_lags_beside_a_dead_one_is_waited_for() -> None:
    lagging = Check("kafka.in_sync", "kafka", "", False, "6", "0", blames=("kafka-2", "kafka-3"))
    made = make(without("kafka-3"), [lagging], **away("kafka-3"))
    assert verbs(made) == [("wait", "")]


def test_stream_is_given_time_to_find_the_brokers_that_are_left() -> None:
    late = bad("spark-streaming", "spark-1", "spark-streaming.progress", "progress 60 s ago")
    made = make(without("kafka-3"), [*short_of("kafka-3"), late], **away("kafka-3"))
    assert verbs(made) == [("wait", "spark-1")]
    assert "kafka lost a host" in made.actions[0].why


@pytest.mark.parametrize("intent", ["recover", "restart", "start"])
def test_lost_quorum_is_said_before_anything_is_touched(intent: str) -> None:
    services = without("kafka-2", "kafka-3", minio_1={"state": "stopped"})
    with pytest.raises(plan.QuorumLost, match=r"kafka-2, kafka-3 out of reach .* leaves 1 of 3 controllers"):
        make(services, short_of("kafka-2", "kafka-3"), intent=intent, **away("kafka-2", "kafka-3"))


def test_lost_quorum_keeps_nobody_from_stopping_the_rest() -> None:
    made = make(without("kafka-2", "kafka-3"), [], intent="stop", **away("kafka-2", "kafka-3"))
    assert ("stop", "kafka-1") in verbs(made)


def test_broker_that_answers_counts_though_its_machine_can_not_be_reached() -> None:
    answers = Check("kafka.answers", "kafka", "kafka-2", True, "answers", "an answer")
    made = make(without("kafka-2", "kafka-3"), [answers, *short_of("kafka-3")], **away("kafka-2", "kafka-3"))
    assert (made.actions, made.lost) == ((), ("kafka-3",))


def test_run_that_is_not_about_kafka_does_not_count_its_brokers() -> None:
    made = make(without("kafka-2", "kafka-3"), [], **{**away("kafka-2", "kafka-3"), "voters": ()})
    assert made.actions == ()


CONTROLLERS = ("control-1", "control-2", "control-3")


def apart(*hosts: str) -> dict[str, Any]:
    """These are away; Kafka's controllers are nodes of their own."""
    return {**away(*hosts), "voters": CONTROLLERS, "brokers": BROKERS, "fewest_brokers": 2}


@pytest.mark.parametrize("intent", ["recover", "restart", "start"])
def test_too_few_brokers_are_said_before_anything_is_touched(intent: str) -> None:
    services = without("kafka-2", "kafka-3", minio_1={"state": "stopped"})
    said = r"brokers of Kafka: found kafka-2, kafka-3 out of reach .* leaves 1 of 3 brokers, expected 2"
    with pytest.raises(plan.QuorumLost, match=said):
        make(services, short_of("kafka-2", "kafka-3"), intent=intent, **apart("kafka-2", "kafka-3"))


def test_dead_broker_is_lost_where_controllers_are_nodes_of_their_own() -> None:
    made = make(without("kafka-3"), short_of("kafka-3"), **apart("kafka-3"))
    assert (made.actions, made.lost) == ((), ("kafka-3",))
    assert made.as_dict()["lines"] == ["leave out kafka-3 (kafka): the host can't be reached"]


def test_brokers_that_acknowledge_are_not_too_few() -> None:
    acked = Check("producer.progress", "producer", "producer-1", True, "acknowledged event 1.0 s ago", "one")
    made = make(without("kafka-2", "kafka-3"), [acked], **apart("kafka-2", "kafka-3"))
    assert made.lost == ("kafka-2", "kafka-3")


def test_too_few_brokers_keep_nobody_from_stopping_the_rest() -> None:
    made = make(without("kafka-2", "kafka-3"), [], intent="stop", **apart("kafka-2", "kafka-3"))
    assert ("stop", "kafka-1") in verbs(made)
