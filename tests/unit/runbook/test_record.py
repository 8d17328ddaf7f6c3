"""How a run ends, told from what its tasks came to."""

from __future__ import annotations

import fcntl
import json
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.streamops.runbook.plugins.callback import record
from ansible_collections.streamops.runbook.plugins.module_utils import catalog, control_host, run_metrics, runs

PROOF = {"proof": {"lines": ["x"]}}
DEAD = {"unreachable": {"kafka-3": ["kafka"]}}
REFUSAL = {"phase": "plan", "refusal": True}
CRASH = {"phase": "act", "refusal": False}


def verdict(
    fragments: dict[str, Any],
    *failures: dict[str, Any],
    risk: str = "disruptive",
    check: bool = False,
    dark: int = 0,
) -> str:
    callback = record.CallbackModule()
    callback._procedure = catalog.Procedure("x", "X", "S", "P1", risk, 60)
    callback._run = runs.Run(Path("none"), "id", "x", {"check": check})
    callback._fragments = {"decisions": [], "did": [], "readings": {}, **fragments}
    callback._failures = list(failures)
    stats = SimpleNamespace(failures=len(failures), rescued=0, dark=dark)
    return callback._verdict(stats)


@pytest.mark.parametrize(
    ("fragments", "expected"),
    [
        (PROOF, "completed"),
        ({**PROOF, **DEAD}, "degraded"),
        ({**PROOF, "unreachable": {}}, "completed"),
        ({**PROOF, "status": "degraded"}, "degraded"),
        # Hosts out of reach are no excuse for a run that proved nothing.
        (DEAD, "failed"),
        ({}, "failed"),
    ],
)
def test_run_that_acts_is_worth_its_proof(fragments: dict[str, Any], expected: str) -> None:
    assert verdict(fragments) == expected


def test_what_the_target_cannot_do_is_kept_with_its_hosts() -> None:
    callback = record.CallbackModule()
    callback._run = runs.Run(Path("none"), "id", "x", {"check": False})
    for host, what in (("kafka-1", "no limit"), ("kafka-2", "no limit"), ("kafka-2", "no limit"), ("minio-1", "no x")):
        task = SimpleNamespace(action="streamops.runbook.service")
        answer = {"skipped_limits": [what], "changed": False}
        callback._collect(
            SimpleNamespace(result=answer, task=task, host=SimpleNamespace(get_name=lambda host=host: host))
        )
    assert callback._fragments["skipped"] == {"no limit": ["kafka-1", "kafka-2"], "no x": ["minio-1"]}


def test_unproven_run_names_the_hosts_out_of_reach() -> None:
    callback = record.CallbackModule()
    callback._procedure = catalog.Procedure("x", "X", "S", "P1", "disruptive", 60)
    callback._run = runs.Run(Path("none"), "id", "x", {"check": False})
    callback._fragments = {"decisions": [], **DEAD}
    assert callback._verdict(SimpleNamespace(failures=0, rescued=0, dark=1)) == "failed"
    assert "kafka-3" in callback._failures[-1]["message"]


def test_plan_with_hosts_out_of_reach_is_degraded_and_no_plan_is_a_failure() -> None:
    assert verdict({"plan": {}, **DEAD}, check=True) == "degraded"
    assert verdict(DEAD, check=True) == "failed"


def test_reading_run_needs_no_proof() -> None:
    assert verdict(DEAD, risk="read-only") == "degraded"
    assert verdict({}, risk="read-only", dark=1) == "degraded"


@pytest.mark.parametrize(
    ("fragments", "failure", "expected"),
    [
        ({}, REFUSAL, "refused"),
        ({}, CRASH, "failed"),
        # A lost quorum is found early and is no refusal all the same.
        ({"status": "failed"}, REFUSAL, "failed"),
        ({"status": "rolled_back"}, CRASH, "rolled_back"),
        # What failed after a good word outweighs it.
        ({**PROOF, **DEAD, "status": "degraded"}, CRASH, "failed"),
        ({**PROOF, "status": "completed"}, CRASH, "failed"),
    ],
)
def test_failure_outweighs_every_good_word(fragments: dict[str, Any], failure: dict[str, Any], expected: str) -> None:
    assert verdict(fragments, failure) == expected


