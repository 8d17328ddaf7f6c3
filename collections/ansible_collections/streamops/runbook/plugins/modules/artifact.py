#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Translate parameters and errors for module_utils/artifact, which holds the logic."""

from __future__ import annotations

DOCUMENTATION = r"""
module: artifact
short_description: Keep verified artifacts in a cache outside the checkout
description:
  - Verifies artifacts of C(config/artifacts.yml) that are in the cache and makes those that are missing, several at
    once, each under its own kernel lock and by one rename.
  - What does not match its committed hash is refused by name, never replaced.
  - Of kind C(maven) are jars that one pom resolves, each sha256 committed; this needs a JDK and C(mvn).
  - Of kind C(go) are programs built from one Go module, whose own hash is committed; this needs C(go). Each must answer
    C(--version) with the artifact's version.
  - Of kind C(debian) are files out of Debian packages, each package's version and sha256 committed, under C(root/); this
    needs C(apt-get), C(dpkg) and C(dpkg-deb), but neither root nor an earlier C(apt-get update). The machine's own sources
    and proxies are used, its lists and caches are left alone. A machine of another release or architecture than the
    catalog lists is refused.
  - Of what was built or unpacked each file's sha256 and each link's target are written down and compared at each use.
  - Runs on the controller.
options:
  names:
    description: Artifacts to look at, by their names in the catalog; no other is touched.
    type: list
    elements: str
    required: true
  catalog:
    description: The catalog of artifacts.
    type: path
    required: true
  cache:
    description: Folder of the cache; made with mode 0700 when something is fetched.
    type: path
    required: true
  deadline:
    description: Seconds for each client's run, and for waiting on another run that makes the same artifact.
    type: int
    default: 3600
attributes:
  check_mode:
    support: full
    description: Verifies what is there and names what would be fetched.
  idempotent:
    support: full
    description: What is there and matches is left alone.
author:
  - streamops
"""

EXAMPLES = r"""
- name: Fetch what Kafka runs on
  streamops.runbook.artifact:
    names: [kafka]
    catalog: config/artifacts.yml
    cache: "{{ artifact_cache }}"

- name: Fetch what watches the stack
  streamops.runbook.artifact:
    names: [prometheus, alertmanager, node-exporter, jmx-exporter]
    catalog: config/artifacts.yml
    cache: "{{ artifact_cache }}"
"""

RETURN = r"""
artifacts:
  description: >-
    Each artifact by name: C(version), C(path) of its folder, C(state) present, fetched or planned, C(seconds) taken.
  returned: success
  type: dict
"""

import os
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.streamops.runbook.plugins.module_utils.artifact import (
    ArtifactStore,
    load_catalog,
    local_tools,
)
from ansible_collections.streamops.runbook.plugins.module_utils.errors import RunbookError


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "required": True},
            "catalog": {"type": "path", "required": True},
            "cache": {"type": "path", "required": True},
            "deadline": {"type": "int", "default": 3600},
        },
        supports_check_mode=True,
    )
    parameters = module.params
    try:
        store = ArtifactStore(
            load_catalog(Path(parameters["catalog"])),
            Path(parameters["cache"]),
            tools=local_tools(),
            environment=os.environ,
            deadline_seconds=float(parameters["deadline"]),
        )
        outcomes = store.ensure(parameters["names"], plan_only=module.check_mode)
    except RunbookError as error:
        notes = getattr(error, "__notes__", [])
        module.fail_json(msg="\n".join([str(error), *notes]), error=type(error).__name__)
        return
    module.exit_json(
        changed=any(outcome.state != "present" for outcome in outcomes),
        artifacts={
            outcome.name: {
                "version": outcome.version,
                "path": str(outcome.path),
                "state": outcome.state,
                "seconds": outcome.seconds,
            }
            for outcome in outcomes
        },
    )


if __name__ == "__main__":
    main()
