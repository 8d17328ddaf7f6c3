"""TLS where the pipeline answers, and where it looks at what others show.

How it is spoken as a client of Kafka and the object store stands in :mod:`pipeline.clients`.
"""

from __future__ import annotations

import socketserver
import ssl

from pipeline.config import Tls
from pipeline.errors import ConfigError

NO_CHECK_TIME = ssl.VerifyFlags(0x200000)
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME, for which Python has no name: everything is verified but the dates."""


def secure(server: socketserver.TCPServer, tls: Tls) -> None:
    """Let a server that was not asked anything yet speak TLS, and only with those of our own authority.

    A server whose handler has a ``timeout`` gives up on whoever connects and says nothing.

    :raises ConfigError: the files hold no certificate, or not the key of it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    _load(context, tls)
    # Shaken hands with at the first read, which is in the request's own thread: else one client that stays silent
    # would keep the server from taking any other.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)


def reading_context(tls: Tls) -> ssl.SSLContext:
    """A context for reading the certificate of a server, which may have ended but must be of our authority.

    :raises ConfigError: the files hold no certificate, or not the key of it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= NO_CHECK_TIME
    _load(context, tls)
    return context


def _load(context: ssl.SSLContext, tls: Tls) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(tls.ca_file)
        context.load_cert_chain(tls.cert_file, tls.key_file)
    except OSError as error:
        raise ConfigError(
            "tls",
            f"{tls.ca_file}, {tls.cert_file}, {tls.key_file} ({getattr(error, 'reason', None) or error})",
            "an authority, a certificate and its key, as PEM",
        ) from None
