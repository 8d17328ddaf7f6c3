"""Action plugin ``direct``: a module whose target is the controller runs in the process of its task.

Packed, sent to a second interpreter and compiled there anew, a module costs a third of a second of processor time
before its first line, and a run on one machine calls dozens. Collections of network devices, whose modules run on the
controller as well, know the same as direct execution. On any other target a module goes the ordinary way, and so it
does with an environment, an account or a job of its own. Each module that may run here has a link of its name.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import sys
import traceback
from typing import Any
from unittest import mock

from ansible.module_utils import basic
from ansible.module_utils.common.json import Direction, get_module_encoder
from ansible.plugins.action import ActionBase
from ansible.vars.clean import remove_internal_keys

# How arguments and answers are written; that of every module in Python.
PROFILE = "legacy"


class ActionModule(ActionBase):  # type: ignore[misc]
    """The ordinary action, but for where the module's code runs."""

    _supports_async = True
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return what the module says."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        given = task_vars or {}
        if self._is_here(given):
            result.update(self._run_here(given))
        else:
            result.update(self._execute_module(task_vars=given, wrap_async=bool(self._task.async_val)))
        return result

    def _is_here(self, task_vars: dict[str, Any]) -> bool:
        if self._task.delegate_to:
            task_vars = task_vars.get("ansible_delegated_vars", {}).get(self._task.delegate_to, {})
        interpreter = self._templar.template(task_vars.get("ansible_python_interpreter", ""))
        return bool(
            self._connection.transport == "local"
            and not self._connection.become
            and not self._task.async_val
            and not any(self._task.environment or [])
            and interpreter == sys.executable
        )

    def _run_here(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        """Run the module in this process, which is that of the task and ends with it."""
        name = str(self._task.action)
        collection, _, module = name.rpartition(".")
        arguments = dict(self._task.args)
        self._update_module_args(name, arguments, task_vars)
        encoder = get_module_encoder(PROFILE, Direction.CONTROLLER_TO_MODULE)
        encoded = json.dumps({"ANSIBLE_MODULE_ARGS": arguments}, cls=encoder).encode()
        said, complained = io.StringIO(), io.StringIO()
        with (
            mock.patch.object(basic, "_ANSIBLE_ARGS", encoded),
            mock.patch.object(basic, "_ANSIBLE_PROFILE", PROFILE),
            contextlib.chdir(self._loader.get_basedir()),
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(complained),
        ):
            try:
                importlib.import_module(f"ansible_collections.{collection}.plugins.modules.{module}").main()
            except SystemExit:
                # How every module ends, well or not; its answer says which.
                pass
            except Exception as error:  # noqa: BLE001  a crash is an answer too, to failed_when and until as well
                crash = {"failed": True, "msg": f"{name}: {type(error).__name__}: {error}"}
                print(json.dumps({**crash, "exception": traceback.format_exc()}))
        answer = {"stdout": said.getvalue(), "stderr": complained.getvalue()}
        told: dict[str, Any] = self._parse_returned_data(answer, PROFILE)
        remove_internal_keys(told)
        return told
