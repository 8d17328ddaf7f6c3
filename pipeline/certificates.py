"""Until when the certificates of the stack hold, read from what its ports show.

Every port is asked again each minute; a certificate that was renewed on the disk and is not served yet counts as
the old one, which is what it is to everybody who connects. Whatever can't be read shows no time: that a service is
down, others say.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from pipeline.config import SecuredPort, Tls
from pipeline.errors import ConfigError
from pipeline.tls import reading_context

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 60.0
_TIMEOUT_SECONDS = 4.0
_AT_ONCE = 4


@dataclass(frozen=True)
class Place:
    """A port that shows a certificate."""

    service: str
    host: str
    port: int


@dataclass(frozen=True)
class Certificate:
    """What a port showed.

    :param host: whose certificate it is, by the name that it holds.
    :param not_after: Unix time of its end.
    """

    host: str
    not_after: float


Read = Callable[[Place], Certificate]


def places(ports: Iterable[SecuredPort]) -> list[Place]:
    """Each port once."""
    found: dict[tuple[str, int], Place] = {}
    for port in ports:
        parts = urlsplit(f"https://{port.address}")
        if parts.hostname:
            place = Place(port.service, parts.hostname, parts.port or 443)
            found.setdefault((place.host, place.port), place)
    return list(found.values())


def read(tls: Tls, place: Place, timeout: float = _TIMEOUT_SECONDS) -> Certificate:
    """Read the certificate of a port; it may have ended, and must be of our authority and of that host.

    :param timeout: seconds to connect, and for the handshake.
    :raises OSError: no answer, no TLS, or another's certificate (ssl.SSLCertVerificationError).
    """
    context = reading_context(tls)
    with (
        socket.create_connection((place.host, place.port), timeout) as plain,
        context.wrap_socket(plain, server_hostname=place.host) as secured,
    ):
        shown: Any = secured.getpeercert()
    names = dict(part for entry in shown["subject"] for part in entry)
    return Certificate(names.get("commonName", place.host), ssl.cert_time_to_seconds(shown["notAfter"]))


class CertificateCollector(Collector):
    """The metrics of the certificates, of the last round of :meth:`look`.

    :param read: reads the certificate of a port, raising OSError.
    """

    def __init__(self, places: list[Place], read: Read) -> None:
        self._places = places
        self._read = read
        self._ends: dict[tuple[str, str], float] = {}
        self._said: dict[Place, str] = {}

    def run(self, stop: threading.Event, interval: float = INTERVAL_SECONDS) -> None:
        """Round after round until stopped."""
        while True:
            self.look()
            if stop.wait(interval):
                return

    def look(self) -> None:
        """Ask every port once."""
        ends: dict[tuple[str, str], float] = {}
        with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
            for place, found in zip(self._places, pool.map(self._try, self._places), strict=True):
                if found is not None:
                    # A service may show one on more than one port: the one that ends first counts.
                    key = (place.service, found.host)
                    ends[key] = min(found.not_after, ends.get(key, found.not_after))
        self._ends = ends

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Give what was read last."""
        # Tells a round that read nothing from a stack without TLS.
        yield GaugeMetricFamily(
            "tls_certificate_endpoints", "Ports whose certificates are looked at.", value=len(self._places)
        )
        family = GaugeMetricFamily(
            "tls_certificate_expiry_timestamp_seconds",
            "Unix time at which the certificate that the service shows ends.",
            labels=["service", "host"],
        )
        for (service, host), end in sorted(self._ends.items()):
            family.add_metric([service, host], end)
        yield family

    def _try(self, place: Place) -> Certificate | None:
        said, found = "", None
        try:
            found = self._read(place)
        except (OSError, ConfigError) as error:
            # Our own files as well: whoever renews them writes one after the other.
            said = f"{getattr(error, 'verify_message', '') or error}"
        if said and said != self._said.get(place):
            log.warning("certificate of %s at %s:%d not read: %s", place.service, place.host, place.port, said)
        self._said[place] = said
        return found
