"""Declared topics and rights, and the gate of a roll, on recorded metadata and fake clients."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.streamops.runbook.plugins.module_utils import kafka_admin
from ansible_collections.streamops.runbook.plugins.module_utils.errors import DeadlineExceeded, Refused, ServiceError
from ansible_collections.streamops.runbook.plugins.module_utils.kafka_admin import (
    Acl,
    Denied,
    Gate,
    Topic,
    View,
    back_gate,
    parse_acls,
    parse_topics,
    plan_resources,
    roll_gate,
    roll_order,
    topic_problems,
    wait_gate,
)
from kafka import errors

from tests.unit.authority import Authority, ask_the_silent
from tests.unit.runbook.support import Clock

EVENTS = Topic("iot-events", 6, 3, {"min.insync.replicas": "2", "retention.ms": "604800000"})
CONFIGS = {"iot-events": {"min.insync.replicas": "2", "retention.ms": "604800000"}}
WRITE = Acl("producer", "topic", "iot-events", "literal", "WRITE")


def topic(name: str = "iot-events", partitions: int = 6, **changes: Any) -> dict[str, Any]:
    """A topic in describe_topics' shape; ``isr`` and ``replicas`` hold for every partition."""
    replicas = changes.get("replicas", [1, 2, 3])
    return {
        "name": name,
        "error_code": changes.get("error_code", 0),
        "is_internal": changes.get("internal", False),
        "partitions": [
            {
                "partition_index": index,
                "leader_id": changes.get("leader", replicas[0]),
                "replica_nodes": replicas,
                "isr_nodes": changes.get("isr", replicas),
            }
            for index in range(partitions)
        ],
    }


def view(
    *topics: Mapping[str, Any],
    leader: int = 1,
    behind: Sequence[int] = (),
    fenced: Sequence[int] = (),
    voters: Sequence[int] = (1, 2, 3),
    min_isr: int = 2,
    moving: int = 0,
) -> View:
    now = 1_795_430_834_005
    return View(
        topics=topics or [topic()],
        min_isr={entry["name"]: min_isr for entry in topics or [topic()]},
        quorum={
            "leader_id": leader,
            "current_voters": [
                {"replica_id": voter, "last_caught_up_timestamp": now - (9000 if voter in behind else 150)}
                if voter != leader
                else {"replica_id": voter, "last_caught_up_timestamp": now}
                for voter in voters
            ],
        },
        brokers=[{"broker_id": broker, "is_fenced": broker in fenced} for broker in (1, 2, 3)],
        moving=moving,
    )


