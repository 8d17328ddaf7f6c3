#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Translate parameters and errors for module_utils/sandbox.py, which holds the logic."""

from __future__ import annotations

DOCUMENTATION = r"""
module: sandbox_secrets
short_description: Generate the credentials of a sandbox, once
description:
  - Writes a file of mode 0600 with one random password for each Kafka principal, one key pair for each S3 user and
    the named bearer tokens.
  - What the file holds is never changed; only principals and users that are missing are added.
  - Returns names, never a secret.
options:
  path:
    description: The file; its folder is there already.
    type: path
    required: true
  kafka:
    description: Kafka principals.
    type: list
    elements: str
    required: true
  s3:
    description: S3 users.
    type: list
    elements: str
    required: true
  tokens:
    description: Names of bearer tokens.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    support: full
    description: Names what would be added.
  idempotent:
    support: full
    description: A file that holds all of them is left alone.
author:
  - streamops
"""

EXAMPLES = r"""
- name: Generate the credentials
  streamops.runbook.sandbox_secrets:
    path: "{{ sandbox_root }}/credentials.json"
    kafka: [broker, producer]
    s3: [root, spark]
"""

RETURN = r"""
added:
  description: What was added, as C(kafka/NAME), C(s3/NAME) or C(tokens/NAME).
  returned: success
  type: list
  elements: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.streamops.runbook.plugins.module_utils.errors import RunbookError
from ansible_collections.streamops.runbook.plugins.module_utils.sandbox import ensure_credentials


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "kafka": {"type": "list", "elements": "str", "required": True},
            "s3": {"type": "list", "elements": "str", "required": True},
            # Without this word Ansible takes a list of names for a list of secrets.
            "tokens": {"type": "list", "elements": "str", "default": [], "no_log": False},
        },
        supports_check_mode=True,
    )
    parameters = module.params
    try:
        added = ensure_credentials(
            Path(parameters["path"]),
            parameters["kafka"],
            parameters["s3"],
            tokens=parameters["tokens"],
            plan_only=module.check_mode,
        )
    except RunbookError as error:
        module.fail_json(msg=str(error), error=type(error).__name__)
        return
    module.exit_json(changed=bool(added), added=added)


if __name__ == "__main__":
    main()
