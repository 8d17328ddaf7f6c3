#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Translate parameters and errors for module_utils/kernel_settings.py, which holds the logic."""

from __future__ import annotations

DOCUMENTATION = r"""
module: kernel_settings
short_description: Bring a machine's kernel to the settings that its services want, as far as it lets us
description:
  - Sets what differs, and keeps in a file for the next boot what the kernel has.
  - What this machine can't set is told with the reason (RV(skipped_limits)), and refused only where it is required.
options:
  settings:
    description: Whole numbers, or several as one text, by the names that sysctl knows.
    type: dict
    required: true
  required:
    description: Names without which the services can't run.
    type: list
    elements: str
    default: []
  path:
    description: The file that the next boot reads.
    type: path
    default: /etc/sysctl.d/60-streamops.conf
attributes:
  check_mode:
    description: Plans and touches nothing.
    support: full
  diff_mode:
    description: Each setting is told with its value before and after.
    support: none
author: The streamops runbook project
"""

EXAMPLES = r"""
- name: Let a broker map the index of every segment
  streamops.runbook.kernel_settings:
    settings:
      vm.max_map_count: 262144
"""

RETURN = r"""
did:
  description: One phrase per act; under check mode what would be done.
  returned: success
  type: list
  elements: str
skipped_limits:
  description: Settings that this machine can't have, with the reason.
  returned: success
  type: list
  elements: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused, RunbookError
from ansible_collections.streamops.runbook.plugins.module_utils.kernel_settings import settle


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "settings": {"type": "dict", "required": True},
            "required": {"type": "list", "elements": "str", "default": []},
            "path": {"type": "path", "default": "/etc/sysctl.d/60-streamops.conf"},
        },
        supports_check_mode=True,
    )
    given = module.params
    try:
        settled = settle(given["settings"], given["required"], Path(given["path"]), plan_only=module.check_mode)
    except RunbookError as error:
        module.fail_json(msg=str(error), refused=isinstance(error, Refused))
        return
    module.exit_json(changed=bool(settled.did), did=settled.did, skipped_limits=settled.skipped)


if __name__ == "__main__":
    main()
