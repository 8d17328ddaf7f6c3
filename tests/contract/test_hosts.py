"""The inventory of machines: refused while it is an example, and enough for every role once it is filled in."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.streamops.runbook.plugins.module_utils import sandbox
from ansible_collections.streamops.runbook.plugins.module_utils.service import parse_definition

from tests.unit.runbook.rendering import stand_in

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "inventory" / "hosts"
PROGRAMS = Path(sys.executable).parent
CLUSTER_ID = "AAAAAAAAAAAAAAAAAAAAAA"
# Entry points by group, as site.yml goes through them.
ENTRIES = {
    "kafka": ["kafka/deploy"],
    "minio": ["minio/deploy"],
    "spark_master": ["spark/master"],
    "spark_workers": ["spark/worker"],
    "spark": ["spark/deploy"],
    "producer": ["pipeline/deploy"],
    "monitoring": ["prometheus/deploy", "alertmanager/deploy", "exporters/pipeline", "inbox/deploy"],
    "services": ["exporters/node"],
}
# What site.yml and the preparation of a host would have found out.
FOUND = {
    "service_python_path": ["/opt/streamops/python/pipeline-a", "/opt/streamops/python/spark-b"],
    "service_release_path": "/opt/streamops/releases/c",
    **dict.fromkeys(
        ("spark_release", "pipeline_release", "exporters_release", "inbox_release"), "/opt/streamops/releases/c"
    ),
}


def variables() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((EXAMPLE / "group_vars" / "all" / "hosts.yml").read_text())
    return found


@dataclass(frozen=True)
class Deployment:
    """A copy of the example, filled in.

    :param definitions: what each role hands to the role service, by ``HOST-SERVICE``.
    :param asked: variables of each host, as Ansible gives them.
    """

    credentials: Mapping[str, Any]
    definitions: Mapping[str, dict[str, Any]]
    asked: Mapping[str, dict[str, Any]]


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run one of Ansible's commands in the folder, with the vault's password of the test."""
    return subprocess.run(
        [PROGRAMS / command[0], *command[1:]],
        cwd=folder,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_ROLES_PATH": f"{folder / 'roles'}:{ROOT / 'roles'}",
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"),
            "ANSIBLE_VAULT_PASSWORD_FILE": str(folder / "vault"),
            "ANSIBLE_NOCOLOR": "1",
            "STREAMOPS_HOME": str(folder / "home"),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )


def filled(folder: Path) -> Path:
    """Copy the example and fill it in, credentials and all; returns the inventory."""
    shutil.copytree(ROOT / "inventory", folder / "inventory", symlinks=True)
    inventory = folder / "inventory" / "hosts"
    hosts = inventory / "hosts.yml"
    hosts.write_text(hosts.read_text().replace("192.0.2.", "10.0.0."))
    group = inventory / "group_vars" / "all" / "hosts.yml"
    group.write_text(group.read_text().replace('kafka_cluster_id: ""', f'kafka_cluster_id: "{CLUSTER_ID}"'))
    (folder / "vault").write_text("a test's own")
    asked = variables()
    sandbox.ensure_credentials(
        inventory / "credentials.json",
        asked["sandbox_kafka_principals"],
        asked["sandbox_s3_users"],
        tokens=asked["sandbox_tokens"],
    )
    return inventory


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    folder = tmp_path_factory.mktemp("hosts")
    inventory = filled(folder)
    credentials = json.loads((inventory / "credentials.json").read_text())
    encrypted = run(folder, "ansible-vault", "encrypt", "inventory/hosts/credentials.json")
    assert encrypted.returncode == 0, encrypted.stdout
    stand_in(folder)
    shown = ("host_services", "service_needs", "prometheus_jobs", "procedure_target", "procedure_logins", "kafka_nodes")
    asked = {
        "name": "Write down what the inventory says",
        "ansible.builtin.copy": {
            "content": "{{ asked | to_json }}",
            "dest": str(folder) + "/{{ inventory_hostname }}.json",
            "mode": "0600",
        },
        "vars": {"asked": {name: f"{{{{ {name} }}}}" for name in shown}},
    }
    render = {
        "name": "Render",
        "ansible.builtin.include_role": {
            "name": "{{ item | split('/') | first }}",
            "tasks_from": "{{ item | split('/') | last }}",
        },
        "loop": "{{ entries | dict2items | selectattr('key', 'in', group_names) | map(attribute='value') | flatten }}",
    }
    play = {"hosts": "services", "gather_facts": False, "tasks": [asked, render], "vars": {"entries": ENTRIES}}
    (folder / "play.yml").write_text(json.dumps([play]))
    here = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "rendered": str(folder / "rendered"),
    }
    done = run(folder, "ansible-playbook", "-i", "inventory/hosts", "play.yml", "-e", json.dumps({**here, **FOUND}))
    assert done.returncode == 0, done.stdout
    return Deployment(
        credentials,
        {path.stem: json.loads(path.read_text()) for path in (folder / "rendered").iterdir()},
        {path.stem: json.loads(path.read_text()) for path in folder.glob("*-[0-9].json")},
    )


