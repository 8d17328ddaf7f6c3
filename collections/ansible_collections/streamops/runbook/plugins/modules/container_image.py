#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Module ``container_image``: parameters in, :mod:`container_image` does it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: container_image
short_description: Keep the image of a component in the Docker engine of this machine
description:
  - Builds an image from a base that the engine has, with packages of the base's distribution, artifacts of the cache, and
    the controller's own Python packages. Nothing is pulled.
  - The tag is a digest of all that goes in, so an image that did not change is not built again. Older tags are left alone.
options:
  name:
    description: The component; the image is called C(streamops/NAME).
    type: str
    required: true
  base:
    description: Name of the base.
    type: str
    required: true
  dockerfile:
    description: How an image is made, see C(config/images/Dockerfile).
    type: path
    required: true
  packages:
    description: Packages of the base's distribution.
    type: list
    elements: str
    default: []
  artifacts:
    description: Artifacts, by their names in the catalog; they must be in the cache.
    type: list
    elements: str
    default: []
  python_sets:
    description: Sets of Python packages, as of the module C(python_set).
    type: list
    elements: str
    choices: [pipeline, spark]
    default: []
  account:
    description: >-
      Account that its services run as. It has the number of whoever calls this, or one of its own when that is root.
    type: str
    default: streamops
  catalog:
    description: The catalog of artifacts.
    type: path
    required: true
  cache:
    description: Folder of the artifacts' cache.
    type: path
    required: true
  deadline:
    description: Seconds that the engine may be silent, and that another run's build of the same image is waited for.
    type: int
    default: 1800
attributes:
  check_mode:
    description: Says whether it would be built, and its name.
    support: full
  diff_mode:
    description: It is built or not; there is nothing in between.
    support: none
author: The streamops runbook project
"""

EXAMPLES = r"""
- name: Keep the image of the brokers
  streamops.runbook.container_image:
    name: kafka
    base: streamops/base:6f29f1356fd4e729
    dockerfile: config/images/Dockerfile
    packages: [openjdk-17-jre-headless]
    artifacts: [kafka, jmx-exporter]
    catalog: config/artifacts.yml
    cache: "{{ artifact_cache }}"
"""

RETURN = r"""
image:
  description: Name and tag of the image.
  returned: success
  type: str
python_path:
  description: Folders of the sets in the image, for PYTHONPATH.
  returned: success
  type: list
  elements: str
seconds:
  description: How long it took to look, and to build where that was needed.
  returned: success
  type: float
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.streamops.runbook.plugins.module_utils import container_image, docker_client, python_set
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused, RunbookError, ServiceError


def _recipe(params: dict[str, Any], check: bool) -> container_image.Recipe:
    cache = Path(params["cache"])
    try:
        dockerfile = Path(params["dockerfile"]).read_text(encoding="utf-8")
    except OSError as error:
        raise ServiceError(params["dockerfile"], error.strerror or str(error), "a readable Dockerfile") from error
    return container_image.Recipe(
        name=params["name"],
        base=params["base"],
        dockerfile=dockerfile,
        packages=tuple(sorted(set(params["packages"]))),
        trees=(
            *container_image.artifact_trees(params["artifacts"], Path(params["catalog"]), cache),
            *container_image.python_trees(params["python_sets"], cache, check=check),
        ),
        account=container_image.account_here(params["account"]),
    )


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "base": {"type": "str", "required": True},
            "dockerfile": {"type": "path", "required": True},
            "packages": {"type": "list", "elements": "str", "default": []},
            "artifacts": {"type": "list", "elements": "str", "default": []},
            "python_sets": {"type": "list", "elements": "str", "choices": sorted(python_set.SETS), "default": []},
            "account": {"type": "str", "default": "streamops"},
            "catalog": {"type": "path", "required": True},
            "cache": {"type": "path", "required": True},
            "deadline": {"type": "int", "default": 1800},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        recipe = _recipe(params, module.check_mode)
        outcome = container_image.ensure(
            docker_client.connect(params["deadline"]),
            recipe,
            Path(params["cache"]) / "images",
            check=module.check_mode,
            deadline_seconds=params["deadline"],
        )
    except RunbookError as error:
        notes = getattr(error, "__notes__", [])
        module.fail_json(msg="\n".join([str(error), *notes]), refused=isinstance(error, Refused))
    module.exit_json(
        changed=outcome.changed,
        image=outcome.reference,
        python_path=[
            f"{container_image.STORE}/{tree.target}" for tree in recipe.trees if tree.target.startswith("python/")
        ],
        seconds=outcome.seconds,
    )


if __name__ == "__main__":
    main()
