"""The Makefile: what it lists and what each target runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def make(*arguments: str) -> str:
    # Options and variables that an outer make was called with would reach this one.
    outer = re.findall(r"(\w+)=", os.environ.get("MAKEFLAGS", ""))
    done = subprocess.run(
        ["make", *arguments],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name not in outer},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def test_help_lists_every_target() -> None:
    listed = {line.split()[0] for line in make("help").splitlines()}
    declared = {
        target
        for line in (ROOT / "Makefile").read_text().splitlines()
        if line.startswith(".PHONY:")
        for target in line.split()[1:]
    }
    assert listed == declared


@pytest.mark.parametrize(
    ("target", "playbook"),
    [
        ("up", "site"),
        ("down", "stack-down"),
        ("stack-up", "stack-up"),
        ("clean", "sandbox-remove"),
        ("status-all", "status-all"),
        ("health-check", "health-check"),
        ("health-check-all", "health-check"),
        ("emergency-restart", "emergency-restart"),
        ("restart-all", "restart-all"),
        ("metrics-check", "metrics-check"),
        ("dashboard-check", "dashboard-check"),
        ("monitoring-restart", "monitoring-restart"),
        ("monitoring-configure", "monitoring-configure"),
        ("notify", "notify"),
    ],
)
def test_a_procedure_is_one_call_of_its_playbook(target: str, playbook: str) -> None:
    line = make("--dry-run", target, "EXTRA=--check --diff").splitlines()[-1]
    assert line.startswith(f"ansible-playbook playbooks/{playbook}.yml ")
    assert line.endswith("--check --diff")
    assert (ROOT / "playbooks" / f"{playbook}.yml").is_file()


def test_clean_passes_the_confirmation_on() -> None:
    assert " -e confirm=abc " in make("--dry-run", "clean", "CONFIRM=abc") + " "
    assert "confirm" not in make("--dry-run", "clean").splitlines()[-1]


def notice(tmp_path: Path, *variables: str) -> dict[str, str]:
    """Return the extra variables of the notice that `make notify` would send, as Ansible reads them."""
    shown = make("--dry-run", "notify", *variables)
    environment = tmp_path / "environment"
    # As make would run it, but for the procedure: a playbook that shows what came of the text.
    playbook = tmp_path / "show.yml"
    playbook.write_text(
        "- hosts: localhost\n"
        "  gather_facts: false\n"
        "  tasks:\n"
        "    - ansible.builtin.copy:\n"
        "        content: \"{{ {'text': text | default(''), 'severity': severity | default('')} | to_json }}\"\n"
        f"        dest: {environment}\n"
    )
    command = shown[shown.index("ansible-playbook") :].replace("playbooks/notify.yml", str(playbook))
    given = dict(variable.split("=", 1) for variable in variables)
    subprocess.run(
        ["bash", "-c", command],
        cwd=tmp_path,
        env=os.environ
        | {f"NOTICE_{name}": value for name, value in given.items()}
        | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        timeout=60,
        check=True,
    )
    found: dict[str, str] = json.loads(environment.read_text())
    return found


def test_a_notice_may_hold_any_quote(tmp_path: Path) -> None:
    text = """it's "down"; `touch x` {{ 1 + 1 }}"""
    assert notice(tmp_path, f"TEXT={text}", "SEVERITY=P2") == {"text": text, "severity": "P2"}
    assert not (tmp_path / "x").exists()


def test_without_a_text_no_notice_is_made(tmp_path: Path) -> None:
    assert "-e" not in make("--dry-run", "notify").split()


def test_make_hands_a_notice_over_by_the_environment() -> None:
    shown = make(
        "notify", "TEXT=it's down", "SEVERITY=P2", "PLAY=printenv NOTICE_TEXT NOTICE_SEVERITY; true", "-o", "venv"
    )
    assert shown.splitlines()[-2:] == ["it's down", "P2"]


def test_soak_runs_five_times_unless_told_otherwise() -> None:
    assert make("--dry-run", "soak").splitlines()[-1].split()[-2:] == ["--runs", "5"]
    assert make("--dry-run", "soak", "RUNS=2").splitlines()[-1].split()[-2:] == ["--runs", "2"]


