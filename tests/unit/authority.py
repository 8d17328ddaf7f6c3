"""A throw-away authority for the tests of TLS, and servers that show its certificates."""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PEM = serialization.Encoding.PEM


class Authority:
    """Issues certificates below a folder.

    :param days: until its own certificate ends.
    """

    def __init__(self, folder: Path, name: str = "test authority", days: float = 90) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        self._certificate = self._sign(self._name, self._key.public_key(), days, [], authority=True)
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(self._certificate.public_bytes(PEM))

    def issue(self, name: str, days: float = 30, address: str = "127.0.0.1") -> dict[str, str]:
        """The files of a host: ``ca_file``, ``cert_file``, ``key_file``.

        :param days: until the certificate ends; below 0 it has ended.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address(address))]
        made = self._sign(_name(name), key.public_key(), days, names, authority=False)
        cert_file, key_file = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        cert_file.write_bytes(made.public_bytes(PEM) + self._certificate.public_bytes(PEM))
        key_file.write_bytes(
            key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        )
        return {"ca_file": str(self.ca_file), "cert_file": str(cert_file), "key_file": str(key_file)}

    def _sign(
        self, subject: x509.Name, key: Any, days: float, names: list[x509.GeneralName], *, authority: bool
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=100))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class _Page(BaseHTTPRequestHandler):
    timeout = 5.0

    def do_GET(self) -> None:
        server = self.server
        assert isinstance(server, TlsServer)
        body = server.body.encode()
        server.authorization = self.headers.get("Authorization", "")
        self.send_response(server.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 - the name is http.server's

    def do_POST(self) -> None:
        server = self.server
        assert isinstance(server, TlsServer)
        server.posted.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        pass


class TlsServer(ThreadingHTTPServer):
    """Answers every request with one page.

    :param files: as of :meth:`Authority.issue`; None for a server without TLS.
    :param clients: whether it wants a certificate of its clients.
    """

    daemon_threads = True

    def __init__(self, files: dict[str, str] | None, *, clients: bool, body: str, status: int) -> None:
        super().__init__(("127.0.0.1", 0), _Page)
        self.body, self.status = body, status
        self.posted: list[bytes] = []
        self.authorization = ""
        if files is None:
            return
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files["cert_file"], files["key_file"])
        if clients:
            context.load_verify_locations(files["ca_file"])
            context.verify_mode = ssl.CERT_REQUIRED
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    @property
    def url(self) -> str:
        return f"https://{self.address}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is refused is what some tests want."""


@contextlib.contextmanager
def serving(
    files: dict[str, str] | None, *, clients: bool = False, body: str = "page", status: int = 200
) -> Iterator[TlsServer]:
    """A server that runs until the end of the block; parameters as of :class:`TlsServer`."""
    server = TlsServer(files, clients=clients, body=body, status=status)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask_the_silent(connect: Callable[[list[str]], object], monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """Have a client of kafka-python connect to two machines that take connections and say nothing, one by one.

    :param connect: gets the addresses, and ends by an error.
    :returns: that error; empty when it did not end in ten seconds.
    :raises BlockingIOError: when the second was never asked.
    """
    raised: list[BaseException] = []

    def attempt() -> None:
        try:
            connect(addresses)
        except Exception as error:  # noqa: BLE001  whatever it is, the test looks at it
            raised.append(error)

    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        ports = [first.getsockname()[1], second.getsockname()[1]]
        addresses = [f"127.0.0.1:{port}" for port in ports]
        turns = itertools.chain(ports, itertools.repeat(ports[1]))

        def choice(brokers: list[Any]) -> Any:
            turn = next(turns)
            return next(broker for broker in brokers if broker.port == turn)

        monkeypatch.setattr("kafka.net.manager.random.choice", choice)
        thread = threading.Thread(target=attempt, daemon=True)
        thread.start()
        thread.join(10)
        second.setblocking(False)
        second.accept()[0].close()
    return raised