def content(definition: Mapping[str, Any], path: str) -> str:
    return str(next(entry["content"] for entry in definition["files"] if entry["path"] == path))


def test_the_sample_has_every_key_that_is_asked_for_and_no_other() -> None:
    sample = json.loads((EXAMPLE / "credentials.sample.json").read_text())
    asked = variables()
    assert list(sample["kafka"]) == asked["sandbox_kafka_principals"]
    assert list(sample["s3"]) == asked["sandbox_s3_users"]
    assert list(sample["tokens"]) == asked["sandbox_tokens"]
    for part in (*sample["kafka"].values(), *sample["s3"].values(), sample["tokens"]):
        assert {value for key, value in part.items() if key != "username"} == {sandbox.PLACEHOLDER}


def test_the_example_names_what_nobody_has_filled_in_before_anything_is_asked(tmp_path: Path) -> None:
    (tmp_path / "vault").write_text("a test's own")
    done = run(tmp_path, "ansible-playbook", "-i", str(EXAMPLE), str(ROOT / "playbooks" / "emergency-restart.yml"))
    assert done.returncode == 3, done.stdout
    for named in ("kafka_cluster_id ''", "kafka-1 at 192.0.2.11", "ops-1 at 192.0.2.51", "docs/many-machines.md"):
        assert named in done.stdout
    assert "UNREACHABLE" not in done.stdout


@pytest.mark.parametrize("hosts", [None, {}], ids=["missing", "empty"])
@pytest.mark.parametrize("procedure", ["emergency-restart", "metrics-check"])
def test_an_inventory_without_a_control_host_is_refused_by_name(
    hosts: dict[str, Any] | None, procedure: str, tmp_path: Path
) -> None:
    path = filled(tmp_path) / "hosts.yml"
    inventory = yaml.safe_load(path.read_text())
    children = inventory["all"]["children"]
    del children["control"]
    if hosts is not None:
        children["control"] = {"hosts": hosts}
    path.write_text(yaml.safe_dump(inventory))
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / sandbox.MARKER).write_text(json.dumps({"cluster_id": CLUSTER_ID, "net": ""}))
    done = run(tmp_path, "ansible-playbook", "-i", "inventory/hosts", str(ROOT / "playbooks" / f"{procedure}.yml"))
    assert done.returncode == 3, done.stdout
    assert "group control of the inventory: found no host, expected at least one host. Next: name its hosts" in (
        done.stdout
    )
    (finished,) = (home / "state" / "runs").glob("*.finished.json")
    assert json.loads(finished.read_text())["status"] == "refused"


def test_an_inventory_without_any_host_is_refused_by_name(tmp_path: Path) -> None:
    (filled(tmp_path) / "hosts.yml").write_text("all: {children: {}}\n")
    done = run(tmp_path, "ansible-playbook", "-i", "inventory/hosts", str(ROOT / "playbooks" / "health-check.yml"))
    assert done.returncode == 3, done.stdout
    assert "group kafka of the inventory: found no host, expected at least one host" in done.stdout


