from __future__ import annotations

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.streamops.runbook.plugins.module_utils import control_host, lease, runs
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused, ServiceError

PROJECT = Path(__file__).resolve().parents[3]
HERE = lease.Owner("ops-1", "20300101T030000Z-site-1a2b", "site", 4711, 99.0, "boot-1", "pid:[1]")
UNREACHABLE = (4, 'ctl-1 | UNREACHABLE! => {"unreachable": true, "msg": "Task failed: no route"}\n', "")


def answered(code: int, word: str, answer: dict[str, Any]) -> tuple[int, str, str]:
    return code, f"ctl-1 | {word} => {json.dumps(answer, indent=4)}\n", "[WARNING]: something\n"


def taken(**more: Any) -> tuple[int, str, str]:
    entry = {"resource": "stack", "fence": 7, "expires_at": "2030-01-01T03:20:00Z"}
    return answered(0, "CHANGED", {"changed": True, "leases": [entry], "held": [], "left": [], **more})


def held_by(owner: lease.Owner) -> tuple[int, str, str]:
    entry = {
        "resource": "stack",
        "fence": 6,
        "owner": dataclasses.asdict(owner),
        "age": 61.0,
        "acquired_at": "2030-01-01T03:00:00Z",
        "expires_at": "2030-01-01T03:17:00Z",
    }
    return answered(2, "FAILED!", {"changed": False, "msg": "held", "leases": [], "held": [entry]})


class Executed:
    """Answers in order, and what was asked."""

    def __init__(self, *answers: tuple[int, str, str]) -> None:
        self.answers = list(answers)
        self.commands: list[list[str]] = []
        self.environments: list[dict[str, str]] = []

    def __call__(self, command: list[str], env: dict[str, str], **_: Any) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        self.environments.append(env)
        code, stdout, stderr = self.answers.pop(0)
        return subprocess.CompletedProcess(command, code, stdout, stderr)

    def arguments(self, number: int = 0) -> dict[str, Any]:
        command = self.commands[number]
        found: dict[str, Any] = json.loads(command[command.index("-a") + 1])
        return found


def host(executed: Callable[..., Any], *options: str) -> control_host.ControlHost:
    return control_host.ControlHost("ctl-1", options, {"PATH": "/bin"}, executed)


def take(executed: Executed, risk: str = "disruptive", without: str | None = None) -> control_host.Leasehold:
    return control_host.take(host(executed), ["stack"], HERE, 900.0, risk, without)


def test_call_is_bounded_and_uses_the_runs_own_way_to_the_host() -> None:
    executed = Executed(taken())
    given = {
        "inventory": ("inventory/hosts",),
        "extra_vars": ("restart=all", "@vars.yml"),
        "vault_password_files": ["/run/vault"],
        "remote_user": "ops",
        "private_key_file": "",
        "become": True,
    }
    control_host.ControlHost("ctl-1", control_host.options(given), {"PATH": "/bin"}, executed).call("read")
    command = executed.commands[0]
    assert command[:4] == ["timeout", "-k", "5", "60"]
    for pair in (
        ("--inventory", "inventory/hosts"),
        ("--extra-vars", "restart=all"),
        ("--extra-vars", "@vars.yml"),
        ("--vault-password-file", "/run/vault"),
        ("--user", "ops"),
    ):
        assert pair in list(itertools.pairwise(command))
    assert "--become" in command
    assert "--private-key" not in command
    assert executed.environments[0]["ANSIBLE_LOAD_CALLBACK_PLUGINS"] == "0"
    assert executed.environments[0]["PATH"] == "/bin"


def test_call_for_figures_alone_is_a_short_one_and_says_so() -> None:
    executed = Executed((124, "", ""))
    assert control_host.Leasehold(host(executed), "run-1").give_back([]) == (
        [],
        [
            "Records and figures on ctl-1 are as they were: control host ctl-1: found no answer within "
            f"{control_host.FIGURES_SECONDS} s, expected an answer."
        ],
    )
    assert executed.commands[0][:4] == ["timeout", "-k", "5", str(control_host.FIGURES_SECONDS)]


