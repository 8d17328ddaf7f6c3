"""Typed configuration, validated at start.

A service reads one JSON file, the tools read ``endpoints.json`` and ``credentials.json``. What is
wrong there ends the process with code 78 and a message that names the field, the value found and
the value allowed; values of fields that hold secrets are never shown.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from pipeline.errors import ConfigError

_SECRET_FIELDS = ("password", "access_key", "secret_key", "token")


def _s3_uri(value: str) -> str:
    bucket, _, key = value.removeprefix("s3://").partition("/")
    if not value.startswith("s3://") or not bucket or not key:
        raise ValueError("an address such as s3://bucket/path")
    return value.rstrip("/")


def _bootstrap(value: str) -> str:
    for server in value.split(","):
        host, _, port = server.strip().rpartition(":")
        if not host or not port.isdecimal():
            raise ValueError("host:port, more than one with commas between")
    return value


def _readable(value: Path) -> Path:
    if not value.is_file() or not os.access(value, os.R_OK):
        raise ValueError("a file that this process may read")
    return value


S3Uri = Annotated[str, AfterValidator(_s3_uri)]
ReadableFile = Annotated[Path, AfterValidator(_readable)]
Port = Annotated[int, Field(ge=1, le=65535)]


class _Settings(BaseModel):
    """A group of settings; a name that it does not know is an error, so that typos are found."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _Shared(BaseModel):
    """A part of ``endpoints.json`` or ``credentials.json``: others may add names of their own."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Tls(_Shared):
    """The files of this host, as PEM: whom it trusts, the certificate that it shows, and the key of that."""

    ca_file: ReadableFile
    cert_file: ReadableFile
    key_file: ReadableFile


class KafkaEndpoint(_Shared):
    """How the brokers are reached, and the names that the pipeline uses there."""

    bootstrap: Annotated[str, AfterValidator(_bootstrap)]
    security_protocol: Literal["SASL_PLAINTEXT", "SASL_SSL"]
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]
    topic: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")]
    group: Annotated[str, Field(min_length=1)]
    tls: Tls | None = None


class S3Endpoint(_Shared):
    """Where the object store answers."""

    endpoint: Annotated[str, Field(pattern=r"^https?://[^/]+$")]
    region: Annotated[str, Field(min_length=1)]
    tls: Tls | None = None


class Tables(_Shared):
    """The Delta tables, as s3:// addresses."""

    events: S3Uri
    dead_letters: S3Uri


