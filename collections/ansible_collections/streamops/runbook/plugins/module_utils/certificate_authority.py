"""Certificates of the project's own CA, one for each host: when one is issued, and whether one that was given will do.

Runs on the controller, which holds the CA's key. The files of a host stand below its own folder under the
names of ``tls_files.NAMES``. A subject has the host's name as its only part, because that is how brokers
know each other.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused
from ansible_collections.streamops.runbook.plugins.module_utils.private import refuse_open_secrets
from ansible_collections.streamops.runbook.plugins.module_utils.tls_files import (
    make_private,
    read_or_none,
    write_private,
)
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import ExtendedKeyUsageOID

#: The entry of ``host.p12``; Java asks for a key by it.
ALIAS = "host"
#: A given certificate with fewer days left is worth a warning, one with fewer than that is refused.
WARN_DAYS = 14
FAIL_DAYS = 2
# A CA that ends takes everything that it signed with it, and a successor wants to be rolled out first.
_WARN_DAYS_OF_A_CA = 90
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
# Clocks of hosts may be behind; a certificate of the future is refused by whoever it is shown to.
_BACKDATED = timedelta(hours=1)
_LONGEST_COMMON_NAME = 64

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


@dataclass(frozen=True)
class Host:
    """A host and what else it is reached by: names and IP addresses."""

    name: str
    addresses: tuple[str, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """Everything that its certificate must cover; names in lower case, addresses in their short form."""
        return frozenset(_normal(name) for name in (self.name, *self.addresses))


@dataclass(frozen=True)
class Authority:
    """A CA; without its key it can be asked whether it signed something, and nothing more.

    ``above`` are the CAs that signed it, up to the one that signed itself; none for a CA of the project's own.
    """

    certificate: x509.Certificate
    key: PrivateKey | None
    above: tuple[x509.Certificate, ...] = ()

    @property
    def chain(self) -> list[x509.Certificate]:
        """Itself and all above it."""
        return [self.certificate, *self.above]


@dataclass(frozen=True)
class Identity:
    """What a host shows: its certificate, the certificates between it and the CA, and its key."""

    certificate: x509.Certificate
    between: tuple[x509.Certificate, ...]
    key: PrivateKey


@dataclass(frozen=True)
class Policy:
    """How long certificates live, in days, and with how many left a new one is issued."""

    days: int = 365
    renew_days: int = 30
    ca_days: int = 3650


@dataclass(frozen=True)
class Standing:
    """How a certificate stands: ``state`` is ok | warn | fail, ``text`` says why with the dates."""

    state: str
    text: str
    not_after: str
    days_left: int


@dataclass
class Outcome:
    """What was found or done.

    :param did: one phrase per act, or per act that is planned.
    :param warnings: what works today and needs a hand soon.
    :param certificates: by host ``not_after`` (RFC 3339), ``days_left``, ``sha256`` and ``provided``; a host whose
        certificate is only planned is left out.
    """

    did: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    certificates: dict[str, dict[str, object]] = field(default_factory=dict)


def parse_hosts(entries: Iterable[Mapping[str, object]]) -> list[Host]:
    """Check what the inventory says of the hosts.

    :param entries: ``name`` and ``addresses`` of each.
    :raises Refused: a name that no certificate can hold, or the same name twice.
    """
    hosts: list[Host] = []
    for entry in entries:
        name, addresses = str(entry["name"]), entry.get("addresses") or ()
        if not isinstance(addresses, Sequence) or isinstance(addresses, str):
            raise Refused(f"addresses of {name}", repr(addresses), "a list of names and IP addresses")
        if len(name) > _LONGEST_COMMON_NAME:
            raise Refused(f"host {name}", f"a name of {len(name)} characters", f"at most {_LONGEST_COMMON_NAME}")
        if name in [host.name for host in hosts]:
            raise Refused(f"host {name}", "its name twice", "each name once")
        for text in (name, *addresses):
            if _address(str(text)) is None and not _NAME.fullmatch(str(text)):
                raise Refused(f"host {name}", f"{text!r}", "a name or an IP address")
        hosts.append(Host(name, tuple(str(address) for address in addresses)))
    return hosts


def parse_certificates(what: str, text: str) -> list[x509.Certificate]:
    """Read one or more certificates in PEM.

    :raises Refused: when there is none.
    """
    try:
        return x509.load_pem_x509_certificates(text.encode())
    except ValueError as error:
        raise Refused(what, f"no certificate ({error})", "certificates in PEM") from None


def parse_key(what: str, text: str) -> PrivateKey:
    """Read an unencrypted private key in PEM.

    :raises Refused: when it is none that brokers can use.
    """
    try:
        key = serialization.load_pem_private_key(text.encode(), password=None)
    except (ValueError, TypeError) as error:
        # The error itself could quote what it was given.
        raise Refused(what, f"no usable key ({type(error).__name__})", "an unencrypted private key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise Refused(what, f"a {type(key).__name__}", "an RSA key or one on an elliptic curve")
    return key


def parse_identity(host: str, certificate_text: str, key_text: str) -> Identity:
    """Read a certificate that was signed elsewhere: itself first, then those between it and the CA.

    :raises Refused: naming the host, when one of the two texts is not what it should be.
    """
    certificate, *rest = parse_certificates(f"provided certificate of {host}", certificate_text)
    # The CA itself needs no place between: whoever knows it has it, and whoever does not must not take it from here.
    between = tuple(link for link in rest if link.subject != link.issuer)
    return Identity(certificate, between, parse_key(f"provided key of {host}", key_text))


def standing(
    certificate: x509.Certificate, now: datetime, warn_days: int = WARN_DAYS, fail_days: int = FAIL_DAYS
) -> Standing:
    """How long a certificate is still good for.

    :param now: with a time zone.
    """
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    days = (ends - now) // timedelta(days=1)
    dates = f"valid from {begins:%Y-%m-%d} to {ends:%Y-%m-%d}"
    if now < begins:
        return Standing("fail", f"not valid yet: {dates}", ends.isoformat(), days)
    if now >= ends:
        return Standing("fail", f"expired: {dates}", ends.isoformat(), days)
    text = f"{days} {'day' if days == 1 else 'days'} left: {dates}"
    state = "fail" if days < fail_days else "warn" if days < warn_days else "ok"
    return Standing(state, text, ends.isoformat(), days)


class Store:
    """The folder that holds the CA and the certificates of all hosts.

    :param folder: made when it is missing.
    :param password: of the PKCS#12 files.
    :param now: the time, with a time zone.
    :param plan_only: say what would be done and write nothing.
    """

    def __init__(self, folder: Path, password: str, now: datetime, *, plan_only: bool = False) -> None:
        self._folder = folder
        self._password = password.encode()
        self._now = now
        self._plan_only = plan_only
        self.outcome = Outcome()

    def own_authority(self, policy: Policy) -> Authority:
        """The project's own CA, made once.

        :raises Refused: one of its two files is missing, others could read its key, or its time is over.
        """
        key_file, certificate_file = self._folder / "ca.key", self._folder / "ca.pem"
        key_text, text = read_or_none(key_file), read_or_none(certificate_file)
        if key_text is None and text is None:
            return self._make_authority(policy, key_file, certificate_file)
        if key_text is None or text is None:
            there, missing = (certificate_file, key_file) if key_text is None else (key_file, certificate_file)
            raise Refused(
                f"CA {self._folder}",
                f"{there.name} without {missing.name}",
                "both or neither",
                f"put {missing} back from a backup; without {there} a new CA is made and every certificate with it.",
            )
        refuse_open_secrets(key_file, stat.S_IMODE(key_file.stat().st_mode))
        return self.given_authority(text.decode(errors="replace"), key_text.decode(errors="replace"))

    def given_authority(self, certificate_text: str, key_text: str) -> Authority:
        """A CA of which certificate and, where certificates are to be issued, key are given in PEM.

        :param certificate_text: its certificate, and below it those of the CAs that signed it.
        :raises Refused: it is no CA, its chain has no end, its key is another's, or its time is over.
        """
        certificate, *above = parse_certificates("CA", certificate_text)
        what = f"CA {certificate.subject.rfc4514_string()}"
        key = parse_key(f"key of {what}", key_text) if key_text else None
        if not _is_authority(certificate):
            raise Refused(what, "a certificate that may sign no others", "the certificate of a CA")
        if key is not None and not _fits(key, certificate):
            raise Refused(what, "a key of another certificate", "the key that belongs to it")
        authority = Authority(certificate, key, tuple(above))
        for link, signer in zip(authority.chain, [*above, authority.chain[-1]], strict=True):
            if not _signed(link, signer):
                raise Refused(
                    what,
                    f"no CA that signed {link.subject.rfc4514_string()}",
                    "the whole chain, up to the CA that signed itself",
                )
            named = what if link is certificate else f"{what}, {_common_name(link)} above it"
            self._judge(named, link, _WARN_DAYS_OF_A_CA)
        return authority

    def _make_authority(self, policy: Policy, key_file: Path, certificate_file: Path) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        # Two CAs of one name are taken for each other; a random part keeps a successor apart.
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"streamops CA {secrets.token_hex(4)}")])
        public = key.public_key()
        certificate = (
            _builder(name, name, public, self._now, self._now + timedelta(days=policy.ca_days))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(authority=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(key, hashes.SHA256())
        )
        self.outcome.did.append(f"make a CA in {self._folder}")
        if not self._plan_only:
            make_private(self._folder)
            write_private(key_file, _key_text(key))
            write_private(certificate_file, _text([certificate]))
        return Authority(certificate, key)

    def ensure(
        self,
        hosts: Sequence[Host],
        authority: Authority,
        policy: Policy,
        *,
        provided: Mapping[str, Identity] | None = None,
        trusted: Sequence[x509.Certificate] = (),
    ) -> None:
        """Give every host its files; what was done is told by :attr:`outcome`.

        All that can be refused is refused before the first file of a host is written.

        :param provided: identities by host that were signed elsewhere; they are checked and stored as they are.
        :param trusted: further CAs that hosts trust, such as the former one until all have a new certificate.
        :raises Refused: naming the host and what is wrong with its certificate.
        """
        given = dict(provided or {})
        roots = [*authority.chain, *trusted]
        unknown = sorted(given.keys() - {host.name for host in hosts})
        if unknown:
            raise Refused(f"certificate for {unknown[0]}", "no such host", "a host of the inventory")
        ready: list[tuple[Host, Identity, bool]] = []
        for host in hosts:
            if host.name in given:
                self._check_provided(host, given[host.name], roots)
                ready.append((host, given[host.name], False))
            else:
                ready.append((host, *self._current_or_new(host, authority, policy)))
        for host, identity, issued in ready:
            wrote = self._write(host, identity, authority.chain, roots)
            if wrote and not issued:
                self.outcome.did.append(f"write {', '.join(wrote)} of {host.name}")
            if not (issued and self._plan_only):
                self._tell(host, identity, provided=host.name in given)

    def _current_or_new(self, host: Host, authority: Authority, policy: Policy) -> tuple[Identity, bool]:
        """The host's identity, and whether it was made just now."""
        current = self._stored(host)
        reason = self._reason(host, current, authority, policy)
        if current is not None and not reason:
            return current, False
        if authority.key is None:
            raise Refused(
                f"certificate of {host.name}",
                f"none that can go on ({reason})",
                "a provided one, because the CA's key is not given",
                "add the host to certificates_provided, or give the CA's key",
            )
        self.outcome.did.append(f"issue {host.name}: {reason}")
        return self._issue(host, authority.certificate, authority.key, policy), True

    def _stored(self, host: Host) -> Identity | None:
        """What stands in the host's folder, or None when it is not a certificate with a key."""
        folder = self._folder / host.name
        text, key_text = read_or_none(folder / "host.pem"), read_or_none(folder / "host.key")
        if text is None or key_text is None:
            return None
        try:
            certificates = parse_certificates(str(folder / "host.pem"), text.decode(errors="replace"))
            key = parse_key(str(folder / "host.key"), key_text.decode(errors="replace"))
        except Refused:
            return None
        return Identity(certificates[0], (), key)

    def _reason(self, host: Host, current: Identity | None, authority: Authority, policy: Policy) -> str:
        """Why a new certificate is issued; empty when the present one goes on."""
        if current is None:
            return "it has none"
        certificate = current.certificate
        if not _fits(current.key, certificate):
            return "its key is another's"
        if not _signed(certificate, authority.certificate):
            return "another CA signed it"
        if _common_name(certificate) != host.name:
            return f"it names {_common_name(certificate)}"
        if _covered(certificate) != host.names:
            return f"it covers {', '.join(sorted(_covered(certificate)))}, not {', '.join(sorted(host.names))}"
        left = certificate.not_valid_after_utc - self._now
        # Where the CA ends first, another certificate would end no later: issuing it again each day helps nobody.
        longer = self._end(authority.certificate, policy) - certificate.not_valid_after_utc
        if left < timedelta(days=policy.renew_days) and longer > timedelta(days=1):
            return standing(certificate, self._now).text
        return ""

    def _end(self, authority: x509.Certificate, policy: Policy) -> datetime:
        return min(self._now + timedelta(days=policy.days), authority.not_valid_after_utc)

    def _issue(self, host: Host, authority: x509.Certificate, authority_key: PrivateKey, policy: Policy) -> Identity:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host.name)])
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        names = x509.SubjectAlternativeName([_general_name(name) for name in sorted(host.names)])
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key())
        public = key.public_key()
        certificate = (
            _builder(subject, authority.subject, public, self._now, self._end(authority, policy))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(authority=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(names, critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(signer, critical=False)
            .sign(authority_key, hashes.SHA256())
        )
        return Identity(certificate, (), key)

    def _check_provided(self, host: Host, identity: Identity, roots: Sequence[x509.Certificate]) -> None:
        what = f"provided certificate of {host.name}"
        certificate = identity.certificate
        if not _fits(identity.key, certificate):
            raise Refused(what, "a key of another certificate", "the key that belongs to it")
        for link in (certificate, *identity.between):
            self._judge(what if link is certificate else f"{what}, {_common_name(link)} above it", link, WARN_DAYS)
        last = certificate
        for link in identity.between:
            if not _signed(last, link):
                raise Refused(what, f"{_common_name(link)} above {_common_name(last)}", "the CA that signed it")
            last = link
        if not any(_signed(last, root) for root in roots):
            raise Refused(
                what,
                f"{_common_name(last)} signed by {last.issuer.rfc4514_string()}",
                " or ".join(root.subject.rfc4514_string() for root in roots),
                "give the CA that signed it, and the CAs in between below the certificate itself",
            )
        if _common_name(certificate) != host.name:
            raise Refused(what, f"the common name {_common_name(certificate)}", f"{host.name}, as brokers know it")
        missing = sorted(host.names - _covered(certificate))
        if missing:
            raise Refused(
                what, f"the names {', '.join(sorted(_covered(certificate))) or 'none'}", f"{', '.join(missing)} too"
            )
        lacking = _lacking_purposes(certificate)
        if lacking:
            raise Refused(what, f"no use for {' and '.join(lacking)}", "use for server and client authentication")

    def _judge(self, what: str, certificate: x509.Certificate, warn_days: int) -> None:
        """Refuse what is over or will be in a moment; warn of what will be soon."""
        stands = standing(certificate, self._now, warn_days)
        if stands.state == "fail":
            raise Refused(what, stands.text, f"at least {FAIL_DAYS} days", "replace it")
        if stands.state == "warn":
            self.outcome.warnings.append(f"{what}: {stands.text}")

    def _write(
        self, host: Host, identity: Identity, above: Sequence[x509.Certificate], roots: Sequence[x509.Certificate]
    ) -> list[str]:
        """Make the files of a host what they are to be; the names of those that differed."""
        folder = self._folder / host.name
        chain = [*identity.between, *above]
        contents = {
            "ca.pem": _text(roots),
            "host.pem": _text([identity.certificate, *chain]),
            "host.key": _key_text(identity.key),
        }
        wanted = {name: content for name, content in contents.items() if _private(folder / name) != content}
        # Each file of this kind is salted anew: what it holds is compared, not its bytes.
        if self._opened(folder / "host.p12") != ([identity.certificate, *chain], _public_bytes(identity.key)):
            wanted["host.p12"] = pkcs12.serialize_key_and_certificates(
                ALIAS.encode(), identity.key, identity.certificate, chain, self._encryption()
            )
        if self._opened(folder / "trust.p12") != (list(roots), None):
            entries = [pkcs12.PKCS12Certificate(root, f"ca-{n}".encode()) for n, root in enumerate(roots)]
            wanted["trust.p12"] = pkcs12.serialize_java_truststore(entries, self._encryption())
        if wanted and not self._plan_only:
            make_private(self._folder)
            make_private(folder)
            for name, content in wanted.items():
                write_private(folder / name, content)
        return list(wanted)

    def _encryption(self) -> serialization.KeySerializationEncryption:
        return serialization.BestAvailableEncryption(self._password)

    def _opened(self, path: Path) -> tuple[list[x509.Certificate], bytes | None] | None:
        """The certificates of a PKCS#12 file and the public half of its key; None when it can't be opened."""
        content = _private(path)
        if content is None:
            return None
        try:
            opened = pkcs12.load_pkcs12(content, self._password)
        except ValueError:
            return None
        certificates = [entry.certificate for entry in opened.additional_certs]
        if opened.cert is not None:
            certificates.insert(0, opened.cert.certificate)
        key = opened.key
        if isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
            return certificates, _public_bytes(key)
        return certificates, None

    def _tell(self, host: Host, identity: Identity, *, provided: bool) -> None:
        stands = standing(identity.certificate, self._now)
        self.outcome.certificates[host.name] = {
            "not_after": stands.not_after,
            "days_left": stands.days_left,
            "sha256": identity.certificate.fingerprint(hashes.SHA256()).hex(),
            "provided": provided,
        }


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _normal(text: str) -> str:
    address = _address(text)
    return text.lower() if address is None else str(address)


def _general_name(text: str) -> x509.GeneralName:
    address = _address(text)
    return x509.DNSName(text) if address is None else x509.IPAddress(address)


def _builder(
    subject: x509.Name, issuer: x509.Name, public: PublicKey, now: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(end)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _text(certificates: Iterable[x509.Certificate]) -> bytes:
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates)


def _key_text(key: PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _private(path: Path) -> bytes | None:
    """What a file holds; None when there is none, or when others may read it and it is to be written anew."""
    content = read_or_none(path)
    return None if content is None or stat.S_IMODE(path.stat().st_mode) != 0o600 else content


def _public_bytes(key: PrivateKey | PublicKey) -> bytes:
    public = key if isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey) else key.public_key()
    return public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _fits(key: PrivateKey, certificate: x509.Certificate) -> bool:
    found = certificate.public_key()
    return isinstance(found, ec.EllipticCurvePublicKey | rsa.RSAPublicKey) and _public_bytes(found) == _public_bytes(
        key
    )


def _signed(certificate: x509.Certificate, signer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(signer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _common_name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return str(names[0].value) if names else "nobody"


def _covered(certificate: x509.Certificate) -> frozenset[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset()
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return frozenset([*(name.lower() for name in names.get_values_for_type(x509.DNSName)), *addresses])


def _is_authority(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _lacking_purposes(certificate: x509.Certificate) -> list[str]:
    """What a certificate may not be used for; one that names no purpose may be used for any."""
    try:
        allowed = set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return []
    purposes = {
        "server authentication": ExtendedKeyUsageOID.SERVER_AUTH,
        "client authentication": ExtendedKeyUsageOID.CLIENT_AUTH,
    }
    return [name for name, purpose in purposes.items() if purpose not in allowed]
