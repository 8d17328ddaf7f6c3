"""The product's own check before a file is put in place, and the way back until a change is committed."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.streamops.runbook.plugins.module_utils import service_files
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused, ServiceError
from ansible_collections.streamops.runbook.plugins.module_utils.service import (
    ManagedFile,
    ServiceDefinition,
    parse_definition,
)

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


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """Whom paths were given to, without anybody's rights to give them."""
    calls: list[tuple[str, int, int]] = []

    def chown(path: Any, uid: int, gid: int) -> None:
        name = str(Path(f"/proc/self/fd/{path}").readlink()) if isinstance(path, int) else str(path)
        calls.append((re.sub(r"/\.([^/]+)\.[^./]+$", r"/\1", name), uid, gid))

    monkeypatch.setattr(os, "chown", chown)
    monkeypatch.setattr(os, "fchown", chown)
    return calls


def test_folders_and_files_belong_to_the_service_and_what_is_above_them_does_not(
    tmp_path: Path, given: list[tuple[str, int, int]]
) -> None:
    root = tmp_path / "root"
    definition = define(root, "good", directories=["data/clock"], validate=[])
    unit = ManagedFile(str(tmp_path / "units" / "clock.service"), "[Unit]\n", "0644")
    owner = service_files.Owner("clock", 4001, 4002)
    service_files.apply_files(service_files.plan_files(definition, [unit], owner))
    assert (str(root / "data/clock"), 4001, 4002) in given
    assert (str(root / "etc/clock.conf"), 4001, 4002) in given
    for above in (root, root / "data", root / "etc"):
        assert [call[1:] for call in given if call[0] == str(above)] == [(-1, 4002)]
        assert above.stat().st_mode & 0o777 == 0o750
    # What the runtime adds belongs to whoever deploys.
    names = {name for name, *_ in given}
    assert not {str(tmp_path / "units" / "clock.service"), str(root / "services/clock/definition.json")} & names
    assert (tmp_path / "units" / "clock.service").stat().st_mode & 0o777 == 0o644


def test_what_is_right_but_for_its_owner_is_given_and_not_written(
    tmp_path: Path, given: list[tuple[str, int, int]]
) -> None:
    definition = define(tmp_path, "good", directories=["data"], validate=[])
    mine = service_files.Owner("me", os.getuid(), os.getgid())
    service_files.apply_files(service_files.plan_files(definition, [], mine))
    assert not service_files.plan_files(definition, [], mine)
    given.clear()
    plan = service_files.plan_files(definition, [], service_files.Owner("clock", 4001, 4002))
    assert plan.summary() == [f"give {tmp_path / name} to clock" for name in ("data", "etc/clock.conf")]
    service_files.apply_files(plan)
    assert given == [(str(tmp_path / name), 4001, 4002) for name in ("data", "etc/clock.conf")]


def test_what_is_put_back_belongs_to_whom_it_belonged(tmp_path: Path, given: list[tuple[str, int, int]]) -> None:
    apply(define(tmp_path, "good 1"))
    apply(define(tmp_path, "good 2"))
    assert given == []
    service_files.revert_files(define(tmp_path, "x").ref)
    assert (str(tmp_path / "etc/clock.conf"), os.getuid(), os.getgid()) in given


def test_another_account_runs_with_no_more_than_its_own_rights() -> None:
    owner = service_files.Owner("clock", 4001, 4002)
    assert owner.prefix() == [
        "setpriv",
        "--reuid=4001",
        "--regid=4002",
        "--init-groups",
        "--no-new-privs",
        "--",
    ]
    assert service_files.Owner("me", os.geteuid(), os.getegid()).prefix() == []
    assert service_files.find_owner("nobody-of-that-name") is None


def test_a_damaged_way_back_is_named_and_not_quoted(tmp_path: Path) -> None:
    ref = define(tmp_path, "x").ref
    ref.folder.mkdir(parents=True)
    (ref.folder / service_files.PREVIOUS).write_text('{"files": [{"content": "secret"')
    with pytest.raises(ServiceError, match="found a damaged file") as caught:
        service_files.revert_files(ref)
    assert "secret" not in str(caught.value)
