"""Each Molecule scenario is a test of its own: a real fault, the real procedure, verified by data.

All but those of ``APART`` run in one ``molecule test --all`` on one lab, without those that are left out
(``--exclude-scenario``), and those of ``APART`` by themselves when that lab is gone; or one alone (``--scenario``). A
scenario has passed when each action of its sequence was executed with success: Molecule's own recap counts differently
after a failure.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import yaml
from ansible_collections.streamops.runbook.plugins.module_utils import catalog

from tests.conftest import ALLOW_SKIP

from .conftest import ROOT, Answer, Lab

# On six machines of its own: two stacks at once would have half of this machine each.
APART = ("hosts",)
SCENARIOS = sorted(
    (path.parent.name for path in (ROOT / "molecule").glob("*/molecule.yml")), key=lambda name: (name in APART, name)
)
PROOFS = [proof for entry in catalog.load(ROOT / "config" / "runbook").values() for proof in entry.proved_by]
# They are of the lab, which all scenarios share.
LAB_ACTIONS = ("create", "destroy")
ACTION = re.compile(r"\[(\S+) > (\S+)\] (Executing|Executed: Successful)")
ENDED = "completed|degraded|failed|rolled_back|refused"
# At the beginning of a line: what a nested run says is indented.
TASK, FATAL = re.compile(r"(TASK|PLAY) \[|PLAY RECAP"), re.compile(r"(fatal|failed): \[")
# Of what a task says that failed: its end, where a nested run has its card.
TOLD = 60
CARD = re.compile(rf"^[-\s]*'?(?:fault (\S+): )?([a-z0-9-]+): ({ENDED}) in ([\d.]+) s, changed=(\d+)")
# A fault that this machine could not have.
SKIPPED = re.compile(r"\bfault (\S+): skipped\b")
# What verify says of the data, and the task that says it.
FIGURE, FIGURES = re.compile(r"^\s+(acked|duplicates|in_table|lost): (\d+)$"), "TASK [The figures]"
# They come in the order of their names.
LAST_FIGURE = "lost"


def faults(scenario: str) -> list[str]:
    """Return the ids of the faults that the catalog says the scenario injects."""
    found = {str(fault) for proof in PROOFS if proof["scenario"] == scenario for fault in proof.get("faults", ())}
    return sorted(found)


def sequence(scenario: str) -> list[str]:
    """Return the actions of a scenario, without the playbooks that some of them name."""
    shared: dict[str, Any] = yaml.safe_load((ROOT / ".config" / "molecule" / "config.yml").read_text())
    own: dict[str, Any] = yaml.safe_load((ROOT / "molecule" / scenario / "molecule.yml").read_text())
    steps: list[str] = own.get("scenario", shared["scenario"])["test_sequence"]
    return [step.split()[0] for step in steps]


@dataclass
class Measured:
    """What the output of Molecule says of one scenario.

    :param seconds: of its actions together, without those of the lab.
    :param negative_control: whether its verify failed while nothing was repaired, and its fault outlived a plan.
    :param procedures: by name what the first run that showed its card ended with: ``status``, ``seconds``, ``changed``;
        ``changed_again`` of the run after it, and of the data that were looked at next ``acked``, ``in_table``,
        ``duplicates`` and ``lost``, numbers of events.
    :param faults: the same by each fault that was injected after the scenario had converged.
    :param skipped: those of them that could not be had on this machine.
    :param unseen: runs whose data were not looked at yet.
    :param failed: what the task said at which the scenario ended, a line each, after the name of the action.
    """

    name: str
    done: list[str] = field(default_factory=list)
    seconds: float = 0.0
    procedures: dict[str, dict[str, Any]] = field(default_factory=dict)
    faults: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    unseen: list[dict[str, Any]] = field(default_factory=list)

    @property
    def negative_control(self) -> bool:
        before = self.done[: self.done.index("converge")] if "converge" in self.done else self.done
        return before.count("verify") == 2

    def note_run(self, fault: str | None, procedure: str, status: str, seconds: float, changed: int) -> None:
        runs = self.faults.setdefault(fault, {}) if fault else self.procedures
        if procedure in runs:
            runs[procedure].setdefault("changed_again", changed)
            return
        runs[procedure] = {"status": status, "seconds": seconds, "changed": changed}
        self.unseen.append(runs[procedure])

    def note_figure(self, name: str, number: int) -> None:
        for run in self.unseen:
            run[name] = number
        if name == LAST_FIGURE:
            self.unseen.clear()

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "seconds": round(self.seconds, 1),
            "negative_control": self.negative_control,
            "procedures": self.procedures,
            "faults": self.faults,
            "failed": self.failed,
        }


def measured(answer: Answer) -> dict[str, Measured]:
    """Read the output of ``molecule test``."""
    found = {scenario: Measured(scenario) for scenario in SCENARIOS}
    began, current, doing = 0.0, "", ""
    task: list[str] = []
    fatal = False
    for moment, line in answer.lines:
        action, card = ACTION.search(line), CARD.match(line)
        if action or TASK.match(line):
            task, fatal = [], False
        task.append(line.rstrip())
        fatal = fatal or bool(FATAL.match(line))
        if action and action[3] == "Executing":
            began, current, doing = moment, action[1], action[2]
        elif action:
            one = found[action[1]]
            one.done.append(action[2])
            one.seconds += 0.0 if action[2] in LAB_ACTIONS else moment - began
            # Failed and mended, or awaited: verify fails where it has to, before the repair.
            if one.failed and one.failed[0].startswith(f"{action[2]}: "):
                one.failed = []
        elif card and current:
            found[current].note_run(card[1], card[2], card[3], float(card[4]), int(card[5]))
        elif current and (skipped := SKIPPED.search(line)):
            found[current].skipped.append(skipped[1])
        elif current and task[0].startswith(FIGURES) and (figure := FIGURE.match(line)):
            found[current].note_figure(figure[1], int(figure[2]))
        if current and fatal:
            head, *rest = task
            found[current].failed = [f"{doing}: {head.rstrip('* ')}", *rest[-TOLD:]]
    return found


def left_out(config: pytest.Config) -> tuple[str, ...]:
    """Return the scenarios that a run does not take; one alone leaves out none.

    What ALLOW_SKIP names is not even tried: a machine that can't have a Docker engine would fail at it.
    """
    if config.getoption("--scenario"):
        return ()
    excluded: list[str] = config.getoption("--exclude-scenario")
    allowed = os.environ.get(ALLOW_SKIP, "").split(",")
    named = [name for name in SCENARIOS if f"test_scenario[{name}]" in allowed]
    return tuple(dict.fromkeys([*excluded, *named]))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of every scenario, or of the one that is to run alone."""
    if "scenario" not in metafunc.fixturenames:
        return
    alone = str(metafunc.config.getoption("--scenario"))
    excluded: list[str] = metafunc.config.getoption("--exclude-scenario")
    for name in [alone, *excluded]:
        if name and name not in SCENARIOS:
            raise pytest.UsageError(f"scenario {name}: expected one of {', '.join(SCENARIOS)}")
    if alone and excluded:
        raise pytest.UsageError(f"--scenario {alone} and --exclude-scenario {excluded[0]}: expected one of the two")
    params = []
    for name in [alone] if alone else SCENARIOS:
        marks = [pytest.mark.fault(fault) for fault in faults(name)]
        if name in left_out(metafunc.config):
            marks = [pytest.mark.skip(reason="left out by its name")]
        params.append(pytest.param(name, marks=marks))
    metafunc.parametrize("scenario", params)