def test_what_is_to_be_typed_names_this_inventory(tmp_path: Path) -> None:
    inventory = filled(tmp_path)
    playbook = str(ROOT / "playbooks" / "emergency-restart.yml")
    done = run(tmp_path, "ansible-playbook", "-i", "inventory/hosts", playbook)
    assert done.returncode == 3, done.stdout
    assert "found nothing deployed" in done.stdout
    assert f"Next: ansible-playbook -i {inventory} playbooks/site.yml" in done.stdout


def precheck(folder: Path) -> subprocess.CompletedProcess[str]:
    arguments = "name=sandbox tasks_from=precheck"
    return run(
        folder, "ansible", "localhost", "-i", "inventory/hosts", "-m", "ansible.builtin.include_role", "-a", arguments
    )


def test_given_credentials_are_refused_by_name_until_they_are_whole_and_encrypted(tmp_path: Path) -> None:
    path = filled(tmp_path) / "credentials.json"
    plain = precheck(tmp_path)
    assert plain.returncode == 2
    assert f"found plain text in {path}" in plain.stdout
    whole = json.loads(path.read_text())
    del whole["kafka"]["load"]
    whole["tokens"]["spark"] = sandbox.PLACEHOLDER
    path.write_text(json.dumps(whole))
    assert run(tmp_path, "ansible-vault", "encrypt", str(path)).returncode == 0
    open_ones = precheck(tmp_path)
    assert open_ones.returncode == 2
    for named in (f"Credentials in {path}", "kafka.load.password: missing", "tokens.spark: still the placeholder"):
        assert named in open_ones.stdout
    assert whole["kafka"]["admin"]["password"] not in open_ones.stdout
    (tmp_path / "vault").write_text("another one")
    closed = precheck(tmp_path)
    assert closed.returncode == 2
    assert f"Credentials in {path}: found no password of the vault, or another one" in closed.stdout
    path.unlink()
    assert f"found no file {path}" in precheck(tmp_path).stdout


def test_every_service_of_every_host_gets_a_whole_definition(deployment: Deployment) -> None:
    wanted = {f"{host}-{name}" for host, asked in deployment.asked.items() for name in asked["host_services"]}
    assert set(deployment.definitions) == wanted
    for definition in deployment.definitions.values():
        assert parse_definition(definition).user == "streamops"
        assert "192.0.2." not in json.dumps(definition)


def test_no_two_services_of_a_machine_want_one_port(deployment: Deployment) -> None:
    ports = Counter(
        (definition["address"], port) for definition in deployment.definitions.values() for port in definition["ports"]
    )
    assert [place for place, count in ports.items() if count > 1] == []


def test_every_scrape_shows_a_certificate_and_where_that_is_not_enough_a_login(deployment: Deployment) -> None:
    prometheus = deployment.definitions["ops-1-prometheus"]
    jobs = {
        job["job_name"]: job
        for job in yaml.safe_load(content(prometheus, "etc/prometheus/prometheus.yml"))["scrape_configs"]
    }
    for job in jobs.values():
        assert job["scheme"] == "https"
        assert set(job["tls_config"]) == {"ca_file", "cert_file", "key_file"}
    assert jobs["kafka"]["basic_auth"] == {"username": "prometheus", "password_file": "kafka.password"}
    secret = deployment.credentials["tokens"]["metrics"]
    assert content(prometheus, "etc/prometheus/kafka.password") == secret
    for host in ("kafka-1", "kafka-2", "kafka-3"):
        page = yaml.safe_load(content(deployment.definitions[f"{host}-kafka"], "etc/kafka/jmx.yml"))["httpServer"]
        assert page["authentication"]["basic"] == {"username": "prometheus", "password": secret}
    for job in ("minio", "minio-bucket"):
        assert jobs[job]["authorization"] == {"type": "Bearer", "credentials_file": f"{job}.token"}
        assert content(prometheus, f"etc/prometheus/{job}.token").count(".") == 2
    # Each machine has figures of its own.
    assert len(jobs["node"]["static_configs"]) == len(deployment.asked)


