"""What MinIO can lose of its nodes, how its pools are written, and the token for its metrics."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest
from ansible_collections.streamops.runbook.plugins.filter import minio as filters
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused


def nodes(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"host": f"minio-{n}", "address": f"10.0.0.{20 + n}", **more} for n in range(1, count + 1)]


@pytest.mark.parametrize(("count", "drives"), [(1, 4), (1, 16), (3, 1), (3, 2), (3, 4), (4, 1), (4, 4), (4, 5), (8, 4)])
def test_layouts_that_can_lose_a_node(count: int, drives: int) -> None:
    assert filters.weakness(nodes(count), drives) == ""


@pytest.mark.parametrize(
    ("count", "drives", "why"),
    [
        (1, 2, "writes to sets of 2 drives and needs 2 of them, but without a drive it has 1"),
        (2, 2, "sets of 4 drives and needs 3 of them, but without minio-1 it has 2"),
        (2, 4, "sets of 8 drives and needs 5 of them, but without minio-1 it has 4"),
        (2, 8, "sets of 16 drives and needs 12 of them, but without minio-1 it has 8"),
        (17, 1, "has 17 drives, which no set of 2 to 16 divides"),
    ],
)
def test_layouts_that_can_not(count: int, drives: int, why: str) -> None:
    assert why in filters.weakness(nodes(count), drives)


def test_each_pool_is_judged_by_itself() -> None:
    later = [{**node, "pool": 2, "address": f"10.0.1.{n}"} for n, node in enumerate(nodes(2))]
    assert filters.weakness([*nodes(4), *later], 4).startswith("pool 2 ")


def test_every_drive_is_named_pool_by_pool() -> None:
    later = [{"host": "minio-5", "address": "10.0.0.25", "pool": 2, "drives": 1, "root": "/mnt/data"}]
    made = filters.pools([*later, *nodes(2)], 2, "/srv/streamops", "https", 9000)
    assert made == [
        {
            "args": [
                "https://10.0.0.21:9000/srv/streamops/data/minio/drive1",
                "https://10.0.0.21:9000/srv/streamops/data/minio/drive2",
                "https://10.0.0.22:9000/srv/streamops/data/minio/drive1",
                "https://10.0.0.22:9000/srv/streamops/data/minio/drive2",
            ]
        },
        {"args": ["https://10.0.0.25:9000/mnt/data/data/minio/drive1"]},
    ]


def test_an_address_twice_is_refused() -> None:
    with pytest.raises(Refused, match=r"MinIO node 10\.0\.0\.21: found its address twice"):
        filters.weakness([*nodes(2), *nodes(1)], 4)


def test_nodes_of_a_pool_have_as_many_drives() -> None:
    with pytest.raises(Refused, match="MinIO pool 1: found nodes of 4 and 8 drives"):
        filters.weakness([*nodes(1), {"host": "b", "address": "b", "drives": 8}], 4)


def test_the_token_is_signed_by_the_users_own_key_and_always_the_same() -> None:
    user = {"access_key": "prometheus", "secret_key": "k3y"}
    token = filters.metrics_token(user)
    assert token == filters.metrics_token(user)
    signed, _, signature = token.rpartition(".")
    header, claims = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in signed.split("."))
    assert header == {"alg": "HS512", "typ": "JWT"}
    assert claims == {"exp": 4102444800, "iss": "prometheus", "sub": "prometheus"}
    expected = hmac.new(b"k3y", signed.encode(), hashlib.sha512).digest()
    assert base64.urlsafe_b64decode(signature + "==") == expected