class Runs:
    """The runs of ``molecule test``, each of them made when its first scenario is asked for.

    :param lab: deploys the lab that all scenarios but those of ``APART`` share, and returns it.
    :param options: of the run on that lab.
    """

    def __init__(self, bare_lab: Lab, lab: Callable[[], Lab], options: list[str]) -> None:
        self.bare_lab, self.lab, self.options = bare_lab, lab, options
        self.answers: dict[str, Answer] = {}

    def of(self, scenario: str) -> Answer:
        """Return what Molecule said of the scenario; each line is shown as it comes."""
        name = scenario if scenario in APART else ""
        if name not in self.answers:
            lab, options = (self.bare_lab, [f"--scenario-name={name}"]) if name else (self.lab(), self.options)
            environment = {
                "LAB_NEEDED": "no" if name else "yes",
                "MOLECULE_EPHEMERAL_DIRECTORY": str(ROOT / ".cache" / "molecule"),
                "NO_COLOR": "1",
            }
            (ROOT / ".cache" / "molecule" / "state.yml").unlink(missing_ok=True)
            self.answers[name] = lab.run("molecule", "test", *options, live=True, more=environment)
        return self.answers[name]


@pytest.fixture(scope="session")
def runs(bare_lab: Lab, request: pytest.FixtureRequest) -> Runs:
    """Every scenario once, or one alone."""
    alone = str(request.config.getoption("--scenario"))
    without = [f"--exclude={name}" for name in dict.fromkeys([*APART, *left_out(request.config)])]
    options = [f"--scenario-name={alone}"] if alone else ["--all", *without]
    return Runs(bare_lab, lambda: request.getfixturevalue("lab"), options)


def test_scenario(
    runs: Runs, scenario: str, record_property: Callable[[str, object], None], request: pytest.FixtureRequest
) -> None:
    found = measured(runs.of(scenario))[scenario]
    # What was not injected was not proven, whatever the catalog says of the scenario.
    properties = request.node.user_properties
    properties[:] = [pair for pair in properties if pair not in [("fault", fault) for fault in found.skipped]]
    if found.done or found.failed:
        record_property("scenario", found.as_dict())
    wanted = Counter(sequence(scenario))
    told = "\n".join(found.failed) or "no task of it failed"
    assert Counter(found.done) == wanted, (
        f"{scenario}: {wanted - Counter(found.done)} not done; evidence in .cache/evidence\n{told}"
    )


def test_molecule_itself_ended_well(runs: Runs) -> None:
    assert runs.answers, "no scenario was run before this test"
    for answer in runs.answers.values():
        assert answer.code == 0
        assert "Missing playbook" not in answer.output
