"""Buckets, policies and users as declared, on a store in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from ansible_collections.streamops.runbook.plugins.module_utils import object_store
from ansible_collections.streamops.runbook.plugins.module_utils.errors import DeadlineExceeded, Refused
from ansible_collections.streamops.runbook.plugins.module_utils.object_store import (
    Bucket,
    Denied,
    Provisioner,
    User,
    canonical,
    parse_buckets,
    parse_users,
)
from botocore.exceptions import ClientError, EndpointConnectionError
from minio.error import MinioAdminException

from tests.unit.runbook.support import Clock

CANARY = "Qx7Canary8Secret31abc"
BUCKET = Bucket("iot-lakehouse", True, {"old": {"prefix": "", "days": None, "noncurrent_days": 7}})
POLICY = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": ["arn:aws:s3:::iot-lakehouse/*"]}],
}
USER = User("spark-abc", CANARY, "read")


def client_error(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": code}}, "Op")


class Store:
    """What S3 and the admin interface share."""

    def __init__(self) -> None:
        self.buckets: dict[str, dict[str, Any]] = {}
        self.policies: dict[str, Any] = {}
        self.users: dict[str, dict[str, Any]] = {}
        self.fail: list[Exception] = []


class S3:
    def __init__(self, store: Store, user: User | None = None) -> None:
        self.store = store
        self.user = user

    def list_buckets(self) -> dict[str, Any]:
        if self.store.fail:
            raise self.store.fail.pop(0)
        return {"Buckets": [{"Name": name} for name in self.store.buckets]}

    def create_bucket(self, Bucket: str) -> None:  # noqa: N803 - boto3's own spelling
        self.store.buckets[Bucket] = {"rules": []}

    def get_bucket_versioning(self, Bucket: str) -> dict[str, Any]:  # noqa: N803
        status = self.store.buckets[Bucket].get("versioning")
        return {"Status": status} if status else {}

    def put_bucket_versioning(self, Bucket: str, VersioningConfiguration: dict[str, Any]) -> None:  # noqa: N803
        self.store.buckets[Bucket]["versioning"] = VersioningConfiguration["Status"]

    def get_bucket_lifecycle_configuration(self, Bucket: str) -> dict[str, Any]:  # noqa: N803
        rules = self.store.buckets[Bucket]["rules"]
        if not rules:
            raise client_error("NoSuchLifecycleConfiguration")
        return {"Rules": rules}

    def put_bucket_lifecycle_configuration(self, Bucket: str, LifecycleConfiguration: dict[str, Any]) -> None:  # noqa: N803
        self.store.buckets[Bucket]["rules"] = LifecycleConfiguration["Rules"]

    def get_bucket_location(self, Bucket: str) -> None:  # noqa: N803
        assert self.user is not None
        if self.store.users[self.user.access_key]["secret"] != self.user.secret_key:
            raise client_error("SignatureDoesNotMatch")
        raise client_error("AccessDenied")


class Control:
    def __init__(self, store: Store) -> None:
        self.store = store

    def policy_list(self) -> str:
        return json.dumps(self.store.policies)

    def policy_add(self, name: str, policy: Mapping[str, Any]) -> None:
        self.store.policies[name] = dict(policy)

    def user_info(self, access_key: str) -> str:
        if access_key not in self.store.users:
            raise MinioAdminException("404", json.dumps({"Code": "XMinioAdminNoSuchUser"}))
        found = self.store.users[access_key]
        return json.dumps({"status": found["status"], "policyName": found.get("policy", "")})

    def user_add(self, access_key: str, secret_key: str) -> None:
        self.store.users.setdefault(access_key, {}).update(secret=secret_key, status="enabled")

    def user_enable(self, access_key: str) -> None:
        self.store.users[access_key]["status"] = "enabled"

    def policy_set(self, policy: str, user: str) -> None:
        self.store.users[user]["policy"] = policy


def ensure(store: Store, *, check: bool = False, status: int = 200, **changes: Any) -> list[str]:
    clock = Clock()
    provisioner = Provisioner(S3(store), Control(store), lambda user: S3(store, user), check)
    return object_store.ensure(
        "http://store",
        provisioner,
        changes.get("buckets", [BUCKET]),
        {"read": changes.get("policy", POLICY)},
        [changes.get("user", USER)],
        deadline=10,
        status=lambda _endpoint, _timeout: (status, "refused"),
        clock=clock,
        sleep=clock.sleep,
    )


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({"name": "Ab"}, "buckets[0].name: found 'Ab'"),
        ({"name": "abc", "versioning": "yes"}, "bucket abc.versioning: found 'yes'"),
        ({"name": "abc", "quota": 1}, "bucket abc.quota: found an unknown field"),
        ({"name": "abc", "lifecycle": [{"id": "x"}]}, "bucket abc.lifecycle.x: found no days"),
        ({"name": "abc", "lifecycle": [{"id": "x", "days": 0}]}, "bucket abc.lifecycle.x.days: found 0"),
        ({"name": "abc", "lifecycle": [{"days": 1}]}, "bucket abc.lifecycle.id: found None"),
    ],
)
def test_bad_buckets_are_refused_by_name(entry: dict[str, Any], named: str) -> None:
    with pytest.raises(Refused) as refused:
        parse_buckets([entry])
    assert named in str(refused.value)


def test_bad_users_are_refused_without_their_secret() -> None:
    with pytest.raises(Refused, match=r"user abc\.policy: found 'admin', expected read") as refused:
        parse_users([{"access_key": "abc", "secret_key": CANARY, "policy": "admin"}], {"read": {}})
    assert CANARY not in str(refused.value)
    with pytest.raises(Refused, match=r"user abc\.secret_key"):
        parse_users([{"access_key": "abc", "secret_key": "short", "policy": "read"}], {"read": {}})
    assert CANARY not in repr(USER)


def test_an_empty_store_is_brought_to_the_declared_state_once() -> None:
    store = Store()
    assert ensure(store) == [
        "create bucket iot-lakehouse",
        "turn on versions of iot-lakehouse",
        "set lifecycle old of iot-lakehouse",
        "set policy read",
        "create user spark-abc",
        "give user spark-abc the policy read",
    ]
    assert store.buckets["iot-lakehouse"]["versioning"] == "Enabled"
    assert store.users["spark-abc"] == {"secret": CANARY, "status": "enabled", "policy": "read"}
    assert ensure(store) == []


def test_check_mode_plans_the_same_and_touches_nothing() -> None:
    store = Store()
    assert len(ensure(store, check=True)) == 6
    assert not store.buckets
    assert not store.users


@pytest.mark.parametrize(
    ("harm", "healed"),
    [
        (lambda s: s.buckets["iot-lakehouse"].update(versioning="Suspended"), "turn on versions of iot-lakehouse"),
        (lambda s: s.buckets["iot-lakehouse"].update(rules=[]), "set lifecycle old of iot-lakehouse"),
        (lambda s: s.policies.update(read={"Version": "2012-10-17", "Statement": []}), "set policy read"),
        (lambda s: s.users["spark-abc"].update(status="disabled"), "enable user spark-abc"),
        (lambda s: s.users["spark-abc"].update({"secret": "else"}), "set the key of user spark-abc"),
        (lambda s: s.users["spark-abc"].update(policy="admin"), "give user spark-abc the policy read"),
    ],
)
def test_each_drift_is_seen_and_put_right(harm: Any, healed: str) -> None:
    store = Store()
    ensure(store)
    harm(store)
    assert ensure(store) == [healed]
    assert ensure(store) == []


def test_rules_of_others_stay() -> None:
    store = Store()
    ensure(store)
    store.buckets["iot-lakehouse"]["rules"].append({"ID": "theirs", "Expiration": {"Days": 1}})
    changed = Bucket("iot-lakehouse", True, {"old": {"prefix": "", "days": None, "noncurrent_days": 9}})
    ensure(store, buckets=[changed])
    assert {rule["ID"] for rule in store.buckets["iot-lakehouse"]["rules"]} == {"old", "theirs"}


def test_another_spelling_of_the_same_rights_is_no_difference() -> None:
    statement = POLICY["Statement"][0]
    other = {"Version": "2012-10-17", "Statement": [{**statement, "Action": "s3:GetObject"}]}  # type: ignore[dict-item]
    assert canonical(POLICY) == canonical(other)
    wider = {"Version": "2012-10-17", "Statement": [{**statement, "Action": ["s3:*"]}]}  # type: ignore[dict-item]
    assert canonical(POLICY) != canonical(wider)


def test_one_slow_down_right_after_a_start_is_waited_out() -> None:
    store = Store()
    store.fail = [client_error("SlowDownWrite"), EndpointConnectionError(endpoint_url="http://store")]
    assert len(ensure(store)) == 6


def test_without_write_quorum_the_deadline_says_what_was_seen() -> None:
    with pytest.raises(DeadlineExceeded, match="found HTTP 503 of /minio/health/cluster for 10 s"):
        ensure(Store(), status=503)
    with pytest.raises(DeadlineExceeded, match="found refused for 10 s"):
        ensure(Store(), status=0)


def test_a_wrong_key_is_told_at_once() -> None:
    store = Store()
    store.fail = [client_error("SignatureDoesNotMatch")]
    with pytest.raises(Denied, match="SignatureDoesNotMatch"):
        ensure(store)