def test_probes_have_the_logins_that_scrapes_have(deployment: Deployment) -> None:
    logins = {login["service"]: login for login in deployment.asked["ops-1"]["procedure_logins"]}
    assert set(logins) == {"kafka-1", "kafka-2", "kafka-3", "minio-bucket"}
    assert logins["kafka-1"]["password"] == deployment.credentials["tokens"]["metrics"]
    prometheus = deployment.definitions["ops-1-prometheus"]
    assert logins["minio-bucket"]["token"] == content(prometheus, "etc/prometheus/minio-bucket.token")


def test_the_certificate_of_every_port_of_every_machine_is_read(deployment: Deployment) -> None:
    read = {place["address"]: place["host"] for place in deployment.asked["ops-1"]["procedure_target"]["secured"]}
    # What Spark's processes say to each other is encrypted with their secret; their pages are on the loopback address.
    without = ("spark-master", "spark-worker")
    ports = {
        f"{definition['address']}:{port}": definition["host"]
        for definition in deployment.definitions.values()
        if definition["name"] not in without
        for port in definition["ports"]
    }
    assert read == ports
    assert {*read.values()} == {*deployment.asked}
    watched = json.loads(content(deployment.definitions["ops-1-pipeline-exporter"], "etc/exporter.json"))
    assert {place["address"] for place in watched["secured"]} == set(ports)


def test_a_spark_cluster_has_one_secret(deployment: Deployment) -> None:
    secret = deployment.credentials["tokens"]["spark"]
    for name, file in (("spark-1-spark-master", "master"), ("spark-2-spark-worker", "worker")):
        settings = content(deployment.definitions[name], f"etc/spark/{file}.properties")
        assert f"spark.authenticate.secret={secret}\n" in settings
        assert "/opt/streamops/python/spark-b/pyspark/jars/*" in deployment.definitions[name]["command"]
    job = json.loads(content(deployment.definitions["spark-1-spark-streaming"], "etc/streaming.json"))
    assert job["credentials"]["spark_secret"] == secret
    assert job["master"] == "spark://10.0.0.31:7077"


def test_nothing_listens_in_plain_text(deployment: Deployment) -> None:
    for name, definition in deployment.definitions.items():
        whole = json.dumps(definition)
        assert "SASL_PLAINTEXT" not in whole, name
        # The namespaces and examples of configurations are no addresses of ours.
        assert not re.search(r"http://10[.]0[.]0[.]", whole), name


def test_what_is_asked_of_a_host_is_what_its_services_need(deployment: Deployment) -> None:
    needs = {
        host: {name for need in asked["service_needs"] for name in need.get("artifacts", ())}
        for host, asked in deployment.asked.items()
    }
    assert needs["kafka-1"] == {"kafka", "jmx-exporter", "node-exporter"}
    assert needs["minio-1"] == {"minio", "node-exporter"}
    assert needs["spark-2"] == {"spark-connectors", "node-exporter"}


def shown(folder: Path, host: str, *names: str) -> dict[str, Any]:
    """Ask Ansible for variables of a host, as the inventory in the folder gives them."""
    told = [
        "-m",
        "ansible.builtin.debug",
        "-a",
        f"msg={{{{ dict({[*names]} | zip([{', '.join(names)}])) | to_json }}}}",
    ]
    done = run(folder, "ansible", host, "-i", "inventory/hosts", "--one-line", *told)
    assert done.returncode == 0, done.stdout
    found: dict[str, Any] = json.loads(json.loads(done.stdout.partition(" => ")[2])["msg"])
    return found


