"""Which scenarios are run, and what is read from the output of Molecule (tests/e2e/test_scenarios.py)."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.e2e import test_scenarios as scenarios
from tests.e2e.conftest import ROOT, Answer

OUTPUT = """\
INFO     [sink-down > prepare] Executing
TASK [A file that may be there] ****
fatal: [localhost]: FAILED! =>
    msg: no such file
...ignoring

TASK [Deploy] ****
[ERROR]: Task failed: Module failed: non-zero return code
fatal: [localhost]: FAILED! =>
    msg: non-zero return code
    stdout: |-
        TASK [Nested] ****
        fatal: [kafka-1]: FAILED! => no space left

PLAY RECAP ****
localhost : ok=1 failed=1
ERROR    [sink-down > prepare] Executed: Failed
INFO     [sink-down > cleanup] Executing
TASK [Heal] ****
ok: [localhost]
INFO     [sink-down > cleanup] Executed: Successful
"""


def read(output: str) -> scenarios.Measured:
    lines = output.splitlines(keepends=True)
    return scenarios.measured(Answer(2, tuple((float(moment), line) for moment, line in enumerate(lines)), 9.0))[
        "sink-down"
    ]


def test_the_task_at_which_a_scenario_failed_is_told_with_what_was_nested_in_it() -> None:
    assert read(OUTPUT).failed == [
        "prepare: TASK [Deploy]",
        "[ERROR]: Task failed: Module failed: non-zero return code",
        "fatal: [localhost]: FAILED! =>",
        "    msg: non-zero return code",
        "    stdout: |-",
        "        TASK [Nested] ****",
        "        fatal: [kafka-1]: FAILED! => no space left",
        "",
    ]


DATA = """\
INFO     [sink-down > prepare] Executing
INFO     [sink-down > prepare] Executed: Successful
INFO     [sink-down > converge] Executing
emergency-restart: completed in 17.9 s, changed=2, module results 20
INFO     [sink-down > converge] Executed: Successful
INFO     [sink-down > idempotence] Executing
emergency-restart: completed in 7.1 s, changed=0, module results 9
INFO     [sink-down > idempotence] Executed: Successful
INFO     [sink-down > verify] Executing
TASK [The figures] ****
ok: [localhost] =>
    msg:
        acked: 17459
        duplicate_events: 0
        duplicates: 0
        in_table: 17459
        lost: 0

TASK [How the procedure ended] ****
ok: [localhost] =>
    msg:
    - 'fault engine-restarted: health-check: completed in 4.0 s, changed=0, module results 1'

TASK [The figures] ****
ok: [localhost] =>
    msg:
        acked: 20000
        duplicates: 0
        in_table: 20000
        lost: 0
INFO     [sink-down > verify] Executed: Successful
"""


def test_what_a_run_ended_with_is_told_with_the_data_that_were_looked_at_after_it() -> None:
    found = read(DATA)
    data = {"acked": 17459, "duplicates": 0, "in_table": 17459, "lost": 0}
    repair = {"status": "completed", "seconds": 17.9, "changed": 2, "changed_again": 0}
    assert found.procedures == {"emergency-restart": repair | data}
    later = {"status": "completed", "seconds": 4.0, "changed": 0, "acked": 20000, "in_table": 20000}
    assert found.faults == {"engine-restarted": {"health-check": later | {"duplicates": 0, "lost": 0}}}


def test_a_fault_that_the_machine_could_not_have_is_known() -> None:
    said = "    - 'fault engine-restarted: skipped: no dockerd of ours'\n"
    assert read(DATA).skipped == []
    found = read(DATA.replace("TASK [The figures] ****\n", f"TASK [Whether it did] ****\n{said}", 1))
    assert found.skipped == ["engine-restarted"]


def test_what_failed_and_was_mended_is_not_told() -> None:
    found = read(OUTPUT.replace("Executed: Failed", "Executed: Successful"))
    assert found.done == ["prepare", "cleanup"]
    assert found.failed == []


def test_of_a_long_task_the_end_is_told() -> None:
    found = read(OUTPUT.replace("    stdout: |-\n", "    stdout: |-\n" + "        ok\n" * 500))
    assert found.failed[0] == "prepare: TASK [Deploy]"
    assert "no space left" in found.failed[-2]
    assert len(found.failed) == 1 + scenarios.TOLD


def collected(*options: str) -> subprocess.CompletedProcess[str]:
    """What a run with these options would take."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--collect-only",
        "tests/e2e/test_scenarios.py",
    ]
    return subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=False)


def test_options_that_name_no_scenario_or_two_things_at_once_are_refused() -> None:
    assert "scenario containes: expected one of alerts-live, " in collected("--exclude-scenario=containes").stdout
    assert "expected one of the two" in collected("--scenario=default", "--exclude-scenario=containers").stdout


def test_excluded_and_allowed_scenarios_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    class Asked(dict[str, object]):
        def getoption(self, name: str) -> object:
            return self[name]

    monkeypatch.delenv("ALLOW_SKIP", raising=False)
    excluded: dict[str, object] = {"--scenario": "", "--exclude-scenario": ["containers"]}
    assert scenarios.left_out(Asked(excluded)) == ("containers",)  # type: ignore[arg-type]
    assert scenarios.left_out(Asked(excluded | {"--scenario": "hosts"})) == ()  # type: ignore[arg-type]
    # A machine that can't have an engine: what is allowed to be skipped by its whole name is not tried.
    none: dict[str, object] = {"--scenario": "", "--exclude-scenario": []}
    monkeypatch.setenv("ALLOW_SKIP", "test_scenario[hosts],test_scenario[containers]")
    assert scenarios.left_out(Asked(none)) == ("containers", "hosts")  # type: ignore[arg-type]
    monkeypatch.setenv("ALLOW_SKIP", "containers")
    assert scenarios.left_out(Asked(none)) == ()  # type: ignore[arg-type]
