"""The object store's admin side: clients, and buckets, policies and users as declared.

Buckets go through S3 (boto3) and would work on any store; users and policies go through MinIO's
own admin interface.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.streamops.runbook.plugins.module_utils import tls
from ansible_collections.streamops.runbook.plugins.module_utils.errors import (
    DeadlineExceeded,
    Refused,
    RunbookError,
    ServiceError,
)
from ansible_collections.streamops.runbook.plugins.module_utils.progress import report


class Denied(RunbookError):
    """The store answered and does not accept these credentials; waiting can't help."""


class _Transient(Exception):
    """The store can't do it yet."""


# Codes that a store gives while it is still finding its drives.
_NOT_YET = {
    "SlowDownWrite",
    "SlowDownRead",
    "SlowDown",
    "ServiceUnavailable",
    "XMinioServerNotInitialized",
    "InternalError",
}
_WRONG_KEY = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "403",
    "AccessDenied",
}


# Clients


def client(
    endpoint: str,
    access_key: str,
    secret_key: str,
    timeout: float,
    *,
    region: str = "us-east-1",
    files: tls.Files | None = None,
) -> Any:
    """A boto3 S3 client with short timeouts and no retries of its own.

    :param endpoint: ``http://host:port``, or ``https://`` with ``files``.
    :param timeout: seconds to connect, and for each answer.
    :param files: what the stack is trusted by, where it speaks TLS.
    """
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name=region,
        verify=None if files is None else files["ca_file"],
        config=Config(
            connect_timeout=timeout,
            read_timeout=timeout,
            retries={"total_max_attempts": 1},
            s3={"addressing_style": "path"},
            proxies={},
        ),
    )


def admin(endpoint: str, access_key: str, secret_key: str, timeout: float, *, files: tls.Files | None = None) -> Any:
    """A ``minio.MinioAdmin`` with short timeouts; below quorum some of its calls hang."""
    import urllib3
    from minio import MinioAdmin
    from minio.credentials.providers import StaticProvider

    parsed = urllib.parse.urlparse(endpoint)
    return MinioAdmin(
        endpoint=parsed.netloc,
        credentials=StaticProvider(access_key, secret_key),
        secure=parsed.scheme == "https",
        http_client=urllib3.PoolManager(
            timeout=urllib3.Timeout(connect=timeout, read=timeout),
            retries=False,
            ssl_context=None if files is None else tls.client_context(files),
        ),
    )


def cluster_status(endpoint: str, timeout: float, *, files: tls.Files | None = None) -> tuple[int, str]:
    """HTTP status and reason of the write-quorum check; 0 when there was no answer.

    :raises TlsError: when that is because of a certificate, which no wait heals.
    """
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if files is not None:
        handlers.append(urllib.request.HTTPSHandler(context=tls.client_context(files)))
    opener = urllib.request.build_opener(*handlers)
    try:
        with opener.open(f"{endpoint}/minio/health/cluster", timeout=timeout) as answer:
            return int(answer.status), str(answer.reason)
    except urllib.error.HTTPError as error:
        return int(error.code), str(error.reason)
    except OSError as error:
        if files is not None:
            tls.blame([tls.address_of(endpoint)], files, timeout)
        return 0, str(getattr(error, "reason", error))


# Buckets, policies and users as declared


@dataclasses.dataclass(frozen=True)
class Bucket:
    """A declared bucket.

    :param lifecycle: ``{id: {prefix, days, noncurrent_days}}`` in days.
    """

    name: str
    versioning: bool
    lifecycle: Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class User:
    """A declared user with the one policy that it holds; never shown with its secret."""

    access_key: str
    secret_key: str = dataclasses.field(repr=False)
    policy: str = ""


