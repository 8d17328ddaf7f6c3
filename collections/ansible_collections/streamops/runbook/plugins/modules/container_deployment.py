#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Module ``container_deployment``: parameters in, :mod:`container_deployment` does it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_deployment
short_description: Remove all that a deployment has in the Docker engine, with its data
description:
  - Removes the containers, volumes and networks that carry the deployment's label, never by name.
  - Refused while one of its services runs. Images stay; other deployments may use them.
options:
  root:
    description: Folder of the deployment.
    type: path
    required: true
  state:
    description: The wanted state.
    type: str
    choices: [absent]
    default: absent
attributes:
  check_mode:
    description: Lists what would be removed, and says whether that would be refused.
    support: full
  diff_mode:
    description: A thing is there or not; there is nothing in between.
    support: none
author: The streamops runbook project
"""

EXAMPLES = r"""
- name: See what would be removed
  streamops.runbook.container_deployment:
    root: /srv/containers
  check_mode: true
"""

RETURN = r"""
containers:
  description: Names of the containers.
  returned: success
  type: list
  elements: str
volumes:
  description: Names of the volumes.
  returned: success
  type: list
  elements: str
networks:
  description: Names of the networks.
  returned: success
  type: list
  elements: str
running:
  description: Containers of services that run.
  returned: success
  type: list
  elements: str
refusal:
  description: Why the removal would be refused, or empty.
  returned: success
  type: str
"""

import dataclasses

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.streamops.runbook.plugins.module_utils import container_deployment, docker_client
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused, RunbookError


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["absent"], "default": "absent"},
        },
        supports_check_mode=True,
    )
    try:
        removal = container_deployment.absent(docker_client.connect(), module.params["root"], check=module.check_mode)
    except RunbookError as error:
        module.fail_json(msg=str(error), refused=isinstance(error, Refused))
    module.exit_json(**dataclasses.asdict(removal))


if __name__ == "__main__":
    main()