# What is declared


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({"name": ""}, "topics[0].name: found ''"),
        ({"name": "t", "partitions": 0, "replication_factor": 3}, "topic t.partitions: found 0"),
        ({"name": "t", "partitions": "6", "replication_factor": 3}, "topic t.partitions: found '6'"),
        ({"name": "t", "partitions": 6, "replication_factor": -1}, "topic t.replication_factor: found -1"),
        ({"name": "t", "partitions": 6, "replication_factor": 3, "retention": 1}, "found field retention"),
        (
            {"name": "t", "partitions": 6, "replication_factor": 2, "configs": {"min.insync.replicas": 3}},
            "at most the replication factor 2",
        ),
    ],
)
def test_bad_topics_are_refused_by_name(entry: dict[str, Any], named: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_topics([entry])
    assert named in str(refused.value)


def test_config_values_become_what_kafka_writes() -> None:
    configs = {"unclean.leader.election.enable": False, "retention.ms": 1000}
    (parsed,) = parse_topics([{"name": "t", "partitions": 1, "replication_factor": 1, "configs": configs}])
    assert parsed.configs == {"unclean.leader.election.enable": "false", "retention.ms": "1000"}


@pytest.mark.parametrize(
    ("configs", "named"),
    [
        ({"retention.ms": -1}, "topic t.configs.retention.ms: found '-1', expected a whole number from 1 on"),
        ({"retention.ms": "abc"}, "topic t.configs.retention.ms: found 'abc'"),
        ({"retention.ms": ""}, "topic t.configs.retention.ms: found ''"),
        ({"retention.bytes": "1.5"}, "topic t.configs.retention.bytes: found '1.5'"),
        ({"min.insync.replicas": "two"}, "topic t.configs.min.insync.replicas: found 'two'"),
        ({"unclean.leader.election.enable": "no"}, "expected true or false"),
    ],
)
def test_config_values_that_no_broker_takes_are_refused_by_name(configs: dict[str, Any], named: str) -> None:
    (problem,) = topic_problems([{"name": "t", "partitions": 1, "replication_factor": 1, "configs": configs}], 3)
    assert named in problem


def test_every_topic_that_can_not_be_made_is_named() -> None:
    good = {"name": "a", "partitions": 1, "replication_factor": 3, "configs": {"retention.bytes": -1}}
    wide, empty = {**good, "name": "b", "replication_factor": 4}, {**good, "name": "c", "partitions": 0}
    problems = topic_problems([good, wide, empty], 3)
    assert [problem.split(":")[0] for problem in problems] == ["topic b.replication_factor", "topic c.partitions"]
    assert topic_problems([good], 3) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"resource": "queue"}, "acls[0].resource: found 'queue', expected topic | group"),
        ({"pattern": "regex"}, "acls[0].pattern: found 'regex', expected literal | prefixed"),
        ({"operations": ["PRODUCE"]}, "acls[0].operations: found 'PRODUCE'"),
        ({"principal": ""}, "acls[0].principal: found ''"),
    ],
)
def test_bad_rights_are_refused_by_name(change: dict[str, Any], named: str) -> None:
    entry = {"principal": "producer", "resource": "topic", "name": "iot-events", "operations": ["WRITE"]}
    with pytest.raises(Refused) as refused:
        parse_acls([{**entry, **change}])
    assert named in str(refused.value)


# What differs


def test_what_is_there_as_declared_needs_nothing() -> None:
    assert not plan_resources([EVENTS], [WRITE], [topic()], CONFIGS, [WRITE])


def test_what_is_missing_is_created() -> None:
    plan = plan_resources([EVENTS], [WRITE], [], {}, [])
    assert plan.lines() == [
        "create topic iot-events: 6 partitions, 3 copies",
        "allow producer WRITE on topic iot-events",
    ]


def test_an_unknown_topic_comes_back_with_an_error_code_and_is_missing() -> None:
    assert plan_resources([EVENTS], [], [topic(partitions=0, error_code=3)], {}, []).create == [EVENTS]


def test_partitions_are_raised_and_never_lowered() -> None:
    assert plan_resources([EVENTS], [], [topic(partitions=4)], CONFIGS, []).partitions == {"iot-events": (4, 6)}
    with pytest.raises(Refused, match=r"topic iot-events: found 8 partitions, expected 6 \(declared\)"):
        plan_resources([EVENTS], [], [topic(partitions=8)], CONFIGS, [])


def test_another_number_of_copies_is_refused() -> None:
    with pytest.raises(Refused, match=r"found 2 copies, expected 3 \(declared\)"):
        plan_resources([EVENTS], [], [topic(replicas=[1, 2])], CONFIGS, [])


@pytest.mark.parametrize(
    ("key", "have", "refused"),
    [
        ("retention.ms", "604800001", True),
        ("retention.ms", "-1", True),
        ("retention.ms", "60000", False),
        ("min.insync.replicas", "3", True),
        ("min.insync.replicas", "1", False),
        ("segment.bytes", "999999999999", False),
    ],
)
def test_giving_data_or_safety_up_needs_a_word(key: str, have: str, refused: bool) -> None:
    wanted = {"retention.ms": "604800000", "min.insync.replicas": "2", "segment.bytes": "1048576"}
    declared = Topic("iot-events", 6, 3, {key: wanted[key]})
    found = {"iot-events": {key: have}}
    if refused:
        with pytest.raises(Refused, match=f"{key}: found {have}"):
            plan_resources([declared], [], [topic()], found, [])
    allowed = plan_resources([declared], [], [topic()], found, [], allow_shrink=refused)
    assert allowed.configs == {"iot-events": {key: (have, wanted[key])}}