class TestSummary:
    """The last lines of a run and its exit code, by a real pytest on a folder of its own."""

    def lines(
        self, folder: Path, tests: str, *, options: Sequence[str] = (), **environment: str
    ) -> tuple[int, list[str]]:
        folder.mkdir(exist_ok=True)
        (folder / "conftest.py").symlink_to(ROOT / "tests" / "conftest.py")
        (folder / "test_all.py").write_text(f"import pytest\n{tests}")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, str(folder)],
            # What it takes for its root depends on where it is called.
            cwd=folder,
            env=os.environ | {"ALLOW_SKIP": ""} | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout.splitlines()

    def run(self, folder: Path, tests: str, **environment: str) -> tuple[int, str]:
        code, lines = self.lines(folder, tests, options=(), **environment)
        return code, lines[-1]

    def test_an_error_counts_as_failed(self, tmp_path: Path) -> None:
        tests = (
            "def test_good(): pass\n"
            "def test_bad(): assert False\n"
            "@pytest.fixture\n"
            "def broken(): raise RuntimeError\n"
            "def test_unproven(broken): pass\n"
        )
        assert self.run(tmp_path, tests) == (1, "1 passed, 2 failed")

    def test_a_test_that_does_not_load_counts_as_failed(self, tmp_path: Path) -> None:
        assert self.run(tmp_path, "import nowhere_to_be_found\n") == (2, "0 passed, 1 failed")

    @pytest.mark.parametrize(("allowed", "code"), [("", 1), ("left_out", 0), ("other", 1)])
    def test_a_skipped_test_fails_the_run_unless_allowed(self, tmp_path: Path, allowed: str, code: int) -> None:
        tests = "def test_good(): pass\n@pytest.mark.skip\ndef test_left_out(): pass\n"
        assert self.run(tmp_path, tests, ALLOW_SKIP=allowed) == (code, "1 passed, 0 failed, 1 skipped")

    TESTS = (
        "@pytest.mark.fault('2')\n"
        "def test_good(): pass\n"
        "@pytest.mark.fault('14')\n"
        "@pytest.mark.fault('outage')\n"
        "def test_scenario(record_property):\n"
        "    record_property('scenario', {'name': 'default', 'seconds': 12.3})\n"
        "@pytest.mark.fault('2')\n"
        "@pytest.mark.parametrize('case', [1, 2])\n"
        "def test_more(case): pass\n"
        "@pytest.mark.fault('30')\n"
        "@pytest.mark.parametrize('case', [1, 2])\n"
        "def test_half(case): assert case == 1\n"
    )

    def test_the_end_says_what_was_proven_and_how_long_it_took(self, tmp_path: Path) -> None:
        code, lines = self.lines(tmp_path, self.TESTS)
        assert code == 1
        assert lines[-5:-2] == ["scenario default: 12 s", "faults proven: 2, 14, outage", "faults not proven: 30"]
        assert re.fullmatch(r"all of it: \d+ s, processors busy for \d+%", lines[-2])
        assert lines[-1] == "5 passed, 1 failed"

    def test_the_end_says_why_a_scenario_failed(self, tmp_path: Path) -> None:
        tests = (
            "def test_scenario(record_property):\n"
            "    said = ['prepare: TASK [Deploy]', 'fatal: [localhost]: FAILED!']\n"
            "    record_property('scenario', {'name': 'default', 'seconds': 12.3, 'failed': said})\n"
            "    assert False\n"
        )
        code, lines = self.lines(tmp_path, tests)
        assert code == 1
        assert lines[-5:-2] == [
            "scenario default: 12 s",
            "scenario default failed in prepare: TASK [Deploy]",
            "  fatal: [localhost]: FAILED!",
        ]

    def test_parts_of_one_run_are_counted_together(self, tmp_path: Path) -> None:
        options = ("--counts", str(tmp_path / "evidence" / "counts.json"))
        bad = "def test_good(): pass\ndef test_bad(): assert False\n@pytest.mark.skip\ndef test_left_out(): pass\n"
        code, lines = self.lines(tmp_path / "first", bad, options=(*options, "-n1"), ALLOW_SKIP="left_out")
        assert (code, lines[-1]) == (1, "1 passed, 1 failed, 1 skipped")
        code, lines = self.lines(tmp_path / "second", "def test_better(): pass\n", options=options)
        assert (code, lines[-1]) == (0, "2 passed, 1 failed, 1 skipped")

    def test_what_was_measured_of_faults_is_kept(self, tmp_path: Path) -> None:
        self.lines(tmp_path, self.TESTS)
        kept = json.loads((tmp_path / ".cache" / "evidence" / "faults.json").read_text())
        assert kept["scenarios"] == {"default": {"name": "default", "seconds": 12.3}}
        assert {fault: row["tests"] for fault, row in kept["tests"]["test_all.py"].items()} == {"2": 3, "30": 1}

    def test_tests_of_no_fault_keep_nothing(self, tmp_path: Path) -> None:
        self.lines(tmp_path, "def test_good(): pass\n")
        assert not (tmp_path / ".cache").exists()
