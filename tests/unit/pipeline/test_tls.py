"""TLS of the pipeline: its clients trust our authority alone, its servers hear only those with its certificates."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kafka.errors import KafkaTimeoutError
from prometheus_client import CollectorRegistry, Counter, generate_latest

from pipeline import certificates, config, exporter, metrics
from pipeline.certificates import Certificate, CertificateCollector, Place
from pipeline.clients import connect_admin, delta_storage_options, kafka_settings
from pipeline.errors import ConfigError, Unavailable
from pipeline.inbox import Inbox, MessageFile, Server
from pipeline.objectstore import ObjectStore
from pipeline.streaming import session
from pipeline.streaming.source import kafka_options
from pipeline.tables import open_table
from tests.unit.authority import Authority, ask_the_silent, serving
from tests.unit.pipeline.support import endpoints
from tests.unit.pipeline.test_config import streaming
from tests.unit.pipeline.test_exporter import settings as exporter_settings
from tests.unit.pipeline.test_producer import free_port

S3 = config.S3Login.model_validate({"access_key": "operator", "secret_key": "s3-canary"})
KAFKA = config.KafkaLogin.model_validate({"username": "u", "password": "p"})


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "tls")


@pytest.fixture
def stranger(tmp_path: Path) -> dict[str, str]:
    """Files of a host of another authority."""
    return Authority(tmp_path / "stranger", "another authority").issue("stranger")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What delta-rs reads is put back after the test."""
    monkeypatch.setenv("SSL_CERT_FILE", "")
    monkeypatch.delenv("SSL_CERT_FILE")


def with_tls(files: dict[str, str], s3: str = "https://127.0.0.1:9") -> dict[str, Any]:
    values = endpoints()
    values["kafka"] |= {"security_protocol": "SASL_SSL", "bootstrap": "127.0.0.1:9"}
    values["s3"]["endpoint"] = s3
    return {**values, "tls": files}


def parsed(values: dict[str, Any]) -> config.Endpoints:
    return config.parse(config.Endpoints, values, "endpoints.json")


def tls(files: dict[str, str]) -> config.Tls:
    return config.parse(config.Tls, files, "tls")


# Configuration


def test_each_endpoint_carries_the_files(authority: Authority) -> None:
    files = authority.issue("ops-1")
    found = parsed(with_tls(files))
    assert found.kafka.tls == found.s3.tls == found.tls == tls(files)


def test_without_tls_nothing_of_it_is_there() -> None:
    found = parsed(endpoints())
    assert found.tls is found.kafka.tls is found.s3.tls is None


@pytest.mark.parametrize("name", ["ca_file", "cert_file", "key_file"])
def test_a_file_that_is_missing_is_named(authority: Authority, name: str) -> None:
    files = authority.issue("ops-1") | {name: "/nowhere/x.pem"}
    with pytest.raises(ConfigError) as raised:
        parsed(with_tls(files))
    assert f'tls.{name}: "/nowhere/x.pem", allowed: a file that this process may read' in str(raised.value)


@pytest.mark.parametrize(
    ("part", "value", "allowed"),
    [
        ("kafka", {"security_protocol": "SASL_PLAINTEXT"}, r"kafka\.security_protocol SASL_SSL"),
        ("s3", {"endpoint": "http://127.0.0.1:9"}, r"s3\.endpoint of https://"),
    ],
)
def test_half_of_tls_is_refused(authority: Authority, part: str, value: dict[str, str], allowed: str) -> None:
    values = with_tls(authority.issue("ops-1"))
    values[part] |= value
    with pytest.raises(ConfigError, match=allowed):
        parsed(values)


# Clients


