"""The Makefile: what it lists and what each target runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def make(*arguments: str) -> str:
    done = subprocess.run(
        ["make", *arguments],
        cwd=ROOT,
        # Options of an outer make would reach this one.
        env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")},
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


class TestSummary:
    """The last line of a run and its exit code, by a real pytest on a folder of its own."""

    def run(self, folder: Path, tests: str, **environment: str) -> tuple[int, str]:
        (folder / "conftest.py").symlink_to(ROOT / "tests" / "conftest.py")
        (folder / "test_all.py").write_text(f"import pytest\n{tests}")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(folder)],
            env=os.environ | {"ALLOW_SKIP": ""} | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.returncode, done.stdout.splitlines()[-1]

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