def parse_buckets(data: Sequence[Mapping[str, Any]]) -> list[Bucket]:
    """Check declared buckets.

    :param data: ``[{name, versioning, lifecycle: [{id, prefix, days, noncurrent_days}]}]``.
    :raises Refused: naming bucket, field, value found and value allowed.
    """
    buckets = []
    for index, entry in enumerate(data):
        name = entry.get("name")
        if not isinstance(name, str) or not 3 <= len(name) <= 63 or name != name.lower():
            raise Refused(f"buckets[{index}].name", repr(name), "3 to 63 lower-case characters")
        _known(f"bucket {name}", entry, {"name", "versioning", "lifecycle"})
        versioning = entry.get("versioning", False)
        if not isinstance(versioning, bool):
            raise Refused(f"bucket {name}.versioning", repr(versioning), "true or false")
        rules = [_parse_rule(f"bucket {name}.lifecycle", rule) for rule in entry.get("lifecycle") or []]
        buckets.append(Bucket(name, versioning, dict(rules)))
    return buckets


def _known(where: str, entry: Mapping[str, Any], fields: set[str]) -> None:
    unknown = sorted(set(entry) - fields)
    if unknown:
        raise Refused(f"{where}.{unknown[0]}", "an unknown field", " | ".join(sorted(fields)))