def test_lease_lasts_longer_than_the_deadline() -> None:
    executed = Executed(taken())
    hold = take(executed)
    assert executed.arguments()["seconds"] == 900.0 + control_host.MARGIN_SECONDS
    assert executed.arguments()["owner"]["run"] == HERE.run
    assert hold.as_dict() == {
        "host": "ctl-1",
        "fences": {"stack": 7},
        "expires_at": "2030-01-01T03:20:00Z",
        "left": [],
    }
    assert hold.lines() == []


def test_lease_of_another_controller_is_a_lock_that_names_holder_controller_and_age() -> None:
    other = dataclasses.replace(HERE, controller="ops-2", run="run-9")
    with pytest.raises(runs.Locked) as caught:
        take(Executed(held_by(other)))
    text = str(caught.value)
    assert "lease stack on ctl-1: found held by run run-9 of controller ops-2 for 1 min 1 s" in text
    assert "on that controller with -e takeover=run-9" in text
    assert "2030-01-01T03:17:00Z" in text


def test_lease_of_our_own_gone_process_is_taken_over_by_its_fencing_number() -> None:
    gone = dataclasses.replace(HERE, run="run-0", boot_id="boot-0")
    left = {"resource": "stack", "owner": dataclasses.asdict(gone), "acquired_at": "x", "why": "it is gone"}
    executed = Executed(held_by(gone), taken(left=[left]))
    hold = take(executed)
    assert executed.arguments(0)["gone"] == []
    assert executed.arguments(1)["gone"] == [{"resource": "stack", "fence": 6}]
    assert hold.as_dict()["left"][0]["run"] == "run-0"
    assert hold.lines() == ["Lease stack was left by run run-0 of controller ops-1: it is gone."]


def test_lease_of_our_own_live_process_is_not_asked_for_again() -> None:
    here = lease.Owner.here("run-2", "site", {})
    executed = Executed(held_by(dataclasses.replace(here, run="run-1")))
    with pytest.raises(control_host.LeaseHeld, match="of this controller"):
        control_host.take(host(executed), ["stack"], here, 900.0, "safe")
    assert len(executed.commands) == 1


@pytest.mark.parametrize("answer", [UNREACHABLE, (124, "", ""), (137, "", "")], ids=["ssh", "hangs", "killed"])
@pytest.mark.parametrize("risk", ["disruptive", "destructive"])
def test_without_the_control_host_what_could_disturb_is_refused(answer: tuple[int, str, str], risk: str) -> None:
    with pytest.raises(Refused, match=r"control host ctl-1: found .*-e without_lease=ctl-1"):
        take(Executed(answer), risk)


def test_without_the_control_host_what_is_safe_goes_on_and_says_so() -> None:
    hold = take(Executed(UNREACHABLE), "safe")
    assert hold.as_dict() == {"host": "ctl-1", "without": "no route"}
    assert "Nothing keeps another controller from acting" in hold.lines()[0]


def test_host_that_answers_and_keeps_no_leases_is_no_dead_host() -> None:
    broken = answered(2, "FAILED!", {"msg": "Task failed: No space left on device"})
    for risk in ("safe", "disruptive"):
        with pytest.raises(Refused, match="No space left on device"):
            take(Executed(broken), risk)
    with pytest.raises(Refused, match=r"ctl-1 is there \(.*No space left"):
        take(Executed(broken), without="ctl-1")


def test_answer_that_is_none_names_the_last_line() -> None:
    with pytest.raises(ServiceError, match="exit code 1: ERROR! no such inventory"):
        host(Executed((1, "", "first\nERROR! no such inventory\n"))).call("read")


