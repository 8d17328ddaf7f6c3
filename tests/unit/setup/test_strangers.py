"""The stranger at the door: what lets it in is named, what refuses it is not."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.programs import load
from tests.unit.authority import Authority

PROGRAM = Path(__file__).resolve().parents[3] / "molecule" / "shared" / "strangers.py"


strangers = load("molecule/shared/strangers.py")


@contextmanager
def serving(answer: Callable[[bytes], bytes], context: ssl.SSLContext | None = None) -> Iterator[Any]:
    """A port that answers what it was sent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    plain, _ = listener.accept()
                    with suppress(OSError), plain:
                        plain.settimeout(2)
                        connection = context.wrap_socket(plain, server_side=True) if context else plain
                        with connection:
                            connection.sendall(answer(connection.recv(4096)))

        threading.Thread(target=serve, daemon=True).start()
        yield strangers.Port("kafka-1", "127.0.0.1", listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)


def context_of(files: dict[str, str], *, asks: bool) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files["ca_file"])
    context.load_cert_chain(files["cert_file"], files["key_file"])
    context.verify_mode = ssl.CERT_REQUIRED if asks else ssl.CERT_NONE
    return context


def page(status: str) -> Callable[[bytes], bytes]:
    return lambda asked: f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode() if asked.startswith(b"GET") else b""


def kafka(*keys: int) -> Callable[[bytes], bytes]:
    """A node of Kafka that answers these requests to everybody, and ends the connection on any other."""

    def answer(asked: bytes) -> bytes:
        return struct.pack("!ii", 4, strangers.CORRELATION) if asked[4:6] in numbers else b""

    numbers = [struct.pack("!h", key) for key in keys]
    return answer


# Metadata, ApiVersions, DescribeQuorum, DescribeCluster; who wants a login says before it which versions it speaks.
broker, controller, with_login = kafka(3, 18, 55, 60), kafka(18, 55, 60), kafka(18)

# The beginnings of what Spark 4.1 says to one byte that is no message of its own.
NOT_UNDERSTOOD = """java.io.EOFException
\tat java.base/java.io.DataInputStream.readUnsignedByte(DataInputStream.java:290)
\tat org.apache.spark.rpc.netty.RequestMessage$.readRpcAddress(NettyRpcEnv.scala:633)
\tat org.apache.spark.rpc.netty.NettyRpcHandler.receive(NettyRpcEnv.scala:689)
\tat org.apache.spark.network.server.TransportRequestHandler.processRpcRequest(TransportRequestHandler.java:167)
"""
REFUSED = """java.lang.IllegalStateException: Expected SaslMessage, received something else
\tat org.apache.spark.network.sasl.SaslMessage.decode(SaslMessage.java:70)
\tat org.apache.spark.network.sasl.SaslRpcHandler.doAuthChallenge(SaslRpcHandler.java:80)
\tat org.apache.spark.network.crypto.AuthRpcHandler.doAuthChallenge(AuthRpcHandler.java:99)
"""
# Where it is told not to fall back to SASL.
REFUSED_ALONE = """java.lang.IllegalArgumentException: Unknown challenge message.
\tat org.apache.spark.network.crypto.AuthRpcHandler.doAuthChallenge(AuthRpcHandler.java)
"""


def spark(kind: int, said: str = "") -> Callable[[bytes], bytes]:
    def answer(asked: bytes) -> bytes:
        text = said.encode()
        frame = struct.pack("!bqi", kind, strangers.CORRELATION, len(text)) + text
        return struct.pack("!q", 8 + len(frame)) + frame if asked[8:9] == b"\3" else b""

    return answer


master = spark(5, NOT_UNDERSTOOD)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    return Authority(tmp_path).issue("kafka-1")


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (page("200 OK"), "in plain text (HTTP): GET / was answered with 200"),
        (page("302 Found"), "in plain text (HTTP): GET / was answered with 302"),
        (broker, "in plain text (Kafka): answered a Kafka client"),
        (controller, "in plain text (Kafka): answered a Kafka client"),
        (spark(4), "in plain text (Spark): answered Spark's RPC"),
        (master, "in plain text (Spark): answered Spark's RPC"),
    ],
)
def test_port_that_lets_anybody_in_is_named(answer: Callable[[bytes], bytes], named: str) -> None:
    with serving(answer) as port:
        (said,) = strangers.knock(port, 1.0)
    assert said == f"kafka-1 (127.0.0.1:{port.number}) let in a stranger {named}"


