from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.streamops.runbook.plugins.module_utils import lease, runs
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused, ServiceError

START = datetime(2030, 1, 1, 3, 0, tzinfo=UTC)


class Clocks:
    """The control host's clocks: ``pass_by`` is time, ``set_by`` is somebody who sets the wall's."""

    def __init__(self) -> None:
        self.moment = lease.Moment(START, 1000.0, "boot-1")

    def __call__(self) -> lease.Moment:
        return self.moment

    def pass_by(self, seconds: float) -> None:
        wall = self.moment.wall + timedelta(seconds=seconds)
        self.moment = dataclasses.replace(self.moment, wall=wall, since_boot=self.moment.since_boot + seconds)

    def set_by(self, seconds: float) -> None:
        self.moment = dataclasses.replace(self.moment, wall=self.moment.wall + timedelta(seconds=seconds))

    def restart(self, seconds: float) -> None:
        self.moment = lease.Moment(self.moment.wall + timedelta(seconds=seconds), 5.0, "boot-2")


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def leases(tmp_path: Path, clocks: Clocks) -> lease.Leases:
    return lease.Leases(tmp_path / "leases", clocks)


def owner(controller: str = "ops-1", run: str = "run-1", **more: Any) -> lease.Owner:
    return lease.Owner(controller, run, "site", 4711, 99.0, **more)


def held(taken: lease.Taken) -> list[str]:
    return [entry["owner"]["run"] for entry in taken.held]


def test_second_controller_learns_the_holder_and_its_age(leases: lease.Leases, clocks: Clocks) -> None:
    first = leases.take(["stack"], owner(), 900)
    assert [entry["fence"] for entry in first.leases] == [1]
    clocks.pass_by(61)
    (found,) = leases.take(["stack"], owner("ops-2", "run-2"), 900).held
    assert found["owner"]["controller"] == "ops-1"
    assert found["owner"]["run"] == "run-1"
    assert found["age"] == 61
    assert found["expires_at"] == "2030-01-01T03:15:00Z"


def test_leases_are_taken_all_or_none(leases: lease.Leases) -> None:
    leases.take(["b"], owner(), 900)
    assert held(leases.take(["a", "b", "c"], owner("ops-2", "run-2"), 900)) == ["run-1"]
    assert leases.read(["a", "c"]) == []


def test_fencing_number_grows_with_each_owner_and_outlives_them(leases: lease.Leases) -> None:
    for number in (1, 2, 3):
        run = f"run-{number}"
        (taken,) = leases.take(["stack"], owner(run=run), 900).leases
        assert taken["fence"] == number
        assert leases.release({"stack": number}, run) == (["stack"], [])
    assert [entry["fence"] for entry in leases.read(["stack"])] == [3]


def test_expired_lease_may_be_taken_by_anybody_and_is_named_as_left(leases: lease.Leases, clocks: Clocks) -> None:
    leases.take(["stack"], owner(), 900)
    clocks.pass_by(899)
    assert held(leases.take(["stack"], owner("ops-2", "run-2"), 900)) == ["run-1"]
    clocks.pass_by(61)
    taken = leases.take(["stack"], owner("ops-2", "run-2"), 900)
    assert [(entry["owner"]["run"], entry["why"]) for entry in taken.left] == [("run-1", "it expired 1 min 0 s ago")]
    assert taken.leases[0]["fence"] == 2


def test_clock_that_is_set_ends_no_lease(leases: lease.Leases, clocks: Clocks) -> None:
    leases.take(["stack"], owner(), 900)
    clocks.set_by(86400)
    assert held(leases.take(["stack"], owner("ops-2", "run-2"), 900)) == ["run-1"]
    clocks.set_by(-2 * 86400)
    clocks.pass_by(900)
    assert leases.take(["stack"], owner("ops-2", "run-2"), 900).leases


def test_restart_of_the_control_host_ends_no_lease_before_its_time(leases: lease.Leases, clocks: Clocks) -> None:
    leases.take(["stack"], owner(), 900)
    clocks.restart(120)
    assert held(leases.take(["stack"], owner("ops-2", "run-2"), 900)) == ["run-1"]
    clocks.pass_by(780)
    assert leases.take(["stack"], owner("ops-2", "run-2"), 900).leases