# The figures of runs on the control host.


class ControlHost:
    """Keeps what is left there.

    :param meanwhile: what happens while a call is on its way.
    """

    def __init__(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.texts: list[str] = []
        self.commands: list[list[str]] = []
        self._meanwhile = meanwhile

    def __call__(self, command: list[str], env: dict[str, str], **_: Any) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        text = Path(env["RUNBOOK_FIGURES"]).read_text() if "RUNBOOK_FIGURES" in env else ""
        self._meanwhile()
        self.texts.append(text)
        return subprocess.CompletedProcess(command, 0, 'ctl-1 | SUCCESS => {"changed": false, "kept": []}', "")


def ended_run(state: Path, execute: Callable[..., Any], number: int) -> record.CallbackModule:
    """A run that has read something and has counted itself."""
    procedure = catalog.Procedure("metrics-check", "X", "S", "P4", "read-only", 60)
    ended = {"procedure": procedure.name, "status": "completed", "seconds": 1.0}
    run_metrics.record(state / "metrics", ended, procedure, 100.0 + number)
    callback = record.CallbackModule()
    callback._run = runs.Run(state / "runs", f"run-{number}", procedure.name, {"check": False})
    callback._keeper = control_host.ControlHost("ctl-1", [], {"PATH": "/bin"}, execute, shows_figures=True)
    callback._state = state
    callback._counted = True
    return callback


Reading = tuple[ControlHost, record.CallbackModule, list[str]]


@pytest.fixture
def reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Reading:
    """A run that has read something, with the control host that it asks and what it says."""
    (tmp_path / "runs").mkdir()
    host = ControlHost()
    said: list[str] = []
    callback = ended_run(tmp_path, host, 1)
    monkeypatch.setattr(callback, "_say", said.append)
    return host, callback, said


def while_it_is_anothers_turn(folder: Path, callback: record.CallbackModule, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the run end while another one leaves its figures."""
    monkeypatch.setattr(control_host, "FIGURES_SECONDS", 0.3)
    with (folder / "metrics" / f".{run_metrics.FILE}.turn").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        callback._return_lease()


def test_figures_of_a_run_are_not_replaced_by_what_another_has_read_before(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    later: list[threading.Thread] = []

    def a_second_run_ends() -> None:
        if not later:
            later.append(threading.Thread(target=lambda: ended_run(tmp_path, host, 2)._return_lease()))
            later[0].start()
            # Long enough for it, if nothing keeps it back.
            later[0].join(1.0)

    host = ControlHost(a_second_run_ends)
    ended_run(tmp_path, host, 1)._return_lease()
    later[0].join()
    assert len(host.texts) == 2
    (total,) = [line for line in host.texts[-1].splitlines() if line.startswith("runbook_runs_total{")]
    assert total.endswith(" 2.0")


def test_run_that_reads_waits_for_neither_the_control_host_nor_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reading: Reading
) -> None:
    host, callback, said = reading
    callback._return_lease()
    assert host.commands[0][:4] == ["timeout", "-k", "5", str(control_host.FIGURES_SECONDS)]
    assert control_host.FIGURES_SECONDS <= 10
    assert said == []
    while_it_is_anothers_turn(tmp_path, callback, monkeypatch)
    assert len(host.commands) == 1
    assert "Figures on ctl-1 are those of an earlier run" in said[0]


def test_lease_is_given_back_though_it_is_not_the_turn_of_its_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reading: Reading
) -> None:
    host, callback, said = reading
    assert callback._keeper is not None
    callback._lease = control_host.Leasehold(callback._keeper, "run-1", {"stack": 7})
    while_it_is_anothers_turn(tmp_path, callback, monkeypatch)
    (command,) = host.commands
    assert json.loads(command[command.index("-a") + 1])["fences"] == {"stack": 7}
    assert host.texts == [""]
    assert len(said) == 1