class Endpoints(_Shared):
    """The content of ``endpoints.json``.

    ``tls`` is there where the stack speaks TLS, and then everywhere: with Kafka, with the object store, and
    between whoever serves metrics and whoever reads them, who show each other certificates.
    ``metrics`` is a page by service.
    """

    kafka: KafkaEndpoint
    s3: S3Endpoint
    tables: Tables
    checkpoint_pointer: S3Uri
    tls: Tls | None = None
    metrics: dict[str, str] = Field(default_factory=dict)
    prometheus: str = ""
    alertmanager: str = ""

    @model_validator(mode="wrap")
    @classmethod
    def _tls_everywhere(cls, value: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        """Give each endpoint the files, so that whoever has one can reach it."""
        made = validate(value)
        if made.tls is None:
            return made
        if made.kafka.security_protocol != "SASL_SSL":
            raise ValueError("kafka.security_protocol SASL_SSL where there is tls")
        if not made.s3.endpoint.startswith("https://"):
            raise ValueError("an s3.endpoint of https:// where there is tls")
        files = {"tls": made.tls}
        return made.model_copy(
            update={"kafka": made.kafka.model_copy(update=files), "s3": made.s3.model_copy(update=files)}
        )


class KafkaLogin(_Shared):
    """One Kafka principal."""

    username: Annotated[str, Field(min_length=1)]
    password: SecretStr


class S3Login(_Shared):
    """One user of the object store."""

    access_key: SecretStr
    secret_key: SecretStr


class Credentials(_Shared):
    """The content of ``credentials.json``: principals and users by name."""

    kafka: dict[str, KafkaLogin]
    s3: dict[str, S3Login]


class KafkaOnly(_Shared):
    """What the producer may know."""

    kafka: KafkaLogin


class ServiceCredentials(_Shared):
    """What a service may know that uses both: the streaming job, the exporter."""

    kafka: KafkaLogin
    s3: S3Login


class StreamingCredentials(ServiceCredentials):
    """What the streaming job may know; ``spark_secret`` is what the hosts of a Spark cluster know each other by."""

    spark_secret: Annotated[SecretStr, Field(min_length=1)] | None = None


class MetricsAddress(_Settings):
    """Where the service answers Prometheus."""

    host: Annotated[str, Field(min_length=1)]
    port: Port


class ListenAddress(MetricsAddress):
    """Where a service answers everything that it is asked."""


class ProducerConfig(_Settings):
    """Configuration of ``pipeline producer``.

    ``buffer_events`` is how many events may wait for Kafka; the devices pause beyond that.
    ``stop_timeout_seconds`` is how long a stop waits for what is still under way.
    """

    endpoints: Endpoints
    credentials: KafkaOnly
    devices: Annotated[int, Field(ge=1, le=9999)]
    events_per_second: Annotated[float, Field(gt=0, le=20_000)]
    metrics: MetricsAddress
    buffer_events: Annotated[int, Field(ge=1000, le=2_000_000)] = 100_000
    stop_timeout_seconds: Annotated[float, Field(gt=0, le=600)] = 20.0


class StreamingConfig(_Settings):
    """Configuration of ``pipeline streaming``.

    ``event_schema`` is the content of ``config/schemas/iot-event.json``. ``spark_conf`` is laid over
    what the job sets by itself; secrets have no place there. ``dependency_timeout_seconds`` is how
    long a start waits for Kafka, topic, object store and buckets before it ends with code 69.
    ``stop_timeout_seconds`` is how long a stop waits for the batch under way. ``lease_seconds`` is how
    long the checkpoint stays this job's without a renewal: an outage of the object store that is nearly
    as long ends the job, and a job on another host waits that long after a crash.
    """

    endpoints: Endpoints
    credentials: StreamingCredentials
    event_schema: dict[str, Any]
    master: Annotated[str, Field(pattern=r"^(local(\[(\d+|\*)\])?|spark://.+|yarn|k8s://.+)$")]
    trigger_seconds: Annotated[float, Field(ge=0.5, le=3600)]
    max_offsets_per_trigger: Annotated[int, Field(ge=1)]
    jars_dir: Path
    local_dir: Path
    metrics: MetricsAddress
    dependency_timeout_seconds: Annotated[float, Field(gt=0)] = 600.0
    stop_timeout_seconds: Annotated[float, Field(gt=0, le=600)] = 60.0
    lease_seconds: Annotated[float, Field(ge=6, le=600)] = 120.0
    max_event_bytes: Annotated[int, Field(ge=1024, le=16_000_000)] = 65_536
    spark_conf: dict[str, str] = Field(default_factory=dict)

    @field_validator("spark_conf")
    @classmethod
    def _no_secrets(cls, value: dict[str, str]) -> dict[str, str]:
        for key in value:
            if any(word in key.lower() for word in ("secret", "password", "access.key")):
                raise ValueError(f"no secrets (found {key}); they belong in credentials")
        return value

    @field_validator("jars_dir")
    @classmethod
    def _jars_exist(cls, value: Path) -> Path:
        if not any(value.glob("delta-spark_*.jar")):
            raise ValueError("a folder that holds the connector jars (delta-spark_*.jar and others)")
        return value


class SecuredPort(_Shared):
    """A port that shows a certificate: ``host:port``, where the port may be that of https, and whose it is."""

    address: Annotated[str, Field(min_length=1)]
    service: Annotated[str, Field(min_length=1)]


class ExporterConfig(_Settings):
    """Configuration of ``pipeline exporter``.

    The Kafka principal needs DESCRIBE on topic and group, and WRITE on the topic for the canaries; the
    user of the object store reads the events table. ``canary_interval_seconds`` is from the start of
    one canary to the start of the next, ``canary_deadline_seconds`` is after how long one counts as
    lost, and ``scrape_timeout_seconds`` is how long an answer to Prometheus waits for Kafka. ``secured``
    are the ports whose certificates are looked at, where the stack speaks TLS.
    """

    endpoints: Endpoints
    credentials: ServiceCredentials
    metrics: MetricsAddress
    secured: tuple[SecuredPort, ...] = ()
    canary_interval_seconds: Annotated[float, Field(ge=1, le=3600)] = 60.0
    canary_deadline_seconds: Annotated[float, Field(ge=1, le=3600)] = 120.0
    scrape_timeout_seconds: Annotated[float, Field(ge=0.5, le=60)] = 4.0


class InboxConfig(_Settings):
    """Configuration of ``pipeline inbox``.

    ``file`` takes one JSON line per message; beyond ``max_lines`` it becomes ``FILE.1`` and a new one
    is begun. With ``token``, only senders that show it as a bearer token are heard; with ``tls``, only those
    with a certificate of its authority.
    """

    listen: ListenAddress
    file: Path
    max_lines: Annotated[int, Field(ge=1, le=10_000_000)] = 10_000
    token: Annotated[SecretStr, Field(min_length=1)] | None = None
    tls: Tls | None = None


Model = TypeVar("Model", bound=BaseModel)


def load(model: type[Model], path: Path) -> Model:
    """Read and validate a configuration file.

    :param model: the shape that is expected.
    :param path: a JSON file.
    :raises ConfigError: unreadable, not JSON, or with a value that is not allowed.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(str(path), error.strerror or str(error), "a readable JSON file", _advice(model)) from None
    except ValueError as error:
        raise ConfigError(str(path), f"no JSON ({error})", "a JSON object") from None
    return parse(model, content, str(path))


def parse(model: type[Model], content: object, source: str) -> Model:
    """Validate configuration that was read already.

    :param source: where it came from, for the message.
    :raises ConfigError: naming every field that is wrong, what was found, what is allowed.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems = [_problem(detail) for detail in error.errors()]
    raise ConfigError(source, "; ".join(problems), next_step="correct the named fields")


def _problem(detail: Any) -> str:
    field = ".".join(str(part) for part in detail["loc"]) or "the whole file"
    allowed = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "missing":
        return f"{field}: nothing, allowed: a value (required)"
    if detail["type"] == "extra_forbidden":
        return f"{field}: a name that is not known, allowed: the documented names"
    found = "<hidden>" if _is_secret(detail["loc"]) else _shorten(detail["input"])
    return f"{field}: {found}, allowed: {allowed}"


def _is_secret(location: tuple[object, ...]) -> bool:
    return "credentials" in location or any(str(part) in _SECRET_FIELDS for part in location)


def _shorten(value: object) -> str:
    # A whole object as the value found could carry secrets of its inner fields.
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def _advice(model: type[BaseModel]) -> str:
    if model in (Endpoints, Credentials):
        # Not known here is which inventory is meant.
        deploy = "make up, or playbooks/site.yml with your inventory"
        return f"deploy first ({deploy}), or name the file with --endpoints and --credentials"
    return "name the file with --config"
