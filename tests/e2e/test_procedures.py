"""Procedures and their refusals, by real calls of ansible-playbook on the real lab."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import psutil
import pytest

from .conftest import ROOT, Lab


def test_second_site_changes_nothing(lab: Lab) -> None:
    answer = lab.play("site")
    assert answer.code == 0, answer.output[-3000:]
    assert lab.records("site")[-1]["changed"] == 0


def test_contract_for_tools_is_kept(lab: Lab) -> None:
    endpoints = json.loads((lab.root / "endpoints.json").read_text())
    assert {"kafka", "s3", "tables", "metrics"} <= set(endpoints)
    assert stat.S_IMODE((lab.root / "credentials.json").stat().st_mode) == 0o600
    assert lab.play("status-all").code == 0
    services = json.loads((lab.root / "state" / "status.json").read_text())["services"]
    assert len(services) == 11
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
        (["--limit", "kafka"], "option --limit"),
        (["--tags", "x"], "option --tags"),
        (["--skip-tags", "x"], "option --skip-tags"),
        (["--start-at-task", "Prove"], "option --start-at-task"),
        (
            ["-e", "restart=everything"],
            "parameter restart: found 'everything', expected one of unhealthy, all",
        ),
        (["-e", "since=yesterday"], "parameter since: found 'yesterday'"),
        (["-e", "restrat=all"], "did you mean restart"),
        (["-e", "kafka_cluster_id=AAAAAAAAAAAAAAAAAAAAAA"], "cluster id AAAAAAAAAAAAAAAAAAAAAA"),
        (["playbooks/status-all.yml"], "one procedure a call"),
    ],
    ids=[
        "limit",
        "tags",
        "skip-tags",
        "start-at-task",
        "choice",
        "timestamp",
        "misspelt",
        "cluster-id",
        "two-playbooks",
    ],
)
def test_refusal_names_the_thing_and_touches_nothing(lab: Lab, arguments: list[str], said: str) -> None:
    before = _started(lab)
    answer = lab.play("emergency-restart", *arguments)
    assert answer.code == 3, answer.output[-3000:]
    assert said in answer.output
    assert lab.records("emergency-restart")[-1]["status"] == "refused"
    assert _started(lab) == before


def _started(lab: Lab) -> set[tuple[int, float]]:
    """Pid and start time of every process of the lab's services, read from the processes themselves."""
    found = set()
    for process in psutil.process_iter():
        try:
            if process.environ().get("STREAMOPS_ROOT", "").startswith(str(lab.root)):
                found.add((process.pid, process.create_time()))
        except psutil.Error:
            # Ended meanwhile, or another user's: not the lab's.
            continue
    assert len(found) >= 11
    return found


@pytest.mark.fault("29")
def test_missing_inventory_is_an_error(lab: Lab) -> None:
    assert lab.play("emergency-restart", "-i", "inventory/missing").code == 1


@pytest.mark.fault("29")
def test_empty_group_is_refused(lab: Lab, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "inventory" / "sandbox", tmp_path / "inventory")
    hosts = tmp_path / "inventory" / "hosts.yml"
    hosts.write_text(re.sub(r"producer-1: \{.*\}", "", hosts.read_text()))
    answer = lab.play("emergency-restart", "-i", str(tmp_path / "inventory"))
    assert answer.code == 3, answer.output[-2000:]
    assert "group producer of the inventory: found no host" in answer.output


def test_from_another_folder_nothing_runs(lab: Lab, tmp_path: Path) -> None:
    count = len(lab.records("emergency-restart"))
    answer = lab.play("emergency-restart", folder=tmp_path)
    assert answer.code == 2
    assert "This run is not recorded" in answer.output
    assert len(lab.records("emergency-restart")) == count


def test_nothing_deployed_says_what_to_type(lab: Lab, tmp_path: Path) -> None:
    answer = lab.play("emergency-restart", more={"SANDBOX_ROOT": str(tmp_path / "none")})
    assert answer.code == 3
    assert "nothing deployed" in answer.output
    assert "make up" in answer.output
    assert not (tmp_path / "none").exists()


@pytest.mark.fault("28")
def test_two_at_once_one_acts_the_other_names_the_holder(lab: Lab) -> None:
    first, holder = lab.holding("emergency-restart")
    try:
        second = lab.play("emergency-restart")
    finally:
        code = first.wait(120)
    assert second.code == 75, second.output[-2000:]
    assert re.search(rf"held by run {holder} for \d+ s", second.output)
    assert lab.records("emergency-restart")[-1]["status"] in ("locked", "completed")
    assert code == 0


def test_plan_takes_no_lock_and_leaves_no_trace_on_the_stack(lab: Lab) -> None:
    answer = lab.play("emergency-restart", "--check", "-e", "restart=all")
    assert answer.code == 0, answer.output[-3000:]
    record = lab.records("emergency-restart")[-1]
    assert record["check"] is True
    # What watches stays up, unless it is unhealthy itself.
    assert len(record["plan"]["actions"]) == 6
    assert record["did"] == []


def test_restart_all_with_a_fixed_time_restarts_nothing_twice(lab: Lab) -> None:
    since = subprocess.run(
        ["date", "-u", "+%Y-%m-%dT%H:%M:%SZ"], capture_output=True, text=True, check=True
    ).stdout.strip()
    first = lab.play("emergency-restart", "-e", "restart=all", "-e", f"since={since}")
    assert first.code == 0, first.output[-4000:]
    stopped = [deed.split(": ")[1] for deed in lab.records("emergency-restart")[-1]["did"] if ": stop " in deed]
    order = ["stop producer", "stop spark-streaming", "stop kafka", "stop kafka", "stop kafka", "stop minio"]
    assert stopped == order
    second = lab.play("emergency-restart", "-e", "restart=all", "-e", f"since={since}")
    assert second.code == 0, second.output[-4000:]
    assert lab.records("emergency-restart")[-1]["changed"] == 0


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


def test_secrets_stand_in_no_output_and_no_record(lab: Lab) -> None:
    credentials = json.loads((lab.root / "credentials.json").read_text())
    secrets = [user["password"] for user in credentials["kafka"].values()]
    secrets += [user["secret_key"] for user in credentials["s3"].values()]
    secrets += credentials["tokens"].values()
    texts = [path.read_text() for path in (lab.root / "state" / "runs").iterdir()]
    texts += [
        lab.play("site", "-vvv", "--check", "--diff").output,
        lab.play("health-check", "-vvv").output,
    ]
    for secret in secrets:
        assert len(secret) >= 20
        assert not any(secret in text for text in texts)
