#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
"""Module ``service``: parameters in, :class:`Runtime` verbs, facts out."""

from __future__ import annotations

DOCUMENTATION = r"""
module: service
short_description: Deploy, start, stop, restart or remove one service as a whole
description:
  - Reads what is there, compares it with the definition, and acts only on a difference.
  - C(deployed) writes files and definition and prepares the data once; C(started) with a
    definition does so too before it starts. Neither restarts anything; what needs a restart says
    so in RV(service.restart_needed).
  - C(reloaded) sends the definition's reload signal unless the process has read the deployed files already.
  - A deployment of a service that reloads keeps what it replaced until C(committed); C(reverted) puts it back.
options:
  runtime:
    description: What runs the processes.
    type: str
    choices: [supervisor, systemd, docker]
    required: true
  state:
    description: The wanted state.
    type: str
    choices: [deployed, started, stopped, restarted, reloaded, reverted, committed, absent]
    default: started
  definition:
    description: The whole service, see ServiceDefinition in module_utils/service.py; for C(deployed) and C(started).
    type: dict
  name:
    description: The service, where no definition is given.
    type: str
  host:
    description: The logical host, where no definition is given.
    type: str
  root:
    description: The host's folder, where no definition is given.
    type: str
  address:
    description: The host's address, where no definition is given.
    type: str
    default: ""
  since:
    description: With C(restarted), only what started before this time (RFC 3339), or is there and works no more.
    type: str
  at:
    description:
      - With C(stopped), wait until this time (RFC 3339) before the signal is sent, so that several hosts stop at once.
      - The last combined Kafka node to stop has no quorum left to hand over to and would take minutes.
    type: str
  timeout:
    description: Seconds to wait; the service's own stop timeout and ten more by default.
    type: float
attributes:
  check_mode:
    description: Plans and touches nothing.
    support: full
  diff_mode:
    description: Differences of files, those of sensitive files without their content.
    support: full
author: The streamops runbook project
"""

EXAMPLES = r"""
- name: Start the broker
  streamops.runbook.service:
    runtime: supervisor
    state: started
    name: kafka
    host: kafka-1
    root: /srv/sandbox/hosts/kafka-1
"""

RETURN = r"""
service:
  description: What is there after the call, see ServiceInfo in module_utils/service.py.
  returned: success
  type: dict
did:
  description: One phrase per act, in order; under check mode what would be done.
  returned: always
  type: list
  elements: str
uncommitted:
  description: Whether a change of a service that reloads waits to be committed or reverted.
  returned: success
  type: bool
skipped_limits:
  description: Parts of the definition that this runtime can't enforce, with the reason.
  returned: success
  type: list
  elements: str
"""

import datetime
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.streamops.runbook.plugins.module_utils import runtime as runtimes
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused, RunbookError
from ansible_collections.streamops.runbook.plugins.module_utils.service import (
    ServiceDefinition,
    ServiceInfo,
    ServiceRef,
    parse_definition,
    parse_ref,
)
from ansible_collections.streamops.runbook.plugins.module_utils.service_files import (
    commit_files,
    is_uncommitted,
    revert_files,
)


class _Module(AnsibleModule):  # type: ignore[misc]
    """Writes nothing of its parameters into the host's journal: they hold the contents of files, which may be secrets.

    ``no_log`` would not do: that of the module gives way to that of the task, and that of a parameter takes every word
    of it out of the answer.
    """

    def _log_invocation(self) -> None:
        self.log("Invoked; its parameters may hold secrets and are told to nobody")


