#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Translate parameters and errors for module_utils/notices.py, which holds the logic."""

from __future__ import annotations

DOCUMENTATION = r"""
module: notify
short_description: Tell the contact of a severity, now or as soon as it can be reached
description:
  - Puts the notice into a spool on the disk, then sends what is pending there within a bounded time.
  - A contact that can't be reached is no error; the notice stays in the spool and is tried again by the next call.
  - Runs on the controller.
options:
  spool:
    description: Folder of the spool; made with mode 0700.
    type: path
    required: true
  title:
    description: What happened, in one line; without it nothing new is told and only what is pending is sent.
    type: str
  severity:
    description: Says which contact is told.
    type: str
    choices: [P1, P2, P3, P4]
    default: P4
  procedure:
    description: Name of the procedure.
    type: str
    default: ""
  run:
    description: Id of the run.
    type: str
    default: ""
  status:
    description: How the run ended, or what it is at.
    type: str
    default: ""
  text:
    description: What a person should know.
    type: str
    default: ""
  runbook_url:
    description: Address of the procedure's page.
    type: str
    default: ""
  escalation:
    description: Path of config/escalation.yml.
    type: path
    required: true
  contacts:
    description: Webhook address by contact, as the inventory fills them in.
    type: dict
    default: {}
  token_file:
    description: File on the controller that holds the bearer token of the webhooks and nothing else.
    type: path
    default: ""
  timeout:
    description: Seconds for one webhook.
    type: float
    default: 2
  total:
    description: Seconds for all of them.
    type: float
    default: 5
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
    description: Validates everything and writes and sends nothing.
  idempotent:
    support: none
    description: Each call with a title is a notice of its own.
author:
  - streamops
"""

EXAMPLES = r"""
- name: Tell whoever is on call
  streamops.runbook.notify:
    spool: "{{ runbook_state_dir }}/spool"
    severity: P1
    procedure: emergency-restart
    run: "{{ lookup('ansible.builtin.env', 'RUNBOOK_RUN_ID') }}"
    status: failed
    title: The pipeline is still down
    escalation: config/escalation.yml
    contacts: "{{ alertmanager_contacts }}"
    token_file: "{{ notify_token_file }}"
"""

RETURN = r"""
id:
  description: Id of the new notice; empty without one.
  returned: success
  type: str
sent:
  description: Ids that were sent by this call.
  returned: success
  type: list
  elements: str
pending:
  description: Ids that are still to be sent.
  returned: success
  type: list
  elements: str
errors:
  description: Why they are.
  returned: success
  type: list
  elements: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.streamops.runbook.plugins.module_utils import alerting, announcement, notices, tls
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused, RunbookError

FIELDS = ("severity", "procedure", "run", "status", "text", "runbook_url")


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "spool": {"type": "path", "required": True},
            "title": {"type": "str"},
            "severity": {"type": "str", "choices": ["P1", "P2", "P3", "P4"], "default": "P4"},
            "procedure": {"type": "str", "default": ""},
            "run": {"type": "str", "default": ""},
            "status": {"type": "str", "default": ""},
            "text": {"type": "str", "default": ""},
            "runbook_url": {"type": "str", "default": ""},
            "escalation": {"type": "path", "required": True},
            "contacts": {"type": "dict", "default": {}},
            "token_file": {"type": "path", "default": "", "no_log": False},
            "timeout": {"type": "float", "default": 2},
            "total": {"type": "float", "default": 5},
            "tls": tls.ARGUMENTS,
        },
        supports_check_mode=True,
    )
    parameters = module.params
    notice, delivery = None, notices.Delivery()
    spool = notices.Spool(Path(parameters["spool"]))
    try:
        escalation = alerting.load_escalation(Path(parameters["escalation"]), parameters["contacts"])
        if parameters["title"] is not None:
            notice = notices.make_notice(title=parameters["title"], **{name: parameters[name] for name in FIELDS})
        if module.check_mode:
            delivery.pending = spool.pending()
        else:
            if notice is not None:
                spool.enqueue(notice)
            targets = announcement.targets(escalation, parameters["token_file"], parameters["tls"])
            delivery = spool.deliver(targets, timeout=parameters["timeout"], total=parameters["total"])
    except RunbookError as error:
        module.fail_json(msg=str(error), error=type(error).__name__, refused=isinstance(error, Refused))
        return
    except OSError as error:
        module.fail_json(msg=f"spool {parameters['spool']}: {error}", error="OSError")
        return
    module.exit_json(
        changed=notice is not None or bool(delivery.sent),
        id=notice.id if notice else "",
        sent=delivery.sent,
        pending=delivery.pending,
        errors=delivery.errors,
    )


if __name__ == "__main__":
    main()