def _parse_rule(where: str, rule: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    _known(where, rule, {"id", "prefix", "days", "noncurrent_days"})
    name = rule.get("id")
    if not isinstance(name, str) or not name:
        raise Refused(f"{where}.id", repr(name), "a name")
    for field in ("days", "noncurrent_days"):
        value = rule.get(field)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise Refused(f"{where}.{name}.{field}", repr(value), "days above 0")
    if rule.get("days") is None and rule.get("noncurrent_days") is None:
        raise Refused(f"{where}.{name}", "no days", "days or noncurrent_days")
    return name, {
        "prefix": rule.get("prefix", ""),
        "days": rule.get("days"),
        "noncurrent_days": rule.get("noncurrent_days"),
    }


def parse_users(data: Sequence[Mapping[str, Any]], policies: Mapping[str, Any]) -> list[User]:
    """Check declared users.

    :param data: ``[{access_key, secret_key, policy}]``.
    :raises Refused: naming the user and the field, never a secret.
    """
    users = []
    for index, entry in enumerate(data):
        access_key, secret_key = entry.get("access_key"), entry.get("secret_key")
        if not isinstance(access_key, str) or len(access_key) < 3:
            raise Refused(f"users[{index}].access_key", "too short a name", "3 characters or more")
        if not isinstance(secret_key, str) or len(secret_key) < 8:
            raise Refused(f"user {access_key}.secret_key", "too short a key", "8 characters or more")
        if entry.get("policy") not in policies:
            raise Refused(
                f"user {access_key}.policy",
                repr(entry.get("policy")),
                " | ".join(sorted(policies)) or "a declared policy",
            )
        users.append(User(access_key, secret_key, str(entry["policy"])))
    return users


def rule_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """A rule as S3 answers it, in the shape of :class:`Bucket`."""
    return {
        "prefix": found.get("Filter", {}).get("Prefix", found.get("Prefix", "")),
        "days": found.get("Expiration", {}).get("Days"),
        "noncurrent_days": found.get("NoncurrentVersionExpiration", {}).get("NoncurrentDays"),
    }


def rule_for(name: str, rule: Mapping[str, Any]) -> dict[str, Any]:
    """A declared rule in the shape that S3 takes."""
    made: dict[str, Any] = {
        "ID": name,
        "Status": "Enabled",
        "Filter": {"Prefix": rule["prefix"]},
    }
    if rule["days"] is not None:
        made["Expiration"] = {"Days": rule["days"]}
    if rule["noncurrent_days"] is not None:
        made["NoncurrentVersionExpiration"] = {"NoncurrentDays": rule["noncurrent_days"]}
    return made


class Provisioner:
    """Brings one store to the declared state; creates and changes, never deletes.

    :param s3: client of the provisioning user, see :func:`client`.
    :param control: admin client of the same user, see :func:`admin`.
    :param login: makes an S3 client of a user, to see whether its secret is the declared one.
    """

    def __init__(self, s3: Any, control: Any, login: Callable[[User], Any], check: bool) -> None:
        self._s3 = s3
        self._control = control
        self._login = login
        self._check = check
        self.did: list[str] = []

    def run(
        self,
        buckets: Sequence[Bucket],
        policies: Mapping[str, Mapping[str, Any]],
        users: Sequence[User],
    ) -> None:
        """One pass over everything; ``did`` says what was, or under check would be, done.

        :raises _Transient: when the store can't do it yet.
        :raises Denied: when the provisioning user may not do it.
        """
        from botocore.exceptions import BotoCoreError, ClientError
        from minio.error import MinioAdminException
        from urllib3.exceptions import HTTPError

        try:
            self._buckets(buckets)
            self._policies(policies)
            self._users(users, buckets)
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in _NOT_YET:
                raise _Transient(code) from error
            if code in _WRONG_KEY:
                raise Denied("object store", code, "a user that may provision") from error
            raise ServiceError("object store", _said(error), "an accepted request") from error
        except MinioAdminException as error:
            text = str(error)
            if any(code in text for code in _NOT_YET):
                raise _Transient(_short(text)) from error
            if any(code in text for code in ("AccessDenied", "InvalidAccessKeyId", "Signature")):
                raise Denied("object store", _short(text), "a user that may provision") from error
            raise ServiceError("object store", _short(text), "an accepted request") from error
        except (BotoCoreError, HTTPError) as error:
            raise _Transient(_said(error)) from error

    def _do(self, phrase: str, act: Callable[[], object]) -> None:
        if phrase not in self.did:
            self.did.append(phrase)
        if not self._check:
            act()

    def _buckets(self, buckets: Sequence[Bucket]) -> None:
        present = {entry["Name"] for entry in self._s3.list_buckets()["Buckets"]}
        for bucket in buckets:
            name = bucket.name
            missing = name not in present
            if missing:
                self._do(f"create bucket {name}", functools.partial(self._s3.create_bucket, Bucket=name))
            read = not (missing and self._check)
            status = self._s3.get_bucket_versioning(Bucket=name).get("Status") if read else None
            if bucket.versioning and status != "Enabled":
                self._do(
                    f"turn on versions of {name}",
                    functools.partial(
                        self._s3.put_bucket_versioning,
                        Bucket=name,
                        VersioningConfiguration={"Status": "Enabled"},
                    ),
                )
            found = self._lifecycle(name) if read else {}
            differing = sorted(
                rule_id
                for rule_id, rule in bucket.lifecycle.items()
                if rule_id not in found or rule_of(found[rule_id]) != dict(rule)
            )
            if differing:
                rules = [rule for rule_id, rule in found.items() if rule_id not in bucket.lifecycle]
                rules += [rule_for(rule_id, rule) for rule_id, rule in bucket.lifecycle.items()]
                self._do(
                    f"set lifecycle {', '.join(differing)} of {name}",
                    functools.partial(
                        self._s3.put_bucket_lifecycle_configuration,
                        Bucket=name,
                        LifecycleConfiguration={"Rules": rules},
                    ),
                )

    def _lifecycle(self, name: str) -> dict[str, Mapping[str, Any]]:
        from botocore.exceptions import ClientError

        try:
            answer = self._s3.get_bucket_lifecycle_configuration(Bucket=name)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") == "NoSuchLifecycleConfiguration":
                return {}
            raise
        return {rule["ID"]: rule for rule in answer["Rules"]}

    def _policies(self, policies: Mapping[str, Mapping[str, Any]]) -> None:
        present = json.loads(self._control.policy_list())
        for name, policy in policies.items():
            if name not in present or canonical(present[name]) != canonical(policy):
                self._do(
                    f"set policy {name}",
                    functools.partial(self._control.policy_add, name, policy=dict(policy)),
                )

    def _users(self, users: Sequence[User], buckets: Sequence[Bucket]) -> None:
        for user in users:
            found = self._user(user.access_key)
            key = user.access_key
            if found is None:
                self._do(f"create user {key}", functools.partial(self._add, user))
            elif found.get("status") != "enabled":
                self._do(f"enable user {key}", functools.partial(self._control.user_enable, key))
            elif buckets and not self._logs_in(user, buckets[0].name):
                self._do(f"set the key of user {key}", functools.partial(self._add, user))
            held = set(str((found or {}).get("policyName", "")).split(",")) - {""}
            if held != {user.policy}:
                self._do(
                    f"give user {key} the policy {user.policy}",
                    functools.partial(self._control.policy_set, user.policy, user=key),
                )

    def _user(self, access_key: str) -> dict[str, Any] | None:
        """What the store knows of a user; the list of all users would come encrypted, slowly."""
        from minio.error import MinioAdminException

        try:
            found = json.loads(self._control.user_info(access_key))
        except MinioAdminException as error:
            if "XMinioAdminNoSuchUser" in str(error):
                return None
            raise
        return dict(found)

    def _add(self, user: User) -> None:
        self._control.user_add(user.access_key, user.secret_key)

    def _logs_in(self, user: User, bucket: str) -> bool:
        """Whether the user's declared secret is the one that the store knows."""
        from botocore.exceptions import ClientError

        try:
            self._login(user).get_bucket_location(Bucket=bucket)
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            # A refusal of the action proves the login as well as its success does.
            return code not in ("InvalidAccessKeyId", "SignatureDoesNotMatch")
        return True


def canonical(policy: Mapping[str, Any]) -> dict[str, Any]:
    """A policy with lists in order, so that two spellings of the same rights are equal."""

    def ordered(value: Any) -> list[str]:
        return [value] if isinstance(value, str) else sorted(str(item) for item in value)

    statements = [
        {
            key: ordered(value) if key in ("Action", "Resource") else value
            for key, value in statement.items()
            if not (key == "Resource" and not value) and key != "Sid"
        }
        for statement in policy.get("Statement", [])
    ]
    return {
        "Version": policy.get("Version"),
        "Statement": sorted(statements, key=lambda s: json.dumps(s, sort_keys=True)),
    }


def ensure(
    endpoint: str,
    provisioner: Provisioner,
    buckets: Sequence[Bucket],
    policies: Mapping[str, Mapping[str, Any]],
    users: Sequence[User],
    *,
    deadline: float,
    status: Callable[[str, float], tuple[int, str]] = cluster_status,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> list[str]:
    """Wait for the store's write quorum and bring it to the declared state.

    Just after a start a store whose quorum check is good can still answer "slow down" once, so
    a pass that meets this is repeated until the deadline.

    :param deadline: seconds until DeadlineExceeded.
    :returns: what was (under check would be) done.
    :raises DeadlineExceeded: with the last thing seen.
    :raises Denied: when the provisioning user may not do it.
    :raises TlsError: when it can't be reached because of a certificate.
    """
    limit = clock() + deadline
    told = clock()
    while True:
        code, reason = status(endpoint, 3.0)
        seen = f"HTTP {code} of /minio/health/cluster" if code else reason
        if code == 200:
            try:
                provisioner.run(buckets, policies, users)
            except _Transient as error:
                seen = str(error)
            else:
                return provisioner.did
        if clock() > limit:
            raise DeadlineExceeded(f"object store {endpoint}", f"{seen} for {deadline:g} s", "a store that can write")
        if clock() - told > 5:
            told = clock()
            report(f"waiting for the object store: {seen}")
        sleep(0.3)


def _said(error: BaseException) -> str:
    return _short(f"{type(error).__name__}: {error}")


def _short(text: str) -> str:
    return " ".join(text.split())[:300]