def test_a_machine_that_takes_connections_and_says_nothing_keeps_nobody_from_asking_another(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = with_tls(authority.issue("ops-1"))

    def connect(addresses: list[str]) -> object:
        values["kafka"]["bootstrap"] = ",".join(addresses)
        return connect_admin(parsed(values).kafka, KAFKA, "test", 1.0)

    assert [type(error) for error in ask_the_silent(connect, monkeypatch)] == [KafkaTimeoutError]


def test_kafka_clients_trust_our_authority_and_look_at_the_name(authority: Authority) -> None:
    secured = kafka_settings(parsed(with_tls(authority.issue("ops-1"))).kafka, KAFKA)
    assert secured["security_protocol"] == "SASL_SSL"
    assert (secured["ssl_cafile"], secured["ssl_check_hostname"]) == (str(authority.ca_file), True)
    assert not [name for name in kafka_settings(parsed(endpoints()).kafka, KAFKA) if name.startswith("ssl")]


def test_delta_rs_is_told_of_no_authority_without_tls() -> None:
    delta_storage_options(parsed(endpoints()).s3, S3)
    assert "SSL_CERT_FILE" not in os.environ


def test_delta_rs_and_boto3_trust_our_authority(authority: Authority) -> None:
    files = authority.issue("minio-1")
    missing = "<Error><Code>NoSuchKey</Code></Error>"
    with serving(files, body=missing, status=404) as server:
        s3 = parsed(with_tls(files, server.url)).s3
        # It spoke with the server, which has no list of a folder to give.
        with pytest.raises(Unavailable, match="404 Not Found"):
            open_table("s3://bucket/table", s3, S3)
        assert ObjectStore(s3, S3).get("s3://bucket/key") is None


def test_delta_rs_and_boto3_trust_nobody_else(authority: Authority, stranger: dict[str, str]) -> None:
    with serving(stranger, status=404) as server:
        s3 = parsed(with_tls(authority.issue("minio-1"), server.url)).s3
        for ask in (
            partial(open_table, "s3://bucket/table", s3, S3),
            partial(ObjectStore(s3, S3).get, "s3://bucket/key"),
        ):
            with pytest.raises(Unavailable, match=r"(?i)certificate"):
                ask()


def test_sparks_kafka_source_trusts_our_authority(tmp_path: Path, authority: Authority) -> None:
    values = streaming(tmp_path, endpoints=with_tls(authority.issue("spark-1")))
    options = kafka_options(config.parse(config.StreamingConfig, values, "f"), "earliest")
    assert options["kafka.security.protocol"] == "SASL_SSL"
    assert options["kafka.ssl.truststore.type"] == "PEM"
    assert options["kafka.ssl.truststore.certificates"] == authority.ca_file.read_text()
    plain = kafka_options(config.parse(config.StreamingConfig, streaming(tmp_path), "f"), "earliest")
    assert not [name for name in plain if "ssl" in name]


def test_the_secret_of_a_spark_cluster_is_on_no_command_line(tmp_path: Path) -> None:
    values = streaming(tmp_path, master="spark://192.0.2.31:7077")
    values["credentials"]["spark_secret"] = "spark-canary"  # noqa: S105 - planted, so that it can be looked for
    settings = config.parse(config.StreamingConfig, values, "f")
    conf = session.spark_conf(settings)
    assert conf["spark.authenticate"] == conf["spark.network.crypto.enabled"] == "true"
    command = session.java_command(conf, settings.jars_dir, settings.local_dir)
    assert not any("canary" in word for word in command)
    assert "spark-canary" not in repr(settings)
    assert "spark.authenticate" not in session.spark_conf(
        config.parse(config.StreamingConfig, streaming(tmp_path), "f")
    )


# Servers


def opener(files: dict[str, str] | None, ca_file: str) -> urllib.request.OpenerDirector:
    context = ssl.create_default_context(cafile=ca_file)
    if files is not None:
        context.load_cert_chain(files["cert_file"], files["key_file"])
    return urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))


def get(url: str, files: dict[str, str] | None, ca_file: str) -> str:
    with opener(files, ca_file).open(url, timeout=5) as answer:
        text: str = answer.read().decode()
    return text


