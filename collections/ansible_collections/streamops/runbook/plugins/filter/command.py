"""A filter that says what to type, for the messages of playbooks and roles."""

from __future__ import annotations

import os
from collections.abc import Callable

from ansible_collections.streamops.runbook.plugins.module_utils import commands


def command(procedure: str, **parameters: str) -> str:
    """The line that runs a procedure on the inventory of this run; see module_utils/commands.py."""
    return commands.line(str(procedure), os.environ, **{name: str(value) for name, value in parameters.items()})


class FilterModule:
    """The filter ``command`` of ``streamops.runbook``."""

    def filters(self) -> dict[str, Callable[..., str]]:
        """Names and functions, as Ansible wants them."""
        return {"command": command}
