"""Definitions: what is accepted, what is refused and how, and what lands on the host."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.streamops.runbook.plugins.module_utils import service, service_files
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused, ServiceError

CANARY = "Zk9Canary7Secret42xyz"


def definition(folder: Path, /, **changes: Any) -> dict[str, Any]:
    """A complete definition as an inventory would give it."""
    base: dict[str, Any] = {
        "name": "clock",
        "host": "clock-1",
        "root": str(folder),
        "address": "127.0.0.1",
        "command": [sys.executable, "-c", "pass"],
        "environment": {"A": "1"},
        "directories": ["data", "etc"],
        "files": [
            {"path": "etc/clock.conf", "content": "tick=1\n"},
            {
                "path": "etc/secret.conf",
                "content": f"password={CANARY}\n",
                "mode": "0600",
                "sensitive": True,
            },
        ],
        "ports": [9999],
        "stop_timeout": 5,
        "start_seconds": 1,
    }
    return {**base, **changes}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"name": "Clock"}, "definition.name: found 'Clock'"),
        ({"name": ""}, "definition.name: found ''"),
        ({"root": "relative"}, "service clock.root: found 'relative'"),
        ({"root": "/with space"}, "service clock.root: found '/with space'"),
        ({"root": "/a/../b"}, "service clock.root"),
        ({"command": []}, "service clock.command: found an empty list"),
        ({"command": "sleep 1"}, "service clock.command: found 'sleep 1'"),
        ({"command": ["a", "b\nc"]}, "service clock.command[1]"),
        ({"environment": {"1A": "x"}}, "service clock.environment: found '1A'"),
        ({"environment": {"A": 1}}, "service clock.environment.A: found 1"),
        ({"environment": {"STREAMOPS_DEFINITION": "x"}}, "left to the runtime"),
        ({"ports": [0]}, "service clock.ports[0]: found 0"),
        ({"identity": {"path": "/abs", "key": "id"}}, "service clock.identity.path: found '/abs'"),
        ({"identity": {"path": "id"}}, "service clock.identity.key"),
        ({"ports": ["9092"]}, "service clock.ports[0]: found '9092'"),
        ({"ports": [True]}, "service clock.ports[0]: found True"),
        ({"directories": ["/abs"]}, "service clock.directories[0]: found '/abs'"),
        ({"directories": ["../up"]}, "service clock.directories[0]"),
        ({"stop_signal": "STOP"}, "service clock.stop_signal: found 'STOP'"),
        ({"stop_timeout": 0}, "service clock.stop_timeout: found 0"),
        ({"stop_timeout": "30"}, "a number from 1 to 3600"),
        ({"start_seconds": -1}, "service clock.start_seconds: found -1"),
        ({"memory_limit": "lots"}, "a size like 768m"),
        ({"nofile": 1023}, "service clock.nofile: found 1023, expected a number from 1024 to 1048576"),
        ({"nofile": 2048.5}, "service clock.nofile: found 2048.5, expected a whole number"),
        ({"restart": {"policy": "sometimes"}}, "on-failure | always | never"),
        ({"restart": {"success_exit_codes": [256]}}, "success_exit_codes[0]: found 256"),
        ({"restart": {"retries": -1}}, "service clock.restart.retries: found -1"),
        ({"restart": {"tries": 1}}, "service clock.restart.tries: found an unknown field"),
        ({"restart": {"crashes": 0, "window_seconds": 9}}, "service clock.restart.crashes: found 0"),
        ({"restart": {"crashes": "3", "window_seconds": 9}}, "a number from 1 to 1000"),
        ({"restart": {"crashes": 3, "window_seconds": 0}}, "service clock.restart.window_seconds: found 0"),
        ({"restart": {"crashes": 3}}, "service clock.restart.window_seconds: found nothing"),
        ({"restart": {"window_seconds": 900}}, "service clock.restart.crashes: found nothing"),
        ({"init": {"command": ["x"], "creates": "/abs"}}, "service clock.init.creates"),
        ({"init": {"creates": "data/x"}}, "service clock.init.command"),
        ({"file": []}, "definition.file: found an unknown field"),
        ({"files": [{"path": "../x", "content": ""}]}, "service clock.files[0].path"),
        ({"files": [{"path": "x", "content": 1}]}, "service clock.files[x].content: found 1"),
        ({"files": [{"path": "x", "content": "", "mode": "640"}]}, "files[x].mode: found '640'"),
        (
            {"files": [{"path": "x", "content": "", "sensitive": True}]},
            "no rights for others on a sensitive file",
        ),
        ({"files": [{"path": "x", "content": ""}] * 2}, "found x twice"),
    ],
)
def test_bad_values_are_refused_by_name(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    with pytest.raises(Refused) as refused:
        service.parse_definition(definition(tmp_path, **change))
    assert named in str(refused.value)
    assert "expected" in str(refused.value)


@pytest.mark.parametrize("field", ["name", "host", "root", "address", "command"])
def test_required_fields_are_required(tmp_path: Path, field: str) -> None:
    data = definition(tmp_path)
    del data[field]
    with pytest.raises(Refused, match=field):
        service.parse_definition(data)


def test_bad_contents_of_a_sensitive_file_are_not_shown(tmp_path: Path) -> None:
    data = definition(tmp_path)
    data["files"][1]["mode"] = "0640"
    with pytest.raises(Refused) as refused:
        service.parse_definition(data)
    assert CANARY not in str(refused.value)


def test_the_digest_covers_what_a_process_is_started_from(tmp_path: Path) -> None:
    base = service.parse_definition(definition(tmp_path))
    for change in (
        {"command": ["other"]},
        {"environment": {"A": "2"}},
        {"stop_timeout": 6},
        {"restart": {"retries": 3}},
        {"files": [{"path": "etc/clock.conf", "content": "tick=2\n"}]},
    ):
        assert service.parse_definition(definition(tmp_path, **change)).digest != base.digest
    assert service.parse_definition(definition(tmp_path)).digest == base.digest


def test_the_digest_knows_the_limit_of_crashes_only_where_there_is_one(tmp_path: Path) -> None:
    plain, limited = (
        service.parse_definition(definition(tmp_path, restart={"retries": 3, **limit}))
        for limit in ({}, {"crashes": 3, "window_seconds": 900})
    )
    assert plain.restart.crashes is None
    assert limited.restart == dataclasses.replace(plain.restart, crashes=3, window_seconds=900)
    assert limited.digest != plain.digest


def test_an_update_of_the_project_asks_for_no_restart_by_itself() -> None:
    # The digest that the first release gave this definition: a field that came later and is not used
    # may not change it.
    fixed = definition(Path("/srv/clock-1"), command=["clock"], restart={"retries": 3})
    assert service.parse_definition(fixed).digest == "6848f7e6f1642636"


def test_the_digest_leaves_out_what_no_process_reads(tmp_path: Path) -> None:
    data = definition(tmp_path)
    base = service.parse_definition(data)
    more = copy.deepcopy(data)
    more["directories"].append("extra")
    more["files"].append({"path": "bin/tool", "content": "x", "restarts": False})
    assert service.parse_definition(more).digest == base.digest


def test_the_stored_definition_holds_no_contents(tmp_path: Path) -> None:
    parsed = service.parse_definition(definition(tmp_path))
    assert CANARY not in json.dumps(parsed.public())


def test_files_are_planned_applied_and_then_the_same(tmp_path: Path) -> None:
    parsed = service.parse_definition(definition(tmp_path))
    plan = service_files.plan_files(parsed, [])
    assert not (tmp_path / "etc").exists()
    assert any("etc/clock.conf" in line for line in plan.summary())
    service_files.apply_files(plan)
    assert (tmp_path / "etc/clock.conf").read_text() == "tick=1\n"
    assert (tmp_path / "etc/secret.conf").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "data").is_dir()
    assert not service_files.plan_files(parsed, [])


def test_a_difference_shows_contents_unless_they_are_sensitive(tmp_path: Path) -> None:
    service_files.apply_files(service_files.plan_files(service.parse_definition(definition(tmp_path)), []))
    changed = definition(tmp_path)
    changed["files"][0]["content"] = "tick=2\n"
    changed["files"][1]["content"] = "password=AnotherCanary1234567\n"
    plan = service_files.plan_files(service.parse_definition(changed), [])
    shown = json.dumps(plan.diff)
    assert "tick=1" in shown
    assert "tick=2" in shown
    assert "etc/secret.conf" in shown
    assert CANARY not in shown
    assert "AnotherCanary1234567" not in shown


def test_changed_permissions_and_contents_on_the_host_are_put_right(tmp_path: Path) -> None:
    parsed = service.parse_definition(definition(tmp_path))
    service_files.apply_files(service_files.plan_files(parsed, []))
    (tmp_path / "etc/secret.conf").chmod(0o644)
    (tmp_path / "etc/clock.conf").write_text("by hand\n")
    plan = service_files.plan_files(parsed, [])
    assert len(plan.writes) == 2
    service_files.apply_files(plan)
    assert (tmp_path / "etc/secret.conf").stat().st_mode & 0o777 == 0o600
    assert not service_files.plan_files(parsed, [])


def test_a_file_that_left_the_definition_leaves_the_host(tmp_path: Path) -> None:
    service_files.apply_files(service_files.plan_files(service.parse_definition(definition(tmp_path)), []))
    (tmp_path / "etc/by-hand").write_text("not ours")
    less = definition(tmp_path)
    del less["files"][0]
    service_files.apply_files(service_files.plan_files(service.parse_definition(less), []))
    assert not (tmp_path / "etc/clock.conf").exists()
    assert (tmp_path / "etc/by-hand").exists()


def test_a_damaged_record_is_named_and_replaced_by_the_next_deployment(tmp_path: Path) -> None:
    parsed = service.parse_definition(definition(tmp_path))
    service_files.apply_files(service_files.plan_files(parsed, []))
    (parsed.ref.folder / "definition.json").write_text("{")
    with pytest.raises(ServiceError, match=r"definition\.json: found no JSON"):
        service.stored_definition(parsed.ref)
    service_files.apply_files(service_files.plan_files(parsed, []))
    stored = service.stored_definition(parsed.ref)
    assert stored is not None
    assert stored["digest"] == parsed.digest


def test_a_write_that_fails_leaves_the_old_file_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file"
    target.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ServiceError, match="No space left on device"):
        service_files.write_atomic(target, "new", 0o640)
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_whose_the_data_are_is_read_from_them_and_asks_for_no_restart(tmp_path: Path) -> None:
    place = {"path": "data/meta.properties", "key": "cluster.id"}
    parsed = service.parse_definition(definition(tmp_path, identity=place))
    stored = parsed.public()
    assert service.stored_identity(parsed.ref, stored) is None
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "meta.properties").write_text("#\nnode.id=1\nversion=1\ncluster.id=AbC-_1\n")
    assert service.stored_identity(parsed.ref, stored) == "AbC-_1"
    (tmp_path / "data" / "meta.properties").write_text("node.id=1\n")
    assert service.stored_identity(parsed.ref, stored) is None
    without = service.parse_definition(definition(tmp_path))
    assert service.stored_identity(without.ref, without.public()) is None
    assert without.digest == parsed.digest


def test_init_runs_until_it_made_its_file(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    code = "import pathlib;p=pathlib.Path('data/made');p.write_text('x')"
    init = {"command": [sys.executable, "-c", code], "creates": "data/made"}
    parsed = service.parse_definition(definition(tmp_path, init=init))
    assert service.init_needed(parsed)
    service.run_init(parsed)
    assert not service.init_needed(parsed)


def test_a_failed_init_tells_what_was_printed_without_secrets(tmp_path: Path) -> None:
    code = f"print('cannot use {CANARY} here'); raise SystemExit(3)"
    init = {"command": [sys.executable, "-c", code], "creates": "data/made"}
    parsed = service.parse_definition(definition(tmp_path, init=init))
    with pytest.raises(ServiceError) as failed:
        service.run_init(parsed)
    assert "exit code 3: cannot use ******** here" in str(failed.value)


def test_an_init_that_makes_nothing_failed(tmp_path: Path) -> None:
    init = {"command": [sys.executable, "-c", "pass"], "creates": "data/made"}
    with pytest.raises(ServiceError, match="no data/made"):
        service.run_init(service.parse_definition(definition(tmp_path, init=init)))


def test_only_named_variables_are_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("MINIO_ROOT_PASSWORD", CANARY)
    assert set(service.base_environment()) <= {"HOME", "LANG", "USER", "TZ", "PATH"}
