#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Translate parameters and errors for module_utils/checklist.py, which holds the logic."""

from __future__ import annotations

DOCUMENTATION = """
module: checklist
short_description: Reads a checklist with figures and verdicts from Prometheus
description:
  - C(metrics) are the runbook's five beside the thresholds of their alerts, C(panels) those of the daily checklist.
  - It fails when a line of the list is bad, with all lines on the card.
  - Without Prometheus C(metrics) reads them where they arise and the run ends degraded; C(panels) are refused.
attributes:
  check_mode: {support: full, description: It only reads.}
  diff_mode: {support: none, description: It changes nothing.}
options:
  list: {description: Which checklist., type: str, choices: [metrics, panels], required: true}
  prometheus: {description: Address of Prometheus., type: str, required: true}
  endpoints: {description: "Metrics page by service, for a time without Prometheus.", type: dict, required: true}
  brokers: {description: Names of the brokers among the endpoints., type: list, elements: str, required: true}
  alerts: {description: Alert rules with their thresholds filled in., type: list, elements: dict, default: []}
  panels: {description: Panels of config/grafana/panels.yml., type: list, elements: dict, default: []}
  timeout: {description: "Seconds for each question; the exporter itself waits 4 s for Kafka.", type: float, default: 6.0}
  tls:
    description: Where the stack speaks TLS, the files that it is trusted by and shown.
    type: dict
    suboptions:
      ca_file: {description: "Our authority's certificates, as PEM.", type: path, required: true}
      cert_file: {description: "The certificate that we show, as PEM.", type: path, required: true}
      key_file: {description: "Its key, as PEM.", type: path, required: true}
  logins:
    description: Whoever reads a page of O(endpoints) that wants to know him.
    type: list
    elements: dict
    default: []
    suboptions:
      service: {description: Whose page it is., type: str, required: true}
      username: {description: Name where it wants a password., type: str}
      password: {description: The password., type: str}
      token: {description: "What it wants otherwise, a bearer token.", type: str}
author: ["The streamops runbook project (@streamops)"]
"""

RETURN = """
items: {description: "Lines with name, figure, limit, verdict and good.", type: list, elements: dict, returned: always}
"""

EXAMPLES = """
- name: The five metrics
  streamops.runbook.checklist:
    list: metrics
    prometheus: http://127.0.77.61:9090
    endpoints: "{{ pipeline_endpoints.metrics }}"
    brokers: [kafka-1, kafka-2, kafka-3]
    alerts: "{{ rules }}"
"""

from functools import partial
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.streamops.runbook.plugins.module_utils import checklist, commands, tls
from ansible_collections.streamops.runbook.plugins.module_utils.errors import ProbeError, RunbookError
from ansible_collections.streamops.runbook.plugins.module_utils.probes import authorization_of, getter, http_get


def _read(given: dict[str, Any]) -> tuple[list[checklist.Item], str]:
    """Return the lines of the list, and what was missing while they were read."""
    get = getter(given["tls"])
    if given["list"] == "panels":
        return checklist.daily_panels(given["panels"], given["prometheus"], given["timeout"], get), ""
    try:
        return checklist.five_metrics(given["alerts"], given["prometheus"], given["timeout"], get), ""
    except ProbeError as error:
        special = {
            login["service"]: partial(http_get, files=given["tls"], authorization=authorization_of(login))
            for login in given["logins"]
        }
        items = checklist.five_metrics_directly(given["endpoints"], given["brokers"], given["timeout"], get, special)
        return items, str(error)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "list": {"type": "str", "choices": ["metrics", "panels"], "required": True},
            "prometheus": {"type": "str", "required": True},
            "endpoints": {"type": "dict", "required": True},
            "brokers": {"type": "list", "elements": "str", "required": True},
            "alerts": {"type": "list", "elements": "dict", "default": []},
            "panels": {"type": "list", "elements": "dict", "default": []},
            "timeout": {"type": "float", "default": 6.0},
            "tls": tls.ARGUMENTS,
            "logins": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "service": {"type": "str", "required": True},
                    "username": {"type": "str"},
                    "password": {"type": "str", "no_log": True},
                    "token": {"type": "str", "no_log": True},
                },
                "required_together": [("username", "password")],
                "required_one_of": [("username", "token")],
            },
        },
        supports_check_mode=True,
    )
    try:
        items, missing = _read(module.params)
    except RunbookError as error:
        module.fail_json(
            msg=f"{error} Helps: {commands.line('monitoring-restart')}",
            refused=True,
            items=[],
            runbook={"status": "refused"},
        )
    fragment: dict[str, Any] = {"table": checklist.table(items), "checklist": [item.as_dict() for item in items]}
    bad = [item for item in items if not item.good]
    if bad:
        lines = "; ".join(f"{item.name}: {item.figure}, allowed {item.limit}, {item.verdict}" for item in bad)
        module.fail_json(
            msg=f"{len(bad)} of {len(items)} are bad: {lines}",
            items=fragment["checklist"],
            runbook={**fragment, "status": "failed"},
        )
    if missing:
        fragment |= {
            "status": "degraded",
            "next": [f"{missing} Read directly, without rates. Then: {commands.line('monitoring-restart')}"],
        }
    module.exit_json(changed=False, items=fragment["checklist"], runbook=fragment)


if __name__ == "__main__":
    main()
