"""The runs in a row: what counts as whole, and the line that says it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.programs import load

ROOT = Path(__file__).resolve().parents[3]


soak = load("tests/bench/soak.py")


@pytest.fixture(autouse=True)
def evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(soak, "EVIDENCE", tmp_path)
    return tmp_path


def command(folder: Path, *failing: str) -> list[str]:
    """A command that runs two scenarios, of which those named fail, and leaves a third one out."""
    path = folder / "test_scenarios.py"
    path.write_text(
        "import pytest\n"
        "apart = pytest.param('hosts', marks=pytest.mark.skip(reason='apart'))\n"
        "@pytest.mark.parametrize('scenario', ['default', 'sink-down', apart])\n"
        f"def test_scenario(scenario): assert scenario not in {failing!r}\n"
        "def test_molecule_itself_ended_well(): pass\n"
    )
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(path)]


def test_a_run_is_whole_when_every_scenario_passed(tmp_path: Path) -> None:
    one = soak.go(1, command(tmp_path))
    assert one.scenarios == {"default": True, "sink-down": True}
    assert one.whole
    assert one.line(5).startswith("run 1 of 5: ")
    assert one.line(5).endswith(" s, 2 of 2 scenarios passed, left out: hosts")
    assert (tmp_path / "soak-1.log").read_text()


def test_a_scenario_that_failed_is_named(tmp_path: Path) -> None:
    one = soak.go(2, command(tmp_path, "sink-down"))
    assert not one.whole
    assert one.line(5).endswith("1 of 2 scenarios passed, left out: hosts; not whole: sink-down")


@pytest.mark.parametrize(
    ("given", "allowed"),
    [
        (None, "test_scenario[containers]"),
        ("test_scenario[hosts]", "test_scenario[hosts],test_scenario[containers]"),
    ],
)
def test_what_is_excluded_is_told_to_the_tests_and_may_be_skipped(
    given: str | None, allowed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever runs this test may have set one.
    monkeypatch.delenv("ALLOW_SKIP", raising=False)
    if given is not None:
        monkeypatch.setenv("ALLOW_SKIP", given)
    show = tmp_path / "show.py"
    show.write_text("import os, sys; print(sys.argv[1:], os.environ['ALLOW_SKIP'])")
    soak.go(4, [sys.executable, str(show)], ["containers"])
    said = (tmp_path / "soak-4.log").read_text()
    assert "'--exclude-scenario=containers'" in said
    assert said.rstrip().endswith(f" {allowed}")


def test_a_run_that_tested_nothing_is_not_whole(tmp_path: Path) -> None:
    (tmp_path / "soak-3.xml").write_text("left over from an earlier run")
    one = soak.go(3, [sys.executable, "-c", "pass"])
    assert not one.whole
    assert one.line(5).endswith("0 of 0 scenarios passed; not whole: exit code 0")
