#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Module ``service_info``: what the services of one host are doing."""

from __future__ import annotations

DOCUMENTATION = r"""
module: service_info
short_description: Read the state of the services of one host
description:
  - Reads only. A service that was never deployed is reported as C(absent).
options:
  runtime:
    description: What runs the processes.
    type: str
    choices: [supervisor, systemd, docker]
    required: true
  root:
    description: The host's folder.
    type: str
    required: true
  host:
    description: The logical host.
    type: str
    required: true
  services:
    description: Names of the services.
    type: list
    elements: str
    required: true
  log_lines:
    description: How many of the newest log lines of each service to return.
    type: int
    default: 0
attributes:
  check_mode:
    description: Reads only, so it runs the same.
    support: full
  diff_mode:
    description: Nothing changes.
    support: none
author: The streamops runbook project
"""

EXAMPLES = r"""
- name: See the broker
  streamops.runbook.service_info:
    runtime: supervisor
    root: /srv/sandbox/hosts/kafka-1
    host: kafka-1
    services: [kafka]
"""

RETURN = r"""
services:
  description: One ServiceInfo per name, in the given order (module_utils/service.py).
  returned: success
  type: list
  elements: dict
logs:
  description: The newest log lines by service, where log_lines asks for them.
  returned: when log_lines is not 0
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.streamops.runbook.plugins.module_utils import runtime as runtimes
from ansible_collections.streamops.runbook.plugins.module_utils.errors import RunbookError
from ansible_collections.streamops.runbook.plugins.module_utils.service import parse_ref


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "runtime": {"type": "str", "required": True, "choices": list(runtimes.NAMES)},
            "root": {"type": "str", "required": True},
            "host": {"type": "str", "required": True},
            "services": {"type": "list", "elements": "str", "required": True},
            "log_lines": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        runtime = runtimes.get(params["runtime"])
        refs = [parse_ref(name, params["host"], params["root"]) for name in params["services"]]
        result: dict[str, object] = {"services": [runtime.info(ref) for ref in refs]}
        if params["log_lines"] > 0:
            result["logs"] = {ref.name: runtime.logs(ref, params["log_lines"]) for ref in refs}
    except RunbookError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
