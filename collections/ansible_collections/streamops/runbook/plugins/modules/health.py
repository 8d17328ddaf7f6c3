#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Read the health of the whole stack and, where an intent is given, plan."""

from __future__ import annotations

DOCUMENTATION = """
module: health
short_description: Reads the health of the stack and plans what an intent asks for
description:
  - Probes Kafka, the object store, the streaming job and the producer in threads, from the controller.
  - What runs is planned to be restarted only when it has failed to answer twice.
  - Changes nothing; healthy means O(polls) good readings in a row within O(deadline).
attributes:
  check_mode: {support: full, description: It only reads.}
  diff_mode: {support: none, description: It changes nothing.}
options:
  intent: {description: What to plan for., type: str, choices: [observe, recover, restart, start, stop], default: observe}
  since: {description: "RFC 3339: restart plans what started before it, and what does not work.", type: str}
  grace: {description: Seconds that each service may take to boot., type: dict, default: {}}
  restart_monitoring: {description: "With restart, restart what watches too.", type: bool, default: false}
  settle: {description: The plan of this run whose waits this reading settles., type: dict}
  settled: {description: "The intent must be fulfilled by now: a plan with an action in it fails.", type: bool, default: false}
  table: {description: Show the table of all services on the card., type: bool, default: false}
  must_be_healthy: {description: Fail when the stack is not healthy., type: bool, default: false}
extends_documentation_fragment: [streamops.runbook.reading]
author: ["The streamops runbook project (@streamops)"]
"""

RETURN = """
reading: {description: Checks and verdict., type: dict, returned: always}
services: {description: The given ServiceInfo with healthy filled in., type: list, returned: always}
plan: {description: "Actions, lines to print and what to do on each host.", type: dict, returned: when an intent is given}
again: {description: What was waited for in vain and should be restarted., type: list, returned: always}
"""

EXAMPLES = """
- name: Read the health of the stack
  streamops.runbook.health:
    target: "{{ procedure_target }}"
"""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.streamops.runbook.plugins.module_utils import assessment, card, plan
from ansible_collections.streamops.runbook.plugins.module_utils.catalog import parse_timestamp
from ansible_collections.streamops.runbook.plugins.module_utils.errors import RunbookError
from ansible_collections.streamops.runbook.plugins.module_utils.health import (
    Reading,
    next_steps,
    service_health,
    warning_steps,
)


def _plan(given: Mapping[str, Any], reading: Reading, unreachable: Mapping[str, list[str]]) -> plan.Plan:
    now = datetime.now(UTC)
    kafka = "kafka" in given["scope"]
    return plan.make(
        given["services"],
        reading.checks,
        intent=given["intent"],
        since=parse_timestamp(given["since"]) or now,
        now=now,
        grace={name: float(seconds) for name, seconds in given["grace"].items()},
        cluster_id=given["target"]["cluster_id"],
        restart_monitoring=given["restart_monitoring"],
        unreachable=unreachable,
        voters=assessment.voters(given) if kafka else (),
        brokers=list(given["target"]["brokers"]) if kafka else (),
        fewest_brokers=given["target"]["fewest_brokers"],
    )


def _ask(
    given: Mapping[str, Any], unreachable: Mapping[str, list[str]], fragment: dict[str, Any]
) -> tuple[Reading, plan.Plan | None, RunbookError | None]:
    """Read and, where there is an intent, plan, or say why no plan can be made.

    :param fragment: of the record; takes the decisions on what was asked twice.
    """
    reading = assessment.read(given)
    if given["intent"] == "observe":
        return reading, None, None
    try:
        made = _plan(given, reading, unreachable)
        if plan.unsure(made, given["services"]):
            time.sleep(given["interval"])
            reading = assessment.read(given)
            made, fragment["decisions"] = plan.confirmed(made, _plan(given, reading, unreachable), given["services"])
        return reading, made, None
    except RunbookError as error:
        return reading, None, error


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **assessment.ARGUMENTS,
            "intent": {"type": "str", "choices": list(plan.INTENTS), "default": "observe"},
            "since": {"type": "str"},
            "grace": {"type": "dict", "default": {}},
            "restart_monitoring": {"type": "bool", "default": False},
            "settle": {"type": "dict"},
            "settled": {"type": "bool", "default": False},
            "table": {"type": "bool", "default": False},
            "must_be_healthy": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    given = module.params
    unreachable = {host: list(names) for host, names in (given["unreachable"] or {}).items()}
    fragment: dict[str, Any] = {"decisions": []}
    reading, made, refusal = _ask(given, unreachable, fragment)
    fragment["readings"] = reading.as_dict()
    if given["unreachable"] is not None:
        # What is known now; a host that was away a moment ago may be back.
        fragment["unreachable"] = unreachable
    if steps := next_steps(unreachable) + warning_steps(reading.checks):
        fragment["next"] = steps
    if given["must_be_healthy"] and not reading.healthy:
        module.fail_json(
            msg="The stack is not healthy.\n" + assessment.complaint(reading),
            reading=reading.as_dict(),
            runbook={**fragment, "status": "failed"},
        )
    again, decisions = plan.settle(given["settle"] or {"actions": []}, reading.pressing, reading.seconds)
    answer: dict[str, Any] = {
        "reading": reading.as_dict(),
        "services": service_health(given["services"], reading.checks, unreachable),
        "again": [{"host": action.host, "step": {"name": action.service, "verb": "restart"}} for action in again],
    }
    decisions += [{"subject": action.subject, "decision": "restart", "why": action.why} for action in again]
    if given["table"]:
        fragment["table"] = card.table(answer["services"])
    if refusal is not None:
        # Nothing was touched, yet a lost quorum is no verdict on what was asked: it is the outage itself.
        status = "failed" if isinstance(refusal, plan.QuorumLost) else "refused"
        module.fail_json(msg=str(refusal), reading=reading.as_dict(), runbook={**fragment, "status": status})
    if made is not None:
        answer["plan"] = made.as_dict()
        if given["settled"]:
            if made.actions:
                lines = "; ".join(action.line for action in made.actions)
                module.fail_json(
                    msg=f"Not settled, still to do: {lines}",
                    reading=reading.as_dict(),
                    runbook=fragment,
                )
            proof = {
                "lines": [
                    f"{service['service']} on {service['host']}: {service['state']}" for service in given["services"]
                ]
            }
            fragment["proof"] = proof
        else:
            fragment["plan"] = made.as_dict()
    fragment["decisions"] += decisions
    module.exit_json(changed=False, runbook=fragment, **answer)


if __name__ == "__main__":
    main()
