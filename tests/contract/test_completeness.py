"""Catalog, playbooks, pages, make names, scenarios and tables are complete, both ways."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.streamops.runbook.plugins.module_utils import catalog

ROOT = Path(__file__).resolve().parents[2]
ENTRIES = catalog.load(ROOT / "config" / "runbook")
PLAYBOOKS = sorted((ROOT / "playbooks").glob("*.yml"))
ACT_GROUPS = re.compile(r"^(act|prove)_[a-z_]+$")


def plays(name: str) -> list[dict[str, Any]]:
    document: list[dict[str, Any]] = yaml.safe_load((ROOT / "playbooks" / f"{name}.yml").read_text())
    return document


def test_every_playbook_has_its_entry_and_page() -> None:
    stems = {path.stem for path in PLAYBOOKS}
    pages = {path.stem for path in (ROOT / "docs" / "runbooks").glob("*.md")}
    assert stems == set(ENTRIES)
    assert stems == pages


@pytest.mark.parametrize("name", ENTRIES)
def test_entry_holds_allowed_values(name: str) -> None:
    entry = ENTRIES[name]
    assert entry.risk in catalog.RISKS
    assert entry.severity in catalog.SEVERITIES
    assert entry.deadline > 0
    assert entry.locks or entry.risk == "read-only"
    assert entry.proved_by


@pytest.mark.parametrize("name", ENTRIES)
def test_make_names_work(name: str) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(ENTRIES[name].make) <= targets


@pytest.mark.parametrize("name", ENTRIES)
def test_scenario_that_proves_it_exists_and_names_it(name: str) -> None:
    for proof in ENTRIES[name].proved_by:
        folder = ROOT / "molecule" / proof["scenario"]
        assert (folder / "molecule.yml").is_file(), folder
        text = "".join(path.read_text() for path in folder.glob("*.yml"))
        text += "".join(path.read_text() for path in (ROOT / "molecule" / "shared").rglob("*.yml"))
        assert f"{name}.yml" in text


@pytest.mark.parametrize("scenario", sorted(path.parent for path in (ROOT / "molecule").glob("*/molecule.yml")))
def test_scenario_has_the_playbooks_that_molecule_would_silently_miss(scenario: Path) -> None:
    text = (scenario / "molecule.yml").read_text()
    assert (scenario / "prepare.yml").is_file()
    assert (scenario / "verify.yml").is_file()
    # Without a sequence of its own, a scenario asserts its fault before and after the plan.
    assert (scenario / "fault.yml").is_file() or "test_sequence" in text


def test_every_scenario_is_named_by_a_procedure() -> None:
    named = {proof["scenario"] for entry in ENTRIES.values() for proof in entry.proved_by}
    there = {path.parent.name for path in (ROOT / "molecule").glob("*/molecule.yml")}
    assert there == named


@pytest.mark.parametrize("name", ENTRIES)
def test_first_task_asserts_that_the_run_is_recorded(name: str) -> None:
    first = plays(name)[0]
    assert first["hosts"] == "localhost"
    assert first["tasks"][0]["ansible.builtin.import_tasks"] == "tasks/recorded.yml"


@pytest.mark.parametrize("name", ENTRIES)
def test_plays_are_phases_and_stop_at_the_first_error(name: str) -> None:
    for play in plays(name):
        phase = re.match(r"^[1-4] (check|plan|act|prove): ", play["name"])
        assert phase, play["name"]
        if phase.group(1) != "check" or play["hosts"] == "localhost":
            assert play["any_errors_fatal"] is True, play["name"]


@pytest.mark.parametrize(
    "name",
    [name for name, entry in ENTRIES.items() if entry.risk != "read-only" and not entry.deploys],
)
def test_acting_plays_address_only_what_the_plan_named(name: str) -> None:
    for play in plays(name):
        if play["name"].startswith(("3 act", "4 prove")):
            assert ACT_GROUPS.match(play["hosts"]), play["name"]


@pytest.mark.parametrize("name", ENTRIES)
def test_header_is_two_lines_and_the_pages_name(name: str) -> None:
    lines = (ROOT / "playbooks" / f"{name}.yml").read_text().splitlines()
    assert lines[0] == "---"
    header = [line for line in lines[1:4] if line.startswith("#")]
    assert header[-1] == f"# Page: docs/runbooks/{name}.md"
    assert len(header) <= 3


def test_both_configurations_are_equal() -> None:
    root = (ROOT / "ansible.cfg").read_text().splitlines()[1:]
    other = (ROOT / "playbooks" / "ansible.cfg").read_text().splitlines()[1:]
    assert [line.replace("../", "") for line in other] == root


def test_tables_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "tables.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_no_component_role_names_a_runtime() -> None:
    runtimes = re.compile(r"\b(supervisord?|supervisorctl|systemd|systemctl|docker)\b")
    for path in (ROOT / "roles").rglob("*"):
        if path.is_file() and path.relative_to(ROOT / "roles").parts[0] not in (
            "service",
            "sandbox",
        ):
            assert not runtimes.search(path.read_text()), path


def test_no_role_reads_the_groups_of_the_inventory() -> None:
    for path in (ROOT / "roles").rglob("*.yml"):
        assert not re.search(r"\bgroups\[|\bgroups\.", path.read_text()), path


def test_the_two_homes_of_python_do_not_import_each_other() -> None:
    for path in (ROOT / "pipeline").rglob("*.py"):
        assert "ansible" not in path.read_text(), path
    for path in (ROOT / "collections").rglob("*.py"):
        assert not re.search(r"^\s*(from|import) pipeline\b", path.read_text(), re.MULTILINE), path