def test_dead_control_host_is_left_out_by_its_name_and_only_while_it_is_dead() -> None:
    hold = take(Executed(UNREACHABLE), without="ctl-1")
    assert hold.as_dict() == {"host": "ctl-1", "without": "no route (-e without_lease)"}
    with pytest.raises(Refused, match=r"parameter without_lease: found 'ctl-2', expected .* ctl-1"):
        take(Executed(), without="ctl-2")
    executed = Executed(answered(0, "SUCCESS", {"changed": False, "leases": []}))
    with pytest.raises(Refused, match="ctl-1 answers"):
        take(executed, without="ctl-1")
    # Asked without taking anything.
    assert executed.arguments()["state"] == "read"


def test_giving_back_names_run_and_fencing_number_and_says_what_is_anothers(tmp_path: Path) -> None:
    foreign = "lease stack: run run-9 of controller ops-2 has it now, fencing number 8, not 7"
    executed = Executed(
        taken(), answered(0, "SUCCESS", {"released": [], "foreign": [foreign], "kept": ["r1"], "record_errors": ["e"]})
    )
    hold = take(executed)
    kept, told = hold.give_back([tmp_path / "r1.finished.json"])
    assert kept == ["r1"]
    assert told == [f"{foreign}; it was left alone.", "e"]
    given = executed.arguments(1)
    assert (given["state"], given["run"], given["fences"]) == ("released", HERE.run, {"stack": 7})
    assert json.loads(executed.environments[1]["RUNBOOK_RECORDS"]) == [str(tmp_path / "r1.finished.json")]


def test_control_host_that_dies_meanwhile_is_said() -> None:
    hold = take(Executed(taken(), UNREACHABLE))
    kept, (told,) = hold.give_back([])
    assert kept == []
    assert "no route" in told
    assert "the lease ends by itself at 2030-01-01T03:20:00Z" in told


def test_the_module_under_a_real_ansible(tmp_path: Path) -> None:
    """Two controllers, one control host; a record with braces in it is kept as it is."""
    inventory = {
        "all": {
            "hosts": {"ctl-1": {"ansible_connection": "local"}},
            "vars": {
                "ansible_python_interpreter": sys.executable,
                "runbook_lease_dir": str(tmp_path / "leases"),
                "runbook_metrics_dir": str(tmp_path / "metrics"),
            },
        }
    }
    (tmp_path / "inventory.yml").write_text(json.dumps(inventory))
    record = {"id": HERE.run, "message": "{{ lookup('env', 'HOME') }}"}
    figures = tmp_path / "figures.prom"
    figures.write_text('runbook_runs_total{procedure="site"} 1.0\n')
    path = tmp_path / f"{HERE.run}.finished.json"
    path.write_text(json.dumps(record))
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(PROJECT / "collections"),
    }
    options = control_host.options({"inventory": [str(tmp_path / "inventory.yml")]})
    keeper = control_host.ControlHost("ctl-1", options, environment)
    here = lease.Owner.here(HERE.run, "site", {lease.CONTROLLER_VARIABLE: "ops-1"})
    hold = control_host.take(keeper, ["stack"], here, 60.0, "disruptive")
    assert hold.fences == {"stack": 1}
    other = lease.Owner.here("run-2", "site", {lease.CONTROLLER_VARIABLE: "ops-2"})
    with pytest.raises(control_host.LeaseHeld, match="of controller ops-1"):
        control_host.take(keeper, ["stack"], other, 60.0, "disruptive")
    assert hold.give_back([path], figures) == ([HERE.run], [])
    (kept,) = (tmp_path / "metrics").iterdir()
    assert kept.name == f"runs-{lease.controller_id(os.environ)}.prom"
    assert kept.read_text() == figures.read_text()
    assert kept.stat().st_mode & 0o777 == 0o644
    assert json.loads((tmp_path / "runs" / path.name).read_text()) == record
    assert control_host.take(keeper, ["stack"], other, 60.0, "disruptive").fences == {"stack": 2}