def test_what_nobody_declared_is_named_and_left_alone() -> None:
    stranger = Acl("stranger", "topic", "*", "literal", "ALL")
    found = [topic(), topic("scratch"), topic("__consumer_offsets", internal=True)]
    plan = plan_resources([EVENTS], [WRITE], found, CONFIGS, [WRITE, stranger])
    assert not plan
    assert plan.undeclared == ["access right: stranger ALL on topic *", "topic: scratch"]


# Reaching it


class FakeAdmin:
    """Just enough of a cluster: topics, configs and rights that can be created."""

    def __init__(self, cluster: dict[str, Any]) -> None:
        self.cluster = cluster
        self.closed = False

    def close(self) -> None:
        self.closed = True

    def describe_topics(self) -> list[dict[str, Any]]:
        return list(self.cluster["topics"].values())

    def describe_configs(self, resources: Any, config_filter: str) -> dict[str, Any]:
        assert config_filter == "all"
        return {
            "topic": {
                resource.name: {
                    key: {"value": self.cluster["configs"][resource.name].get(key)} for key in resource.configs
                }
                for resource in resources
            }
        }

    def describe_acls(self, _: Any) -> tuple[list[Any], Any]:
        return self.cluster["acls"], None

    def create_topics(self, wanted: dict[str, Any]) -> None:
        for name, options in wanted.items():
            self.cluster["topics"][name] = topic(name, options["num_partitions"])
            self.cluster["configs"][name] = options["configs"]

    def create_partitions(self, wanted: dict[str, int]) -> None:
        for name, count in wanted.items():
            self.cluster["topics"][name] = topic(name, count)

    def wait_for_topics(self, names: list[str], timeout_ms: int) -> None:
        assert names
        assert timeout_ms > 0

    def alter_configs(self, resources: Any, raise_on_unknown: bool, incremental: bool) -> dict[str, Any]:
        assert incremental
        assert not raise_on_unknown
        if self.cluster.get("refuse_configs"):
            return {"topic": {resource.name: "InvalidConfigurationError" for resource in resources}}
        for resource in resources:
            self.cluster["configs"][resource.name].update(resource.configs)
        return {"topic": {resource.name: "OK" for resource in resources}}

    def create_acls(self, acls: list[Any]) -> dict[str, Any]:
        self.cluster["acls"] += acls
        return {"succeeded": acls, "failed": []}


def empty() -> dict[str, Any]:
    return {"topics": {}, "configs": {}, "acls": []}


def ensure(factory: Callable[[], Any], **changes: Any) -> kafka_admin.Plan:
    clock = Clock()
    options = {"deadline": 20.0, "clock": clock, "sleep": clock.sleep, **changes}
    return kafka_admin.ensure(factory, [EVENTS], [WRITE], **options)


def test_a_cluster_is_brought_to_the_declared_state_once() -> None:
    cluster = empty()
    first = ensure(lambda: FakeAdmin(cluster))
    assert len(first.lines()) == 2
    assert len(cluster["topics"]["iot-events"]["partitions"]) == 6
    assert not ensure(lambda: FakeAdmin(cluster))


def test_check_mode_touches_nothing() -> None:
    cluster = empty()
    assert len(ensure(lambda: FakeAdmin(cluster), check=True).lines()) == 2
    assert cluster == empty()


def test_a_starting_cluster_is_waited_for_with_fresh_clients() -> None:
    cluster = empty()
    answers = [errors.KafkaTimeoutError("nobody"), errors.InvalidReplicationFactorError("2 brokers")]
    made: list[FakeAdmin] = []

    def factory() -> Any:
        if answers and len(answers) == 2:
            raise answers.pop(0)
        client = FakeAdmin(cluster)
        if answers:
            refusal = answers.pop(0)

            def refuse(_: Any) -> None:
                raise refusal

            client.create_topics = refuse  # type: ignore[assignment, method-assign]
        made.append(client)
        return client

    assert len(ensure(factory).lines()) == 2
    assert len(made) >= 2
    assert all(client.closed for client in made)


