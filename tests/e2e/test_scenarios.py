"""Each Molecule scenario is a test of its own: a real fault, the real procedure, verified by data."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import ROOT, Lab

SCENARIOS = sorted(path.parent.name for path in (ROOT / "molecule").glob("*/molecule.yml"))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(lab: Lab, scenario: str) -> None:
    answer = lab.run("molecule", "test", "--scenario-name", scenario, live=True)
    assert answer.code == 0, answer.output[-6000:]


def test_scenarios_are_found() -> None:
    assert Path(ROOT / "molecule" / "default") in [ROOT / "molecule" / name for name in SCENARIOS]
