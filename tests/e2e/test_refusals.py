"""What a run refuses, how it ends when its time is over, and who may end it: by real calls on the real lab."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from .conftest import ROOT, Lab


@pytest.mark.fault("28")
def test_takeover_ends_just_the_named_run_and_goes_on(lab: Lab) -> None:
    first, run = lab.holding("emergency-restart")
    wrong = lab.play("emergency-restart", "-e", "takeover=20300101T000000Z-emergency-restart-0000")
    assert wrong.code == 3, wrong.output[-2000:]
    assert f"expected the id of the holder, {run}" in wrong.output
    assert first.poll() is None
    second = lab.play("emergency-restart", "-e", f"takeover={run}")
    assert first.wait(20) != 0
    assert second.code == 0, second.output[-3000:]
    assert lab.records("emergency-restart")[-1]["interrupted_before"][0]["run"] == run
    left = json.loads((lab.root / "state" / "runs" / f"{run}.finished.json").read_text())
    assert left["status"] == "interrupted"


def test_a_run_ends_at_its_deadline_with_its_record_written(lab: Lab, tmp_path: Path) -> None:
    copy = tmp_path / "project"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".venv", ".cache", ".sandbox", ".git", ".*_cache"))
    catalog = copy / "config" / "runbook" / "10-lifecycle.yml"
    text = catalog.read_text()
    shortened = re.sub(r"(  health-check:\n(?:    .*\n)*?    deadline: )\d+", r"\g<1>1", text)
    assert shortened != text
    catalog.write_text(shortened)
    answer = lab.run("ansible-playbook", "playbooks/health-check.yml", folder=copy)
    assert answer.code not in (0, 2, 3, 4, 75), answer.output[-2000:]
    assert "deadline of 1 s passed" in answer.output
    record = lab.records("health-check")[-1]
    assert record["status"] == "failed"
    assert "deadline of 1 s passed" in record["failures"][-1]["message"]


@pytest.mark.fault("31")
@pytest.mark.parametrize("procedure", ["site", "emergency-restart", "health-check"])
def test_secrets_that_others_could_read_are_refused_before_anything(lab: Lab, procedure: str) -> None:
    path = lab.root / "credentials.json"
    before = {entry: entry.stat().st_mtime_ns for entry in (lab.root / "hosts").glob("*/etc/**/*") if entry.is_file()}
    path.chmod(0o644)
    try:
        answer = lab.play(procedure)
    finally:
        path.chmod(0o600)
    assert answer.code == 3, answer.output[-2000:]
    assert "found mode 0644, expected mode 0600" in answer.output
    assert before == {entry: entry.stat().st_mtime_ns for entry in before}


@pytest.mark.fault("31")
def test_lost_secrets_are_refused_and_not_made_anew(lab: Lab) -> None:
    path = lab.root / "credentials.json"
    spare = path.with_name("credentials.spare")
    path.rename(spare)
    try:
        answer = lab.play("site")
        assert not path.exists()
    finally:
        spare.rename(path)
    assert answer.code == 3, answer.output[-2000:]
    assert "found no such file" in answer.output


@pytest.mark.fault("30")
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ('{"kafka_replication_factor": 5}', "replication factor 5"),
        ("kafka_min_insync_replicas=-1", "min ISR -1"),
        ("minio_drives=3", "found 3 drives"),
        ("minio_drives=abc", "minio_drives"),
        ("kafka_heap=", "kafka_heap"),
    ],
    ids=["five-copies-on-three", "negative", "three-drives", "no-number", "empty"],
)
def test_values_that_can_not_work_are_refused_by_name(lab: Lab, values: str, said: str) -> None:
    answer = lab.play("site", "-e", values)
    assert answer.code == 3, answer.output[-3000:]
    assert said in answer.output
    assert lab.records("site")[-1].get("changed", 0) == 0


@pytest.mark.fault("19")
def test_a_second_streaming_job_on_the_checkpoint_is_refused_and_the_first_goes_on(lab: Lab, tmp_path: Path) -> None:
    before = lab.play("status-all").output
    config = json.loads((lab.root / "hosts" / "spark-1" / "etc" / "streaming.json").read_text())
    config["metrics"]["port"] += 100
    # How long it waits for the holder to let go.
    config["lease_seconds"] = 10
    config["local_dir"] = str(tmp_path)
    other = tmp_path / "streaming.json"
    other.write_text(json.dumps(config))
    other.chmod(0o600)
    answer = lab.run("python", "-m", "pipeline", "streaming", "--config", str(other))
    assert answer.code == 78, answer.output[-3000:]
    assert "lease" in answer.output
    assert lab.play("health-check", "-e", "scope=spark-streaming").code == 0
    line = re.compile(r"^.*spark-streaming.*$", re.MULTILINE)
    pid = [found.split()[-3] for found in line.findall(before) if "spark-1" in found]
    assert pid == [found.split()[-3] for found in line.findall(lab.play("status-all").output) if "spark-1" in found]