def test_the_deadline_tells_the_last_thing_seen() -> None:
    def nobody() -> Any:
        raise errors.KafkaTimeoutError("Unable to bootstrap")

    with pytest.raises(DeadlineExceeded, match="Unable to bootstrap for 20 s"):
        ensure(nobody)


def test_a_principal_that_may_not_is_told_at_once() -> None:
    client = FakeAdmin(empty())

    def denied() -> list[dict[str, Any]]:
        raise errors.ClusterAuthorizationFailedError("no")

    client.describe_topics = denied  # type: ignore[method-assign]
    with pytest.raises(Denied):
        ensure(lambda: client)


def test_a_refused_config_is_an_error_with_kafkas_reason() -> None:
    cluster = empty()
    ensure(lambda: FakeAdmin(cluster))
    cluster["configs"]["iot-events"]["retention.ms"] = "5"
    cluster["refuse_configs"] = True
    with pytest.raises(ServiceError, match="configs of topic iot-events: found InvalidConfigurationError"):
        ensure(lambda: FakeAdmin(cluster))


def test_a_change_that_does_not_stay_is_not_called_done() -> None:
    cluster = empty()
    ensure(lambda: FakeAdmin(cluster))
    cluster["configs"]["iot-events"]["retention.ms"] = "5"

    class Forgetful(FakeAdmin):
        def alter_configs(self, resources: Any, raise_on_unknown: bool, incremental: bool) -> dict[str, Any]:
            return {"topic": {resource.name: "OK" for resource in resources}}

    with pytest.raises(DeadlineExceeded, match=r"still to do after it was done: set retention\.ms"):
        ensure(lambda: Forgetful(cluster))


def test_a_failed_connection_leaves_no_thread_and_prints_nothing(caplog: pytest.LogCaptureFixture) -> None:
    import threading

    caplog.set_level(logging.CRITICAL, logger="kafka")
    before = threading.active_count()
    with pytest.raises(errors.KafkaError):
        kafka_admin.connect(["127.0.0.1:1"], "admin", "wrong", 0.3)
    for thread in threading.enumerate():
        if thread.name.startswith("kafka-io"):
            thread.join(3)
    assert threading.active_count() == before


def test_a_machine_that_takes_connections_and_says_nothing_keeps_nobody_from_asking_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = Authority(tmp_path).issue("ops-1")
    raised = ask_the_silent(
        lambda addresses: kafka_admin.connect(addresses, "admin", "secret", 1.0, files=files), monkeypatch
    )
    assert [type(error) for error in raised] == [errors.KafkaTimeoutError]


# The gate


def test_a_healthy_cluster_lets_any_node_go() -> None:
    for node in (1, 2, 3):
        for profile in kafka_admin.PROFILES:
            assert roll_gate(node, view(), [1, 2, 3], profile).allowed


def test_a_node_is_kept_when_a_partition_would_fall_below_its_minimum() -> None:
    seen = view(topic(isr=[1, 2]))
    assert "iot-events-0 would fall below min ISR 2" in roll_gate(1, seen, [1, 2, 3]).reasons[0]
    assert roll_gate(3, seen, [1, 2, 3]).allowed


def test_below_the_minimum_even_a_node_out_of_sync_is_kept() -> None:
    seen = view(topic(isr=[1]))
    for node in (1, 2, 3):
        assert "below min ISR" in roll_gate(node, seen, [1, 2, 3]).reasons[0]


def test_internal_topics_count() -> None:
    seen = view(topic(), topic("__consumer_offsets", internal=True, isr=[2, 3]))
    assert not roll_gate(2, seen, [1, 2, 3]).allowed


