"""Each Molecule scenario is a test of its own: a real fault, the real procedure, verified by data.

All run in one ``molecule test --all`` on one lab. A scenario has passed when each action of its sequence was
executed with success: Molecule's own recap counts differently after a failure.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

import pytest
import yaml

from .conftest import ROOT, Answer, Lab

SCENARIOS = sorted(path.parent.name for path in (ROOT / "molecule").glob("*/molecule.yml"))


def sequence(scenario: str) -> list[str]:
    """Return the actions of a scenario, without the playbooks that some of them name."""
    shared: dict[str, Any] = yaml.safe_load((ROOT / ".config" / "molecule" / "config.yml").read_text())
    own: dict[str, Any] = yaml.safe_load((ROOT / "molecule" / scenario / "molecule.yml").read_text())
    steps: list[str] = own.get("scenario", shared["scenario"])["test_sequence"]
    return [step.split()[0] for step in steps]


@pytest.fixture(scope="session")
def molecule(lab: Lab) -> Answer:
    """Run every scenario once; each line is shown as it comes."""
    environment = {"MOLECULE_EPHEMERAL_DIRECTORY": str(ROOT / ".cache" / "molecule"), "NO_COLOR": "1"}
    (ROOT / ".cache" / "molecule" / "state.yml").unlink(missing_ok=True)
    answer = lab.run("molecule", "test", "--all", live=True, more=environment)
    evidence = ROOT / ".cache" / "evidence"
    evidence.mkdir(parents=True, exist_ok=True)
    (evidence / "faults.json").write_text(json.dumps(measured(answer.output), indent=2) + "\n")
    return answer


def measured(output: str) -> dict[str, dict[str, Any]]:
    """Return, by scenario, the first repair (procedure, seconds) and whether its verify failed without it."""
    found: dict[str, dict[str, Any]] = {}
    for scenario in SCENARIOS:
        parts = re.split(rf"\[{scenario} > converge\] Executing", output, maxsplit=1)
        if len(parts) < 2:
            continue
        card = re.search(r"^(\S+): completed in ([\d.]+) s", parts[1], re.MULTILINE)
        control = len(re.findall(rf"\[{scenario} > verify\] Executed: Successful", parts[0])) == 2
        if card:
            found[scenario] = {"procedure": card[1], "seconds": float(card[2]), "negative_control": control}
    return found


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(molecule: Answer, scenario: str) -> None:
    done = Counter(re.findall(rf"\[{scenario} > (\S+)\] Executed: Successful", molecule.output))
    wanted = Counter(sequence(scenario))
    assert done == wanted, (
        f"{scenario}: {wanted - done} not done; evidence in .cache/evidence\n{molecule.output[-5000:]}"
    )


def test_molecule_itself_ended_well(molecule: Answer) -> None:
    assert molecule.code == 0
    assert "Missing playbook" not in molecule.output