@pytest.mark.parametrize("answer", [page("200 OK"), broker, controller, master])
def test_tls_that_asks_for_no_certificate_is_named(answer: Callable[[bytes], bytes], files: dict[str, str]) -> None:
    with serving(answer, context_of(files, asks=False)) as port:
        (said,) = strangers.knock(port, 1.0)
    assert "with TLS and no certificate" in said


@pytest.mark.parametrize("answer", [page("200 OK"), broker, controller, master])
def test_who_asks_for_a_certificate_refuses(answer: Callable[[bytes], bytes], files: dict[str, str]) -> None:
    with serving(answer, context_of(files, asks=True)) as port:
        assert strangers.knock(port, 1.0) == []


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden", "400 Bad Request"])
def test_who_asks_for_a_login_refuses(status: str, files: dict[str, str]) -> None:
    with serving(page(status), context_of(files, asks=False)) as port:
        assert strangers.knock(port, 1.0) == []


@pytest.mark.parametrize("answer", [with_login, spark(5, REFUSED), spark(5, REFUSED_ALONE)])
def test_who_asks_for_a_secret_refuses(answer: Callable[[bytes], bytes]) -> None:
    with serving(answer) as port:
        assert strangers.knock(port, 1.0) == []


def test_port_where_nobody_listens_proves_nothing() -> None:
    with pytest.raises(OSError, match="refused"):
        strangers.knock(strangers.Port("kafka-1", "127.0.0.1", 1), 1.0)


LISTENING = """\
LISTEN 0      128          0.0.0.0:22        0.0.0.0:*
LISTEN 0      50    [::ffff:10.0.0.11]:9092        *:*
LISTEN 0      50                 *:7071            *:*
LISTEN 0      50              [::]:7071         [::]:*
LISTEN 0      128        127.0.0.1:8080      0.0.0.0:*
LISTEN 0      128   127.0.0.53%lo:53         0.0.0.0:*
LISTEN 0      128            [::1]:8081         [::]:*
"""


def test_what_others_reach_is_read_from_what_listens() -> None:
    found = strangers.listening("kafka-1", "10.0.0.11", LISTENING)
    assert [(port.address, port.number) for port in found] == [
        ("10.0.0.11", 22),
        ("10.0.0.11", 7071),
        ("10.0.0.11", 9092),
    ]


def run(document: dict[str, dict[str, str]]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, PROGRAM, "--timeout", "1"],
        input=json.dumps(document),
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_program_says_of_each_port_how_it_ended() -> None:
    with serving(page("200 OK")) as open_port, serving(page("401 Unauthorized")) as closed:
        lines = [f"LISTEN 0 1 127.0.0.2:{port.number} 0.0.0.0:*" for port in (open_port, closed)]
        # Others reach a wildcard; what is bound to the loopback address is left out.
        wild = [line.replace("127.0.0.2", "*") for line in lines]
        assert run({"kafka-1": {"address": "127.0.0.1", "listening": "\n".join(lines)}}).returncode == 2
        done = run({"kafka-1": {"address": "127.0.0.1", "listening": "\n".join(wild)}})
    assert done.returncode == 1
    assert f"kafka-1 (127.0.0.1:{open_port.number}) let in a stranger in plain text (HTTP)" in done.stdout
    assert f"kafka-1 (127.0.0.1:{closed.number}) refuses strangers" in done.stdout


def test_machine_on_which_nothing_listens_is_an_error() -> None:
    done = run({"kafka-1": {"address": "10.0.0.11", "listening": "LISTEN 0 128 0.0.0.0:22 0.0.0.0:*"}})
    assert done.returncode == 2
    assert "kafka-1: found no port" in done.stderr
