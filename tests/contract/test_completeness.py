"""Catalog, playbooks, pages, make names, scenarios and tables are complete, both ways."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.streamops.runbook.plugins.module_utils import alerting, catalog, monitoring

ROOT = Path(__file__).resolve().parents[2]
ENTRIES = catalog.load(ROOT / "config" / "runbook")
PLAYBOOKS = sorted((ROOT / "playbooks").glob("*.yml"))
ALERTS = alerting.load(ROOT / "config" / "prometheus" / "alerts.yml").alerts
RUNBOOK_METRICS = (
    "kafka_server_brokertopicmetrics_messagesinpersec",
    "kafka_consumer_lag_sum",
    "spark_streaming_batch_processing_time",
    "kafka_server_brokertopicmetrics_failedproducerequestspersec",
    "minio_bucket_usage_total_bytes",
)
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


def test_every_fault_is_injected_and_every_injected_one_is_described() -> None:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    described = set(yaml.safe_load((ROOT / "config" / "faults.yml").read_text())["faults"])
    assert described == set(tables.fault_rows(ENTRIES))


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


def test_what_watches_is_the_same_for_plan_role_and_inventory() -> None:
    defaults = yaml.safe_load((ROOT / "roles" / "procedure" / "defaults" / "main.yml").read_text())
    hosts = yaml.safe_load((ROOT / "inventory" / "sandbox" / "group_vars" / "monitoring.yml").read_text())
    assert defaults["procedure_monitoring_services"] == hosts["host_services"] == list(monitoring.SERVICES)


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


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_alert_is_classed_and_answered_by_one_procedure(alert: alerting.Alert) -> None:
    assert alert.severity in catalog.SEVERITIES
    assert alert.component in (*alerting.COMPONENTS, alerting.BY_SERVICE)
    assert alert.summary
    assert len([name for name, entry in ENTRIES.items() if alert.name in entry.alerts]) == 1


@pytest.mark.parametrize("name", ENTRIES)
def test_alerts_of_the_catalog_exist(name: str) -> None:
    assert set(ENTRIES[name].alerts) <= {alert.name for alert in ALERTS}


@pytest.mark.parametrize("metric", RUNBOOK_METRICS)
def test_metric_of_the_runbook_has_its_alert_and_one_for_its_absence(metric: str) -> None:
    reading = [alert.expr for alert in ALERTS if metric in alert.expr]
    assert any(f"absent({metric})" in expr for expr in reading)
    assert any("absent(" not in expr for expr in reading)
