#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Module ``kafka_resources``: parameters in, :func:`kafka_admin.ensure`, plan out."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kafka_resources
short_description: Topics and access rights of Kafka as declared
description:
  - Waits for the cluster, then creates what is missing and raises what is too small.
  - Never deletes. Fewer partitions, another number of copies or, without RV(allow_shrink), a
    shorter retention are refused before anything is changed.
options:
  bootstrap:
    description: Addresses of the brokers.
    type: list
    elements: str
    required: true
  username:
    description: The administering principal.
    type: str
    required: true
  password:
    description: Its password.
    type: str
    required: true
  topics:
    description: Declared topics with name, partitions, replication_factor and configs.
    type: list
    elements: dict
    default: []
  acls:
    description: Declared rights with principal, resource, name, pattern and operations.
    type: list
    elements: dict
    default: []
  allow_shrink:
    description: Let a shorter retention or a smaller min ISR pass.
    type: bool
    default: false
  deadline:
    description: Seconds within which the cluster must be administrable.
    type: float
    default: 120
  timeout:
    description: Seconds for each single question.
    type: float
    default: 10
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
    description: Plans; a cluster that can't be read yet plans everything.
    support: full
  diff_mode:
    description: The plan is the difference.
    support: none
author: The streamops runbook project
"""

EXAMPLES = r"""
- name: Make the topic
  streamops.runbook.kafka_resources:
    bootstrap: ["127.0.77.11:9092"]
    username: admin
    password: "{{ kafka_admin.password }}"
    topics: [{name: iot-events, partitions: 6, replication_factor: 3}]
"""

RETURN = r"""
did:
  description: One phrase per act; under check mode what would be done.
  returned: success
  type: list
  elements: str
undeclared:
  description: Topics and rights that stand there without being declared; they are left alone.
  returned: success
  type: list
  elements: str
"""

import functools

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.streamops.runbook.plugins.module_utils import kafka_admin, tls
from ansible_collections.streamops.runbook.plugins.module_utils.errors import (
    DeadlineExceeded,
    Refused,
    RunbookError,
)


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "bootstrap": {"type": "list", "elements": "str", "required": True},
            "username": {"type": "str", "required": True},
            "password": {"type": "str", "required": True, "no_log": True},
            "topics": {"type": "list", "elements": "dict", "default": []},
            "acls": {"type": "list", "elements": "dict", "default": []},
            "allow_shrink": {"type": "bool", "default": False},
            "deadline": {"type": "float", "default": 120},
            "timeout": {"type": "float", "default": 10},
            "tls": tls.ARGUMENTS,
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        topics = kafka_admin.parse_topics(params["topics"])
        acls = kafka_admin.parse_acls(params["acls"])
        try:
            plan = kafka_admin.ensure(
                functools.partial(
                    kafka_admin.connect,
                    params["bootstrap"],
                    params["username"],
                    params["password"],
                    params["timeout"],
                    files=params["tls"],
                ),
                topics,
                acls,
                deadline=1.0 if module.check_mode else params["deadline"],
                check=module.check_mode,
                allow_shrink=params["allow_shrink"],
            )
        except DeadlineExceeded:
            if not module.check_mode:
                raise
            plan = kafka_admin.Plan(create=topics, acls=acls)
    except RunbookError as error:
        module.fail_json(msg=str(error), refused=isinstance(error, Refused))
    module.exit_json(changed=bool(plan), did=plan.lines(), undeclared=plan.undeclared)


if __name__ == "__main__":
    main()
