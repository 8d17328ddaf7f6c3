#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Translate parameters and errors for module_utils/certificate_authority.py, which holds the logic."""

from __future__ import annotations

DOCUMENTATION = r"""
module: certificates
short_description: Give every host a certificate of the project's CA, on the controller
description:
  - Makes the project's CA once, or takes the one that is given, and issues a certificate with server and client
    authentication for each host. It is issued anew when it ends soon, when the host's names differ, or when the CA is
    another one.
  - Below C(path)/HOST stand C(ca.pem), C(host.pem) (the certificate and the chain above it), C(host.key), C(host.p12)
    (entry C(host)) and C(trust.p12), all of mode 0600.
  - Certificates that were signed elsewhere are checked and stored as they are; one that will not do is refused by name.
  - Returns dates and fingerprints, never a key.
options:
  path:
    description: The folder of all certificates.
    type: path
    required: true
  hosts:
    description: The hosts.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: The host's name, the common name of its certificate.
        type: str
        required: true
      addresses:
        description: Other names and addresses that it is reached by.
        type: list
        elements: str
        default: []
  store_password:
    description: Password of the PKCS#12 files.
    type: str
    required: true
  days:
    description: How long a certificate is valid.
    type: int
    default: 365
  renew_days:
    description: A certificate with fewer days left is issued anew.
    type: int
    default: 30
  ca_days:
    description: How long the project's own CA is valid.
    type: int
    default: 3650
  ca_certificate:
    description: Certificate in PEM of a CA that is not the project's own, and below it those that signed it.
    type: str
    default: ""
  ca_key:
    description: Its key; without it every host needs a provided certificate.
    type: str
    default: ""
  provided:
    description: Certificates that were signed elsewhere, as C(certificate) and C(key) in PEM by host.
    type: dict
    default: {}
  trusted:
    description: Certificates in PEM of further CAs that hosts trust, such as the former one while hosts change over.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    support: full
    description: Says which certificates would be issued, and refuses what would be refused.
  idempotent:
    support: full
    description: A certificate that is as wanted is left alone.
author:
  - streamops
"""

EXAMPLES = r"""
- name: Issue certificates
  streamops.runbook.certificates:
    path: "{{ runbook_home }}/tls"
    hosts:
      - {name: kafka-1, addresses: [192.0.2.11]}
    store_password: "{{ tls_store_password }}"
  delegate_to: localhost
"""

RETURN = r"""
did:
  description: What was done, one phrase each; under check mode what would be done.
  returned: success
  type: list
  elements: str
certificates:
  description: C(not_after), C(days_left), C(sha256) and C(provided) by host; those only planned are left out.
  returned: success
  type: dict
"""

import datetime
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.streamops.runbook.plugins.module_utils import certificate_authority as ca
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused, RunbookError


def _run(parameters: dict[str, Any], *, plan_only: bool) -> ca.Outcome:
    policy = ca.Policy(parameters["days"], parameters["renew_days"], parameters["ca_days"])
    if not 0 < policy.renew_days < policy.days:
        raise Refused("renew_days", str(policy.renew_days), f"from 1 to below the {policy.days} days of a certificate")
    if len(parameters["store_password"]) < 6:
        raise Refused("store_password", "fewer than 6 characters", "6 or more, which Java insists on")
    hosts = ca.parse_hosts(parameters["hosts"])
    provided = {}
    for host, entry in parameters["provided"].items():
        if not isinstance(entry, dict) or set(entry) != {"certificate", "key"}:
            raise Refused(f"provided certificate of {host}", "other fields", "certificate and key")
        provided[host] = ca.parse_identity(host, entry["certificate"], entry["key"])
    trusted = [
        certificate for text in parameters["trusted"] for certificate in ca.parse_certificates("trusted CA", text)
    ]
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    store = ca.Store(Path(parameters["path"]), parameters["store_password"], now, plan_only=plan_only)
    if parameters["ca_certificate"]:
        authority = store.given_authority(parameters["ca_certificate"], parameters["ca_key"])
    else:
        authority = store.own_authority(policy)
    store.ensure(hosts, authority, policy, provided=provided, trusted=trusted)
    return store.outcome


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "hosts": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "addresses": {"type": "list", "elements": "str", "default": []},
                },
            },
            "store_password": {"type": "str", "required": True, "no_log": True},
            "days": {"type": "int", "default": 365},
            "renew_days": {"type": "int", "default": 30},
            "ca_days": {"type": "int", "default": 3650},
            "ca_certificate": {"type": "str", "default": ""},
            "ca_key": {"type": "str", "default": "", "no_log": True},
            "provided": {"type": "dict", "default": {}, "no_log": True},
            "trusted": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    try:
        outcome = _run(module.params, plan_only=module.check_mode)
    except RunbookError as error:
        module.fail_json(msg=str(error), error=type(error).__name__, refused=isinstance(error, Refused))
        return
    for warning in outcome.warnings:
        module.warn(warning)
    module.exit_json(changed=bool(outcome.did), did=outcome.did, certificates=outcome.certificates)


if __name__ == "__main__":
    main()
