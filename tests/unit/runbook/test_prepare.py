"""What the role service brings to a host of systemd, rendered by a real Ansible and without a host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROLE = Path(__file__).resolve().parents[3] / "roles" / "service"
PLAYBOOK = Path(sys.executable).parent / "ansible-playbook"

GIVEN: dict[str, Any] = {
    "role_path": str(ROLE),
    "artifact_cache": "/cache",
    "service_artifacts": ["kafka", "jmx-exporter"],
    "service_packages": ["openjdk-17-jre-headless", "python3-psutil"],
    "service_definition": {"name": "clock"},
    "service_nofile": 50000,
    "service_release": "/home/someone/releases/pipeline-0123456789ab",
    "__service_sets": {"paths": ["/cache/python/pipeline-aa", "/cache/python/spark-bb"]},
    "__service_installed": {"stdout_lines": ["python3-psutil installed", "openjdk-17-jre-headless config-files"]},
}


def render(folder: Path, given: dict[str, Any]) -> dict[str, Any]:
    content = (
        "{{ {'trees': __service_trees, 'missing': __service_missing, 'definition': __service_definition} | to_json }}"
    )
    task = {"ansible.builtin.copy": {"dest": str(folder / "rendered"), "mode": "0600", "content": content}}
    files = [str(ROLE / "defaults" / "main.yml"), str(ROLE / "vars" / "main.yml")]
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "vars_files": files, "tasks": [task]}
    (folder / "play.yml").write_text(json.dumps([play]))
    (folder / "given.json").write_text(json.dumps(given))
    (folder / "ansible.cfg").touch()
    done = subprocess.run(
        [PLAYBOOK, "-i", "localhost,", "-e", "@given.json", "play.yml"],
        cwd=folder,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(folder / "ansible.cfg"),
            "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    rendered: dict[str, Any] = json.loads((folder / "rendered").read_text())
    return rendered


def test_a_host_gets_what_its_services_need_and_nothing_else(tmp_path: Path) -> None:
    rendered = render(tmp_path, GIVEN)
    assert {tree["source"]: tree["path"] for tree in rendered["trees"]} == {
        "/cache/artifacts/kafka-4.3.1": "/opt/streamops/artifacts/kafka-4.3.1",
        "/cache/artifacts/jmx-exporter-1.0.1": "/opt/streamops/artifacts/jmx-exporter-1.0.1",
        "/cache/python/pipeline-aa": "/opt/streamops/python/pipeline-aa",
        "/cache/python/spark-bb": "/opt/streamops/python/spark-bb",
        GIVEN["service_release"]: "/opt/streamops/releases/pipeline-0123456789ab",
    }
    # A release that runs on the controller too gathers compiled code there, which is no change of it.
    assert [tree["path"] for tree in rendered["trees"] if tree.get("exclude")] == [
        "/opt/streamops/releases/pipeline-0123456789ab"
    ]
    # One whose configuration alone is left is not installed.
    assert rendered["missing"] == ["openjdk-17-jre-headless"]
    assert rendered["definition"] == {"name": "clock", "nofile": 50000}


def test_a_host_that_needs_nothing_gets_nothing(tmp_path: Path) -> None:
    nothing = {
        "role_path": str(ROLE),
        "artifact_cache": "/cache",
        "service_definition": {"name": "clock"},
        "__service_sets": {"skipped": True},
        "__service_installed": {"stdout_lines": ["python3-psutil installed"]},
    }
    assert render(tmp_path, nothing) == {"trees": [], "missing": [], "definition": {"name": "clock"}}
