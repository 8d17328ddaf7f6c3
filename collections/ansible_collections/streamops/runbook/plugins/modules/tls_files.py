#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Translate parameters and errors for module_utils/tls_files.py, which holds the logic."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tls_files
short_description: Put a host's certificate, its key and the CAs that it trusts in their place
description:
  - Writes all files below a folder in one call, each of mode 0600 and the account of the services; folders are 0700.
  - Needs nothing on the host but Python.
options:
  path:
    description: The folder.
    type: path
    required: true
  owner:
    description: The account that the services run as; whoever runs this when it is empty.
    type: str
    default: ""
  files:
    description:
      - Contents in base64 of C(ca.pem), C(host.pem), C(host.key), C(host.p12) and C(trust.p12).
      - Under check mode there may be none, because no certificate was issued yet.
    type: dict
    required: true
  copies:
    description: Further paths below the folder, and the name of the file whose content they have.
    type: dict
    default: {}
attributes:
  check_mode:
    support: full
    description: Says which files would be written.
  diff_mode:
    support: none
    description: What differs may be a key.
  idempotent:
    support: full
    description: A file that is as wanted is left alone.
author:
  - streamops
"""

EXAMPLES = r"""
- name: Install the certificate
  streamops.runbook.tls_files:
    path: /srv/streamops/etc/tls
    owner: streamops
    files: "{{ (runbook_home ~ '/tls/' ~ inventory_hostname) | streamops.runbook.tls_files }}"
"""

RETURN = r"""
did:
  description: What was done, one phrase each; under check mode what would be done.
  returned: success
  type: list
  elements: str
"""

import base64
import binascii
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.streamops.runbook.plugins.module_utils import tls_files
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused, RunbookError


def _decoded(files: dict[str, Any]) -> dict[str, bytes]:
    contents = {}
    for name, text in files.items():
        try:
            contents[name] = base64.b64decode(text, validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise Refused(f"content of {name}", "no base64", "its bytes in base64") from None
    return contents


def _run(parameters: dict[str, Any], *, plan_only: bool) -> list[str]:
    folder = Path(parameters["path"])
    if plan_only and not parameters["files"]:
        return [f"write {folder}/ once its certificate is issued"]
    wanted = tls_files.wanted_files(_decoded(parameters["files"]), parameters["copies"])
    owner = tls_files.Owner.named(parameters["owner"])
    return tls_files.install(folder, wanted, owner, plan_only=plan_only)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "owner": {"type": "str", "default": ""},
            "files": {"type": "dict", "required": True, "no_log": True},
            "copies": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    try:
        did = _run(module.params, plan_only=module.check_mode)
    except RunbookError as error:
        module.fail_json(msg=str(error), error=type(error).__name__, refused=isinstance(error, Refused))
        return
    module.exit_json(changed=bool(did), did=did)


if __name__ == "__main__":
    main()
