from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.streamops.runbook.plugins.module_utils import probes

TARGET = probes.Target(
    endpoints={
        "s3": {"endpoint": "http://127.0.0.1:1"},
        "metrics": {
            "spark-streaming": "http://127.0.0.1:1/metrics",
            "producer": "http://127.0.0.1:1/metrics",
        },
    },
    kafka_user={"username": "u", "password": "p"},
    s3_user={"access_key": "a", "secret_key": "s"},
    brokers={"kafka-1": "127.0.0.1:1", "kafka-2": "127.0.0.1:2", "kafka-3": "127.0.0.1:3"},
    cluster_id="C",
    topics=["iot-events"],
    buckets=["one"],
    hosts={"minio": "minio-1", "spark-streaming": "spark-1", "producer": "producer-1"},
)


def topic(
    name: str = "iot-events", leader: int = 1, isr: tuple[int, ...] = (1, 2, 3), error: int = 0
) -> dict[str, Any]:
    partition = {
        "partition_index": 0,
        "leader_id": leader,
        "replica_nodes": [1, 2, 3],
        "isr_nodes": list(isr),
    }
    return {"name": name, "error_code": error, "partitions": [] if error else [partition]}


def judged(topics: list[dict[str, Any]], cluster: str = "C", brokers: int = 3, leader: int = 1) -> set[str]:
    answer = {
        "cluster_id": cluster,
        "brokers": [{"broker_id": n, "is_fenced": n > brokers} for n in (1, 2, 3)],
    }
    return {check.name for check in probes.judge_cluster(answer, leader, topics, TARGET) if not check.healthy}


def test_whole_cluster_passes() -> None:
    assert judged([topic()]) == set()


@pytest.mark.parametrize(
    ("given", "failed"),
    [
        ({"topics": [topic(isr=(1, 2))]}, {"kafka.in_sync"}),
        ({"topics": [topic(leader=-1)]}, {"kafka.offline_partitions"}),
        ({"topics": [topic(error=3)]}, {"kafka.topics"}),
        ({"topics": [topic()], "cluster": "OTHER"}, {"kafka.identity"}),
        ({"topics": [topic()], "brokers": 2}, {"kafka.brokers"}),
        ({"topics": [topic()], "leader": -1}, {"kafka.quorum"}),
    ],
)
def test_each_fault_of_the_cluster_is_named(given: dict[str, Any], failed: set[str]) -> None:
    assert judged(**given) == failed


def test_broker_that_does_not_answer_fails_without_raising() -> None:
    def connect(*_: Any) -> Any:
        raise TimeoutError("no answer in 4 s\nmore")

    found = probes.broker_check(TARGET, "kafka-2", connect, dial=lambda *_: None)
    assert not found.healthy
    assert (found.subject, found.seen) == ("kafka on kafka-2", "TimeoutError: no answer in 4 s")


def test_refused_connection_is_known_without_the_clients_patience() -> None:
    def connect(*_: Any) -> Any:
        raise AssertionError("the client was asked although nobody listens")

    found = probes.broker_check(TARGET, "kafka-1", connect)
    assert not found.healthy
    assert "refused" in found.seen
    assert [check.name for check in probes.cluster_checks(TARGET, connect)] == ["kafka.cluster"]


class Store:
    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def head_bucket(self, Bucket: str) -> None:  # noqa: N803  boto3's own name
        if self.error:
            raise self.error


def test_store_without_write_quorum_fails_before_any_bucket_is_asked() -> None:
    checks = probes.store_checks(TARGET, lambda *_: Store(), get=lambda url, timeout: (503, ""))
    assert [(check.name, check.seen) for check in checks] == [("minio.write_quorum", "HTTP 503")]


def test_missing_bucket_is_named() -> None:
    checks = probes.store_checks(TARGET, lambda *_: Store(KeyError("one")), get=lambda url, timeout: (200, ""))
    assert [check.name for check in checks if not check.healthy] == ["minio.bucket"]


@pytest.mark.parametrize(
    ("answer", "healthy", "seen"),
    [
        (
            (200, "spark_streaming_last_progress_timestamp_seconds 990\n"),
            True,
            "progress 10.0 s ago",
        ),
        (
            (200, "spark_streaming_last_progress_timestamp_seconds 900\n"),
            False,
            "progress 100.0 s ago",
        ),
        ((200, "spark_streaming_last_progress_timestamp_seconds 0\n"), False, "no progress yet"),
        ((0, "Connection refused"), False, "no metrics: Connection refused"),
    ],
)
def test_stream_is_judged_by_its_progress(answer: tuple[int, str], healthy: bool, seen: str) -> None:
    found = probes.stream_check(TARGET, get=lambda url, timeout: answer, clock=lambda: 1000.0)
    assert (found.healthy, found.seen) == (healthy, seen)


def test_unreachable_host_fails_each_of_its_services() -> None:
    assert [check.subject for check in probes.unreachable_check("h", ["a", "b"])] == [
        "a on h",
        "b on h",
    ]


def test_hosts_that_account_for_a_smaller_cluster_are_blamed() -> None:
    answer = {
        "cluster_id": "C",
        "brokers": [{"broker_id": n, "host": "127.0.0.1", "port": n, "is_fenced": n == 3} for n in (1, 2, 3)],
    }
    checks = {check.name: check for check in probes.judge_cluster(answer, 1, [topic(isr=(1, 2))], TARGET)}
    assert checks["kafka.brokers"].blames == checks["kafka.in_sync"].blames == ("kafka-3",)
    checks = {check.name: check for check in probes.judge_cluster(answer, 1, [topic(isr=(1,))], TARGET)}
    assert checks["kafka.in_sync"].blames == ("kafka-2", "kafka-3")
    assert checks["kafka.offline_partitions"].blames == ()


def test_broker_of_an_address_that_is_not_the_inventorys_is_nobody_to_blame() -> None:
    answer = {"cluster_id": "C", "brokers": [{"broker_id": n, "host": "elsewhere", "port": n} for n in (1, 2)]}
    checks = {check.name: check for check in probes.judge_cluster(answer, 1, [topic(isr=(1, 2))], TARGET)}
    assert checks["kafka.in_sync"].blames == ("node 3",)
    assert checks["kafka.brokers"].blames == ("kafka-1", "kafka-2", "kafka-3")


def test_controller_that_is_no_broker_is_asked_for_a_connection() -> None:
    aim = replace(TARGET, controllers={"control-1": "127.0.0.1:1"})
    asked: list[str] = []
    check = probes.controller_check(aim, "control-1", lambda address, _: asked.append(address))
    assert (check.name, check.service, check.host, check.healthy) == ("kafka.answers", "kafka", "control-1", True)
    assert asked == ["127.0.0.1:1"]

    def paused(address: str, timeout: float) -> None:
        raise TimeoutError(f"{address} after {timeout}")

    silent = probes.controller_check(aim, "control-1", paused)
    assert not silent.healthy
    assert "TimeoutError" in silent.seen
