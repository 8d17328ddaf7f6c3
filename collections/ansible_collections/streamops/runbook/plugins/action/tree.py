"""Action plugin ``tree``: measures and packs on the controller, and brings to the host what it lacks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.streamops.runbook.plugins.module_utils import tree
from ansible_collections.streamops.runbook.plugins.module_utils.errors import RunbookError

MODULE = "streamops.runbook.tree"


class ActionModule(ActionBase):  # type: ignore[misc]
    """Asks the host first, so that nothing is packed or sent which is there already."""

    TRANSFERS_FILES = True
    _VALID_ARGS = frozenset({"trees", "cache"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what the module says of all trees together."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        cache = Path(str(self._task.args.get("cache") or ""))
        if not cache.is_absolute():
            raise AnsibleActionFail("cache: found no absolute path, expected a folder on the controller")
        try:
            result.update(self._act(list(self._task.args.get("trees") or []), cache, task_vars))
        except RunbookError as error:
            raise AnsibleActionFail(str(error)) from error
        return result

    def _act(self, wanted: list[dict[str, Any]], cache: Path, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        # In a plan, what earlier steps would have made on the controller is not there yet.
        unmade = [entry for entry in wanted if self._task.check_mode and not Path(str(entry.get("source"))).exists()]
        trees = [self._measured(entry, cache) for entry in wanted if entry not in unmade]
        asked: dict[str, Any] = self._execute_module(MODULE, {"trees": trees}, task_vars=task_vars)
        if asked.get("failed"):
            return asked
        if self._task.check_mode:
            asked["did"] += [f"send {entry['path']}: {entry['source']} is still to be made" for entry in unmade]
            asked["changed"] = bool(asked["did"])
            return asked
        for entry in trees:
            if entry["path"] in asked["differences"]:
                sent = self._send(entry, cache, task_vars)
                if sent.get("failed"):
                    return sent
        return asked

    def _measured(self, entry: dict[str, Any], cache: Path) -> dict[str, Any]:
        exclude = list(entry.get("exclude") or [])
        found = tree.known_measure(Path(str(entry.get("source") or "")), cache, exclude)
        return {**entry, "exclude": exclude, "measure": dataclasses.asdict(found)}

    def _send(self, entry: dict[str, Any], cache: Path, task_vars: dict[str, Any] | None) -> dict[str, Any]:
        wanted = tree.Measure(**entry["measure"])
        packed = tree.pack(Path(entry["source"]), wanted, cache, entry["exclude"])
        folder = self._connection._shell.tmpdir  # noqa: SLF001 - how Ansible's own action plugins find it
        remote = self._connection._shell.join_path(folder, packed.name)  # noqa: SLF001
        self._transfer_file(str(packed), remote)
        self._fixup_perms2((folder, remote))
        arguments = {"trees": [{**entry, "archive": remote}]}
        sent: dict[str, Any] = self._execute_module(MODULE, arguments, task_vars=task_vars)
        return sent