def test_a_topic_that_can_never_be_safe_pauses_but_does_not_block_for_ever() -> None:
    gate = roll_gate(1, view(topic("single", 1, replicas=[1])), [1, 2, 3])
    assert gate.allowed
    assert gate.warnings == ["single-0 will pause: 1 copies, min ISR 1"]


def test_a_minimum_above_the_copies_counts_as_the_copies() -> None:
    gate = roll_gate(1, view(topic(replicas=[1, 2]), min_isr=5), [1, 2, 3])
    assert gate.allowed
    assert gate.warnings


def test_a_partition_elsewhere_does_not_matter() -> None:
    assert roll_gate(1, view(topic(replicas=[2, 3], isr=[2])), [1, 2, 3]).allowed


def test_the_quorum_must_keep_its_majority_caught_up() -> None:
    assert roll_gate(3, view(behind=[3]), [1, 2, 3]).allowed
    assert "would be caught up, 2 are needed of 3" in roll_gate(2, view(behind=[3]), [1, 2, 3]).reasons[0]
    assert not roll_gate(1, view(behind=[3]), [1, 2, 3]).allowed
    assert "no leader" in roll_gate(1, view(leader=-1), [1, 2, 3]).reasons[0]


@pytest.mark.parametrize(
    ("voters", "behind", "allowed"),
    [
        ((1,), (), True),
        ((1, 2), (), True),
        ((1, 2), (2,), False),
        ((1, 2, 3, 4, 5), (5,), True),
        ((1, 2, 3, 4, 5), (4, 5), False),
    ],
)
def test_quorums_of_other_sizes(voters: tuple[int, ...], behind: tuple[int, ...], allowed: bool) -> None:
    seen = view(topic(replicas=[7, 8, 9]), voters=voters, behind=behind)
    assert roll_gate(1, seen, [1]).allowed is allowed


def test_the_emergency_profile_repairs_what_strict_would_leave() -> None:
    seen = view(topic(isr=[1, 2]), fenced=[3])
    assert roll_gate(3, seen, [1, 2, 3], "availability").allowed
    reasons = roll_gate(3, seen, [1, 2, 3], "strict").reasons
    assert "brokers [3] are not in service" in reasons
    assert "iot-events-0 is under-replicated" in reasons


def test_strict_waits_for_reassignments_and_leaders() -> None:
    assert roll_gate(1, view(moving=2), [1, 2, 3], "strict").reasons == ["2 reassignments are in flight"]
    assert roll_gate(1, view(moving=2), [1, 2, 3]).allowed
    assert "iot-events-0 is offline" in roll_gate(1, view(topic(leader=-1)), [1, 2, 3], "strict").reasons


def test_a_node_is_back_when_it_is_in_service_in_sync_and_voting() -> None:
    assert back_gate(2, view()).allowed
    assert back_gate(2, view(fenced=[2])).reasons == ["broker 2 is not in service"]
    assert back_gate(2, view(topic(isr=[1, 3]))).reasons == ["broker 2 is not in sync in 6 partitions"]
    assert back_gate(2, view(behind=[2])).reasons == ["controller 2 is behind its leader 1"]
    assert back_gate(2, view(leader=-1)).reasons == ["the quorum has no leader"]
    assert back_gate(1, view(behind=[2])).allowed


def test_the_order_is_broken_ones_first_and_the_active_controller_last() -> None:
    assert roll_order([1, 2, 3], view(leader=1)) == [2, 3, 1]
    assert roll_order([1, 2, 3], view(leader=2, fenced=[3])) == [3, 1, 2]
    assert roll_order([1, 3], view(leader=2)) == [1, 3]


# Controllers 1 to 3 alone, brokers 11 to 13 alone.
ALONE = (1, 2, 3)


def apart(**changes: Any) -> View:
    whole = view(topic(replicas=[11, 12, 13], isr=changes.pop("isr", [11, 12, 13])), **changes)
    whole["brokers"] = [{"broker_id": broker, "is_fenced": False} for broker in (11, 12, 13)]
    return whole


