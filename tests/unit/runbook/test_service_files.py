"""The product's own check before a file is put in place, and the way back until a change is committed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.streamops.runbook.plugins.module_utils import service_files
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused, ServiceError
from ansible_collections.streamops.runbook.plugins.module_utils.service import ServiceDefinition, parse_definition

CHECK = "import sys; text = open(sys.argv[1]).read(); sys.exit(f'bad word in {sys.argv[1]}' if 'bad' in text else 0)"


def define(root: Path, content: str, **more: Any) -> ServiceDefinition:
    return parse_definition(
        {
            "name": "clock",
            "host": "clock-1",
            "root": str(root),
            "address": "127.0.0.1",
            "command": [sys.executable, "-c", "pass"],
            "files": [{"path": "etc/clock.conf", "content": content, "reloads": True}],
            "validate": [[sys.executable, "-c", CHECK, "{root}/etc/clock.conf"]],
            "reload_signal": "HUP",
            **more,
        }
    )


def apply(definition: ServiceDefinition) -> None:
    plan = service_files.plan_files(definition, [])
    service_files.validate_files(definition, plan)
    service_files.apply_files(plan, definition.ref)


def text(root: Path) -> str:
    return (root / "etc/clock.conf").read_text()


def test_what_the_checker_refuses_is_named_and_never_put_in_place(tmp_path: Path) -> None:
    apply(define(tmp_path, "good 1"))
    with pytest.raises(Refused, match=r"exit code 1: bad word in .*etc/clock.conf") as caught:
        apply(define(tmp_path, "bad"))
    assert str(tmp_path / "etc/clock.conf") in str(caught.value)
    assert text(tmp_path) == "good 1"


def test_a_missing_checker_is_an_error_and_not_a_pass(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="no program"):
        apply(define(tmp_path, "good", validate=[["/nonexistent/checker", "{root}"]]))


def test_reverting_puts_back_all_that_was_not_committed(tmp_path: Path) -> None:
    apply(define(tmp_path, "good 1"))
    assert not service_files.is_uncommitted(define(tmp_path, "x").ref), "a first deployment has nothing to go back to"
    apply(define(tmp_path, "good 2"))
    apply(define(tmp_path, "good 3"))
    ref = define(tmp_path, "x").ref
    assert service_files.is_uncommitted(ref)
    assert service_files.revert_files(ref, check=True)
    assert text(tmp_path) == "good 3"
    assert service_files.revert_files(ref)
    assert text(tmp_path) == "good 1"
    assert not service_files.plan_files(define(tmp_path, "good 1"), [])
    assert service_files.revert_files(ref) == []


def test_after_a_commit_there_is_no_way_back(tmp_path: Path) -> None:
    apply(define(tmp_path, "good 1"))
    apply(define(tmp_path, "good 2"))
    ref = define(tmp_path, "x").ref
    assert service_files.commit_files(ref)
    assert not service_files.commit_files(ref)
    assert service_files.revert_files(ref) == []
    assert text(tmp_path) == "good 2"


def test_a_file_that_reloads_asks_for_no_restart(tmp_path: Path) -> None:
    one, two = define(tmp_path, "good 1"), define(tmp_path, "good 2")
    assert one.digest == two.digest
    assert one.reload_digest != two.reload_digest


def test_a_damaged_way_back_is_named_and_not_quoted(tmp_path: Path) -> None:
    ref = define(tmp_path, "x").ref
    ref.folder.mkdir(parents=True)
    (ref.folder / service_files.PREVIOUS).write_text('{"files": [{"content": "secret"')
    with pytest.raises(ServiceError, match="found a damaged file") as caught:
        service_files.revert_files(ref)
    assert "secret" not in str(caught.value)
