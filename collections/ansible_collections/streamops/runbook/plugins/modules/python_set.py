#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Module ``python_set``: parameters in, :mod:`python_set` does it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: python_set
short_description: Keep copies of the controller's Python packages for hosts
description:
  - Copies the packages of each set, with all that they require, into a folder of the root that is named by its digest.
  - Runs on the controller, with the controller's Python.
options:
  names:
    description: The sets; C(pipeline) is what the package pipeline imports but for Spark, C(spark) is PySpark.
    type: list
    elements: str
    choices: [pipeline, spark]
    required: true
  root:
    description: Folder of all sets.
    type: path
    required: true
attributes:
  check_mode:
    description: Says whether a copy would be made, and where.
    support: full
  diff_mode:
    description: A copy is made or not; there is nothing in between.
    support: none
author: The streamops runbook project
"""

EXAMPLES = r"""
- name: Keep what the producer imports
  streamops.runbook.python_set:
    names: [pipeline]
    root: "{{ artifact_cache }}/python"
  delegate_to: localhost
"""

RETURN = r"""
paths:
  description: The folders of the sets, in the given order, for PYTHONPATH.
  returned: success
  type: list
  elements: str
python:
  description: The version of Python that they were compiled for, as 3.11.
  returned: success
  type: str
machine:
  description: The kind of machine that they were compiled for, as x86_64.
  returned: success
  type: str
"""

import platform

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.streamops.runbook.plugins.module_utils import python_set
from ansible_collections.streamops.runbook.plugins.module_utils.errors import RunbookError


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "required": True, "choices": sorted(python_set.SETS)},
            "root": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    names, root = module.params["names"], module.params["root"]
    try:
        made = [python_set.ensure(name, root, check=module.check_mode) for name in names]
    except RunbookError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=any(changed for _, changed in made),
        paths=[path for path, _ in made],
        python=python_set.python_version(),
        machine=platform.machine(),
    )


if __name__ == "__main__":
    main()
