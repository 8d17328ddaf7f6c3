"""The metrics endpoint of a service."""

from __future__ import annotations

import logging
import socket
import sys
import threading
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app, start_http_server
from prometheus_client.exposition import ThreadingWSGIServer

from pipeline.config import MetricsAddress, Tls
from pipeline.errors import Unavailable
from pipeline.tls import secure

log = logging.getLogger(__name__)


def serve(address: MetricsAddress, registry: CollectorRegistry, tls: Tls | None = None) -> None:
    """Answer Prometheus at ``http://host:port/metrics`` in a daemon thread.

    :param tls: then it is ``https://``, for those alone who show a certificate of the same authority.
    :raises Unavailable: the address is not one of this host, or the port is taken.
    :raises ConfigError: the files of ``tls`` cannot be used.
    """
    try:
        if tls is None:
            start_http_server(address.port, addr=address.host, registry=registry)
        else:
            _serve(address, registry, tls)
    except OSError as error:
        raise Unavailable(
            "metrics",
            f"{address.host}:{address.port} ({error.strerror or error})",
            "an address of this host with a free port",
        ) from None


def _serve(address: MetricsAddress, registry: CollectorRegistry, tls: Tls) -> None:
    # The library's own TLS shakes hands in the thread that takes connections.
    family = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0][0]
    kind: type[_Server] = type("Server", (_Server,), {"address_family": family})
    server = make_server(address.host, address.port, make_wsgi_app(registry), kind, _Handler)
    try:
        secure(server, tls)
    except BaseException:
        server.server_close()
        raise
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()


class _Server(ThreadingWSGIServer):
    def handle_error(self, _request: Any, client_address: Any) -> None:
        """Who shows no certificate, or a wrong one, is one line of the log."""
        log.warning("request of %s ended: %s", client_address, sys.exception())


class _Handler(WSGIRequestHandler):
    # Seconds that a client may be silent.
    timeout = 10.0

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's
        """Say nothing of scrapes."""
