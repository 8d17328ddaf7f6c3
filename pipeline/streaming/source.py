"""Options of Spark's Kafka source."""

from __future__ import annotations

from pipeline.config import StreamingConfig

# Kafka's own are 30 s for a request or a connection and 60 s for a call in all, which the driver waits for before its
# executors do: a broker that is silent, and not dead, kept events from the table for two minutes though its partitions
# had long had other leaders. Twice as many calls are made before the query gives up: an outage of all of Kafka is
# survived for three minutes as before.
_PATIENCE = {
    "kafka.request.timeout.ms": "10000",
    "kafka.default.api.timeout.ms": "30000",
    "kafka.socket.connection.setup.timeout.ms": "4000",
    "kafka.socket.connection.setup.timeout.max.ms": "8000",
    "fetchOffset.numRetries": "6",
}
_LOGIN_MODULES = {
    "PLAIN": "org.apache.kafka.common.security.plain.PlainLoginModule",
    "SCRAM-SHA-256": "org.apache.kafka.common.security.scram.ScramLoginModule",
    "SCRAM-SHA-512": "org.apache.kafka.common.security.scram.ScramLoginModule",
}


def kafka_options(config: StreamingConfig, starting_offsets: str) -> dict[str, str]:
    """The options; they hold the login and must not be logged.

    :param starting_offsets: only used while the checkpoint is empty.
    """
    endpoint, login = config.endpoints.kafka, config.credentials.kafka
    trust = {}
    if endpoint.tls is not None:
        # The authority itself and not its file: executors on other hosts need none.
        authority = endpoint.tls.ca_file.read_text()
        trust = {"kafka.ssl.truststore.type": "PEM", "kafka.ssl.truststore.certificates": authority}
    return {
        **trust,
        **_PATIENCE,
        "kafka.bootstrap.servers": endpoint.bootstrap,
        "kafka.security.protocol": endpoint.security_protocol,
        "kafka.sasl.mechanism": endpoint.sasl_mechanism,
        "kafka.sasl.jaas.config": (
            f"{_LOGIN_MODULES[endpoint.sasl_mechanism]} required "
            f"username={_quoted(login.username)} "
            f"password={_quoted(login.password.get_secret_value())};"
        ),
        "subscribe": endpoint.topic,
        "startingOffsets": starting_offsets,
        "maxOffsetsPerTrigger": str(config.max_offsets_per_trigger),
        # Offsets that vanished from Kafka are lost data: the query fails and says so.
        "failOnDataLoss": "true",
    }


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
