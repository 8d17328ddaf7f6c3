"""Filters for MinIO's configuration; see module_utils/minio_layout.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.streamops.runbook.plugins.module_utils import minio_layout


def pools(
    nodes: Sequence[Mapping[str, Any]], drives: int, root: str, scheme: str, port: int
) -> list[dict[str, list[str]]]:
    """The pools of the server's configuration file.

    :param nodes: ``host`` and ``address``, and where they differ ``root``, ``drives`` and ``pool``.
    :param drives: drives of a node.
    :param root: folder of a host.
    """
    return minio_layout.pools(minio_layout.parse_nodes(nodes, int(drives), root), scheme, int(port))


def weakness(nodes: Sequence[Mapping[str, Any]], drives: int) -> str:
    """Why the store could not go on without any one of its nodes; empty when it could."""
    return minio_layout.weakness(minio_layout.parse_nodes(nodes, int(drives), ""))


def metrics_token(user: Mapping[str, str]) -> str:
    """The bearer token with which a user reads MinIO's metrics.

    :param user: ``access_key`` and ``secret_key``.
    """
    return minio_layout.metrics_token(user["access_key"], user["secret_key"])


class FilterModule:
    """The filters ``minio_metrics_token``, ``minio_pools`` and ``minio_weakness`` of ``streamops.runbook``."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names and functions, as Ansible wants them."""
        return {"minio_metrics_token": metrics_token, "minio_pools": pools, "minio_weakness": weakness}
