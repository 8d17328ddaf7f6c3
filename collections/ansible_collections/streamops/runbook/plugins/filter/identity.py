"""A filter that derives names from what is already known, so that nobody has to keep them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ansible_collections.streamops.runbook.plugins.module_utils import identity

PROJECT = Path(__file__).resolve().parents[6]


def cluster_id(root: str) -> str:
    """The Kafka cluster id of the sandbox that stands at ``root``; see module_utils/identity.py."""
    return identity.cluster_id(str(root))


def loopback_net(root: str) -> str:
    """The loopback net that the sandbox at ``root`` gets by default of a choice; see module_utils/identity.py."""
    return identity.loopback_net(str(root))


def in_project(path: str) -> str:
    """The absolute path of something in this project, wherever the playbook or the inventory stands."""
    return str(PROJECT / path)


class FilterModule:
    """The filters ``cluster_id``, ``in_project`` and ``loopback_net`` of ``streamops.runbook``."""

    def filters(self) -> dict[str, Callable[[str], str]]:
        """Names and functions, as Ansible wants them."""
        return {"cluster_id": cluster_id, "in_project": in_project, "loopback_net": loopback_net}
