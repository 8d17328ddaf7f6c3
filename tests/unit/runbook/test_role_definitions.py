"""What the roles hand to the role service: unchanged where nothing new is asked for, and right where it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.streamops.runbook.plugins.module_utils.service import parse_definition

from pipeline.streaming.session import JAVA_MODULE_OPTIONS
from tests.unit.runbook.rendering import ROOT, play, prepare, render

# Of the inputs in rendering.py. Another digest restarts that service in every deployment there is: a change that means
# to do so changes the line here as well.
DIGESTS = {
    "kafka-1-kafka": "601cef6d94d82e88",
    "minio-1-minio": "35c85a620a95863c",
    "monitoring-1-alertmanager": "55013d0d2fa0352d",
    "monitoring-1-grafana": "a71cb6dd8b1eaf63",
    "monitoring-1-inbox": "9cffd8d6d04fc945",
    "monitoring-1-node-exporter": "91d071fa297a924d",
    "monitoring-1-pipeline-exporter": "a6c7dcc2a18cb0fe",
    "monitoring-1-prometheus": "71e4129827b8f670",
    "producer-1-producer": "5f5eb2bb12ab8aff",
    "spark-1-spark-streaming": "7156e4ad592c80e5",
}
TLS = f"{ROOT}/etc/tls"
CLIENT = {"ca_file": f"{TLS}/ca.pem", "cert_file": f"{TLS}/host.pem", "key_file": f"{TLS}/host.key"}
TOKEN = "m1n10.t0k3n"  # noqa: S105  a test's own

Definitions = Mapping[str, dict[str, Any]]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Definitions:
    """Everything at its defaults, as in the sandbox."""
    return render(tmp_path_factory.mktemp("plain"), {})


#: A cluster with controllers of its own, TLS everywhere, several nodes of MinIO and a Spark cluster.
WIDE: dict[str, Any] = {
    "kafka_nodes": [
        *({"host": f"control-{n}", "id": n, "address": f"10.0.1.1{n}", "roles": "controller"} for n in (1, 2, 3)),
        *(
            {"host": f"kafka-{n}.example", "id": 10 + n, "address": f"10.0.0.1{n}", "roles": "broker"}
            for n in (1, 2, 3)
        ),
    ],
    "kafka_tls": True,
    "kafka_tls_store_password": "st0rep4ss",
    "kafka_tls_fingerprint": "abcd",
    "kafka_metrics_user": {"username": "prometheus", "password": "m3tr1cs"},
    "minio_nodes": [{"host": f"minio-{n}", "address": f"10.0.0.2{n}"} for n in (1, 2, 3)],
    "minio_drives": 2,
    "minio_tls": True,
    "minio_tls_fingerprint": "abcd",
    "minio_prometheus_auth": "jwt",
    "minio_settings": {"GOGC": "80"},
    "spark_home": "/opt/streamops/python/spark/pyspark",
    "spark_master": "spark://10.0.0.30:7077",
    "spark_secret": "0123456789abcdef",
    "spark_python_path": ["/opt/streamops/python/spark", "/opt/streamops/python/pipeline"],
    "spark_tls_fingerprint": "abcd",
    "pipeline_python_path": ["/opt/streamops/python/pipeline"],
    "pipeline_tls_fingerprint": "abcd",
    "prometheus_tls": True,
    "prometheus_jobs": [
        {
            "name": "kafka",
            "basic_auth": {"username": "prometheus", "password": "m3tr1cs"},
            "targets": [{"address": "10.0.0.11:7071", "host": "kafka-1", "service": "kafka"}],
        },
        {
            "name": "minio",
            "path": "/minio/v2/metrics/cluster",
            "token": TOKEN,
            "targets": [{"address": "10.0.0.21:9000", "host": "minio-1", "service": "minio"}],
        },
        {"name": "nobody", "basic_auth": {}, "token": "", "targets": []},
        {
            "name": "gateway",
            "scheme": "http",
            "targets": [{"address": "10.0.0.99:80", "host": "gateway", "service": "gateway"}],
        },
    ],
    "alertmanager_tls": True,
    "alertmanager_inside": ["https://10.0.0.61:9095"],
    "exporters_tls": True,
    "exporters_node_arguments": ["--collector.systemd"],
    "exporters_tls_fingerprint": "abcd",
    "exporters_python_path": ["/opt/streamops/python/pipeline"],
    "inbox_tls": True,
    "inbox_tls_fingerprint": "abcd",
    "inbox_python_path": ["/opt/streamops/python/pipeline"],
    "grafana_prometheus_user": {},
    "grafana_prometheus_ca": f"{TLS}/ca.pem",
    "grafana_prometheus_certificate": f"{TLS}/host.pem",
    "grafana_prometheus_certificate_key": f"{TLS}/host.key",
}
for _role in ("kafka", "minio", "spark", "pipeline", "prometheus", "alertmanager", "exporters", "inbox", "grafana"):
    WIDE[f"{_role}_user"] = "streamops"
    WIDE[f"{_role}_image"] = f"streamops/{_role}:1"
    WIDE[f"{_role}_network"] = "streamops-net"
WIDE_HOSTS: dict[str, dict[str, Any]] = {
    "control-1": {
        "host_address": "10.0.1.11",
        "kafka_node_id": 1,
        "kafka_process_roles": "controller",
        "entries": ["kafka/deploy"],
    },
    "kafka-1.example": {
        "host_address": "10.0.0.11",
        "kafka_node_id": 11,
        "kafka_process_roles": "broker",
        "entries": ["kafka/deploy"],
    },
    "minio-1": {"host_address": "10.0.0.21", "entries": ["minio/deploy"]},
    "spark-1": {"host_address": "10.0.0.31", "entries": ["spark/deploy", "spark/master", "spark/worker"]},
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


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Definitions:
    """Everything that the defaults leave off."""
    return render(tmp_path_factory.mktemp("wide"), WIDE, WIDE_HOSTS)


def file(definition: Mapping[str, Any], path: str) -> dict[str, Any]:
    found: dict[str, Any] = next(entry for entry in definition["files"] if entry["path"] == path)
    return found


def properties(definition: Mapping[str, Any], path: str) -> dict[str, str]:
    lines = [line for line in file(definition, path)["content"].splitlines() if line and not line.startswith("#")]
    found = dict(line.split("=", 1) for line in lines)
    assert len(found) == len(lines), "a key twice"
    return found


def document(definition: Mapping[str, Any], path: str) -> Any:
    return yaml.safe_load(file(definition, path)["content"])


class TestDefaults:
    def test_no_service_of_the_sandbox_is_asked_to_restart(self, plain: Definitions) -> None:
        assert {name: parse_definition(body).digest for name, body in plain.items()} == DIGESTS

    def test_nothing_is_said_of_other_runtimes(self, plain: Definitions) -> None:
        for body in plain.values():
            assert not body.keys() & {"user", "image", "network", "volumes"}

    def test_a_node_is_broker_and_controller_with_passwords_on_each_listener(self, plain: Definitions) -> None:
        server = properties(plain["kafka-1-kafka"], "etc/kafka/server.properties")
        assert server["process.roles"] == "broker,controller"
        assert server["listeners"].count("://10.0.0.11:") == 3
        assert server["controller.quorum.voters"] == "1@10.0.0.11:9093,2@10.0.0.12:9093,3@10.0.0.13:9093"
        assert server["super.users"] == "User:broker;User:admin"
        assert not [key for key in server if "ssl" in key]
        assert "httpServer" not in file(plain["kafka-1-kafka"], "etc/kafka/jmx.yml")["content"]

    def test_what_reloads_is_the_same_too(self, plain: Definitions) -> None:
        config = document(plain["monitoring-1-prometheus"], "etc/prometheus/prometheus.yml")
        assert config["alerting"] == {"alertmanagers": [{"static_configs": [{"targets": ["10.0.0.61:9093"]}]}]}
        assert config["scrape_configs"][1] == {
            "job_name": "minio",
            "metrics_path": "/minio/v2/metrics/cluster",
            "honor_labels": False,
            "static_configs": [{"targets": ["10.0.0.21:9000"], "labels": {"host": "minio-1", "service": "minio"}}],
        }
        routes = document(plain["monitoring-1-alertmanager"], "etc/alertmanager/alertmanager.yml")
        assert set(routes) == {"route", "inhibit_rules", "receivers"}
        assert "tls_config" not in json.dumps(routes)


class TestWide:
    def test_every_definition_is_a_valid_one(self, wide: Definitions) -> None:
        assert len(wide) == 13
        for body in wide.values():
            parse_definition(body)

    def test_a_controller_alone_has_no_listener_of_a_broker(self, wide: Definitions) -> None:
        body = wide["control-1-kafka"]
        server = properties(body, "etc/kafka/server.properties")
        assert server["process.roles"] == "controller"
        assert server["listeners"] == "CONTROLLER://10.0.1.11:9093"
        assert "advertised.listeners" not in server
        assert body["ports"] == [9093, 7071]

    def test_a_broker_alone_has_no_listener_of_a_controller(self, wide: Definitions) -> None:
        body = wide["kafka-1.example-kafka"]
        server = properties(body, "etc/kafka/server.properties")
        assert server["process.roles"] == "broker"
        assert server["listeners"] == server["advertised.listeners"]
        assert server["listeners"] == "CLIENT://10.0.0.11:9092,INTERNAL://10.0.0.11:9094"
        assert body["ports"] == [9092, 9094, 7071]

    @pytest.mark.parametrize("name", ["control-1-kafka", "kafka-1.example-kafka"])
    def test_nodes_know_each_other_by_certificate_and_clients_by_password(self, wide: Definitions, name: str) -> None:
        server = properties(wide[name], "etc/kafka/server.properties")
        assert server["controller.quorum.voters"] == "1@10.0.1.11:9093,2@10.0.1.12:9093,3@10.0.1.13:9093"
        assert server["listener.security.protocol.map"] == "CLIENT:SASL_SSL,INTERNAL:SSL,CONTROLLER:SSL"
        assert server["listener.name.internal.ssl.client.auth"] == "required"
        assert server["listener.name.controller.ssl.client.auth"] == "required"
        assert server["ssl.enabled.protocols"] == "TLSv1.3"
        assert server["ssl.truststore.location"] == f"{TLS}/ca.pem"
        nodes = [node["host"] for node in WIDE["kafka_nodes"]]
        assert server["super.users"] == ";".join(f"User:{name}" for name in [*nodes, "admin"])
        assert server["ssl.principal.mapping.rules"] == (
            "RULE:^CN=(control-1|control-2|control-3|kafka-1[.]example|kafka-2[.]example|kafka-3[.]example)(,.*)?$"
            "/$1/,DEFAULT"
        )
        # No principal of passwords for nodes is left.
        assert "user_broker" not in file(wide[name], "etc/kafka/server.properties")["content"]
        assert 'user_spark="spark-p4ssw0rd"' in server["listener.name.client.plain.sasl.jaas.config"]

    def test_metrics_of_brokers_are_read_over_tls_with_a_password(self, wide: Definitions) -> None:
        entry = file(wide["kafka-1.example-kafka"], "etc/kafka/jmx.yml")
        assert (entry["mode"], entry["sensitive"]) == ("0600", True)
        config = yaml.safe_load(entry["content"])
        assert config["lowercaseOutputName"] is True
        assert config["httpServer"]["authentication"]["basic"] == {"username": "prometheus", "password": "m3tr1cs"}
        assert config["httpServer"]["ssl"]["certificate"] == {"alias": "host"}

    def test_tools_trust_the_ca(self, wide: Definitions) -> None:
        client = properties(wide["kafka-1.example-kafka"], "etc/kafka/operator.properties")
        assert client["security.protocol"] == "SASL_SSL"
        assert client["ssl.truststore.location"] == f"{TLS}/ca.pem"

    def test_another_certificate_asks_for_a_restart(self, wide: Definitions) -> None:
        names = ("kafka-1.example-kafka", "minio-1-minio", "spark-1-spark-streaming", "producer-1-producer")
        for name in (*names, "monitoring-1-inbox", "monitoring-1-pipeline-exporter"):
            assert wide[name]["environment"]["TLS_FINGERPRINT"] == "abcd"
        # These read it anew by themselves.
        for name in ("monitoring-1-prometheus", "monitoring-1-alertmanager", "monitoring-1-node-exporter"):
            assert "TLS_FINGERPRINT" not in wide[name].get("environment", {})

    def test_nodes_of_the_store_are_listed_drive_by_drive(self, wide: Definitions) -> None:
        body = wide["minio-1-minio"]
        assert body["command"][-4:] == ["--certs-dir", f"{TLS}/minio", "--config", f"{ROOT}/etc/minio/config.yml"]
        config = document(body, "etc/minio/config.yml")
        assert config["version"] == "v2"
        [pool] = config["pools"]
        assert len(pool["args"]) == 6
        assert pool["args"][0] == f"https://10.0.0.21:9000{ROOT}/data/minio/drive1"
        assert (config["rootUser"], config["rootPassword"]) == ("root", "r00ts3cr3t")
        assert [(entry["path"], entry["mode"]) for entry in body["files"]] == [("etc/minio/config.yml", "0600")]
        # Nodes compare these, so nothing in them may be of one host alone.
        assert not [name for name, value in body["environment"].items() if name.startswith("MINIO_") and ROOT in value]
        assert body["environment"]["GOGC"] == "80"
        assert body["environment"]["MINIO_PROMETHEUS_AUTH_TYPE"] == "jwt"

    def test_a_spark_cluster_has_a_secret_that_no_command_line_shows(self, wide: Definitions) -> None:
        for name, path in (("spark-master", "master"), ("spark-worker", "worker")):
            body = wide[f"spark-1-{name}"]
            settings = properties(body, f"etc/spark/{path}.properties")
            assert settings["spark.authenticate"] == "true"
            assert settings["spark.authenticate.secret"] == WIDE["spark_secret"]
            assert settings["spark.master.rest.enabled"] == "false"
            assert file(body, f"etc/spark/{path}.properties")["mode"] == "0600"
            assert body["environment"]["SPARK_LOCAL_IP"] == "127.0.0.1"
            assert WIDE["spark_secret"] not in json.dumps([body["command"], body["environment"]])
            assert [option for option in body["command"] if option in JAVA_MODULE_OPTIONS] == list(JAVA_MODULE_OPTIONS)
        assert wide["spark-1-spark-worker"]["command"][-1] == "spark://10.0.0.30:7077"
        job = json.loads(file(wide["spark-1-spark-streaming"], "etc/streaming.json")["content"])
        assert job["credentials"]["spark_secret"] == WIDE["spark_secret"]

    def test_packages_stand_beside_the_release(self, wide: Definitions) -> None:
        release = f"{ROOT}/releases/a"
        path = wide["spark-1-spark-streaming"]["environment"]["PYTHONPATH"]
        assert path == f"{release}:/opt/streamops/python/spark:/opt/streamops/python/pipeline"
        for name in ("producer-1-producer", "monitoring-1-inbox", "monitoring-1-pipeline-exporter"):
            assert wide[name]["environment"]["PYTHONPATH"] == f"{release}:/opt/streamops/python/pipeline"

    @pytest.mark.parametrize(
        ("name", "path"),
        [
            ("prometheus", "etc/prometheus/web.yml"),
            ("alertmanager", "etc/alertmanager/web.yml"),
            ("node-exporter", "etc/node-exporter/web.yml"),
        ],
    )
    def test_who_watches_is_asked_by_those_with_a_certificate_alone(
        self, wide: Definitions, name: str, path: str
    ) -> None:
        body = wide[f"monitoring-1-{name}"]
        assert f"--web.config.file={ROOT}/{path}" in body["command"]
        assert document(body, path)["tls_server_config"] == {
            "cert_file": CLIENT["cert_file"],
            "key_file": CLIENT["key_file"],
            "client_ca_file": CLIENT["ca_file"],
            "client_auth_type": "RequireAndVerifyClientCert",
            "min_version": "TLS13",
        }

    def test_further_arguments_come_before_the_text_files(self, wide: Definitions) -> None:
        command = wide["monitoring-1-node-exporter"]["command"]
        assert "--collector.systemd" in command
        assert command[-1] == f"--collector.textfile.directory={ROOT}/state/metrics"

    def test_targets_are_asked_with_a_certificate_and_what_else_they_want(self, wide: Definitions) -> None:
        body = wide["monitoring-1-prometheus"]
        config = document(body, "etc/prometheus/prometheus.yml")
        jobs = {job["job_name"]: job for job in config["scrape_configs"]}
        assert jobs["kafka"]["basic_auth"] == {"username": "prometheus", "password_file": "kafka.password"}
        assert jobs["minio"]["authorization"] == {"type": "Bearer", "credentials_file": "minio.token"}
        for name in ("kafka", "minio"):
            assert jobs[name]["scheme"] == "https"
            assert jobs[name]["tls_config"] == CLIENT
        assert not jobs["gateway"].keys() & {"scheme", "tls_config", "authorization"}
        assert config["alerting"]["alertmanagers"][0]["scheme"] == "https"
        assert config["alerting"]["alertmanagers"][0]["tls_config"] == CLIENT
        for name, content in (("minio.token", TOKEN), ("kafka.password", "m3tr1cs")):
            entry = file(body, f"etc/prometheus/{name}")
            assert (entry["mode"], entry["sensitive"], entry["content"]) == ("0600", True, content)
        assert TOKEN not in file(body, "etc/prometheus/prometheus.yml")["content"]

    def test_only_webhooks_of_the_stack_are_called_with_a_certificate(self, wide: Definitions) -> None:
        config = document(wide["monitoring-1-alertmanager"], "etc/alertmanager/alertmanager.yml")
        hooks = [hook for receiver in config["receivers"] for hook in receiver.get("webhook_configs", [])]
        assert {hook["url"] for hook in hooks} == {
            "https://10.0.0.61:9095/on-call-engineer",
            "https://hooks.example/team-lead",
        }
        for hook in hooks:
            inside = hook["url"].startswith("https://10.0.0.61")
            assert hook["http_config"].get("tls_config") == (CLIENT if inside else None)

    def test_the_inbox_shows_its_certificate(self, wide: Definitions) -> None:
        assert json.loads(file(wide["monitoring-1-inbox"], "etc/inbox.json")["content"])["tls"] == CLIENT

    def test_grafana_shows_a_certificate_to_prometheus(self, wide: Definitions) -> None:
        body = wide["monitoring-1-grafana"]
        [source] = document(body, "etc/grafana/provisioning/datasources/prometheus.yml")["datasources"]
        assert source["jsonData"]["tlsAuth"] is True
        assert source["secureJsonData"]["tlsClientKey"] == f"$__file{{{TLS}/host.key}}"
        assert "basicAuth" not in source


def test_what_a_runtime_asks_for_is_passed_on_when_it_is_set(wide: Definitions) -> None:
    made = {name: parse_definition(body) for name, body in wide.items()}
    assert {(one.user, one.network) for one in made.values()} == {("streamops", "streamops-net")}
    assert {name: one.volumes for name, one in made.items() if one.volumes} == {
        "control-1-kafka": ("data/kafka",),
        "kafka-1.example-kafka": ("data/kafka",),
        "minio-1-minio": ("data/minio",),
        "spark-1-spark-streaming": ("data/spark",),
        "spark-1-spark-worker": ("data/spark-worker",),
        "monitoring-1-prometheus": ("data/prometheus",),
        "monitoring-1-alertmanager": ("data/alertmanager",),
        "monitoring-1-inbox": ("data/inbox",),
        "monitoring-1-grafana": ("data/grafana",),
    }
    assert made["monitoring-1-node-exporter"].image == "streamops/exporters:1"
    assert made["spark-1-spark-master"].image == "streamops/spark:1"


#: By host: what is wrong there, the role whose precheck looks, and what it says.
WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "two-controllers": (
        "kafka",
        {"kafka_nodes": [{**node, "roles": "broker"} if node["id"] == 3 else node for node in WIDE["kafka_nodes"]]},
        "4 brokers and 2 controllers",
    ),
    "control-1": (
        "kafka",
        {"kafka_process_roles": "broker"},
        "found control-1 as broker and in kafka_nodes as controller",
    ),
    "control-2": (
        "kafka",
        {"kafka_process_roles": "controller", "kafka_users": {"control-1": {"username": "control-1", "password": "x"}}},
        "found users control-1 beside nodes control-1",
    ),
    "control-3": (
        "kafka",
        {"kafka_process_roles": "controller", "kafka_tls_store_password": ""},
        "no password of the PKCS#12 files",
    ),
    "kafka-1.example": (
        "kafka",
        {"kafka_process_roles": "broker", "kafka_metrics_user": {"username": "prometheus"}},
        "prometheus as reader of metrics",
    ),
    "two-nodes": ("minio", {"minio_nodes": WIDE["minio_nodes"][:2], "minio_drives": 4}, "without minio-1 it has 4"),
    "three-drives": ("minio", {"minio_nodes": [], "minio_drives": 3}, "found 3 drives"),
    "no-secret": ("spark", {"spark_secret": ""}, "and a secret of 0 characters"),
    "no-program": ("prometheus", {"prometheus_fetched": ["/nowhere/prometheus"]}, "no program at /nowhere/prometheus"),
    "no-password": ("grafana", {"grafana_prometheus_user": {"username": "x"}}, "found only username"),
}


def test_prechecks_refuse_by_name(tmp_path: Path) -> None:
    hosts = {
        name: {"host_address": "10.0.0.9", "role": role, **variables} for name, (role, variables, _) in WRONG.items()
    }
    fetched = {f"{role}_fetched": "" for role in ("kafka", "minio", "spark")}
    environment = prepare(tmp_path, {**WIDE, **fetched}, hosts)
    tasks = [
        {
            "name": "Check",
            "ansible.builtin.include_role": {"name": "{{ role }}", "tasks_from": "precheck"},
        }
    ]
    code, printed = play(tmp_path, tasks, environment)
    assert code == 2
    said = " ".join(printed.split())
    for name, (_, _, expected) in WRONG.items():
        assert f"fatal: [{name}]" in said, f"{name} passed:\n{printed}"
        assert expected in said, f"{name}:\n{printed}"
