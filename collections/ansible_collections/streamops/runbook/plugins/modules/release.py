#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Module ``release``: parameters in, :mod:`release` does it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release
short_description: Keep a copy of a Python package that running services use
description:
  - Copies the package once, whole, into a folder of the root that is named by its digest.
options:
  source:
    description: Folder of the package.
    type: path
    required: true
  root:
    description: Folder of all releases.
    type: path
    required: true
attributes:
  check_mode:
    description: Says whether a copy would be made.
    support: full
  diff_mode:
    description: A copy is made or not; there is nothing in between.
    support: none
author: The streamops runbook project
"""

EXAMPLES = r"""
- name: Keep the checked-out package as a release of its own
  streamops.runbook.release:
    source: pipeline
    root: /srv/sandbox/releases
"""

RETURN = r"""
path:
  description: The release, for PYTHONPATH.
  returned: success
  type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.streamops.runbook.plugins.module_utils import release
from ansible_collections.streamops.runbook.plugins.module_utils.errors import RunbookError


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "path", "required": True},
            "root": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    source, root = module.params["source"], module.params["root"]
    try:
        path, changed = release.ensure(source, root, check=module.check_mode)
    except RunbookError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=changed, path=path)


if __name__ == "__main__":
    main()
