"""How Kafka and the object store are reached: the settings of every client in one place."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from pipeline.config import KafkaEndpoint, KafkaLogin, S3Endpoint, S3Login


def kafka_settings(endpoint: KafkaEndpoint, login: KafkaLogin) -> dict[str, Any]:
    """Keyword arguments that every kafka-python client takes.

    Reconnects back off to one second at most, so that a client notices within a second that a
    broker is back.
    """
    settings: dict[str, Any] = {
        "bootstrap_servers": endpoint.bootstrap.split(","),
        "security_protocol": endpoint.security_protocol,
        "sasl_mechanism": endpoint.sasl_mechanism,
        "sasl_plain_username": login.username,
        "sasl_plain_password": login.password.get_secret_value(),
        "reconnect_backoff_ms": 100,
        "reconnect_backoff_max_ms": 1_000,
    }
    if endpoint.tls is not None:
        settings |= {"ssl_cafile": str(endpoint.tls.ca_file), "ssl_check_hostname": True}
    return settings


def connect_admin(endpoint: KafkaEndpoint, login: KafkaLogin, client_id: str, timeout: float) -> Any:
    """A connected ``KafkaAdminClient`` that leaves nothing behind when it can't be connected.

    :param timeout: seconds for the connection, and for each later request.
    :raises kafka.errors.KafkaError: no broker answered in time, or the login was refused.
    """
    from kafka import KafkaAdminClient
    from kafka.net.compat import KafkaNetClient

    made: list[Any] = []

    def remembered(**configs: Any) -> Any:
        # A broker that is suspended takes the connection and says nothing: half of the time is left
        # for another one.
        configs["socket_connection_setup_timeout_ms"] = int(timeout * 500)
        made.append(KafkaNetClient(**configs))
        return made[-1]

    try:
        return KafkaAdminClient(
            **kafka_settings(endpoint, login),
            client_id=client_id,
            request_timeout_ms=int(timeout * 1000),
            bootstrap_timeout_ms=int(timeout * 1000),
            kafka_client=remembered,
        )
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
