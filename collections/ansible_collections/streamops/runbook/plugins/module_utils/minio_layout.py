"""How MinIO spreads its drives over nodes, what it can lose of them, and the token for its metrics.

The rules are those of the server (cmd/endpoint-ellipses.go, cmd/erasure.go and internal/config/storageclass
of the pinned version): a pool is cut into sets of one size, the largest from 2 to 16 that divides its drives;
a set takes the first drive of each node, then the second of each, and so on.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused

_SET_SIZES = range(16, 1, -1)
# Copies of parity by size of the set; 4 for all that are larger.
_PARITY = {1: 0, 2: 1, 3: 1, 4: 2, 5: 2, 6: 3, 7: 3}
# The end of the token, 2100-01-01: it ends with the key that signed it, and must be the same each time it is made.
_TOKEN_EXPIRES = 4_102_444_800


@dataclass(frozen=True)
class Node:
    """A node of MinIO.

    :param root: folder of its host; its drives stand below ``data/minio``.
    :param pool: nodes of one number form a pool; a larger number was added later.
    """

    host: str
    address: str
    root: str
    drives: int
    pool: int = 1


def parse_nodes(entries: Iterable[Mapping[str, Any]], drives: int, root: str) -> list[Node]:
    """Read the nodes as the inventory gives them.

    :param entries: ``host`` and ``address``, and where they differ ``root``, ``drives`` and ``pool``.
    :param drives: of a node that says nothing of it.
    :param root: of a node that says nothing of it.
    :raises Refused: the same address twice, or nodes of one pool with different numbers of drives.
    """
    nodes = [
        Node(
            host=str(entry["host"]),
            address=str(entry["address"]),
            root=str(entry.get("root", root)),
            drives=int(entry.get("drives", drives)),
            pool=int(entry.get("pool", 1)),
        )
        for entry in entries
    ]
    for address, count in Counter(node.address for node in nodes).items():
        if count > 1:
            raise Refused(f"MinIO node {address}", "its address twice", "each address once")
    for number, members in _by_pool(nodes).items():
        counts = sorted({node.drives for node in members})
        if len(counts) > 1:
            raise Refused(
                f"MinIO pool {number}", f"nodes of {' and '.join(map(str, counts))} drives", "as many on each node"
            )
    return nodes


def _by_pool(nodes: Iterable[Node]) -> dict[int, list[Node]]:
    pools: dict[int, list[Node]] = {}
    for node in nodes:
        pools.setdefault(node.pool, []).append(node)
    return dict(sorted(pools.items()))


def pools(nodes: Sequence[Node], scheme: str, port: int) -> list[dict[str, list[str]]]:
    """The pools as the server's configuration file lists them: every drive by its address.

    :param scheme: ``http`` or ``https``.
    """
    return [
        {
            "args": [
                f"{scheme}://{node.address}:{port}{node.root}/data/minio/drive{number}"
                for node in members
                for number in range(1, node.drives + 1)
            ]
        }
        for members in _by_pool(nodes).values()
    ]


def weakness(nodes: Sequence[Node]) -> str:
    """Why the store could not go on, reading and writing, without any one node; empty when it could.

    A single node is judged by its drives: it must be able to lose one of them.
    """
    single = len(nodes) == 1
    for number, members in _by_pool(nodes).items():
        drives = [node.host for place in range(members[0].drives) for node in members]
        size = next((size for size in _SET_SIZES if len(drives) % size == 0), None)
        if size is None:
            return f"pool {number} has {len(drives)} drives, which no set of 2 to 16 divides"
        for first in range(0, len(drives), size):
            part = Counter(drives[first : first + size])
            lost = 1 if single else max(part.values())
            if size - lost < _write_quorum(size):
                what = "a drive" if single else part.most_common(1)[0][0]
                return (
                    f"pool {number} writes to sets of {size} drives and needs {_write_quorum(size)} of them, "
                    f"but without {what} it has {size - lost}"
                )
    return ""


def _write_quorum(size: int) -> int:
    parity = _PARITY.get(size, 4)
    data = size - parity
    return data + 1 if data == parity else data


def metrics_token(access_key: str, secret_key: str) -> str:
    """The bearer token by which MinIO lets somebody read its metrics: a JWT (HS512) that the user's own key signs.

    Whoever is not the root user needs a policy that allows ``admin:Prometheus``.
    """
    header = {"alg": "HS512", "typ": "JWT"}
    claims = {"exp": _TOKEN_EXPIRES, "sub": access_key, "iss": "prometheus"}
    signed = b".".join(_part(json.dumps(part, separators=(",", ":")).encode()) for part in (header, claims))
    signature = hmac.new(secret_key.encode(), signed, hashlib.sha512).digest()
    return (signed + b"." + _part(signature)).decode()


def _part(content: bytes) -> bytes:
    return base64.urlsafe_b64encode(content).rstrip(b"=")
