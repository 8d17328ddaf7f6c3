"""Procedures and their refusals, by real calls of ansible-playbook on the real lab."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import tarfile
from pathlib import Path

import pytest
from ansible_collections.streamops.runbook.plugins.module_utils import monitoring

from .conftest import EVIDENCE, ROOT, Answer, Lab


def test_second_site_changes_nothing(lab: Lab) -> None:
    answer = lab.play("site")
    assert answer.code == 0, answer.output[-3000:]
    record = lab.records("site")[-1]
    assert record["changed"] == 0
    # What this target can't do is no secret.
    brokers = record["skipped"]["memory_limit 768m: supervisor can't enforce it"]
    assert brokers == ["kafka-1", "kafka-2", "kafka-3"]
    assert f"memory_limit 768m: supervisor can't enforce it ({', '.join(brokers)})" in answer.output


def test_a_changed_value_restarts_what_it_concerns_and_nothing_else(lab: Lab) -> None:
    before = lab.processes()
    try:
        answer = lab.play("site", "-e", "pipeline_producer_events_per_second=21")
        after = lab.processes()
    finally:
        back = lab.play("site")
    assert answer.code == 0, answer.output[-3000:]
    assert back.code == 0, back.output[-3000:]
    assert {place for place in before if before[place] != after.get(place)} == {("producer", "producer-1")}


def test_contract_for_tools_is_kept(lab: Lab, declared: list[tuple[str, str]]) -> None:
    assert {"kafka", "s3", "tables", "metrics"} <= set(lab.endpoints())
    assert stat.S_IMODE((lab.root / "credentials.json").stat().st_mode) == 0o600
    assert lab.play("status-all").code == 0
    services = json.loads((lab.root / "state" / "status.json").read_text())["services"]
    assert sorted((service["service"], service["host"]) for service in services) == declared
    for service in services:
        assert service["healthy"] is True
        assert {"service", "host", "state", "pid", "started_at", "memory_bytes"} <= set(service)


@pytest.mark.parametrize("folder", [ROOT, ROOT / "playbooks"], ids=["root", "playbooks"])
def test_healthy_stack_is_left_alone(lab: Lab, folder: Path) -> None:
    answer = lab.play("emergency-restart", folder=folder)
    assert answer.code == 0, answer.output[-3000:]
    record = lab.records("emergency-restart")[-1]
    assert record["changed"] == 0
    assert record["module_results"] <= 10
    assert record["proof"]["data"]["found"] == record["proof"]["data"]["sent"] > 0


def test_health_check_answers_by_its_exit_code(lab: Lab) -> None:
    assert lab.play("health-check").code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["--limit", "kafka"], "option --limit", id="limit"),
        pytest.param(["--tags", "x"], "option --tags", id="tags"),
        pytest.param(["--skip-tags", "x"], "option --skip-tags", id="skip-tags"),
        pytest.param(["--start-at-task", "Prove"], "option --start-at-task", id="start-at-task"),
        pytest.param(["--step"], "option --step", id="step"),
        pytest.param(
            ["-e", "restart=everything"],
            "parameter restart: found 'everything', expected one of unhealthy, all",
            id="choice",
        ),
        pytest.param(["-e", "since=yesterday"], "parameter since: found 'yesterday'", id="timestamp"),
        pytest.param(["-e", "restrat=all"], "did you mean restart", id="misspelt"),
        pytest.param(
            ["-e", "kafka_cluster_id=AAAAAAAAAAAAAAAAAAAAAA"],
            "cluster id AAAAAAAAAAAAAAAAAAAAAA",
            id="cluster-id",
            marks=pytest.mark.fault("29"),
        ),
        pytest.param(["playbooks/status-all.yml"], "one procedure a call", id="two-playbooks"),
    ],
)
def test_refusal_names_the_thing_and_touches_nothing(
    lab: Lab, declared: list[tuple[str, str]], arguments: list[str], said: str
) -> None:
    before = lab.processes()
    assert set(declared) <= set(before)
    answer = lab.play("emergency-restart", *arguments)
    assert answer.code == 3, answer.output[-3000:]
    assert said in answer.output
    assert lab.records("emergency-restart")[-1]["status"] == "refused"
    assert lab.processes() == before


@pytest.mark.fault("29")
def test_missing_inventory_is_an_error(lab: Lab) -> None:
    count = len(lab.records("emergency-restart"))
    answer = lab.play("emergency-restart", "-i", "inventory/missing")
    assert answer.code == 1
    assert f"Completely failed to parse inventory source {ROOT / 'inventory' / 'missing'}" in answer.output
    assert len(lab.records("emergency-restart")) == count


@pytest.mark.fault("29")
def test_empty_group_is_refused(lab: Lab, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "inventory" / "sandbox", tmp_path / "inventory")
    hosts = tmp_path / "inventory" / "hosts.yml"
    hosts.write_text(re.sub(r"producer-1: \{.*\}", "", hosts.read_text()))
    answer = lab.play("emergency-restart", "-i", str(tmp_path / "inventory"))
    assert answer.code == 3, answer.output[-2000:]
    assert "group producer of the inventory: found no host" in answer.output


def test_nothing_deployed_says_what_to_type(lab: Lab, tmp_path: Path) -> None:
    answer = lab.play("emergency-restart", more={"SANDBOX_ROOT": str(tmp_path / "none")})
    assert answer.code == 3
    assert "nothing deployed" in answer.output
    assert "make up" in answer.output
    assert not (tmp_path / "none").exists()


def test_plan_takes_no_lock_and_leaves_no_trace_on_the_stack(lab: Lab, declared: list[tuple[str, str]]) -> None:
    before = lab.processes()
    answer = lab.play("emergency-restart", "--check", "-e", "restart=all")
    assert answer.code == 0, answer.output[-3000:]
    record = lab.records("emergency-restart")[-1]
    assert record["check"] is True
    # What watches stays up, unless it is unhealthy itself.
    planned = sorted((action["service"], action["host"]) for action in record["plan"]["actions"])
    assert planned == [place for place in declared if place[0] not in monitoring.SERVICES]
    assert record["did"] == []
    assert lab.processes() == before


def test_flipped_byte_in_the_cache_is_refused_by_name(lab: Lab, tmp_path: Path) -> None:
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cache = Path(os.environ.get("STREAMOPS_CACHE") or user / "streamops")
    spoilt = tmp_path / "cache"
    shutil.copytree(cache / "artifacts", spoilt / "artifacts", symlinks=True)
    jar = next((spoilt / "artifacts").glob("kafka-*/libs/kafka-clients-*.jar"))
    content = bytearray(jar.read_bytes())
    content[len(content) // 2] ^= 1
    jar.chmod(0o644)
    jar.write_bytes(content)
    root = tmp_path / "root"
    answer = lab.play("site", more={"SANDBOX_ROOT": str(root), "STREAMOPS_CACHE": str(spoilt)})
    assert answer.code == 3, answer.output[-3000:]
    assert jar.name in answer.output
    assert not (root / "hosts").exists()


def test_removal_wants_the_cluster_id_repeated(lab: Lab) -> None:
    answer = lab.play("sandbox-remove", "-e", "confirm=wrong")
    assert answer.code == 3, answer.output[-2000:]
    assert (lab.root / ".streamops-sandbox").is_file()


@pytest.fixture(scope="module")
def planned(lab: Lab) -> Answer:
    """A deployment as it is planned, with all that Ansible can say of it, while nobody has filled in a contact."""
    return lab.play("site", "-vvv", "--check", "--diff", "-e", '{"alertmanager_contacts": {}}')


def test_a_deployment_names_the_contacts_that_nobody_filled_in(lab: Lab, planned: Answer) -> None:
    assert planned.code == 0, planned.output[-3000:]
    card = planned.output[planned.output.rindex("site --check: completed") :]
    for contact in ("on_call_engineer", "team_lead", "infrastructure_team", "security_team", "watchdog"):
        assert contact in card
    assert "alertmanager_contacts" in card


@pytest.fixture(scope="module")
def bundle(lab: Lab) -> Path:
    """A bundle of evidence, made of a living lab as after a scenario that failed."""
    environment = {"MOLECULE_PROJECT_DIRECTORY": str(ROOT), "MOLECULE_SCENARIO_NAME": "living"}
    answer = lab.run("ansible-playbook", "molecule/shared/evidence.yml", more=environment)
    assert answer.code == 0, answer.output[-3000:]
    return EVIDENCE / "living.tar.gz"


def test_a_bundle_of_evidence_holds_the_records_and_every_log(
    lab: Lab, bundle: Path, declared: list[tuple[str, str]]
) -> None:
    with tarfile.open(bundle) as archive:
        files = {member.name: member.size for member in archive if member.isfile()}
    assert {f"hosts/{host}/log/{service}.log" for service, host in declared} <= set(files)
    assert sum(size for name, size in files.items() if name.startswith("hosts/")) > 0
    assert any(re.fullmatch(r"state/runs/.*-site-.*[.]finished[.]json", name) for name in files)


def test_secrets_stand_nowhere_but_where_they_belong(lab: Lab, planned: Answer, bundle: Path) -> None:
    # Both say as much as Ansible can; what any command has said is kept and looked through.
    assert planned.code == 0, planned.output[-3000:]
    assert lab.play("health-check", "-vvv").code == 0
    program = str(ROOT / "molecule" / "shared" / "leaks.py")
    searched = lab.run("python", program, "--root", str(lab.root), "--evidence", str(EVIDENCE))
    assert searched.code == 0, searched.output
    for kind in ("file", "said", "bundle", "page", "process"):
        assert re.search(rf"\b{kind} [1-9]", searched.output), searched.output