def test_controllers_of_their_own_are_no_brokers_to_anybody(tmp_path: Path) -> None:
    inventory = filled(tmp_path)
    assert run(tmp_path, "ansible-vault", "encrypt", str(inventory / "credentials.json")).returncode == 0
    alone = {
        f"control-{n}": {"ansible_host": f"10.0.0.6{n}", "kafka_node_id": 10 + n, "kafka_process_roles": "controller"}
        for n in (1, 2, 3)
    }
    brokers = {f"kafka-{n}": {"kafka_process_roles": "broker"} for n in (1, 2, 3)}
    (inventory / "more.yml").write_text(json.dumps({"kafka": {"hosts": alone | brokers}}))
    found = shown(tmp_path, "ops-1", "procedure_target", "prometheus_jobs", "kafka_bootstrap", "pipeline_endpoints")
    target = found["procedure_target"]
    assert sorted(target["brokers"]) == ["kafka-1", "kafka-2", "kafka-3"]
    assert sorted(target["voters"]) == ["control-1", "control-2", "control-3"]
    assert target["controllers"]["control-2"] == "10.0.0.62:9093"
    read = {place["address"] for place in target["secured"] if place["host"] in ("control-1", "kafka-1")}
    assert read == {"10.0.0.61:9093", "10.0.0.61:7071", *(f"10.0.0.11:{port}" for port in (7071, 9092, 9094, 9100))} | {
        "10.0.0.61:9100"
    }
    assert sorted(found["kafka_bootstrap"].split(",")) == [f"10.0.0.1{n}:9092" for n in (1, 2, 3)]
    jobs = {job["name"]: sorted(entry["host"] for entry in job["targets"]) for job in found["prometheus_jobs"]}
    assert jobs["kafka"] == ["kafka-1", "kafka-2", "kafka-3"]
    assert jobs["kafka-controllers"] == ["control-1", "control-2", "control-3"]


def test_one_outdated_node_of_the_store_names_all_of_them_for_one_restart(tmp_path: Path) -> None:
    site = yaml.safe_load((ROOT / "playbooks" / "site.yml").read_text())
    naming = next(play for play in site if play["name"].endswith("name what still runs an older definition"))
    told = {
        "hosts": "localhost",
        "gather_facts": False,
        "tasks": [
            {
                "ansible.builtin.debug": {
                    "msg": "restart {{ groups['act_restart_minio'] | default([]) | sort | join(' ') }}."
                }
            }
        ],
    }
    (tmp_path / "play.yml").write_text(json.dumps([naming, told]))
    nodes: dict[str, dict[str, Any]] = {f"minio-{n}": {} for n in (1, 2, 3, 4)}

    def named() -> str:
        groups = {"minio": {"hosts": nodes}, "kafka": {"hosts": {"kafka-1": {}}}}
        children = {**groups, "services": {"children": {name: {} for name in groups}}}
        (tmp_path / "inventory.yml").write_text(json.dumps({"all": {"children": children}}))
        (tmp_path / "vault").write_text("a test's own")
        done = run(tmp_path, "ansible-playbook", "-i", "inventory.yml", "play.yml")
        assert done.returncode == 0, done.stdout
        return str(next(line for line in done.stdout.splitlines() if "restart " in line and line.strip().endswith(".")))

    assert "restart ." in named()
    nodes["minio-2"]["service_outdated"] = ["minio"]
    assert "restart minio-1 minio-2 minio-3 minio-4." in named()


@pytest.mark.parametrize(
    ("died", "voters", "said"),
    [
        ([], [], ""),
        (["kafka-3"], ["control-1", "control-2", "control-3"], ""),
        (["kafka-2"], [], "found kafka-2, kafka-3 out of reach, 3 controllers in the inventory"),
        (["control-1"], ["control-1", "kafka-1"], "found control-1 out of reach, 2 controllers in the inventory"),
        (["kafka-2"], ["control-1", "kafka-1"], "found kafka-2, kafka-3 out of reach, 3 brokers in the inventory"),
    ],
)
def test_nodes_of_kafka_that_died_while_others_were_started_are_counted(
    died: list[str], voters: list[str], said: str, tmp_path: Path
) -> None:
    """One of three brokers was lost already when it was planned."""
    (tmp_path / "vault").write_text("a test's own")
    known = {host: {"host_services": ["kafka"], "service_result": {"unreachable": True}} for host in died}
    (tmp_path / "inventory.yml").write_text(json.dumps({"all": {"hosts": {**known, "kafka-1": {}}}}))
    asked = {
        "hosts": "localhost",
        "gather_facts": False,
        "tasks": [{"ansible.builtin.include_role": {"name": "procedure", "tasks_from": "quorum"}}],
        "vars": {
            "act_plan": {"lost": ["kafka-3"], "hosts": [{"host": host} for host in ("kafka-1", *died)]},
            "procedure_target": {
                "brokers": {f"kafka-{n}": "h:9092" for n in (1, 2, 3)},
                "voters": voters,
                "fewest_brokers": 2,
            },
        },
    }
    (tmp_path / "play.yml").write_text(json.dumps([asked]))
    done = run(tmp_path, "ansible-playbook", "-i", "inventory.yml", "play.yml")
    assert done.returncode == (2 if said else 0), done.stdout
    assert said in " ".join(done.stdout.split())