def _redacted(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters without the contents of files, which may be secrets."""
    shown = dict(params)
    if isinstance(shown.get("definition"), dict):
        shown["definition"] = f"(definition of {shown['definition'].get('name')})"
    return {"module_args": shown}


def _moment(name: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise Refused(name, repr(text), "a time as 2025-01-31T12:00:00Z") from error
    if moment.tzinfo is None:
        raise Refused(name, f"{text!r} without a zone", "a time as 2025-01-31T12:00:00Z")
    return moment.timestamp()


def _wait_until(moment: float | None) -> None:
    if moment is not None:
        time.sleep(max(0.0, moment - time.time()))


def _deploy(
    runtime: runtimes.Runtime,
    definition: ServiceDefinition | None,
    ref: ServiceRef,
    params: dict[str, Any],
    check: bool,
) -> runtimes.Outcome:
    outcome = runtimes.Outcome()
    if definition is not None:
        outcome = runtime.deploy(definition, check=check)
    if params["state"] == "started":
        # Under check mode what would be started may not be on the host yet.
        known = not check or runtime.info(ref)["state"] != "absent"
        started = runtime.start(ref, timeout=params["timeout"], check=check).did if known else [f"start {ref.name}"]
        outcome.did += started
    return outcome


def _verb(runtime: runtimes.Runtime, ref: ServiceRef, params: dict[str, Any], check: bool) -> runtimes.Outcome:
    state, timeout = params["state"], params["timeout"]
    if state == "stopped":
        if not check:
            _wait_until(_moment("at", params["at"]))
        return runtime.stop(ref, timeout=timeout, check=check)
    if state == "restarted":
        return runtime.restart(ref, since=_moment("since", params["since"]), timeout=timeout, check=check)
    if state == "reloaded":
        return runtime.reload(ref, check=check)
    if state == "reverted":
        return runtimes.Outcome(did=revert_files(ref, check=check))
    if state == "committed":
        # Giving up the way back changes nothing of the service.
        if not check:
            commit_files(ref)
        return runtimes.Outcome()
    return runtime.remove(ref, timeout=timeout, check=check)


def _act(params: dict[str, Any], check: bool) -> tuple[runtimes.Outcome, ServiceInfo, bool]:
    definition = None
    if params["definition"] is not None:
        definition = parse_definition(params["definition"])
        ref = definition.ref
    else:
        ref = parse_ref(params["name"], params["host"], params["root"], params["address"])
    try:
        runtime = runtimes.get(params["runtime"])
    except runtimes.Unprepared as error:
        if not check or definition is None or params["state"] not in ("deployed", "started"):
            raise
        # What an earlier step of the real run would have brought to a new host.
        planned = runtimes.Outcome(did=[f"deploy {ref.name}"], skipped=[str(error)])
        return planned, runtimes.absent_info(ref), False
    if params["state"] in ("deployed", "started"):
        outcome = _deploy(runtime, definition, ref, params, check)
    else:
        outcome = _verb(runtime, ref, params, check)
    info = runtime.info(ref)
    if definition is not None and info["digest_running"] is not None:
        # Under check mode the new definition is not on the host, and is what counts.
        info["restart_needed"] = info["digest_running"] != definition.digest
    return outcome, info, is_uncommitted(ref)


def main() -> None:
    """Entry point of the module."""
    module = _Module(
        argument_spec={
            "runtime": {"type": "str", "required": True, "choices": list(runtimes.NAMES)},
            "state": {
                "type": "str",
                "default": "started",
                "choices": [
                    "deployed",
                    "started",
                    "stopped",
                    "restarted",
                    "reloaded",
                    "reverted",
                    "committed",
                    "absent",
                ],
            },
            "definition": {"type": "dict"},
            "name": {"type": "str"},
            "host": {"type": "str"},
            "root": {"type": "str"},
            "address": {"type": "str", "default": ""},
            "since": {"type": "str"},
            "at": {"type": "str"},
            "timeout": {"type": "float"},
        },
        required_one_of=[("definition", "name")],
        mutually_exclusive=[("definition", "name")],
        required_if=[("state", "deployed", ("definition",))],
        required_by={"name": ("host", "root")},
        supports_check_mode=True,
    )
    invocation = _redacted(module.params)
    try:
        outcome, info, uncommitted = _act(module.params, module.check_mode)
    except RunbookError as error:
        done = getattr(error, "__notes__", [])
        module.fail_json(
            msg=str(error),
            refused=isinstance(error, Refused),
            changed=bool(done),
            did=done,
            invocation=invocation,
        )
    module.exit_json(
        changed=bool(outcome.did),
        did=outcome.did,
        diff=outcome.diff,
        skipped_limits=outcome.skipped,
        uncommitted=uncommitted,
        service=info,
        invocation=invocation,
    )


if __name__ == "__main__":
    main()
