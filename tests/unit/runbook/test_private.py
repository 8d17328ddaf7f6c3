"""A file of secrets is whole and its owner's alone, or nothing goes on; no word of it is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused
from ansible_collections.streamops.runbook.plugins.module_utils.private import check_credentials

CANARY = "Vb3Canary9Secret77qrs"


def test_a_whole_file_passes(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    path.write_text('{"kafka": {}}')
    path.chmod(0o600)
    check_credentials(path)


@pytest.mark.parametrize(
    "content",
    [b"", b'{"kafka": {"admin": "' + CANARY.encode(), b'"' + CANARY.encode() + b'"', b"\xff\xfe" + CANARY.encode()],
    ids=["empty", "cut-short", "no-object", "no-text"],
)
def test_a_damaged_file_is_refused_and_nothing_of_it_quoted(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(Refused, match="found a damaged file") as caught:
        check_credentials(path)
    assert CANARY not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_file_that_others_can_read_or_that_is_gone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "credentials.json"
    with pytest.raises(Refused, match="found no such file"):
        check_credentials(path)
    path.write_text("{}")
    path.chmod(0o640)
    with pytest.raises(Refused, match="found mode 0640"):
        check_credentials(path)
