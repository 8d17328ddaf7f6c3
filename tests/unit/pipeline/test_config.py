"""Configuration: what is wrong is named with field, value found and value allowed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline import cli, config
from pipeline.errors import EXIT_REFUSED, ConfigError
from tests.unit.pipeline.support import SCHEMA, endpoints


def streaming(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    (tmp_path / "delta-spark_4.1_2.13-4.4.0.jar").touch()
    return {
        "endpoints": endpoints(),
        "credentials": {
            "kafka": {"username": "spark", "password": "kafka-canary"},
            "s3": {"access_key": "spark", "secret_key": "s3-canary"},
        },
        "event_schema": json.loads(SCHEMA.read_text()),
        "master": "local[2]",
        "trigger_seconds": 5,
        "max_offsets_per_trigger": 100000,
        "jars_dir": str(tmp_path),
        "local_dir": str(tmp_path / "local"),
        "metrics": {"host": "127.0.77.31", "port": 9108},
        "dependency_timeout_seconds": 300,
        "spark_conf": {"spark.driver.memory": "768m"},
        **changes,
    }


def producer(**changes: Any) -> dict[str, Any]:
    return {
        "endpoints": endpoints(),
        "credentials": {"kafka": {"username": "producer", "password": "kafka-canary"}},
        "devices": 10,
        "events_per_second": 20,
        "metrics": {"host": "127.0.77.41", "port": 9109},
        **changes,
    }


def test_what_the_roles_render_is_valid(tmp_path: Path) -> None:
    parsed = config.parse(config.StreamingConfig, streaming(tmp_path), "streaming.json")
    assert parsed.endpoints.kafka.topic == "iot-events"
    assert config.parse(config.ProducerConfig, producer(), "producer.json").events_per_second == 20


@pytest.mark.parametrize(
    ("changes", "field", "found"),
    [
        ({"master": "lokal[2]"}, "master", '"lokal[2]"'),
        ({"trigger_seconds": 0}, "trigger_seconds", "0"),
        ({"trigger_seconds": "soon"}, "trigger_seconds", '"soon"'),
        ({"max_offsets_per_trigger": 0}, "max_offsets_per_trigger", "0"),
        ({"metrics": {"host": "127.0.77.31", "port": 70000}}, "metrics.port", "70000"),
        ({"trigger_second": 5}, "trigger_second", "a name that is not known"),
        ({"dependency_timeout_seconds": -1}, "dependency_timeout_seconds", "-1"),
        ({"jars_dir": "/nowhere/at/all"}, "jars_dir", "/nowhere/at/all"),
    ],
)
def test_a_bad_value_is_named(tmp_path: Path, changes: dict[str, Any], field: str, found: str) -> None:
    with pytest.raises(ConfigError) as raised:
        config.parse(config.StreamingConfig, streaming(tmp_path, **changes), "streaming.json")
    message = str(raised.value)
    assert f"{field}: " in message
    assert found in message
    assert "allowed: " in message
    assert raised.value.exit_code == EXIT_REFUSED


def test_every_bad_value_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        config.parse(config.StreamingConfig, streaming(tmp_path, master="x", trigger_seconds=0), "f")
    assert "master" in str(raised.value)
    assert "trigger_seconds" in str(raised.value)


def test_a_missing_value_is_named(tmp_path: Path) -> None:
    values = streaming(tmp_path)
    del values["event_schema"]
    with pytest.raises(ConfigError, match=r"event_schema: nothing"):
        config.parse(config.StreamingConfig, values, "streaming.json")


@pytest.mark.parametrize("uri", ["http://x/y", "s3://bucket", "s3:///key", "bucket/key"])
def test_an_address_that_is_none_is_named(uri: str) -> None:
    values = endpoints()
    values["tables"]["events"] = uri
    with pytest.raises(ConfigError, match=r"tables\.events"):
        config.parse(config.Endpoints, values, "endpoints.json")


@pytest.mark.parametrize("bootstrap", ["127.0.77.11", "a:b", "", "a:9092,,b:9092"])
def test_a_bootstrap_that_is_none_is_named(bootstrap: str) -> None:
    values = endpoints()
    values["kafka"]["bootstrap"] = bootstrap
    with pytest.raises(ConfigError, match=r"kafka\.bootstrap"):
        config.parse(config.Endpoints, values, "endpoints.json")


@pytest.mark.parametrize(
    "credentials",
    [
        {"kafka": {"username": "", "password": "s3cret-canary"}, "s3": {"access_key": "a", "secret_key": "b"}},
        {"kafka": ["s3cret-canary"], "s3": "s3cret-canary"},
        {"kafka": {"username": "u", "password": {"s3cret-canary": 1}}, "s3": {"access_key": 5}},
    ],
)
def test_secrets_are_never_shown(tmp_path: Path, credentials: Any) -> None:
    with pytest.raises(ConfigError) as raised:
        config.parse(config.StreamingConfig, streaming(tmp_path, credentials=credentials), "f")
    assert "credentials" in str(raised.value)
    assert "s3cret-canary" not in str(raised.value)
    assert "s3cret-canary" not in repr(raised.value.__cause__)


def test_secrets_do_not_stand_in_a_printed_configuration(tmp_path: Path) -> None:
    parsed = config.parse(config.StreamingConfig, streaming(tmp_path), "f")
    assert "kafka-canary" not in repr(parsed)
    assert "s3-canary" not in repr(parsed)


@pytest.mark.parametrize("key", ["spark.hadoop.fs.s3a.secret.key", "spark.hadoop.fs.s3a.access.key", "x.password"])
def test_secrets_have_no_place_in_the_spark_configuration(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match="credentials") as raised:
        config.parse(config.StreamingConfig, streaming(tmp_path, spark_conf={key: "s3cret-canary"}), "f")
    assert "s3cret-canary" not in str(raised.value)


def test_a_service_ends_with_78_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "streaming.json"
    path.write_text(json.dumps(streaming(tmp_path, trigger_seconds=-5)))
    assert cli.main(["streaming", "--config", str(path)]) == EXIT_REFUSED
    assert "trigger_seconds: -5, allowed: " in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, "", "{", "[]", "5"])
def test_a_file_that_is_no_configuration_ends_with_78(
    tmp_path: Path, content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "producer.json"
    if content is not None:
        path.write_text(content)
    assert cli.main(["producer", "--config", str(path)]) == EXIT_REFUSED
    assert str(path) in capsys.readouterr().err


def test_a_tool_without_a_deployment_says_what_to_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "endpoints.json")
    assert cli.main(["table", "--endpoints", missing, "--json"]) == EXIT_REFUSED
    answer = json.loads(capsys.readouterr().out)
    assert answer["thing"] == missing
    assert "make up" in answer["next_step"]
