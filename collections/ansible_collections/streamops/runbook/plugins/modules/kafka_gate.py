#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Module ``kafka_gate``: parameters in, the gate of :mod:`kafka_admin`, answer out."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kafka_gate
short_description: Wait until one Kafka node may be stopped, or carries its share again
description:
  - Reads fresh metadata at each poll. A cluster that does not answer counts as closed.
options:
  question:
    description:
      - C(may_stop) asks whether stopping the node keeps every partition writable, C(is_back)
        whether it is in sync and voting again, C(order) in which order to restart the nodes.
    type: str
    choices: [may_stop, is_back, order]
    required: true
  node:
    description: The node's id; not for C(order).
    type: int
  nodes:
    description: Ids of all brokers of the cluster; for C(order), of the nodes to restart.
    type: list
    elements: int
    required: true
  controllers:
    description: Ids of the nodes that are controllers alone.
    type: list
    elements: int
    default: []
  bootstrap:
    description: Addresses of the brokers.
    type: list
    elements: str
    required: true
  username:
    description: The principal that asks.
    type: str
    required: true
  password:
    description: Its password.
    type: str
    required: true
  profile:
    description: C(strict) also wants everything in sync and nothing moving.
    type: str
    choices: [availability, strict]
    default: availability
  elect:
    description: For C(is_back), let the preferred leaders lead again once the gate is open.
    type: bool
    default: false
  polls:
    description: Good polls in a row that count.
    type: int
    default: 3
  interval:
    description: Seconds between two polls.
    type: float
    default: 1.0
  deadline:
    description: Seconds within which the gate must open.
    type: float
    default: 300
  timeout:
    description: Seconds for each single question.
    type: float
    default: 5
  tls:
    description: Where the stack speaks TLS, the files that it is trusted by and shown.
    type: dict
    suboptions:
      ca_file:
        description: Our authority's certificates, as PEM.
        type: path
        required: true
      cert_file:
        description: The certificate that we show, as PEM.
        type: path
        required: true
      key_file:
        description: Its key, as PEM.
        type: path
        required: true
attributes:
  check_mode:
    description: Reads the same; elects nothing.
    support: full
  diff_mode:
    description: Nothing changes.
    support: none
author: The streamops runbook project
"""

EXAMPLES = r"""
- name: The broker may be stopped
  streamops.runbook.kafka_gate:
    question: may_stop
    node: 1
    nodes: [1, 2, 3]
    bootstrap: ["127.0.77.11:9092"]
    username: operator
    password: "{{ kafka_users.operator.password }}"
"""

RETURN = r"""
pauses:
  description: What will pause meanwhile, whatever is done.
  returned: success
  type: list
  elements: str
order:
  description: The nodes in the order of a roll.
  returned: for the question order
  type: list
  elements: int
"""

import functools

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.streamops.runbook.plugins.module_utils import kafka_admin, tls
from ansible_collections.streamops.runbook.plugins.module_utils.errors import RunbookError


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "question": {
                "type": "str",
                "required": True,
                "choices": ["may_stop", "is_back", "order"],
            },
            "node": {"type": "int"},
            "nodes": {"type": "list", "elements": "int", "required": True},
            "controllers": {"type": "list", "elements": "int", "default": []},
            "bootstrap": {"type": "list", "elements": "str", "required": True},
            "username": {"type": "str", "required": True},
            "password": {"type": "str", "required": True, "no_log": True},
            "profile": {
                "type": "str",
                "default": "availability",
                "choices": list(kafka_admin.PROFILES),
            },
            "elect": {"type": "bool", "default": False},
            "polls": {"type": "int", "default": 3},
            "interval": {"type": "float", "default": 1.0},
            "deadline": {"type": "float", "default": 300},
            "timeout": {"type": "float", "default": 5},
            "tls": tls.ARGUMENTS,
        },
        required_if=[("question", "may_stop", ("node",)), ("question", "is_back", ("node",))],
        supports_check_mode=True,
    )
    params = module.params
    node, nodes = params["node"], params["nodes"]
    views: list[kafka_admin.View] = []

    def judge(view: kafka_admin.View) -> kafka_admin.Gate:
        views.append(view)
        if params["question"] == "may_stop":
            return kafka_admin.roll_gate(node, view, nodes, params["profile"])
        if params["question"] == "is_back":
            return kafka_admin.back_gate(node, view, params["controllers"])
        return kafka_admin.Gate()

    what = f"gate {params['question']}" + ("" if node is None else f" of Kafka node {node}")
    factory = functools.partial(
        kafka_admin.connect,
        params["bootstrap"],
        params["username"],
        params["password"],
        params["timeout"],
        files=params["tls"],
    )
    moved = False
    try:
        gate = kafka_admin.wait_gate(
            factory,
            judge,
            what=what,
            deadline=params["deadline"],
            polls=1 if params["question"] == "order" else params["polls"],
            interval=params["interval"],
        )
        if params["elect"] and not module.check_mode:
            moved = kafka_admin.elect_preferred(factory, views[-1])
    except RunbookError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=moved,
        pauses=gate.warnings,
        order=kafka_admin.roll_order(nodes, views[-1], params["controllers"]) if params["question"] == "order" else [],
    )


if __name__ == "__main__":
    main()
