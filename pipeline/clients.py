"""How Kafka and the object store are reached: the settings of every client in one place."""

from __future__ import annotations

import contextlib
import os
import ssl
import time
from functools import partial
from typing import Any

from pipeline.config import KafkaEndpoint, KafkaLogin, S3Endpoint, S3Login


def kafka_settings(endpoint: KafkaEndpoint, login: KafkaLogin) -> dict[str, Any]:
    """Keyword arguments that every kafka-python client takes.

    Reconnects back off to one second at most, so that a client notices within a second that a
    broker is back. A broker that takes the connection and says nothing costs four seconds.
    """
    settings: dict[str, Any] = {
        "bootstrap_servers": endpoint.bootstrap.split(","),
        "security_protocol": endpoint.security_protocol,
        "sasl_mechanism": endpoint.sasl_mechanism,
        "sasl_plain_username": login.username,
        "sasl_plain_password": login.password.get_secret_value(),
        "reconnect_backoff_ms": 100,
        "reconnect_backoff_max_ms": 1_000,
        "kafka_client": partial(patient_client, 4.0),
    }
    if endpoint.tls is not None:
        settings |= {"ssl_cafile": str(endpoint.tls.ca_file), "ssl_check_hostname": True}
    return settings


def patient_client(setup_seconds: float, **configs: Any) -> Any:
    """The inner client of kafka-python, with an end to each attempt to connect.

    The library (3.0.12) gives the first connection all the time that there is, and the TLS handshake on it no end at
    all: with a machine that is paused, whose kernel takes connections, it would wait for as long as that, and ask
    nobody else.

    :param setup_seconds: how long a connection may take, and the handshake on it.
    :param configs: as the library hands them over.
    """
    from kafka.net.compat import KafkaNetClient
    from kafka.net.selector import NetworkSelector

    # No setting of the outer clients, but one of what they are made of.
    configs["socket_connection_setup_timeout_ms"] = int(setup_seconds * 1000)

    class PatientSelector(NetworkSelector):  # type: ignore[misc]
        """Waits for the other side of a handshake for a while, and for what comes after it as the library says."""

        def wait_read(self, fileobj: Any, timeout_at: float | None = None) -> Any:
            if timeout_at is None and isinstance(fileobj, ssl.SSLSocket) and fileobj.version() is None:
                timeout_at = time.monotonic() + setup_seconds
            return super().wait_read(fileobj, timeout_at)

        def wait_write(self, fileobj: Any, timeout_at: float | None = None) -> Any:
            # Of a connection on its way, which is given all the time there is: none would be left for another broker.
            if timeout_at is not None:
                timeout_at = min(timeout_at, time.monotonic() + setup_seconds)
            return super().wait_write(fileobj, timeout_at)

    return KafkaNetClient(net=PatientSelector(**configs), **configs)


def connect_admin(endpoint: KafkaEndpoint, login: KafkaLogin, client_id: str, timeout: float) -> Any:
    """A connected ``KafkaAdminClient`` that leaves nothing behind when it can't be connected.

    :param timeout: seconds for the connection, and for each later request.
    :raises kafka.errors.KafkaError: no broker answered in time, or the login was refused.
    """
    from kafka import KafkaAdminClient

    made: list[Any] = []

    def remembered(**configs: Any) -> Any:
        # A broker that is suspended takes the connection and says nothing: half of the time is left
        # for another one.
        made.append(patient_client(timeout / 2, **configs))
        return made[-1]

    settings = kafka_settings(endpoint, login) | {
        "client_id": client_id,
        "request_timeout_ms": int(timeout * 1000),
        "bootstrap_timeout_ms": int(timeout * 1000),
        "kafka_client": remembered,
    }
    try:
        return KafkaAdminClient(**settings)
    except BaseException:
        # The library starts its thread before it connects and leaves it running on failure.
        for client in made:
            with contextlib.suppress(Exception):
                client.close()
        raise


def delta_storage_options(endpoint: S3Endpoint, login: S3Login) -> dict[str, str]:
    """Storage options of delta-rs for the same object store."""
    if endpoint.tls is not None:
        # delta-rs has no option for an authority of one's own (its issue 4246): it asks the system's store, and
        # this variable names another one. Nothing in our processes speaks TLS with anyone outside the stack.
        os.environ["SSL_CERT_FILE"] = str(endpoint.tls.ca_file)
    return {
        "AWS_ENDPOINT_URL": endpoint.endpoint,
        "AWS_REGION": endpoint.region,
        "AWS_ACCESS_KEY_ID": login.access_key.get_secret_value(),
        "AWS_SECRET_ACCESS_KEY": login.secret_key.get_secret_value(),
        "AWS_ALLOW_HTTP": "true" if endpoint.endpoint.startswith("http://") else "false",
        "aws_conditional_put": "etag",
        "connect_timeout": "3s",
        "timeout": "10s",
        "max_retries": "2",
        "retry_timeout": "15s",
    }
