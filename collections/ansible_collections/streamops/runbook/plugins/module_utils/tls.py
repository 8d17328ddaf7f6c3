"""TLS on the controller: the one place where contexts are made, and where a certificate is read and judged.

``files`` is everywhere the same mapping of paths on this machine, as PEM: ``ca_file`` (whom we trust), ``cert_file``
and ``key_file`` (what we show). None stands for a stack that speaks plain text.
"""

from __future__ import annotations

import socket
import ssl
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from . import commands
from .errors import Refused, RunbookError

Files = Mapping[str, str]

# The option ``tls`` of a module, and of a target.
ARGUMENTS: dict[str, Any] = {
    "type": "dict",
    "options": {
        "ca_file": {"type": "path", "required": True},
        "cert_file": {"type": "path", "required": True},
        "key_file": {"type": "path", "required": True, "no_log": False},
    },
}
# OpenSSL's X509_V_FLAG_NO_CHECK_TIME, for which Python has no name: everything is verified but the dates.
_NO_CHECK_TIME = ssl.VerifyFlags(0x200000)
# How long a server is given to say that it does not want us: it does so right after the handshake or never.
_REFUSAL_SECONDS = 0.5
# OpenSSL's codes of what is wrong with a certificate (X509_V_ERR_...).
_VERDICTS = {9: "is not valid yet", 10: "expired", 62: "is of another name", 64: "is of another address"}


class TlsError(RunbookError):
    """A connection on which TLS failed; ``thing`` says whose certificate it is about, ``found`` what is wrong."""

    @property
    def seen(self) -> str:
        """What is wrong, in one phrase: ``certificate of kafka-1 expired on ...``."""
        return f"{self.thing} {self.found}"


@dataclass(frozen=True)
class Certificate:
    """What matters of a certificate.

    :param name: whom it was issued to.
    """

    name: str
    not_before: datetime
    not_after: datetime

    def require_valid(self, thing: str, now: float) -> None:
        """Pass if it holds at this moment.

        :param now: Unix time.
        :raises TlsError: it has ended, or has not begun.
        """
        if now >= self.not_after.timestamp():
            raise _bad(thing, f"expired on {moment(self.not_after)}")
        if now < self.not_before.timestamp():
            raise _bad(thing, f"is not valid before {moment(self.not_before)}")


def moment(when: datetime) -> str:
    """RFC 3339 in whole seconds, UTC."""
    return when.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _next() -> str:
    return f"{commands.line('site')}, which issues what is missing or ends soon"


def _bad(thing: str, found: str, expected: str = "one that holds, of our own authority") -> TlsError:
    return TlsError(thing, found, expected, _next())


# Contexts


