"""What a message says to type is about the inventory of the run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ansible_collections.streamops.runbook.plugins.filter import command
from ansible_collections.streamops.runbook.plugins.module_utils import assessment, card, catalog, commands, health, tls
from ansible_collections.streamops.runbook.plugins.module_utils.probes import Check

PROJECT = Path(__file__).resolve().parents[3]
MACHINES = "-i inventory/production"


@pytest.mark.parametrize(
    ("sources", "options"),
    [
        ([str(PROJECT / "inventory" / "sandbox")], ""),
        ([str(PROJECT / "inventory" / "containers")], "-i inventory/containers"),
        ([str(PROJECT / "inventory" / "sandbox"), "/srv/more.yml"], "-i inventory/sandbox -i /srv/more.yml"),
        (["/srv/our machines"], "-i '/srv/our machines'"),
        (["kafka-1,"], "-i kafka-1,"),
    ],
)
def test_inventory_is_named_but_for_the_sandbox(sources: list[str], options: str) -> None:
    assert commands.options(sources, PROJECT) == options


def test_line_is_of_make_for_the_sandbox_and_of_the_playbook_elsewhere() -> None:
    there = {commands.VARIABLE: MACHINES}
    assert commands.line("site", {}) == "make up"
    assert commands.line("site", there) == "ansible-playbook -i inventory/production playbooks/site.yml"
    assert commands.line("sandbox-remove", {}, confirm="ID") == "make clean CONFIRM=ID"
    removal = "ansible-playbook -i inventory/production playbooks/sandbox-remove.yml -e confirm=ID"
    assert commands.line("sandbox-remove", there, confirm="ID") == removal


def test_names_are_those_of_the_catalog() -> None:
    for name, entry in catalog.load(PROJECT / "config" / "runbook").items():
        assert commands.line(name, {}) == f"make {entry.make[0]}"


def test_whatever_tells_what_to_type_names_the_inventory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(commands.VARIABLE, MACHINES)
    absent = Check("service.running", "kafka", "kafka-1", False, "absent", "running", "site")
    site = commands.line("site")
    assert f"helps: {site}" in assessment.complaint(health.Reading((absent,), 0, 0.0, False))
    assert site in str(tls._bad("certificate of kafka-1", "expired"))
    assert command.FilterModule().filters()["command"]("site") == site
    procedure = catalog.Procedure("site", "Site", "S", severity="P3", risk="safe", deadline=60)
    record = {"procedure": "site", "status": "failed", "phases": {}, "failures": [{"message": "x"}]}
    assert commands.line("status-all") in card.render(record, procedure, "/r")


def test_no_message_names_make_by_itself() -> None:
    """But for what makes no difference between targets: the controller's own environment, and credentials."""
    said = re.compile(r"(?:Next|Then|then|or|helps|Helps)\W+make (?!venv|credentials|room|sure)[a-z]")
    places = [*(PROJECT / "roles").rglob("*.yml"), *(PROJECT / "playbooks").rglob("*.yml")]
    places += (PROJECT / "collections").rglob("*.py")
    found = [path for path in places if said.search(path.read_text())]
    assert found == []
