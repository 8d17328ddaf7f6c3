"""Catalog, playbooks, pages, make names, scenarios and tables are complete, both ways."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from ansible_collections.streamops.runbook.plugins.module_utils import alerting, catalog, monitoring

from tests.programs import load

ROOT = Path(__file__).resolve().parents[2]
ENTRIES = catalog.load(ROOT / "config" / "runbook")
PLAYBOOKS = sorted((ROOT / "playbooks").glob("*.yml"))
DEFINITIONS = alerting.load(ROOT / "config" / "prometheus" / "alerts.yml")
ALERTS = alerting.each_metric(DEFINITIONS)
ACT_GROUPS = re.compile(r"^(act|prove)_[a-z_]+$")


def plays(name: str) -> list[dict[str, Any]]:
    """Return the plays of a playbook, those that it imports in their place."""
    found: list[dict[str, Any]] = []
    for play in yaml.safe_load((ROOT / "playbooks" / f"{name}.yml").read_text()):
        if "ansible.builtin.import_playbook" in play:
            found += plays(play["ansible.builtin.import_playbook"].removesuffix(".yml"))
        else:
            found.append(play)
    return found


def test_every_playbook_has_its_entry_and_page() -> None:
    stems = {path.stem for path in PLAYBOOKS}
    pages = {path.stem for path in (ROOT / "docs" / "runbooks").glob("*.md")}
    assert stems == set(ENTRIES)
    assert stems == pages


@pytest.mark.parametrize("name", ENTRIES)
def test_page_says_all_that_a_person_on_call_asks(name: str) -> None:
    page = (ROOT / "docs" / "runbooks" / f"{name}.md").read_text()
    parts = ("Purpose", "When to use", "Expected interruption", "Example", "Rollback")
    assert [part for part in parts if f"\n## {part}\n" not in page] == []


@pytest.mark.parametrize("name", ENTRIES)
def test_entry_holds_allowed_values(name: str) -> None:
    entry = ENTRIES[name]
    assert entry.risk in catalog.RISKS
    assert entry.severity in catalog.SEVERITIES
    assert entry.deadline > 0
    assert entry.locks or entry.risk == "read-only"
    # On machines its first host keeps the records and figures of every run.
    assert "control" in entry.groups
    assert entry.proved_by


@pytest.mark.parametrize("name", ENTRIES)
def test_make_names_work(name: str) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(ENTRIES[name].make) <= targets


def carried_out(scenario: str) -> set[Path]:
    """Return every file of Molecule that a scenario carries out: its own, and what those include.

    Those of the lab count for the scenario whose sequence holds them.
    """
    folder = ROOT / "molecule" / scenario
    shared = yaml.safe_load((ROOT / ".config" / "molecule" / "config.yml").read_text())
    steps = {"test_sequence": [], **(yaml.safe_load((folder / "molecule.yml").read_text()).get("scenario") or {})}
    playbooks = shared["ansible"]["playbooks"]
    waiting = [*folder.glob("*.yml")]
    waiting += [folder / playbooks[step] for step in ("create", "destroy") if step in steps["test_sequence"]]
    found: set[Path] = set()
    while waiting:
        path = waiting.pop().resolve()
        if path not in found:
            found.add(path)
            included = re.findall(r"include_tasks: (\S+[.]yml)", path.read_text())
            waiting += [path.parent / name for name in included]
    return found


@pytest.mark.parametrize("name", ENTRIES)
def test_scenario_that_proves_it_exists_and_carries_it_out(name: str) -> None:
    for proof in ENTRIES[name].proved_by:
        assert (ROOT / "molecule" / proof["scenario"] / "molecule.yml").is_file()
        texts = [path.read_text() for path in carried_out(str(proof["scenario"]))]
        assert any(re.search(rf"playbooks/{name}[.]yml", text) for text in texts), proof


@pytest.mark.parametrize("scenario", sorted(path.parent for path in (ROOT / "molecule").glob("*/molecule.yml")))
def test_scenario_has_the_playbooks_that_molecule_would_silently_miss(scenario: Path) -> None:
    text = (scenario / "molecule.yml").read_text()
    assert (scenario / "prepare.yml").is_file()
    assert (scenario / "verify.yml").is_file()
    # Without a sequence of its own, a scenario asserts its fault before and after the plan.
    fault = scenario / "fault.yml"
    assert fault.is_file() or "test_sequence" in text
    # Shown twice, before and after the plan, it shows as well that verify fails while nothing was repaired.
    assert not fault.is_file() or "verify_tasks/control.yml" in fault.read_text()
    assert fault.is_file() == (text.count("verify fault.yml") == 2 or "test_sequence" not in text)
    # Without a default of its kind, Molecule leaves out every side effect and ends green.
    assert "side_effect:" in text or "- side_effect" not in text


def test_every_scenario_is_named_by_a_procedure() -> None:
    named = {proof["scenario"] for entry in ENTRIES.values() for proof in entry.proved_by}
    there = {path.parent.name for path in (ROOT / "molecule").glob("*/molecule.yml")}
    assert there == named


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    """The program that makes the tables."""
    return load("docs/tables.py")


def test_every_fault_is_injected_and_every_injected_one_is_described(tables: ModuleType) -> None:
    described = set(yaml.safe_load((ROOT / "config" / "faults.yml").read_text())["faults"])
    assert described == set(tables.fault_rows(ENTRIES))


def test_every_row_of_faults_has_its_figures_once_they_were_taken_over(tables: ModuleType) -> None:
    measured = tables.load_measured(tables.MEASURED)
    assert not measured or tables.unmeasured(ENTRIES, measured) == []


def test_figures_that_are_taken_over_replace_those_of_the_same_row(tables: ModuleType, tmp_path: Path) -> None:
    former, later = tmp_path / "former.json", tmp_path / "later.json"
    file = "tests/e2e/test_refusals.py"
    former.write_text(
        json.dumps(
            {
                "scenarios": {"default": {"seconds": 1}, "hosts": {"seconds": 2}, "gone": {"seconds": 9}},
                "tests": {file: {"19": {"tests": 1}, "30": {"tests": 1}, "gone": {"tests": 1}}, "gone.py": {"19": {}}},
            }
        )
    )
    later.write_text(json.dumps({"scenarios": {"default": {"seconds": 3}}, "tests": {file: {"19": {"tests": 2}}}}))
    measured = tables.load_measured(former, later, tmp_path / "none.json")
    # Of what is no more nothing is kept.
    assert tables.of_today(ENTRIES, measured) == {
        "scenarios": {"default": {"seconds": 3}, "hosts": {"seconds": 2}},
        "tests": {file: {"19": {"tests": 2}, "30": {"tests": 1}}},
    }


def test_the_same_outage_on_each_inventory_is_one_table(tables: ModuleType) -> None:
    run = {"seconds": 48.9, "changed": 12, "changed_again": 0, "acked": 109870, "in_table": 109870, "duplicates": 0}
    measured = {
        "scenarios": {
            "default": {"procedures": {"emergency-restart": run}},
            "containers": {"faults": {"containers-down": {"emergency-restart": run | {"seconds": 69.7}}}},
        }
    }
    rows = [line.split(" | ", 1)[1] for line in tables.outage_table(measured).splitlines()[2:]]
    counts = "12 | 0 | 109,870 | 109,870 | 0 |"
    assert rows == [f"48.9 | {counts}", f"69.7 | {counts}", "- | - | - | - | - | - |"]


def test_a_row_of_faults_without_figures_is_named(tables: ModuleType) -> None:
    repair = {"status": "completed", "seconds": 12.34}
    measured: dict[str, Any] = {
        "scenarios": {"default": {"negative_control": True, "procedures": {"emergency-restart": repair}}},
        "tests": {"tests/e2e/test_refusals.py": {"19": {"tests": 1, "seconds": 3.0}}},
    }
    missing = tables.unmeasured(ENTRIES, measured)
    assert "whole-outage: default, emergency-restart" not in missing
    assert "19: tests/e2e/test_refusals.py" not in missing
    assert "2: broker-suspend, emergency-restart" in missing
    assert tables.figures(measured, "whole-outage", "default", "emergency-restart") == (
        "verify failed",
        "emergency-restart: proven in 12.3 s",
    )
    # A fault that is injected after the scenario has converged has a run of its own.
    scenario = {"negative_control": True, "procedures": {"emergency-restart": repair}, "faults": {}}
    measured["scenarios"]["containers"] = scenario
    missing = tables.unmeasured(ENTRIES, measured)
    assert "containers: containers, emergency-restart" not in missing
    assert "containers-down: containers, emergency-restart" in missing
    scenario["faults"] = {"containers-down": {"emergency-restart": repair}}
    assert tables.figures(measured, "containers-down", "containers", "emergency-restart") == (
        "not asked",
        "emergency-restart: proven in 12.3 s",
    )
    # Seconds are those of the procedure that they were measured of.
    assert tables.figures(measured, "whole-outage", "default", "notify") == ("verify failed", "-")


def test_licence_is_the_same_everywhere() -> None:
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    collection = ROOT / "collections" / "ansible_collections" / "streamops" / "runbook"
    assert yaml.safe_load((collection / "galaxy.yml").read_text())["license"] == ["Apache-2.0"]
    for path in (ROOT / "roles").glob("*/meta/main.yml"):
        assert yaml.safe_load(path.read_text())["galaxy_info"]["license"] == "Apache-2.0", path
    for path in (collection / "plugins" / "modules").glob("*.py"):
        assert path.read_text().splitlines()[1] == "# SPDX-License-Identifier: Apache-2.0", path


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


def examples() -> Iterator[tuple[str, list[str]]]:
    """Yield the name of a page and the words of each command that it shows."""
    for path in [ROOT / "README.md", *sorted((ROOT / "docs" / "runbooks").glob("*.md"))]:
        for block in re.findall(r"^```\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL):
            for line in block.splitlines():
                if line.startswith(("ansible-playbook ", "make ")):
                    yield path.stem, shlex.split(line, comments=True)


def extra_variables(words: list[str]) -> dict[str, Any]:
    """Return the extra variables of a command, as Ansible reads them."""
    found: dict[str, Any] = {}
    for option, value in itertools.pairwise(words):
        if option == "-e":
            found |= yaml.safe_load(value) if value.startswith("{") else dict([value.split("=", 1)])
    return found


@pytest.mark.parametrize(("page", "words"), list(examples()), ids=lambda value: value if isinstance(value, str) else "")
def test_documented_command_would_be_taken(page: str, words: list[str]) -> None:
    if words[0] == "make":
        targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert words[1] in targets
        return
    if words[1] == "-i":
        assert (ROOT / words[2] / "hosts.yml").is_file()
        words = [words[0], *words[3:]]
    name = Path(words[1]).stem
    assert (ROOT / words[1]).is_file() or (ROOT / "playbooks" / words[1]).is_file()
    inventory = [yaml.safe_load(path.read_text()) for path in (ROOT / "inventory").rglob("*.yml")]
    given = extra_variables(words[2:])
    ENTRIES[name].check_parameters(given, {key for document in inventory for key in document})
    alerting.overridden(DEFINITIONS, given.get("prometheus_thresholds", {}))


def test_documented_thresholds_exist() -> None:
    page = (ROOT / "docs" / "runbooks" / "monitoring-configure.md").read_text()
    shown = [yaml.safe_load(block) for block in re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)]
    assert shown
    for block in shown:
        alerting.overridden(DEFINITIONS, block["prometheus_thresholds"])


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


def test_what_watches_is_the_same_for_plan_role_and_inventory() -> None:
    defaults = yaml.safe_load((ROOT / "roles" / "procedure" / "defaults" / "main.yml").read_text())
    hosts = yaml.safe_load((ROOT / "inventory" / "common" / "target.yml").read_text())
    services = defaults["procedure_monitoring_services"]
    assert services == hosts["procedure_monitoring_services"] == list(monitoring.SERVICES)


def test_a_runtime_is_named_by_the_service_alone_and_by_the_inventory_that_chooses_it() -> None:
    """So a further runtime touches the role service, the module service with what stands below it, and nothing else."""
    runtimes = re.compile(r"\b(supervisor|supervisord|supervisorctl|systemd|systemctl|docker)\b", re.IGNORECASE)
    plugins = ROOT / "collections" / "ansible_collections" / "streamops" / "runbook" / "plugins"
    roles, logic, modules = ROOT / "roles", plugins / "module_utils", plugins / "modules"
    allowed = {
        *(roles / "service").rglob("*"),
        *(logic / "runtime").rglob("*"),
        *logic.glob("container_*.py"),
        *modules.glob("container_*.py"),
        logic / "docker_client.py",
        # Its own words about who runs it, and the choices of the parameter.
        logic / "service.py",
        modules / "service.py",
        modules / "service_info.py",
    }
    named = {
        path
        for folder in (roles, ROOT / "playbooks", plugins, ROOT / "pipeline", ROOT / "config" / "runbook")
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc" and runtimes.search(path.read_text())
    }
    assert named - allowed == set()
    assert roles / "service" / "meta" / "argument_specs.yml" in named
    # Those of the project: a person's own inventory may stand beside them.
    inventories = {
        name: [path.read_text() for path in (ROOT / "inventory" / name).rglob("*.yml")]
        for name in ("common", "local", "sandbox", "containers", "hosts")
    }
    chosen = {
        name
        for name, texts in inventories.items()
        if any(re.search(r"^service_runtime:", text, re.MULTILINE) for text in texts)
    }
    assert chosen == {"sandbox", "containers", "hosts"}


def test_no_role_reads_the_groups_of_the_inventory() -> None:
    for path in (ROOT / "roles").rglob("*.yml"):
        assert not re.search(r"\bgroups\[|\bgroups\.", path.read_text()), path


def test_the_two_homes_of_python_do_not_import_each_other() -> None:
    for path in (ROOT / "pipeline").rglob("*.py"):
        assert "ansible" not in path.read_text(), path
    for path in (ROOT / "collections").rglob("*.py"):
        assert not re.search(r"^\s*(from|import) pipeline\b", path.read_text(), re.MULTILINE), path


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_alert_is_classed_and_answered_by_one_procedure(alert: alerting.Alert) -> None:
    assert alert.severity in catalog.SEVERITIES
    assert alert.component in (*alerting.COMPONENTS, alerting.BY_SERVICE)
    assert alert.summary
    assert len([name for name, entry in ENTRIES.items() if alert.name in entry.alerts]) == 1


@pytest.mark.parametrize("name", ENTRIES)
def test_alerts_of_the_catalog_exist(name: str) -> None:
    assert set(ENTRIES[name].alerts) <= {alert.name for alert in ALERTS}


def read_by(alert: alerting.Alert) -> set[str]:
    """Return the metrics that an alert reads, by itself or through what is recorded."""
    return set(alerting.read_by(alert, DEFINITIONS))


@pytest.mark.parametrize("metric", monitoring.FIVE_METRICS)
def test_metric_of_the_runbook_has_its_alert(metric: str) -> None:
    assert [alert.name for alert in ALERTS if metric in read_by(alert) and "absent(" not in alert.expr]


def test_every_metric_that_an_alert_reads_has_one_for_its_absence() -> None:
    missed = {metric for alert in ALERTS for metric in re.findall(r"absent\((\w+)", alert.expr)}
    read = {metric for alert in ALERTS if not alert.absence_is_normal for metric in read_by(alert)}
    assert read - missed == set()
    assert set(monitoring.FIVE_METRICS) <= missed
