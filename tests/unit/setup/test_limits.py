"""The faults of limits: what is decided without an engine, and certificates that end when they were asked to."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.streamops.runbook.plugins.module_utils import certificate_authority as ca
from cryptography import x509

from tests.programs import load

memory: Any = load("molecule/shared/memory.py")
certificates: Any = load("molecule/shared/certificates.py")

NOW = datetime.now(UTC).replace(microsecond=0)


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        ("12:cpuset:/\n4:memory:/docker/abc\n1:name=systemd:/x\n0::/y\n", "memory/docker/abc"),
        ("0::/system.slice/docker-abc.scope\n", "system.slice/docker-abc.scope"),
    ],
)
def test_the_group_that_limits_memory(text: str, folder: str, tmp_path: Path) -> None:
    assert memory.group_of(text, tmp_path) == tmp_path / folder


@pytest.mark.parametrize(
    ("name", "text", "limit"),
    [
        ("memory.max", "268435456", 268435456),
        ("memory.limit_in_bytes", "67108864\n", 67108864),
        ("memory.limit_in_bytes", "9223372036854771712\n", None),
        ("memory.max", "max\n", None),
        ("memory.other", "1", None),
    ],
)
def test_a_group_without_a_limit_is_no_place_for_the_fault(
    name: str, text: str, limit: int | None, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text)
    if limit is None:
        with pytest.raises(memory.Unhit, match="found no limit"):
            memory.limit_of(tmp_path)
    else:
        assert memory.limit_of(tmp_path) == limit


@pytest.mark.parametrize(("days", "seconds"), [(10, 0), (0, 90)])
def test_a_certificate_of_the_same_names_and_authority_ends_when_it_was_asked_to(
    days: int, seconds: int, tmp_path: Path
) -> None:
    (tmp_path / "credentials.json").write_text(json.dumps({"tokens": {"tls_store": "a password"}}))
    store = ca.Store(tmp_path / "tls", "a password", NOW)
    host = ca.Host("kafka-1", ("192.0.2.11",))
    authority = store.own_authority(ca.Policy())
    store.ensure([host], authority, ca.Policy())
    certificates.issue(tmp_path, "kafka-1", days, seconds, NOW)
    issued = x509.load_pem_x509_certificates((tmp_path / "tls" / "kafka-1" / "host.pem").read_bytes())[0]
    assert issued.not_valid_after_utc == NOW + timedelta(days=days, seconds=seconds)
    assert issued.not_valid_before_utc < NOW
    # What a deployment makes of it: another one, for its end and for nothing else.
    later = ca.Store(tmp_path / "tls", "a password", NOW + timedelta(seconds=seconds))
    later.ensure([host], later.own_authority(ca.Policy()), ca.Policy())
    (did,) = later.outcome.did
    assert did.startswith(f"issue kafka-1: {'10 days left' if days else 'expired'}: valid from ")
