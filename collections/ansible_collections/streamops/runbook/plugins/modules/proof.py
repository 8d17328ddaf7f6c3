#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Prove that the stack is healthy and that data flows through it."""

from __future__ import annotations

DOCUMENTATION = """
module: proof
short_description: Proves health and the flow of data
description:
  - Polls the health of the stack until O(polls) good readings stand in a row.
  - At the same time sends canary events in at the producer's end and reads them back from the table, once each.
  - Hosts that can not be reached are left out of the first and count in the second; the run is then degraded.
attributes:
  check_mode: {support: none, description: A proof sends events; leave it out of a plan.}
  diff_mode: {support: none, description: It changes nothing that is declared.}
options:
  command: {description: The pipeline's command line as a list., type: list, elements: str, required: true}
  environment: {description: Environment of that command., type: dict, default: {}}
  events: {description: Canary events to send., type: int, default: 1}
  urls: {description: Addresses to print on the card., type: list, elements: str, default: []}
extends_documentation_fragment: [streamops.runbook.reading]
author: ["The streamops runbook project (@streamops)"]
"""

RETURN = """
proof: {description: Lines and figures of what was proven., type: dict, returned: success}
"""

EXAMPLES = """
- name: Prove that data flows
  streamops.runbook.proof:
    target: "{{ procedure_target }}"
    events: 1
"""

import itertools
import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.streamops.runbook.plugins.module_utils import assessment, health

# With machines out of reach: so many canaries, each a device of its own, that every partition gets one.
SPREAD = 100
# Where the only way into the table is on a host out of reach, it may still work there, or be about to: seconds for that.
PATIENCE = 90.0


def last_words(stderr: str) -> str:
    """Return what a command said last or, where its watchdog ended it, in which frame its main thread stood still."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()] or ["no output"]
    # Of all threads, innermost frame first; the main one comes last.
    frames = [after for line, after in itertools.pairwise(lines) if line.endswith("(most recent call first):")]
    return f"stood still in {frames[-1]}" if frames else lines[-1]


def canary(given: dict[str, Any]) -> dict[str, Any]:
    """Run ``pipeline prove`` and return its answer, with ``proven`` and, where it failed, ``error``."""
    limit = max(given["deadline"], 5.0)
    command = [
        *given["command"],
        "prove",
        "--events",
        str(given["events"]),
        "--deadline",
        f"{limit:g}",
        "--json",
    ]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **given["environment"]},
            capture_output=True,
            text=True,
            timeout=limit + 30,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"proven": False, "error": f"no answer of pipeline prove within {limit + 30:g} s"}
    try:
        answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        error = f"pipeline prove ended with {done.returncode}: {last_words(done.stderr)}"
        return {"proven": False, "error": error, "stderr": done.stderr[-4000:]}
    # What was seen is the answer: closing the connections may have taken too long after it.
    answer["proven"] = bool(answer.get("holds"))
    if not answer["proven"] and done.returncode not in (0, 1):
        answer["error"] = f"pipeline prove ended with {done.returncode}: {last_words(done.stderr)}"
    return answer


def impossible(given: dict[str, Any], reading: health.Reading) -> tuple[str, str]:
    """Say what keeps Kafka from working and what keeps data from flowing, as far as hosts out of reach do.

    :param reading: of this moment.
    """
    unreachable = given["unreachable"] or {}
    brokers, fewest = given["target"]["brokers"], given["target"]["fewest_brokers"]
    kafka = health.lost_quorum(assessment.voters(given), unreachable, reading.checks) or health.lost_brokers(
        brokers, fewest, unreachable, reading.checks
    )
    return kafka, health.lost_flow(given["services"], unreachable, reading.checks)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            **assessment.ARGUMENTS,
            "command": {"type": "list", "elements": "str", "required": True},
            "environment": {"type": "dict", "default": {}},
            "events": {"type": "int", "default": 1},
            "urls": {"type": "list", "elements": "str", "default": []},
        }
    )
    given = module.params
    unreachable = {host: list(names) for host, names in (given["unreachable"] or {}).items()}
    kafka = flow = ""
    if unreachable:
        given["events"] = max(given["events"], SPREAD)
        first = assessment.read({**given, "polls": 1, "deadline": 0.0})
        kafka, flow = impossible(given, first)
        if kafka:
            module.fail_json(
                msg=f"Not proven: Kafka can't work with {kafka}",
                reading=first.as_dict(),
                runbook={
                    "readings": first.as_dict(),
                    "unreachable": unreachable,
                    "next": health.next_steps(unreachable),
                },
            )
    with ThreadPoolExecutor(max_workers=1) as pool:
        limit = min(given["deadline"], PATIENCE) if flow else given["deadline"]
        flowing = pool.submit(canary, {**given, "deadline": limit})
        reading = assessment.read(given)
        data = flowing.result()
    started = {f"{info['service']} on {info['host']}": info.get("started_at") for info in given["services"]}
    fragment: dict[str, Any] = {
        "readings": reading.as_dict(),
        "urls": given["urls"],
        "started_at_by_service": started,
        # What is known now; a host that was away at the start may be back.
        "unreachable": unreachable,
        "next": health.next_steps(unreachable) + health.warning_steps(reading.checks),
    }
    problems = []
    if not reading.healthy:
        problems.append(f"not healthy within {given['deadline']:g} s:\n{assessment.complaint(reading)}")
    if not data["proven"]:
        seen = data.get("error") or (
            f"{data['sent']} canary events sent, {data['found']} in the table, {data['duplicates']} twice, "
            f"after {data['seconds']:.1f} s"
        )
        problems.append(f"no flow of data: {flow + ': ' if flow else ''}{seen}")
    if problems:
        module.fail_json(
            msg="Not proven: " + "; ".join(problems),
            reading=reading.as_dict(),
            data=data,
            runbook=fragment,
        )
    proof: dict[str, Any] = {
        "lines": [
            f"{len(given['services'])} services healthy, {reading.good_polls} good polls in a row",
            f"{data['sent']} canary event{'s' if data['sent'] != 1 else ''} in, {data['found']} in the table, "
            f"duplicates {data['duplicates']}, after {data['seconds']:.1f} s",
        ],
        "data": data,
        "polls": reading.good_polls,
    }
    if unreachable:
        proof["lines"].append(f"not judged, since they can't be reached: {'; '.join(health.silent_lines(unreachable))}")
        fragment["status"] = "degraded"
    module.exit_json(changed=False, proof=proof, reading=reading.as_dict(), runbook={**fragment, "proof": proof})


if __name__ == "__main__":
    main()