@pytest.fixture
def page(authority: Authority) -> tuple[int, dict[str, str]]:
    """The port of a metrics endpoint with TLS, and its files."""
    files, port, registry = authority.issue("producer-1"), free_port(), CollectorRegistry()
    Counter("answers", "Something to show.", registry=registry)
    metrics.serve(config.MetricsAddress(host="127.0.0.1", port=port), registry, tls(files))
    return port, files


@pytest.fixture
def inbox(tmp_path: Path, authority: Authority) -> Iterator[tuple[int, dict[str, str]]]:
    """The port of an inbox with TLS, and its files."""
    files = authority.issue("ops-1")
    server = Server(("127.0.0.1", 0), Inbox(MessageFile(tmp_path / "inbox.jsonl", 10), None), tls(files))
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server.server_address[1], files
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("kind", ["page", "inbox"])
def test_a_server_hears_only_those_with_a_certificate_of_our_authority(
    kind: str, authority: Authority, stranger: dict[str, str], request: pytest.FixtureRequest
) -> None:
    port, files = request.getfixturevalue(kind)
    url, ca_file = f"https://127.0.0.1:{port}/metrics", files["ca_file"]
    assert "_total 0.0" in get(url, authority.issue("prometheus-1"), ca_file)
    for refused in (None, stranger, authority.issue("ended", days=-1)):
        with pytest.raises((ssl.SSLError, urllib.error.URLError, ConnectionError)):
            get(url, refused, ca_file)
    with pytest.raises(OSError, match=r"(?i)reset|closed|BadStatusLine|remote"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5)
    assert "_total 0.0" in get(url, files, ca_file)


@pytest.mark.parametrize("kind", ["page", "inbox"])
def test_a_client_that_says_nothing_keeps_nobody_waiting(kind: str, request: pytest.FixtureRequest) -> None:
    port, files = request.getfixturevalue(kind)
    with socket.create_connection(("127.0.0.1", port)), socket.create_connection(("127.0.0.1", port)):
        begun = time.monotonic()
        assert "_total 0.0" in get(f"https://127.0.0.1:{port}/metrics", files, files["ca_file"])
        assert time.monotonic() - begun < 3


def test_an_inbox_with_tls_keeps_messages(inbox: tuple[int, dict[str, str]], tmp_path: Path) -> None:
    port, files = inbox
    message = urllib.request.Request(f"https://127.0.0.1:{port}/alerts", data=b'{"a": 1}', method="POST")
    with opener(files, files["ca_file"]).open(message, timeout=5) as answer:
        assert answer.status == 200
    assert json.loads((tmp_path / "inbox.jsonl").read_text())["body"] == {"a": 1}


def test_a_key_of_another_certificate_is_refused_and_the_port_given_back(authority: Authority) -> None:
    files = authority.issue("a") | {"key_file": authority.issue("b")["key_file"]}
    address = config.MetricsAddress(host="127.0.0.1", port=free_port())
    for _ in range(2):
        with pytest.raises(ConfigError, match="KEY_VALUES_MISMATCH"):
            metrics.serve(address, CollectorRegistry(), tls(files))


# Certificates


def test_the_end_of_a_certificate_is_read_even_when_it_has_come(authority: Authority) -> None:
    mine = tls(authority.issue("ops-1"))
    for days in (30, -3):
        with serving(authority.issue("minio-1", days=days), clients=True) as server:
            found = certificates.read(mine, Place("minio", "127.0.0.1", server.server_address[1]))
        assert found.host == "minio-1"
        assert found.not_after == pytest.approx(time.time() + days * 86_400, abs=60)


@pytest.mark.parametrize("what", ["another authority", "another address", "no TLS"])
def test_what_is_no_certificate_of_that_host_is_not_read(
    what: str, authority: Authority, stranger: dict[str, str]
) -> None:
    shows = {
        "another authority": stranger,
        "another address": authority.issue("kafka-1", address="127.0.0.9"),
        "no TLS": None,
    }
    with serving(shows[what]) as server, pytest.raises(OSError, match=r"(?i)certificate|ssl"):
        certificates.read(tls(authority.issue("ops-1")), Place("kafka", "127.0.0.1", server.server_address[1]))


