from __future__ import annotations

from typing import Any

from ansible_collections.streamops.runbook.plugins.filter import inspection

KAFKA = {"service": "kafka", "host": "kafka-1", "state": "running"}
HOSTVARS: dict[str, dict[str, Any]] = {
    "kafka-1": {"host_services": ["kafka"], "procedure_inspected": {"services": [KAFKA]}},
    "kafka-2": {
        "host_services": ["kafka"],
        "procedure_inspected": {"unreachable": True, "msg": "no route"},
        "service_result": {"unreachable": True},
    },
    # It answered that it has nothing: that is an answer.
    "ops-1": {"host_services": [], "procedure_inspected": {"services": []}},
    # It never came to an inspection.
    "spark-1": {"host_services": ["spark-streaming"]},
    "bare-1": {},
}


def test_hosts_without_an_answer_are_told_from_those_with_one() -> None:
    assert inspection.inspected(HOSTVARS, HOSTVARS) == [KAFKA]
    assert inspection.silent(HOSTVARS, HOSTVARS) == {
        "kafka-2": ["kafka"],
        "spark-1": ["spark-streaming"],
        "bare-1": [],
    }
    assert inspection.silence_reasons(HOSTVARS, HOSTVARS) == {"kafka-2": "no route", "spark-1": "", "bare-1": ""}


def test_host_that_died_is_one_that_was_acted_on_in_vain() -> None:
    assert inspection.died(HOSTVARS, HOSTVARS) == {"kafka-2": ["kafka"]}


def test_only_services_that_are_asked_for_count() -> None:
    unreachable = {"ops-1": ["producer", "prometheus"], "kafka-3": ["kafka"]}
    assert inspection.services_of(unreachable, ["prometheus", "inbox"]) == {"ops-1": ["prometheus"]}