def test_lease_of_a_gone_process_is_free_for_its_own_controller_alone(leases: lease.Leases) -> None:
    leases.take(["stack"], owner(), 900)
    gone = [{"resource": "stack", "fence": 1}]
    assert held(leases.take(["stack"], owner("ops-2", "run-2"), 900, gone)) == ["run-1"]
    taken = leases.take(["stack"], owner(run="run-3"), 900, gone)
    assert [entry["why"] for entry in taken.left] == ["its process on the same controller is gone"]


def test_word_on_an_earlier_owner_frees_no_later_one(leases: lease.Leases) -> None:
    leases.take(["stack"], owner(), 900)
    leases.release({"stack": 1}, "run-1")
    leases.take(["stack"], owner(run="run-2"), 900)
    assert held(leases.take(["stack"], owner(run="run-3"), 900, [{"resource": "stack", "fence": 1}])) == ["run-2"]


def test_same_run_may_ask_again_when_an_answer_was_lost(leases: lease.Leases) -> None:
    leases.take(["stack"], owner(), 900)
    taken = leases.take(["stack"], owner(), 900)
    assert (taken.held, taken.left) == ((), ())
    assert taken.leases[0]["fence"] == 2


def test_lease_that_is_anothers_by_now_is_left_alone_and_said(leases: lease.Leases, clocks: Clocks) -> None:
    leases.take(["notices", "stack"], owner(), 60)
    clocks.pass_by(60)
    leases.take(["stack"], owner("ops-2", "run-2"), 900)
    released, foreign = leases.release({"notices": 1, "stack": 1}, "run-1")
    assert released == ["notices"]
    assert foreign == ["lease stack: run run-2 of controller ops-2 has it now, fencing number 2, not 1"]
    assert leases.read(["stack"])[0]["owner"]["run"] == "run-2"
    leases.release({"stack": 2}, "run-2")
    assert "gave it back" in leases.release({"stack": 1}, "run-1")[1][0]


def test_giving_back_twice_changes_nothing(leases: lease.Leases) -> None:
    leases.take(["stack"], owner(), 900)
    leases.release({"stack": 1}, "run-1")
    assert leases.release({"stack": 1}, "run-1") == ([], [])


def test_lease_whose_file_was_removed_is_said(leases: lease.Leases, tmp_path: Path) -> None:
    leases.take(["stack"], owner(), 900)
    (tmp_path / "leases" / "stack.json").unlink()
    assert "its file is gone" in leases.release({"stack": 1}, "run-1")[1][0]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"resource": "stack", "fence": "x"}'])
def test_file_that_is_no_lease_is_nobodys_to_take(leases: lease.Leases, tmp_path: Path, content: str) -> None:
    (tmp_path / "leases").mkdir()
    (tmp_path / "leases" / "stack.json").write_text(content)
    with pytest.raises(Refused, match=r"lease file .*stack.json: found no lease"):
        leases.take(["stack"], owner(), 900)


@pytest.mark.parametrize("name", ["../stack", "", ".lock", "a/b", "Stack"])
def test_name_that_is_none_is_refused(leases: lease.Leases, name: str) -> None:
    with pytest.raises(Refused, match="small letters, digits and hyphens"):
        leases.take([name], owner(), 900)


def test_files_are_the_owners_alone(leases: lease.Leases, tmp_path: Path) -> None:
    leases.take(["stack"], owner(), 900)
    assert stat.S_IMODE((tmp_path / "leases").stat().st_mode) == 0o700
    for path in (tmp_path / "leases").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_plan_writes_nothing(leases: lease.Leases) -> None:
    assert leases.take(["stack"], owner(), 900, plan_only=True).leases[0]["fence"] == 1
    assert leases.read(["stack"]) == []


def test_reading_makes_no_folder(leases: lease.Leases, tmp_path: Path) -> None:
    assert leases.read(["stack"]) == []
    assert not (tmp_path / "leases").exists()


