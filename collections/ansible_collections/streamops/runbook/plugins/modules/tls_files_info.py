#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Translate parameters and errors for module_utils/tls_files.py, which holds the logic."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tls_files_info
short_description: Read the certificate that stands on a host
description:
  - Reads what anybody may see who connects to the host, never its key.
options:
  path:
    description: The folder of the host's certificate.
    type: path
    required: true
attributes:
  check_mode:
    support: full
    description: Reads and changes nothing.
author:
  - streamops
"""

EXAMPLES = r"""
- name: Read the certificate
  streamops.runbook.tls_files_info:
    path: /srv/streamops/etc/tls
"""

RETURN = r"""
certificate:
  description: The certificate and the chain above it in PEM; empty where none stands.
  returned: success
  type: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.streamops.runbook.plugins.module_utils import tls_files
from ansible_collections.streamops.runbook.plugins.module_utils.errors import RunbookError


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec={"path": {"type": "path", "required": True}}, supports_check_mode=True)
    try:
        content = tls_files.read_or_none(Path(module.params["path"]) / "host.pem")
    except RunbookError as error:
        module.fail_json(msg=str(error), error=type(error).__name__)
        return
    module.exit_json(changed=False, certificate=(content or b"").decode(errors="replace"))


if __name__ == "__main__":
    main()
