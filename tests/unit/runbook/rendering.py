"""Renders the definitions that the roles hand to the role service, by a real Ansible and without a host.

A role named service stands before the project's own: instead of deploying it writes down what it was given.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[3]
PLAYBOOK = Path(sys.executable).parent / "ansible-playbook"

#: Folders of the host and of what runs there, as no machine has them.
ROOT = "/srv/streamops"
ARTIFACTS = "/opt/streamops/artifacts"

_ENDPOINTS = {"cluster_id": "AAAAAAAAAAAAAAAAAAAAAA", "kafka": {"bootstrap": "10.0.0.11:9092"}}
_LOGIN = {"username": "someone", "password": "p4ssw0rd"}
_KEYS = {"access_key": "someone", "secret_key": "s3cr3tk3y"}

#: What the roles require and what would otherwise come from the project's own configuration, made constant.
INPUTS: dict[str, Any] = {
    "ansible_managed": "Written by a test",
    "host_root": ROOT,
    "kafka_nodes": [{"host": f"kafka-{n}", "id": n, "address": f"10.0.0.1{n}"} for n in (1, 2, 3)],
    "kafka_cluster_id": "AAAAAAAAAAAAAAAAAAAAAA",
    "kafka_libs": f"{ARTIFACTS}/kafka/libs",
    "kafka_users": {
        name: {"username": name, "password": f"{name}-p4ssw0rd"} for name in ("broker", "admin", "operator", "spark")
    },
    "kafka_bootstrap": "10.0.0.11:9092,10.0.0.12:9092",
    "kafka_topics": [],
    "kafka_metrics_agent": f"{ARTIFACTS}/agent.jar",
    "minio_binary": f"{ARTIFACTS}/minio",
    "minio_root": {"access_key": "root", "secret_key": "r00ts3cr3t"},
    "minio_region": "us-east-1",
    "minio_prometheus_auth": "public",
    "spark_jars": f"{ARTIFACTS}/jars",
    "spark_python": "/usr/bin/python3",
    "spark_release": f"{ROOT}/releases/a",
    "spark_endpoints": _ENDPOINTS,
    "spark_kafka_user": _LOGIN,
    "spark_s3_user": _KEYS,
    "spark_trigger_seconds": 5,
    "pipeline_release": f"{ROOT}/releases/a",
    "pipeline_python": "/usr/bin/python3",
    "pipeline_endpoints": _ENDPOINTS,
    "pipeline_producer_user": _LOGIN,
    "prometheus_binary": f"{ARTIFACTS}/prometheus",
    "prometheus_promtool": f"{ARTIFACTS}/promtool",
    "prometheus_console_libraries": f"{ARTIFACTS}/libraries",
    "prometheus_web_assets": f"{ARTIFACTS}/web",
    "prometheus_jobs": [
        {"name": "kafka", "targets": [{"address": "10.0.0.11:7071", "host": "kafka-1", "service": "kafka"}]},
        {
            "name": "minio",
            "path": "/minio/v2/metrics/cluster",
            "targets": [{"address": "10.0.0.21:9000", "host": "minio-1", "service": "minio"}],
        },
    ],
    "prometheus_alertmanagers": ["10.0.0.61:9093"],
    "prometheus_cluster": "AAAAAAAAAAAAAAAAAAAAAA",
    "prometheus_runbook_url": "https://pages.example",
    "alertmanager_binary": f"{ARTIFACTS}/alertmanager",
    "alertmanager_amtool": f"{ARTIFACTS}/amtool",
    "alertmanager_token": "t0k3n",
    "alertmanager_contacts": {
        "on_call_engineer": "https://10.0.0.61:9095/on-call-engineer",
        "team_lead": "https://hooks.example/team-lead",
    },
    "exporters_node_binary": f"{ARTIFACTS}/node_exporter",
    "exporters_node_textfiles": [f"{ROOT}/state/metrics"],
    "exporters_release": f"{ROOT}/releases/a",
    "exporters_python": "/usr/bin/python3",
    "exporters_endpoints": _ENDPOINTS,
    "exporters_kafka_user": _LOGIN,
    "exporters_s3_user": _KEYS,
    "inbox_release": f"{ROOT}/releases/a",
    "inbox_python": "/usr/bin/python3",
    "inbox_token": "t0k3n",
    "inbox_file": f"{ROOT}/data/inbox/messages.jsonl",
    "grafana_binary": "/usr/sbin/grafana",
    "grafana_root_url": "https://grafana.example/",
    "grafana_admin_password": "0123456789abcdef",
    "grafana_secret_key": "0123456789abcdef0123456789abcdef",
    "grafana_prometheus_url": "http://10.0.0.61:9090",
    "grafana_prometheus_user": _LOGIN,
}

#: Host and entry points of each role, with the variables of that host.
HOSTS: dict[str, dict[str, Any]] = {
    "kafka-1": {"host_address": "10.0.0.11", "kafka_node_id": 1, "entries": ["kafka/deploy"]},
    "minio-1": {"host_address": "10.0.0.21", "entries": ["minio/deploy"]},
    "spark-1": {"host_address": "10.0.0.31", "entries": ["spark/deploy"]},
    "producer-1": {"host_address": "10.0.0.41", "entries": ["pipeline/deploy"]},
    "monitoring-1": {
        "host_address": "10.0.0.61",
        "entries": [
            "prometheus/deploy",
            "alertmanager/deploy",
            "exporters/node",
            "exporters/pipeline",
            "inbox/deploy",
            "grafana/deploy",
        ],
    },
}

_WRITE = [
    {
        "name": "Write down what would be deployed",
        "ansible.builtin.copy": {
            "content": "{{ service_definition | to_json }}",
            "dest": "{{ rendered }}/{{ inventory_hostname }}-{{ service_definition.name }}.json",
            "mode": "0600",
        },
    }
]


def stand_in(folder: Path) -> None:
    """Lay out the role that writes definitions into the folder ``rendered`` and the variable of that name."""
    tasks = folder / "roles" / "service" / "tasks"
    tasks.mkdir(parents=True)
    for entry in ("deploy", "apply"):
        (tasks / f"{entry}.yml").write_text(json.dumps(_WRITE))
    # Defaults name files of the project relative to the role that is being run.
    (folder / "config").symlink_to(PROJECT / "config")
    (folder / "rendered").mkdir()


def prepare(folder: Path, variables: Mapping[str, Any], hosts: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Lay out inventory, playbook and the stand-in role.

    :returns: the environment of the run.
    """
    stand_in(folder)
    constants = {
        "kafka_metrics_rules": "lowercaseOutputName: true\n",
        "spark_event_schema": '{"type": "object"}\n',
    }
    for name, content in constants.items():
        (folder / name).write_text(content)
    (folder / "dashboards").mkdir()
    (folder / "dashboards" / "one.json").write_text("{}")
    (folder / "consoles").mkdir()
    everything = {
        **INPUTS,
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "rendered": str(folder / "rendered"),
        "grafana_dashboards": str(folder / "dashboards"),
        "prometheus_consoles": str(folder / "consoles"),
        **{name: str(folder / name) for name in constants},
        **variables,
    }
    (folder / "inventory.json").write_text(json.dumps({"all": {"vars": everything, "hosts": hosts}}))
    (folder / "ansible.cfg").touch()
    return {
        **os.environ,
        "ANSIBLE_CONFIG": str(folder / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(PROJECT / "collections"),
        "ANSIBLE_ROLES_PATH": f"{folder / 'roles'}:{PROJECT / 'roles'}",
        "ANSIBLE_PIPELINING": "1",
        "ANSIBLE_NOCOLOR": "1",
    }


def play(folder: Path, tasks: Sequence[Mapping[str, Any]], environment: Mapping[str, str]) -> tuple[int, str]:
    """Run tasks on all hosts of the folder's inventory.

    :returns: exit code and everything that Ansible printed.
    """
    (folder / "play.yml").write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
    done = subprocess.run(
        [PLAYBOOK, "-i", "inventory.json", "play.yml"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout


def render(
    folder: Path, variables: Mapping[str, Any], hosts: Mapping[str, Mapping[str, Any]] = HOSTS
) -> dict[str, dict[str, Any]]:
    """The definitions by ``HOST-SERVICE``.

    :param folder: an empty folder.
    :param variables: what the inventory says for all hosts, beside :data:`INPUTS`.
    :param hosts: variables by host; ``entries`` names the entry points to render, as ``ROLE/ENTRY``.
    """
    environment = prepare(folder, variables, hosts)
    tasks = [
        {
            "name": "Render",
            "ansible.builtin.include_role": {
                "name": "{{ item | split('/') | first }}",
                "tasks_from": "{{ item | split('/') | last }}",
            },
            "loop": "{{ entries }}",
        }
    ]
    code, printed = play(folder, tasks, environment)
    assert code == 0, printed
    return {path.stem: json.loads(path.read_text()) for path in (folder / "rendered").iterdir()}
