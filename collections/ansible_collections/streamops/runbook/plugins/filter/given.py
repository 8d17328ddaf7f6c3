"""Filters that look at what a person fills in before anything is done with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.streamops.runbook.plugins.module_utils import sandbox


def credential_problems(text: str, kafka: Sequence[str], s3: Sequence[str], tokens: Sequence[str]) -> list[str]:
    """What keeps given credentials from being used, each by its key; see module_utils/sandbox.py."""
    return sandbox.credential_problems(str(text), kafka, s3, tokens)


def inventory_problems(cluster_id: str, addresses: Mapping[str, str]) -> list[str]:
    """What of an inventory is still to be filled in; see module_utils/sandbox.py."""
    return sandbox.inventory_problems(str(cluster_id), addresses)


class FilterModule:
    """The filters ``credential_problems`` and ``inventory_problems`` of ``streamops.runbook``."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names and functions, as Ansible wants them."""
        return {"credential_problems": credential_problems, "inventory_problems": inventory_problems}
