"""What a message tells a person to type: the line that runs a procedure on the inventory that this run is about."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

VARIABLE = "RUNBOOK_INVENTORY"
"""Of the environment of a run: the options that name its inventory, see :func:`options`."""

# What is meant without a word of it.
_DEFAULT = Path("inventory", "sandbox")
# Where make knows the procedure by another name.
MAKE = {"site": "up", "stack-down": "down", "sandbox-remove": "clean"}


def options(sources: Sequence[str], project: Path) -> str:
    """Return the options that name an inventory, as they are typed in the project; empty for the sandbox.

    :param sources: absolute paths, as Ansible has them.
    """
    paths = [
        Path(source).relative_to(project) if Path(source).is_relative_to(project) else source for source in sources
    ]
    if paths == [_DEFAULT]:
        return ""
    return " ".join(f"-i {shlex.quote(str(path))}" for path in paths)


def line(procedure: str, environment: Mapping[str, str] = os.environ, **parameters: str) -> str:
    """Return the line that runs a procedure.

    :param environment: of the run; without :data:`VARIABLE` the sandbox is meant.
    :param parameters: of the procedure, those that the Makefile takes in capitals.
    """
    inventory = environment.get(VARIABLE, "")
    if not inventory:
        return " ".join(
            ["make", MAKE.get(procedure, procedure), *(f"{name.upper()}={value}" for name, value in parameters.items())]
        )
    given = [f"-e {name}={value}" for name, value in parameters.items()]
    return " ".join(["ansible-playbook", inventory, f"playbooks/{procedure}.yml", *given])
