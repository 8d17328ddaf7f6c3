#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Module ``minio_resources``: parameters in, :func:`object_store.ensure`, acts out."""

from __future__ import annotations

DOCUMENTATION = r"""
module: minio_resources
short_description: Buckets, policies and users of MinIO as declared
description:
  - Waits for the write quorum, then creates and changes what differs. Never deletes.
options:
  endpoint:
    description: Address of the store, as http://host:port.
    type: str
    required: true
  access_key:
    description: The provisioning user.
    type: str
    required: true
  secret_key:
    description: Its key.
    type: str
    required: true
  region:
    description: Region of the store.
    type: str
    default: us-east-1
  buckets:
    description: Declared buckets with name, versioning and lifecycle.
    type: list
    elements: dict
    default: []
  policies:
    description: Declared policies by name, as IAM documents.
    type: dict
    default: {}
  users:
    description: Declared users with access_key, secret_key and policy.
    type: list
    elements: dict
    default: []
  deadline:
    description: Seconds within which the store must be able to write.
    type: float
    default: 120
  timeout:
    description: Seconds for each single request.
    type: float
    default: 10
  tls:
    description: Where the stack speaks TLS, the files that it is trusted by and shown.
    type: dict
    suboptions:
      ca_file:
        description: Our authority's certificates, as PEM.
        type: path
        required: true
      cert_file:
        description: The certificate that we show, as PEM.
        type: path
        required: true
      key_file:
        description: Its key, as PEM.
        type: path
        required: true
attributes:
  check_mode:
    description: Plans; a store that can't be read yet plans everything.
    support: full
  diff_mode:
    description: The acts are the difference.
    support: none
author: The streamops runbook project
"""

EXAMPLES = r"""
- name: Make the bucket
  streamops.runbook.minio_resources:
    endpoint: http://127.0.77.21:9000
    access_key: "{{ minio_root.access_key }}"
    secret_key: "{{ minio_root.secret_key }}"
    buckets: [{name: iot-lakehouse, versioning: true}]
"""

RETURN = r"""
did:
  description: One phrase per act; under check mode what would be done.
  returned: success
  type: list
  elements: str
"""

import functools

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.streamops.runbook.plugins.module_utils import object_store, tls
from ansible_collections.streamops.runbook.plugins.module_utils.errors import (
    DeadlineExceeded,
    Refused,
    RunbookError,
)


def main() -> None:
    """Entry point of the module."""
    user_spec = {
        "access_key": {"type": "str", "required": True, "no_log": False},
        "secret_key": {"type": "str", "required": True, "no_log": True},
        "policy": {"type": "str", "required": True},
    }
    module = AnsibleModule(
        argument_spec={
            "endpoint": {"type": "str", "required": True},
            "access_key": {"type": "str", "required": True, "no_log": False},
            "secret_key": {"type": "str", "required": True, "no_log": True},
            "region": {"type": "str", "default": "us-east-1"},
            "buckets": {"type": "list", "elements": "dict", "default": []},
            "policies": {"type": "dict", "default": {}},
            "users": {"type": "list", "elements": "dict", "options": user_spec, "default": []},
            "deadline": {"type": "float", "default": 120},
            "timeout": {"type": "float", "default": 10},
            "tls": tls.ARGUMENTS,
        },
        supports_check_mode=True,
    )
    params = module.params
    endpoint, timeout, files = params["endpoint"], params["timeout"], params["tls"]
    keys = params["access_key"], params["secret_key"]
    client = functools.partial(object_store.client, endpoint, timeout=timeout, region=params["region"], files=files)
    try:
        buckets = object_store.parse_buckets(params["buckets"])
        users = object_store.parse_users(params["users"], params["policies"])
        provisioner = object_store.Provisioner(
            client(*keys),
            object_store.admin(endpoint, *keys, timeout, files=files),
            lambda user: client(user.access_key, user.secret_key),
            module.check_mode,
        )
        try:
            did = object_store.ensure(
                endpoint,
                provisioner,
                buckets,
                params["policies"],
                users,
                deadline=1.0 if module.check_mode else params["deadline"],
                status=functools.partial(object_store.cluster_status, files=files),
            )
        except DeadlineExceeded:
            if not module.check_mode:
                raise
            did = (
                [f"create bucket {bucket.name}" for bucket in buckets]
                + [f"set policy {name}" for name in params["policies"]]
                + [f"create user {user.access_key}" for user in users]
            )
    except RunbookError as error:
        module.fail_json(msg=str(error), refused=isinstance(error, Refused))
    module.exit_json(changed=bool(did), did=did)


if __name__ == "__main__":
    main()
