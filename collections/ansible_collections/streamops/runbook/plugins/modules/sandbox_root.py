#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Translate parameters and errors for module_utils/sandbox.py, which holds the logic."""

from __future__ import annotations

DOCUMENTATION = r"""
module: sandbox_root
short_description: Make or remove the root folder of a sandbox
description:
  - C(present) makes the folder with mode 0700, writes its marker file and reserves its net of 127/8 for the whole
    machine. A net that another living sandbox holds is refused by name.
  - C(absent) removes only a folder that carries the marker, follows no link, and refuses while a process uses it.
options:
  state:
    description: Whether the sandbox is to be there.
    type: str
    choices: [present, absent]
    default: present
  root:
    description: The root folder.
    type: path
    required: true
  cluster_id:
    description: Id of the sandbox's Kafka cluster; for C(absent) it must be the one of the marker.
    type: str
    required: true
  net:
    description:
      - Three octets of 127/8, or of 172.29/16 for containers; needed for C(present).
      - Empty where the services listen on machines of their own.
    type: str
  keep:
    description: Names directly under the root that C(absent) leaves.
    type: list
    elements: str
    default: []
  registry:
    description: File in which the nets of this machine are reserved.
    type: path
    default: /tmp/streamops-nets.json
attributes:
  check_mode:
    support: full
    description: For C(absent) the refusal is returned in check mode, not raised.
  idempotent:
    support: full
    description: A sandbox that is as wanted is left alone.
author:
  - streamops
"""

EXAMPLES = r"""
- name: Make the sandbox
  streamops.runbook.sandbox_root:
    root: "{{ sandbox_root }}"
    net: "{{ sandbox_net }}"
    cluster_id: "{{ kafka_cluster_id }}"

- name: List what would be removed
  streamops.runbook.sandbox_root:
    state: absent
    root: "{{ sandbox_root }}"
    cluster_id: "{{ kafka_cluster_id }}"
  check_mode: true
"""

RETURN = r"""
did:
  description: What was done, one short sentence each; C(present) only.
  returned: success
  type: list
  elements: str
cluster_id:
  description: Cluster id of the marker, empty when there is no sandbox; C(absent) only.
  returned: success
  type: str
entries:
  description: Size in bytes of each entry directly under the root; C(absent) only.
  returned: success
  type: dict
running:
  description: Processes that use the root, with C(pid), C(program) and C(user); C(absent) only.
  returned: success
  type: list
  elements: dict
refusal:
  description: Why the removal would be refused, or empty; C(absent) only.
  returned: success
  type: str
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.streamops.runbook.plugins.module_utils.errors import RunbookError
from ansible_collections.streamops.runbook.plugins.module_utils.sandbox import NetRegistry, Sandbox


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "root": {"type": "path", "required": True},
            "cluster_id": {"type": "str", "required": True},
            "net": {"type": "str"},
            "keep": {"type": "list", "elements": "str", "default": []},
            "registry": {"type": "path", "default": "/tmp/streamops-nets.json"},  # noqa: S108
        },
        required_if=[("state", "present", ["net"])],
        supports_check_mode=True,
    )
    parameters = module.params
    sandbox = Sandbox(Path(parameters["root"]), registry=NetRegistry(Path(parameters["registry"])))
    result: dict[str, Any]
    try:
        if parameters["state"] == "present":
            result = asdict(sandbox.present(parameters["cluster_id"], parameters["net"], plan_only=module.check_mode))
        else:
            result = asdict(
                sandbox.absent(parameters["cluster_id"], keep=parameters["keep"], plan_only=module.check_mode)
            )
    except RunbookError as error:
        module.fail_json(msg=str(error), error=type(error).__name__)
        return
    module.exit_json(**result)


if __name__ == "__main__":
    main()
