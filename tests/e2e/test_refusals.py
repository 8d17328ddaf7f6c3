"""What a run refuses before it touches anything: by real calls on the real lab."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from .conftest import Lab


def written(lab: Lab) -> dict[Path, int]:
    """Return when each file of every service's configuration was last written, in ns since 1970."""
    files = (path for path in (lab.root / "hosts").glob("*/etc/**/*") if path.is_file())
    return {path: path.stat().st_mtime_ns for path in files}


@pytest.mark.fault("31")
@pytest.mark.parametrize("procedure", ["site", "emergency-restart", "health-check"])
def test_secrets_that_others_could_read_are_refused_before_anything(lab: Lab, procedure: str) -> None:
    path = lab.root / "credentials.json"
    before = written(lab)
    path.chmod(0o644)
    try:
        answer = lab.play(procedure)
    finally:
        path.chmod(0o600)
    assert answer.code == 3, answer.output[-2000:]
    assert "found mode 0644, expected mode 0600" in answer.output
    assert written(lab) == before


@pytest.mark.fault("31")
def test_lost_secrets_are_refused_and_not_made_anew(lab: Lab) -> None:
    path = lab.root / "credentials.json"
    spare = path.with_name("credentials.spare")
    before = written(lab)
    path.rename(spare)
    try:
        answer = lab.play("site")
        assert not path.exists()
    finally:
        spare.rename(path)
    assert answer.code == 3, answer.output[-2000:]
    assert "found no such file" in answer.output
    assert written(lab) == before


@pytest.mark.fault("31")
def test_damaged_secrets_are_refused_and_not_quoted(lab: Lab) -> None:
    path = lab.root / "credentials.json"
    whole, before = path.read_bytes(), written(lab)
    path.write_text('{"kafka": {"load": {"username": "load", "password": "never-to-be-quoted"')
    try:
        answers = [lab.play("health-check"), lab.play("site")]
    finally:
        path.write_bytes(whole)
    for answer in answers:
        assert answer.code == 3, answer.output[-2000:]
        assert f"credentials {path}" in answer.output
        assert "never-to-be-quoted" not in answer.output
    assert written(lab) == before


def topic(**configs: str) -> str:
    """Return the inventory's topic with other configs, as an extra variable."""
    values = {"name": "iot-events", "partitions": 6, "replication_factor": 3, "configs": configs}
    return json.dumps({"kafka_topics": [values]})


@pytest.mark.fault("30")
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ('{"kafka_replication_factor": 5}', "of them 3 brokers and 3 controllers, replication factor 5"),
        ("kafka_min_insync_replicas=-1", "replication factor 3, min ISR -1; expected"),
        ("minio_drives=3", "found 3 drives"),
        ("minio_drives=abc", "argument 'minio_drives' is of type str and we were unable to convert to int"),
        ("kafka_heap=", "extra variable kafka_heap: found an empty value, expected a value"),
        (
            topic(**{"retention.ms": "abc"}),
            "topic iot-events.configs.retention.ms: found 'abc', expected a whole number from 1 on",
        ),
        (
            topic(**{"retention.ms": "-1"}),
            "topic iot-events.configs.retention.ms: found '-1', expected a whole number from 1 on",
        ),
    ],
    ids=[
        "five-copies-on-three",
        "negative",
        "three-drives",
        "no-number",
        "empty",
        "retention-no-number",
        "retention-negative",
    ],
)
def test_values_that_can_not_work_are_refused_by_name(lab: Lab, values: str, said: str) -> None:
    before, earlier = written(lab), {record["id"] for record in lab.records("site")}
    answer = lab.play("site", "-e", values)
    assert answer.code == 3, answer.output[-3000:]
    assert said in answer.output
    assert [one["status"] for one in lab.records("site") if one["id"] not in earlier] == ["refused"]
    assert written(lab) == before


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


@pytest.mark.fault("30")
@pytest.mark.parametrize("procedure", ["site", "emergency-restart"])
def test_the_root_of_the_machine_is_no_place_for_a_sandbox(lab: Lab, procedure: str) -> None:
    before = sorted(Path("/").iterdir())
    answer = lab.play(procedure, more={"SANDBOX_ROOT": "/"})
    assert answer.code == 3, answer.output[-3000:]
    assert sorted(Path("/").iterdir()) == before
