#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Translate parameters and errors for module_utils/lease.py, which holds the logic."""

from __future__ import annotations

DOCUMENTATION = r"""
module: lease
short_description: Take or give back the leases of resources on the control host
description:
  - Runs on the host that keeps the leases, with nothing but Python's standard library.
  - C(taken) takes every lease or none. A lease of another owner fails the module and is returned as C(held), unless
    it has expired, or C(gone) names it and it is of the same controller.
  - C(released) gives back what is still the run's with the same fencing number, and keeps records and figures of runs.
options:
  state:
    description: What to do; C(read) changes nothing.
    type: str
    choices: [taken, released, read]
    required: true
  folder:
    description: Folder of the leases; made with mode 0700. Records stand in the folder C(runs) beside it.
    type: path
    required: true
  resources:
    description: The resources; for C(taken) and C(read).
    type: list
    elements: str
    default: []
  owner:
    description: Controller, run, procedure, pid and start time of the process; for C(taken).
    type: dict
  seconds:
    description: How long the leases last.
    type: float
    default: 0
  gone:
    description: Resource and fencing number of leases whose process on the owner's controller is gone.
    type: list
    elements: dict
    default: []
  run:
    description: The run that gives back; for C(released).
    type: str
    default: ""
  fences:
    description: Fencing number by resource, as taken; for C(released).
    type: dict
    default: {}
  records:
    description: Finished records of runs as JSON texts; for C(released).
    type: list
    elements: str
    default: []
  figures:
    description: Figures of a controller's runs in Prometheus' text format; for C(released).
    type: dict
    suboptions:
      folder:
        description: Folder in which this host's exporter reads text files.
        type: path
        required: true
      controller:
        description: Whose they are.
        type: str
        required: true
      text:
        description: The figures.
        type: str
        required: true
attributes:
  check_mode:
    support: full
    description: Decides the same and writes nothing.
  idempotent:
    support: partial
    description: Each C(taken) raises the fencing number; C(released) twice changes nothing.
author:
  - streamops
"""

EXAMPLES = r"""
- name: Take the lease of the stack
  streamops.runbook.lease:
    state: taken
    folder: /srv/streamops/leases
    resources: [stack]
    owner: {controller: ops-1, run: 20300131T030000Z-site-1a2b, procedure: site, pid: 4711, pid_start: 1234567}
    seconds: 2820

- name: Give it back
  streamops.runbook.lease:
    state: released
    folder: /srv/streamops/leases
    run: 20300131T030000Z-site-1a2b
    fences: {stack: 7}
"""

RETURN = r"""
leases:
  description: The leases that were taken or read, with owner, fencing number, age and end.
  returned: for the states taken and read
  type: list
  elements: dict
held:
  description: The leases of other owners that kept this call from taking any.
  returned: for the state taken
  type: list
  elements: dict
left:
  description: The leases that others had left behind, with the reason why they could be taken.
  returned: for the state taken
  type: list
  elements: dict
foreign:
  description: A sentence on each lease that is no longer the run's and was left alone.
  returned: for the state released
  type: list
  elements: str
kept:
  description: Ids of the records that are kept here now.
  returned: for the state released
  type: list
  elements: str
record_errors:
  description: Why other records, or the figures, are not.
  returned: for the state released
  type: list
  elements: str
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused, RunbookError
from ansible_collections.streamops.runbook.plugins.module_utils.lease import (
    Leases,
    Owner,
    keep_figures,
    keep_records,
)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["taken", "released", "read"], "required": True},
            "folder": {"type": "path", "required": True},
            "resources": {"type": "list", "elements": "str", "default": []},
            "owner": {"type": "dict"},
            "seconds": {"type": "float", "default": 0},
            "gone": {"type": "list", "elements": "dict", "default": []},
            "run": {"type": "str", "default": ""},
            "fences": {"type": "dict", "default": {}},
            # Long, and of no use in the system's log, where Ansible would write them.
            "records": {"type": "list", "elements": "str", "default": [], "no_log": True},
            "figures": {
                "type": "dict",
                "options": {
                    "folder": {"type": "path", "required": True},
                    "controller": {"type": "str", "required": True},
                    "text": {"type": "str", "required": True, "no_log": True},
                },
            },
        },
        required_if=[("state", "taken", ("resources", "owner", "seconds")), ("state", "released", ("run",))],
        supports_check_mode=True,
    )
    given = module.params
    folder = Path(given["folder"])
    leases = Leases(folder)
    answer: dict[str, Any] = {"changed": False}
    try:
        if given["state"] == "taken":
            taken = leases.take(
                given["resources"],
                Owner.parse(given["owner"]),
                given["seconds"],
                given["gone"],
                plan_only=module.check_mode,
            )
            answer = {"changed": not taken.held, "leases": taken.leases, "held": taken.held, "left": taken.left}
        elif given["state"] == "released":
            fences = {resource: int(fence) for resource, fence in given["fences"].items()}
            released, foreign = leases.release(fences, given["run"], plan_only=module.check_mode)
            kept, errors = keep_records(folder.parent / "runs", given["records"], plan_only=module.check_mode)
            if given["figures"]:
                errors += keep_figures(
                    Path(given["figures"]["folder"]),
                    given["figures"]["controller"],
                    given["figures"]["text"],
                    plan_only=module.check_mode,
                )
            answer = {
                "changed": bool(released or kept),
                "released": released,
                "foreign": foreign,
                "kept": kept,
                "record_errors": errors,
            }
        else:
            answer["leases"] = leases.read(given["resources"])
    except RunbookError as error:
        module.fail_json(msg=str(error), error=type(error).__name__, refused=isinstance(error, Refused))
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        module.fail_json(msg=f"lease folder {folder}: {type(error).__name__}: {error}", error=type(error).__name__)
        return
    if answer.get("held"):
        lease = answer["held"][0]
        module.fail_json(msg=f"lease {lease['resource']}: held by run {lease['owner']['run']}", **answer)
        return
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
