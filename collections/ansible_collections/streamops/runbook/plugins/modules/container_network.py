#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Module ``container_network``: parameters in, :mod:`container_network` does it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_network
short_description: Keep the network that the containers of a deployment share
description:
  - Makes a bridge of the Docker engine of this machine with a subnet of its own, or removes it.
  - One of that name which another deployment made, or which has another subnet, is refused.
options:
  name:
    description: The network.
    type: str
    required: true
  subnet:
    description: Its addresses, as 172.28.0.0/24; for C(present).
    type: str
  root:
    description: Folder of the deployment, or of one of its hosts.
    type: path
    required: true
  state:
    description: The wanted state; C(absent) is refused while a container is in it.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    description: Says whether it would be made or removed.
    support: full
  diff_mode:
    description: It is there or not; there is nothing in between.
    support: none
author: The streamops runbook project
"""

EXAMPLES = r"""
- name: Keep the network of the containers
  streamops.runbook.container_network:
    name: streamops
    subnet: 172.28.0.0/24
    root: /srv/containers
"""

RETURN = r"""
network:
  description: The network's name.
  returned: success
  type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.streamops.runbook.plugins.module_utils import container_network, docker_client
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused, RunbookError


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "subnet": {"type": "str"},
            "root": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        required_if=[("state", "present", ("subnet",))],
        supports_check_mode=True,
    )
    name, subnet, root, state = (module.params[key] for key in ("name", "subnet", "root", "state"))
    try:
        engine = docker_client.connect()
        if state == "present":
            changed = container_network.ensure(engine, name, subnet, root, check=module.check_mode)
        else:
            changed = container_network.remove(engine, name, root, check=module.check_mode)
    except RunbookError as error:
        module.fail_json(msg=str(error), refused=isinstance(error, Refused))
    module.exit_json(changed=changed, network=name)


if __name__ == "__main__":
    main()
