#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Translate parameters and errors for module_utils/silences.py, which holds the logic."""

from __future__ import annotations

DOCUMENTATION = r"""
module: silence
short_description: Silence the alerts that a run will cause, with an end
description:
  - Silences the alerts of components in Alertmanager, but for those that fire already. The watchdog is never silenced.
  - The end of the run ends its silences (the callback C(record)); one that was killed leaves that to the next run.
  - An Alertmanager that does not answer is no error; C(skipped_reason) says so and nothing changed.
options:
  url:
    description: Address of Alertmanager.
    type: str
    required: true
  run:
    description: Id of the run.
    type: str
    required: true
  components:
    description: Whose alerts are silenced.
    type: list
    elements: str
    choices: [kafka, minio, spark-streaming, producer, monitoring, runbook]
    required: true
  comment:
    description: Why.
    type: str
    default: planned work
  until:
    description: RFC 3339; when the silence ends by itself, whatever becomes of the run.
    type: str
    required: true
  patience:
    description: Seconds within which an Alertmanager that can't be asked is asked again.
    type: float
    default: 0
  timeout:
    description: Seconds for one request.
    type: float
    default: 3
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
    support: full
    description: Asks Alertmanager and changes nothing.
  idempotent:
    support: full
    description: An equal silence of the same run that is active is left alone.
author:
  - streamops
"""

EXAMPLES = r"""
- name: Silence what the restart will set off
  streamops.runbook.silence:
    url: "{{ alertmanager_url }}"
    run: "{{ lookup('ansible.builtin.env', 'RUNBOOK_RUN_ID') }}"
    components: [kafka, spark-streaming]
    until: "{{ lookup('ansible.builtin.env', 'RUNBOOK_DEADLINE') }}"
"""

RETURN = r"""
ids:
  description: The silences that hold.
  returned: success
  type: list
  elements: str
ends_at:
  description: When the silence ends, RFC 3339.
  returned: success
  type: str
skipped_reason:
  description: Why Alertmanager could not be asked; empty when it could.
  returned: success
  type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.streamops.runbook.plugins.module_utils import tls
from ansible_collections.streamops.runbook.plugins.module_utils.alerting import COMPONENTS
from ansible_collections.streamops.runbook.plugins.module_utils.catalog import parse_timestamp
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused, RunbookError
from ansible_collections.streamops.runbook.plugins.module_utils.silences import Silencer, asking


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "run": {"type": "str", "required": True},
            "components": {"type": "list", "elements": "str", "choices": list(COMPONENTS), "required": True},
            "comment": {"type": "str", "default": "planned work"},
            "until": {"type": "str", "required": True},
            "patience": {"type": "float", "default": 0},
            "timeout": {"type": "float", "default": 3},
            "tls": tls.ARGUMENTS,
        },
        supports_check_mode=True,
    )
    parameters = module.params
    try:
        until = parse_timestamp(parameters["until"])
        if until is None:
            raise Refused("end of the silence", repr(parameters["until"]), "an RFC 3339 time with its zone")
        outcome = Silencer(parameters["url"], ask=asking(parameters["tls"]), timeout=parameters["timeout"]).present(
            parameters["run"],
            parameters["components"],
            parameters["comment"],
            until,
            patience=parameters["patience"],
            plan_only=module.check_mode,
        )
    except RunbookError as error:
        module.fail_json(msg=str(error), error=type(error).__name__, refused=isinstance(error, Refused))
        return
    named = ", ".join(parameters["components"])
    module.exit_json(
        changed=outcome.changed,
        did=[f"silence the alerts of {named} until {outcome.ends_at} at the latest"] if outcome.changed else [],
        ids=outcome.ids,
        ends_at=outcome.ends_at,
        skipped_reason=outcome.skipped_reason,
        runbook={
            "silence": {
                "components": parameters["components"],
                "ends_at": outcome.ends_at,
                "skipped_reason": outcome.skipped_reason,
            }
        },
    )


if __name__ == "__main__":
    main()
