"""Knock on every port of the lab's machines as a stranger does: in plain text, and with TLS but no certificate.

Reads from standard input, as JSON, what listens: by host its ``address`` and ``listening``, the lines of
``ss --no-header --listening --numeric --tcp`` there. That is what there is, declared or not; what listens on the
loopback address alone no stranger reaches. Every attempt must be refused; what answered is named.
"""

from __future__ import annotations

import argparse
import http.client
import ipaddress
import json
import socket
import ssl
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass

# Whoever answers one of these with a page lets strangers in. MinIO says whether it lives to everybody, and no more.
PAGES = ("/", "/metrics", "/minio/v2/metrics/cluster", "/api/v1/query?query=up", "/api/v2/silences")
CORRELATION = 0x5747524E
# Types of Spark's answers, and the packages that are on the stack of a failure where the secret was asked for.
RPC_RESPONSE, RPC_FAILURE = 4, 5
SPARK_AUTHENTICATION = (b"org.apache.spark.network.crypto.", b"org.apache.spark.network.sasl.")
_MOST = 4096


@dataclass(frozen=True)
class Port:
    """A port of a machine that others reach."""

    host: str
    address: str
    number: int

    def __str__(self) -> str:
        return f"{self.host} ({self.address}:{self.number})"


def listening(host: str, address: str, text: str) -> list[Port]:
    """Return what of a machine's listening sockets others reach, once each.

    :param text: see the module.
    :raises ValueError: a line is none of ``ss``.
    """
    found = set()
    for line in text.splitlines():
        place, _, number = line.split()[3].rpartition(":")
        place = place.strip("[]").partition("%")[0]
        where = ipaddress.ip_address("0.0.0.0" if place == "*" else place)  # noqa: S104  read, not bound
        if isinstance(where, ipaddress.IPv6Address) and where.ipv4_mapped:
            where = where.ipv4_mapped
        if not where.is_loopback:
            found.add(Port(host, address if where.is_unspecified else str(where), int(number)))
    return sorted(found, key=lambda port: port.number)


def anybody() -> ssl.SSLContext:
    """Return the context of a client that trusts everybody and shows nothing."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@contextmanager
def connected(port: Port, timeout: float, *, secured: bool) -> Iterator[socket.socket]:
    with socket.create_connection((port.address, port.number), timeout) as plain:
        if not secured:
            yield plain
            return
        with anybody().wrap_socket(plain) as encrypted:
            yield encrypted


# Attempts: each says what it was let in to, or nothing where it was refused.


def ask_pages(port: Port, timeout: float, *, secured: bool) -> str:
    """Ask for pages without a login."""
    for page in PAGES:
        client = (
            http.client.HTTPSConnection(port.address, port.number, timeout=timeout, context=anybody())
            if secured
            else http.client.HTTPConnection(port.address, port.number, timeout=timeout)
        )
        try:
            client.request("GET", page)
            status = client.getresponse().status
        except (OSError, http.client.HTTPException):
            continue
        finally:
            client.close()
        if status < 400:
            return f"GET {page} was answered with {status}"
    return ""


def answer_of(port: Port, timeout: float, request: bytes, enough: Callable[[bytes], bool], *, secured: bool) -> bytes:
    """Send a request and read until there is enough of the answer, or no more comes."""
    answer = b""
    with connected(port, timeout, secured=secured) as connection:
        connection.sendall(request)
        # What came before the silence counts; silence alone is a refusal.
        with suppress(TimeoutError):
            while len(answer) < _MOST and not enough(answer) and (more := connection.recv(_MOST - len(answer))):
                answer += more
    return answer


def ask_kafka(port: Port, timeout: float, *, secured: bool) -> str:
    """Ask a Kafka node for its cluster, without a login; which versions it speaks it may say to everybody.

    A node that is a controller alone answers this as a broker does, and never the question for topics.
    """
    # DescribeCluster, version 0; the zeros are no tags, no operations wanted, no tags.
    body = struct.pack("!hhih", 60, 0, CORRELATION, 8) + b"stranger" + b"\0\0\0"
    request = struct.pack("!i", len(body)) + body
    answer = answer_of(port, timeout, request, lambda told: len(told) >= 8, secured=secured)
    # That it has a right to know nothing more is an answer, too: a login was not asked for.
    if len(answer) >= 8 and struct.unpack("!i", answer[4:8])[0] == CORRELATION:
        return "answered a Kafka client"
    return ""


def ask_spark(port: Port, timeout: float, *, secured: bool) -> str:
    """Ask for Spark's RPC without its secret.

    Whoever wants the secret and whoever does not both say that this request failed, and where: only what failed in
    Spark's authentication was refused. Anything else had got past it.
    """
    # Length of the frame, type RpcRequest, id of the request, length of the body, body.
    frame = struct.pack("!qbqi", 8 + 1 + 8 + 4 + 1, 3, CORRELATION, 1) + b"\0"
    answer = answer_of(port, timeout, frame, _whole_frame, secured=secured)
    if len(answer) < 17:
        return ""
    kind, correlation = struct.unpack("!bq", answer[8:17])
    if correlation != CORRELATION:
        return ""
    if kind == RPC_FAILURE and any(name in answer for name in SPARK_AUTHENTICATION):
        return ""
    return "answered Spark's RPC" if kind in (RPC_RESPONSE, RPC_FAILURE) else ""


def _whole_frame(answer: bytes) -> bool:
    return len(answer) >= 8 and len(answer) >= int.from_bytes(answer[:8], "big")


ATTEMPTS: Mapping[str, Callable[..., str]] = {"HTTP": ask_pages, "Kafka": ask_kafka, "Spark": ask_spark}


def knock(port: Port, timeout: float) -> list[str]:
    """Try everything on one port; returns a sentence for each attempt that was let in.

    :raises OSError: nobody listens there, so nothing is proven.
    """
    socket.create_connection((port.address, port.number), timeout).close()
    found = []
    for name, attempt in ATTEMPTS.items():
        for secured in (False, True):
            try:
                said = attempt(port, timeout, secured=secured)
            except OSError:
                # Cut off, or silent for too long: refused.
                continue
            if said:
                how = "with TLS and no certificate" if secured else "in plain text"
                found.append(f"{port} let in a stranger {how} ({name}): {said}")
    return found


def ports_of(document: Mapping[str, Mapping[str, str]], left_out: Iterable[int]) -> list[Port]:
    """Return the ports to knock on.

    :param document: see the module.
    :param left_out: numbers that are not the stack's.
    :raises ValueError: a machine on which nothing listens: that proves nothing.
    """
    found = []
    for host, told in sorted(document.items()):
        ports = [
            port for port in listening(host, told["address"], told["listening"]) if port.number not in set(left_out)
        ]
        if not ports:
            raise ValueError(f"{host}: found no port that others reach, expected one; is the stack up?")
        found += ports
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timeout", type=float, default=3.0, help="seconds for each question")
    parser.add_argument("--leave-out", type=int, nargs="*", default=[22], help="ports that are not the stack's")
    given = parser.parse_args()
    try:
        ports = ports_of(json.load(sys.stdin), given.leave_out)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    with ThreadPoolExecutor(max_workers=8) as pool:
        answers = list(pool.map(lambda port: knock(port, given.timeout), ports))
    for port, answer in zip(ports, answers, strict=True):
        print("\n".join(answer) or f"{port} refuses strangers")
    return 1 if any(answers) else 0


if __name__ == "__main__":
    sys.exit(main())