def test_a_port_that_says_nothing_is_given_up(authority: Authority) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        place = Place("kafka", "127.0.0.1", silent.getsockname()[1])
        with pytest.raises(TimeoutError):
            certificates.read(tls(authority.issue("ops-1")), place, timeout=0.3)


def test_every_port_is_looked_at_once() -> None:
    ports = [
        ("192.0.2.11:9092", "kafka"),
        ("[2001:db8::12]:9092", "kafka"),
        ("192.0.2.24:9000", "minio"),
        ("192.0.2.24:9000", "minio"),
        ("store.example.com", "minio"),
    ]
    told = [config.SecuredPort(address=address, service=service) for address, service in ports]
    assert certificates.places(told) == [
        Place("kafka", "192.0.2.11", 9092),
        Place("kafka", "2001:db8::12", 9092),
        Place("minio", "192.0.2.24", 9000),
        Place("minio", "store.example.com", 443),
    ]


def shown(collector: CertificateCollector) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(collector)
    lines = [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


def test_the_certificate_of_a_service_that_ends_first_counts(caplog: pytest.LogCaptureFixture) -> None:
    found: dict[int, Certificate | Exception] = {
        1: Certificate("kafka-1", 2000.0),
        2: Certificate("kafka-1", 1000.0),
        3: Certificate("kafka-2", 3000.0),
        4: ConnectionRefusedError("nobody there"),
    }

    def read(place: Place) -> Certificate:
        answer = found[place.port]
        if isinstance(answer, Exception):
            raise answer
        return answer

    collector = CertificateCollector([Place("kafka", "h", port) for port in found], read)
    assert shown(collector) == {"tls_certificate_endpoints": 4}
    collector.look()
    name = "tls_certificate_expiry_timestamp_seconds"
    assert shown(collector) == {
        "tls_certificate_endpoints": 4,
        f'{name}{{host="kafka-1",service="kafka"}}': 1000,
        f'{name}{{host="kafka-2",service="kafka"}}': 3000,
    }
    collector.look()
    assert [record.message for record in caplog.records] == [
        "certificate of kafka at h:4 not read: nobody there",
    ]
    found[3] = ConfigError("tls", "half of it")
    collector.look()
    assert f'{name}{{host="kafka-2",service="kafka"}}' not in shown(collector)


def wait_for(check: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if check():
                return True
        except OSError:
            pass
        time.sleep(0.1)
    return False


def test_the_exporter_shows_the_certificates_to_those_with_one(tmp_path: Path, authority: Authority) -> None:
    mine, port = authority.issue("ops-1"), free_port()
    with serving(authority.issue("minio-1", days=5), clients=True, status=404) as server:
        values = exporter_settings(
            endpoints=with_tls(mine, server.url),
            metrics={"host": "127.0.0.1", "port": port},
            secured=[{"address": server.address, "host": "minio-1", "service": "minio"}],
            scrape_timeout_seconds=0.5,
        )
        path = tmp_path / "exporter.json"
        path.write_text(json.dumps(values))
        command = [sys.executable, "-m", "pipeline", "exporter", "--config", str(path)]
        url, line = f"https://127.0.0.1:{port}/metrics", 'expiry_timestamp_seconds{host="minio-1",service="minio"}'
        with subprocess.Popen(command, stderr=subprocess.PIPE, cwd=Path(exporter.__file__).parents[1]) as process:
            try:
                assert wait_for(lambda: line in get(url, mine, mine["ca_file"]), 60)
                process.terminate()
                assert process.wait(10) == 0
            finally:
                process.kill()
            assert process.stderr is not None
            assert "Traceback" not in process.stderr.read().decode()


def test_an_exporter_without_tls_shows_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CertificateCollector, "__init__", lambda *_: pytest.fail("a collector of certificates"))
    stop = threading.Event()
    stop.set()
    assert exporter.run(config.parse(config.ExporterConfig, exporter_settings(), "f"), stop) == 0