def client_context(files: Files) -> ssl.SSLContext:
    """A context for what belongs to the stack: trusts its authority alone, and shows our certificate.

    :raises Refused: naming the file that is missing, or holds something else.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(context, files)
    return context


def outward_context(files: Files) -> ssl.SSLContext:
    """A context for an address that may be outside the stack: trusts the authorities of this machine as well.

    :raises Refused: as :func:`client_context`.
    """
    context = ssl.create_default_context()
    _load(context, files)
    return context


def _load(context: ssl.SSLContext, files: Files) -> None:
    for name in ("ca_file", "cert_file", "key_file"):
        if not Path(files[name]).is_file():
            raise Refused(f"tls.{name}", f"no file {files[name]}", "a PEM file on this machine", _next())
    try:
        context.load_verify_locations(files["ca_file"])
        context.load_cert_chain(files["cert_file"], files["key_file"])
    except OSError as error:
        raise Refused(
            f"tls files {files['ca_file']}, {files['cert_file']}, {files['key_file']}",
            str(getattr(error, "reason", None) or error),
            "an authority, a certificate and its key",
            _next(),
        ) from None


# Certificates


def authorities(files: Files) -> list[Certificate]:
    """The certificates above all others: whom we trust, and what stands between that and our own.

    :raises OSError: a file can't be read.
    :raises ValueError: it holds something else.
    """
    return list(dict.fromkeys([*_certificates(files["ca_file"]), *_certificates(files["cert_file"])[1:]]))


def own(files: Files) -> Certificate:
    """The certificate that we show; errors as :func:`authorities`."""
    return _certificates(files["cert_file"])[0]


def _certificates(path: str) -> list[Certificate]:
    from cryptography import x509

    return [_read(found) for found in x509.load_pem_x509_certificates(Path(path).read_bytes())]


def _read(found: Any) -> Certificate:
    from cryptography.x509.oid import NameOID

    names = found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    name = str(names[0].value) if names else found.subject.rfc4514_string()
    return Certificate(name, found.not_valid_before_utc, found.not_valid_after_utc)


def served(address: str, files: Files, timeout: float, name: str = "") -> Certificate:
    """Read the certificate of a port. It may have ended; of our authority and of that host it must be.

    :param address: ``host:port``.
    :param timeout: seconds to connect, and for the handshake.
    :param name: whose port it is; by default the address.
    :raises TlsError: it is another's, or the port speaks something else.
    :raises OSError: nobody answers.
    """
    from cryptography import x509

    context = client_context(files)
    context.verify_flags |= _NO_CHECK_TIME
    try:
        with _connected(address, context, timeout) as secured:
            found = secured.getpeercert(binary_form=True)
    except ssl.SSLCertVerificationError as error:
        raise _bad(f"certificate of {name or address}", verdict(error)) from error
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
        # Cut off in the middle: whoever does that is starting or ending.
        raise
    except ssl.SSLError as error:
        raise _bad(name or address, f"speaks no TLS that we could ({_words(error)})", "TLS") from error
    # There is one: without, the handshake would have failed.
    return _read(x509.load_der_x509_certificate(found or b""))


def require(
    address: str, files: Files, timeout: float, name: str = "", clock: Callable[[], float] = time.time
) -> Certificate:
    """Shake hands with a port as every client of ours does, and pass if its certificate and our authority's hold.

    :param address: ``host:port``.
    :raises TlsError: naming the certificate that is wrong.
    :raises OSError: nobody answers.
    """
    found = served(address, files, timeout, name)
    now = clock()
    found.require_valid(f"certificate of {name or found.name}", now)
    for authority in authorities(files):
        authority.require_valid(f"certificate of the authority {authority.name}", now)
    return found


def dial(files: Files, address: str, timeout: float) -> None:
    """Open and close a connection to ``host:port``, certificates and all; raises as :func:`require`."""
    require(address, files, timeout)


def blame(addresses: Iterable[str], files: Files, timeout: float, clock: Callable[[], float] = time.time) -> None:
    """Say which certificate is wrong, after a connection failed and its client does not tell why.

    :param addresses: ``host:port`` of what was tried.
    :raises TlsError: of the first address that has one to blame: its own, the authority's, or ours.
    """
    for address in addresses:
        try:
            found = require(address, files, timeout, clock=clock)
            refusal = _refusal(address, files, timeout)
        except TimeoutError:
            # Its client has waited for long enough already.
            return
        except OSError:
            # Not there at all, which is what its client said.
            continue
        if refusal:
            mine = own(files)
            mine.require_valid(f"our certificate {mine.name}", clock())
            raise _bad(f"our certificate {mine.name}", f"was refused by {found.name} ({refusal})")


def complaint(url: str, files: Files | None, timeout: float) -> str:
    """What is wrong with the certificates of a request that failed, in one phrase; empty if they are not to blame."""
    if files is None or not url.startswith("https:"):
        return ""
    try:
        blame([address_of(url)], files, timeout)
    except RunbookError as error:
        return error.seen if isinstance(error, TlsError) else str(error)
    return ""


def _refusal(address: str, files: Files, timeout: float) -> str:
    """Why a server does not want us, empty if it does: in TLS 1.3 it says so only after the handshake."""
    with _connected(address, client_context(files), timeout) as secured:
        secured.settimeout(min(_REFUSAL_SECONDS, timeout))
        try:
            secured.recv(1)
        except TimeoutError:
            return ""
        except ssl.SSLError as error:
            return _words(error)
    return ""


@contextmanager
def _connected(address: str, context: ssl.SSLContext, timeout: float) -> Iterator[ssl.SSLSocket]:
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    with (
        socket.create_connection((host, int(port)), timeout) as plain,
        context.wrap_socket(plain, server_hostname=host) as secured,
    ):
        yield secured


def address_of(url: str) -> str:
    """``host:port`` of an URL of https."""
    parts = urllib.parse.urlsplit(url)
    return parts.netloc if parts.port else f"{parts.netloc}:443"


def verdict(error: ssl.SSLCertVerificationError) -> str:
    """What OpenSSL has against a certificate, in words that hold neither names nor addresses."""
    return _VERDICTS.get(error.verify_code, "is not of a trusted authority")


def _words(error: ssl.SSLError) -> str:
    """``TLSV13_ALERT_CERTIFICATE_REQUIRED`` as people say it."""
    words = (error.reason or type(error).__name__).lower().replace("_", " ")
    return words.partition(" alert ")[2] or words