def test_machine_that_takes_connections_and_says_nothing_is_named_within_seconds(tmp_path: Path) -> None:
    (tmp_path / "vault").write_text("a test's own")
    with socket.create_server(("127.0.0.1", 0)) as paused:
        options = {name: variables()[name] for name in ("ansible_ssh_timeout", "ansible_ssh_common_args")}
        place = {"ansible_host": "127.0.0.1", "ansible_port": paused.getsockname()[1], "ansible_user": "nobody"}
        (tmp_path / "inventory.yml").write_text(json.dumps({"all": {"hosts": {"kafka-1": {**place, **options}}}}))
        began = time.monotonic()
        done = run(tmp_path, "ansible", "kafka-1", "-i", "inventory.yml", "-m", "ansible.builtin.ping")
        seconds = time.monotonic() - began
    assert done.returncode == 4
    assert "kafka-1 | UNREACHABLE!" in done.stdout
    assert seconds < 30
    # A machine that falls silent in the middle of a task.
    every, most = (int(value) for value in re.findall(r"ServerAlive\w+=(\d+)", options["ansible_ssh_common_args"]))
    assert every * most <= 10


def test_what_stands_on_machines_is_not_removed_as_a_sandbox(tmp_path: Path) -> None:
    inventory = filled(tmp_path)
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    shutil.copy(inventory / "credentials.json", home)
    (home / sandbox.MARKER).write_text(json.dumps({"cluster_id": CLUSTER_ID, "net": ""}))
    playbook = str(ROOT / "playbooks" / "sandbox-remove.yml")
    done = run(tmp_path, "ansible-playbook", "-i", "inventory/hosts", playbook, "--check")
    assert done.returncode == 3, done.stdout
    assert "found services on machines of their own" in done.stdout
    assert (home / "credentials.json").is_file()


def test_leases_records_and_figures_of_runs_are_on_the_control_host(tmp_path: Path) -> None:
    inventory = filled(tmp_path)
    home, kept = tmp_path / "home", tmp_path / "control"
    home.mkdir(mode=0o700)
    shutil.copy(inventory / "credentials.json", home)
    (home / sandbox.MARKER).write_text(json.dumps({"cluster_id": CLUSTER_ID, "net": ""}))
    group = inventory / "group_vars" / "all" / "hosts.yml"
    # Nobody listens there, and the control host is this machine.
    hosts = inventory / "hosts.yml"
    hosts.write_text(hosts.read_text().replace("10.0.0.", "127.77.0."))
    own = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "runbook_lease_dir": str(kept / "leases"),
        "runbook_metrics_dir": str(kept / "metrics"),
    }
    (group.parent / "own.yml").write_text(json.dumps(own))

    def play(name: str) -> subprocess.CompletedProcess[str]:
        return run(tmp_path, "ansible-playbook", "-i", "inventory/hosts", str(ROOT / "playbooks" / f"{name}.yml"))

    # It reads and takes no lease; that what it asks does not answer is no matter here.
    read = play("metrics-check")
    assert read.returncode != 0
    (figures,) = (kept / "metrics").iterdir()
    assert 'procedure="metrics-check"' in figures.read_text(), read.stdout
    assert f'controller="{figures.stem.removeprefix("runs-")}"' in figures.read_text()
    assert list((kept / "leases").glob("*.json")) == []
    acted = play("notify")
    assert acted.returncode == 0, acted.stdout
    assert 'procedure="notify",status="completed"' in figures.read_text()
    leases = [json.loads(path.read_text()) for path in (kept / "leases").glob("*.json")]
    assert leases
    assert {lease["owner"] for lease in leases} == {None}
    assert len(list((kept / "runs").glob("*-notify-*.finished.json"))) == 1
