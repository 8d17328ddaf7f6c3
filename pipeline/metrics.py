"""The metrics endpoint of a service."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, start_http_server

from pipeline.config import MetricsAddress
from pipeline.errors import Unavailable


def serve(address: MetricsAddress, registry: CollectorRegistry) -> None:
    """Answer Prometheus at ``http://host:port/metrics`` in a daemon thread.

    :raises Unavailable: the address is not one of this host, or the port is taken.
    """
    try:
        start_http_server(address.port, addr=address.host, registry=registry)
    except OSError as error:
        raise Unavailable(
            "metrics",
            f"{address.host}:{address.port} ({error.strerror or error})",
            "an address of this host with a free port",
        ) from None