def test_a_controller_alone_is_back_when_it_votes_and_a_broker_alone_when_it_is_in_sync() -> None:
    assert back_gate(2, apart(), ALONE).allowed
    assert back_gate(2, apart(behind=[2]), ALONE).reasons == ["controller 2 is behind its leader 1"]
    assert back_gate(2, apart(voters=[1, 3]), ALONE).reasons == ["controller 2 has no vote in the quorum"]
    assert back_gate(2, apart(leader=-1), ALONE).reasons == ["the quorum has no leader"]
    assert back_gate(12, apart(), ALONE).allowed
    assert back_gate(12, apart(isr=[11, 13]), ALONE).reasons == ["broker 12 is not in sync in 6 partitions"]


def test_a_controller_alone_may_stop_where_the_quorum_can_do_without_it_whatever_partitions_lack() -> None:
    assert roll_gate(2, apart(isr=[11]), [11, 12, 13]).allowed
    (reason,) = roll_gate(2, apart(behind=[3]), [11, 12, 13]).reasons
    assert reason == "only controllers [1] would be caught up, 2 are needed of 3"
    # A broker alone has no vote, and is kept for its partitions.
    assert roll_gate(12, apart(behind=[3]), [11, 12, 13]).allowed
    assert not roll_gate(12, apart(isr=[11, 12]), [11, 12, 13]).allowed
    assert roll_gate(2, apart(), [11, 12, 13], "strict").allowed


def test_the_order_of_a_roll_takes_a_controller_that_votes_for_one_in_service() -> None:
    assert roll_order([1, 2, 3, 11], apart(leader=1), ALONE) == [2, 3, 11, 1]
    assert roll_order([1, 2, 3, 11], apart(leader=1, behind=[3]), ALONE) == [3, 2, 11, 1]


def test_leaders_that_moved_are_found_only_where_they_can_go_back() -> None:
    moved = kafka_admin.not_preferred(view(topic("a", 2, leader=2), topic("b", 1, leader=2, isr=[2, 3])))
    assert moved == {"a": [0, 1]}


class Gates:
    """Answers of a cluster, poll by poll."""

    def __init__(self, *answers: Gate | Exception) -> None:
        self.answers = list(answers)
        self.clock = Clock()

    def wait(self, polls: int = 3, deadline: float = 30) -> Gate:
        def judge(_: View) -> Gate:
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            if isinstance(answer, Exception):
                raise answer
            return answer

        return wait_gate(
            _Readable,
            judge,
            what="gate",
            deadline=deadline,
            polls=polls,
            clock=self.clock,
            sleep=self.clock.sleep,
        )


class _Readable:
    """A client whose view does not matter."""

    def close(self) -> None: ...

    def describe_topics(self) -> list[Any]:
        return []

    def describe_metadata_quorum(self) -> dict[str, Any]:
        return {"topics": [{"partitions": [{"leader_id": 1, "current_voters": []}]}]}

    def describe_cluster(self) -> dict[str, Any]:
        return {"brokers": []}

    def list_partition_reassignments(self) -> dict[str, Any]:
        return {}


def test_the_gate_opens_after_good_polls_in_a_row_and_a_bad_one_starts_anew() -> None:
    closed = Gate(reasons=["not yet"])
    gates = Gates(Gate(), Gate(), closed, Gate(), Gate(), Gate())
    assert gates.wait().allowed
    assert gates.clock.now == 5


def test_a_cluster_that_does_not_answer_is_a_closed_gate() -> None:
    with pytest.raises(DeadlineExceeded, match="nobody there"):
        Gates(errors.KafkaTimeoutError("nobody there")).wait(deadline=5)


def test_a_gate_that_stays_closed_tells_why() -> None:
    with pytest.raises(DeadlineExceeded, match="gate: found iot-events-0 is under-replicated, expected 3 good polls"):
        Gates(Gate(reasons=["iot-events-0 is under-replicated"])).wait(deadline=5)
