#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Module ``tree``: parameters in, :mod:`tree` does it; the action plugin of this name brings the bytes."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tree
short_description: Copy folders of the controller to a host, whole and only when they differ
description:
  - Measures each folder on the controller, compares that with the marker of the copy on the host, and only on a
    difference sends one packed file, which is unpacked beside the copy, measured again, and put in place by rename.
  - Everybody on the host may read a copy, so it is no way for secrets.
  - What stands at a path and was not put there by this module is refused, never replaced.
options:
  trees:
    description: The folders.
    type: list
    elements: dict
    required: true
    suboptions:
      source:
        description: Folder on the controller.
        type: path
      path:
        description: Where its copy stands on the host.
        type: path
        required: true
      exclude:
        description: Names that are left out wherever they stand.
        type: list
        elements: str
        default: []
      measure:
        description: Set by the action plugin, what the folder is on the controller.
        type: dict
      archive:
        description: Set by the action plugin, the packed folder on the host; it is removed.
        type: path
  cache:
    description: Folder on the controller for measures and packs.
    type: path
attributes:
  check_mode:
    description: Says what would be sent, and why.
    support: full
  diff_mode:
    description: A folder is sent or not; there is nothing in between.
    support: none
author: The streamops runbook project
"""

EXAMPLES = r"""
- name: Put Kafka where the brokers expect it
  streamops.runbook.tree:
    cache: "{{ artifact_cache }}/trees"
    trees:
      - source: "{{ artifact_cache }}/artifacts/kafka-4.3.1"
        path: /opt/streamops/artifacts/kafka-4.3.1
"""

RETURN = r"""
did:
  description: One phrase per folder that was sent; under check mode what would be sent.
  returned: success
  type: list
  elements: str
differences:
  description: By path, why the copy was not the wanted one.
  returned: success
  type: dict
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.streamops.runbook.plugins.module_utils import tree
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused, RunbookError


def _act(params: dict[str, Any], check: bool) -> dict[str, str]:
    """Put in place what came packed, and tell of the others why they are not the wanted ones."""
    differences = {}
    for entry in params["trees"]:
        if entry["measure"] is None:
            raise Refused(f"tree {entry['path']}", "no measure", "the action plugin of this module on the controller")
        path, wanted = Path(entry["path"]), tree.Measure(**entry["measure"])
        why = tree.difference(path, wanted, entry["exclude"])
        if why is not None and entry["archive"] is not None and not check:
            tree.unpack(Path(entry["archive"]), path, wanted)
        if entry["archive"] is not None:
            Path(entry["archive"]).unlink(missing_ok=True)
        if why is not None:
            differences[entry["path"]] = why
    return differences


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "trees": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "source": {"type": "path"},
                    "path": {"type": "path", "required": True},
                    "exclude": {"type": "list", "elements": "str", "default": []},
                    "measure": {"type": "dict"},
                    "archive": {"type": "path"},
                },
            },
            "cache": {"type": "path"},
        },
        supports_check_mode=True,
    )
    try:
        differences = _act(module.params, module.check_mode)
    except RunbookError as error:
        module.fail_json(msg=str(error), refused=isinstance(error, Refused))
    did = [f"send {path}: {why}" for path, why in differences.items()]
    module.exit_json(changed=bool(did), did=did, differences=differences)


if __name__ == "__main__":
    main()