def test_call_that_finds_another_at_work_gives_up_in_time(tmp_path: Path, clocks: Clocks) -> None:
    (tmp_path / ".lock").touch()
    waited: list[float] = []
    with (tmp_path / ".lock").open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(ServiceError, match="locked by another call for 1 s"):
            lease.Leases(tmp_path, clocks, waited.append, patience=1).take(["stack"], owner(), 900)
    assert 1.0 <= sum(waited) < 1.2


HERE = owner(run="run-2", boot_id="boot-1", pid_namespace="pid:[1]")


@pytest.mark.parametrize(
    ("changed", "start", "gone"),
    [
        ({}, 99.0, False),
        ({}, None, True),
        # The pid is another process's by now.
        ({}, 100.0, True),
        ({"boot_id": "boot-0"}, 99.0, True),
        # Another container of the same name: its pids say nothing here.
        ({"pid_namespace": "pid:[2]"}, None, False),
        ({"controller": "ops-2"}, None, False),
        ({"controller": "ops-2", "boot_id": "boot-0"}, None, False),
    ],
)
def test_only_its_own_controller_can_see_that_a_process_is_gone(
    changed: dict[str, str], start: float | None, gone: bool
) -> None:
    assert dataclasses.replace(HERE, run="run-1", **changed).gone(HERE, start=lambda pid: start) is gone  # type: ignore[arg-type]


def test_owner_knows_its_own_process() -> None:
    here = lease.Owner.here("run-1", "site", {})
    assert here.pid == os.getpid()
    assert not here.gone(here)
    child = subprocess.Popen(["sleep", "60"])
    other = dataclasses.replace(here, pid=child.pid, pid_start=runs.process_start(child.pid) or 0.0)
    assert not other.gone(here)
    child.kill()
    child.wait()
    assert other.gone(here)
    assert lease.Owner.parse(dataclasses.asdict(here)) == here


def test_controller_is_named_by_host_and_machine(tmp_path: Path) -> None:
    machine = tmp_path / "machine-id"
    machine.write_text("abc\n")
    named = lease.controller_id({}, "ops-1", machine)
    assert named.startswith("ops-1-")
    assert "abc" not in named
    assert lease.controller_id({}, "ops-1", tmp_path / "none") == "ops-1"
    assert lease.controller_id({lease.CONTROLLER_VARIABLE: "drill"}, "ops-1", machine) == "drill"


def test_records_are_kept_privately_and_once(tmp_path: Path) -> None:
    run = "20300101T030000Z-site-1a2b"
    text = json.dumps({"id": run, "status": "completed"})
    assert lease.keep_records(tmp_path / "runs", [text, text]) == ([run, run], [])
    (path,) = (tmp_path / "runs").iterdir()
    assert path.name == f"{run}.finished.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text())["status"] == "completed"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"id": "../../etc/x"}', '{"id": "20300101T030000Z-a/../../b"}'])
def test_record_that_is_none_is_said_and_writes_nothing(tmp_path: Path, text: str) -> None:
    kept, errors = lease.keep_records(tmp_path / "runs", [text])
    assert kept == []
    assert "record not kept" in errors[0]
    assert not (tmp_path / "runs").exists()


def test_records_that_can_not_be_written_are_said(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("in the way")
    kept, errors = lease.keep_records(tmp_path / "runs", [json.dumps({"id": "20300101T030000Z-site-1a2b"})])
    assert (kept, len(errors)) == ([], 1)


def test_figures_that_can_not_be_kept_are_said(tmp_path: Path) -> None:
    assert lease.keep_figures(tmp_path / "metrics", "ops-1", "x 1\n") == []
    assert [path.name for path in (tmp_path / "metrics").iterdir()] == ["runs-ops-1.prom"]
    (said,) = lease.keep_figures(tmp_path / "metrics", "../ops-1", "x 1\n")
    assert "'../ops-1' is no name of a controller" in said
    (tmp_path / "file").touch()
    (said,) = lease.keep_figures(tmp_path / "file", "ops-1", "x 1\n")
    assert said.startswith(f"figures not kept in {tmp_path / 'file'}: ")
    assert lease.keep_figures(tmp_path / "plan", "ops-1", "x 1\n", plan_only=True) == []
    assert not (tmp_path / "plan").exists()
