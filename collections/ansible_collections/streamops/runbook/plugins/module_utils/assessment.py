"""The parameters that ``health`` and ``proof`` share, and how they become a target and a reading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from . import commands, tls
from .health import Reading, watch
from .probes import Check, Target, probe_all, service_check, unreachable_check
from .progress import report

SCOPE = ("kafka", "minio", "spark-streaming", "producer", "monitoring")

ARGUMENTS: dict[str, Any] = {
    "target": {
        "type": "dict",
        "required": True,
        "options": {
            "endpoints": {"type": "dict", "required": True},
            "kafka_user": {"type": "dict", "required": True, "no_log": True},
            "s3_user": {"type": "dict", "required": True, "no_log": True},
            "brokers": {"type": "dict", "required": True},
            "fewest_brokers": {"type": "int", "default": 1},
            "hosts": {"type": "dict", "required": True},
            "monitoring": {"type": "dict", "default": {}},
            "voters": {"type": "list", "elements": "str", "default": []},
            "controllers": {"type": "dict", "default": {}},
            "secured": {"type": "list", "elements": "dict", "default": []},
            "cluster_id": {"type": "str", "required": True},
            "topics": {"type": "list", "elements": "str", "required": True},
            "buckets": {"type": "list", "elements": "str", "required": True},
            "progress_max_age": {"type": "float", "default": 30.0},
            "ack_max_age": {"type": "float", "default": 15.0},
            "timeout": {"type": "float", "default": 4.0},
            "tls": tls.ARGUMENTS,
        },
    },
    "scope": {"type": "list", "elements": "str", "choices": list(SCOPE), "default": list(SCOPE)},
    "services": {"type": "list", "elements": "dict", "default": []},
    # None where the caller inspected no hosts: nothing is known of any then.
    "unreachable": {"type": "dict"},
    "reasons": {"type": "dict", "default": {}},
    "polls": {"type": "int", "default": 1},
    "interval": {"type": "float", "default": 1.0},
    "deadline": {"type": "float", "default": 0.0},
}


def voters(parameters: Mapping[str, Any]) -> list[str]:
    """Return the hosts of the Kafka nodes that vote: those that are named, or every broker."""
    return list(parameters["target"]["voters"] or parameters["target"]["brokers"])


def read(parameters: Mapping[str, Any]) -> Reading:
    """Poll the scope as the parameters say; the states of services are those that the caller has just read."""
    aim = Target(**parameters["target"])
    fixed: list[Check] = [service_check(info) for info in parameters["services"]]
    unreachable = parameters["unreachable"] or {}
    for host, services in unreachable.items():
        why = _reason(str(parameters["reasons"].get(host, "")))
        fixed += [replace(check, seen=f"{check.seen}{why}") for check in unreachable_check(host, services)]
    return watch(
        lambda: [*fixed, *probe_all(aim, parameters["scope"])],
        polls=parameters["polls"],
        deadline=parameters["deadline"],
        interval=parameters["interval"],
        report=report,
        away=unreachable,
    )


def _reason(message: str) -> str:
    """Return what is worth reading of Ansible's message on a host that could not be inspected."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return f": {lines[-1].removeprefix('Task failed: ')[:200]}" if lines else ""


def complaint(reading: Reading) -> str:
    """Say of each failed check what was seen, what was expected and which procedure helps; hosts away come last."""
    return "\n".join(
        f"{check.subject}: {check.seen}; expected {check.expected}; helps: {commands.line(check.procedure)}"
        for check in sorted(reading.failed, key=lambda check: check not in reading.pressing)
    )
