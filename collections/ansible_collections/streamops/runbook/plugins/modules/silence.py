#!/usr/bin/python
"""Translate parameters and errors for module_utils/silences.py, which holds the logic."""

from __future__ import annotations

DOCUMENTATION = r"""
module: silence
short_description: Silence the alerts that a run will cause, with an end
description:
  - Creates or ends silences of one run in Alertmanager. The watchdog is never silenced.
  - An Alertmanager that does not answer is no error; C(skipped_reason) says so and nothing changed.
options:
  state:
    description: Whether the run's silence is there.
    type: str
    choices: [present, absent]
    default: present
  url:
    description: Address of Alertmanager.
    type: str
    required: true
  run:
    description: Id of the run.
    type: str
    required: true
  components:
    description: Whose alerts are silenced; needed with C(state=present).
    type: list
    elements: str
    choices: [kafka, minio, spark-streaming, producer, monitoring, runbook]
    default: []
  comment:
    description: Why.
    type: str
    default: planned work
  seconds:
    description: Seconds until the silence ends by itself, whatever becomes of the run.
    type: int
    default: 900
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
    seconds: 900
"""

RETURN = r"""
ids:
  description: The silences that hold, or that were ended.
  returned: success
  type: list
  elements: str
ends_at:
  description: When the silence ends, RFC 3339; empty with C(state=absent).
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
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused, RunbookError
from ansible_collections.streamops.runbook.plugins.module_utils.silences import Silencer, asking


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "url": {"type": "str", "required": True},
            "run": {"type": "str", "required": True},
            "components": {"type": "list", "elements": "str", "choices": list(COMPONENTS), "default": []},
            "comment": {"type": "str", "default": "planned work"},
            "seconds": {"type": "int", "default": 900},
            "timeout": {"type": "float", "default": 3},
            "tls": tls.ARGUMENTS,
        },
        supports_check_mode=True,
    )
    parameters = module.params
    try:
        silencer = Silencer(
            parameters["url"], parameters["run"], ask=asking(parameters["tls"]), timeout=parameters["timeout"]
        )
        if parameters["state"] == "absent":
            outcome = silencer.absent(plan_only=module.check_mode)
        else:
            outcome = silencer.present(
                parameters["components"],
                parameters["comment"],
                parameters["seconds"],
                plan_only=module.check_mode,
            )
    except RunbookError as error:
        module.fail_json(msg=str(error), error=type(error).__name__, refused=isinstance(error, Refused))
        return
    module.exit_json(
        changed=outcome.changed, ids=outcome.ids, ends_at=outcome.ends_at, skipped_reason=outcome.skipped_reason
    )


if __name__ == "__main__":
    main()
