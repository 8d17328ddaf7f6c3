"""The project's CA, when a certificate is issued, and which certificates of others are refused."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.streamops.runbook.plugins.filter import certificates as filters
from ansible_collections.streamops.runbook.plugins.module_utils import certificate_authority, tls_files
from ansible_collections.streamops.runbook.plugins.module_utils.certificate_authority import (
    Authority,
    Host,
    Identity,
    Outcome,
    Policy,
    Store,
    parse_certificates,
    parse_hosts,
    parse_identity,
    parse_key,
)
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import ExtendedKeyUsageOID

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
PASSWORD = "st0re-p4ssw0rd"  # noqa: S105  a test's own
POLICY = Policy()
KAFKA = Host("kafka-1", ("10.0.0.11", "kafka-1.example"))
MINIO = Host("minio-1", ("10.0.0.21",))
PROJECT = Path(__file__).resolve().parents[3]


def ensure(
    folder: Path,
    hosts: Sequence[Host] = (KAFKA,),
    *,
    now: datetime = NOW,
    plan_only: bool = False,
    policy: Policy = POLICY,
    authority: tuple[str, str] | None = None,
    provided: dict[str, Identity] | None = None,
    trusted: Sequence[x509.Certificate] = (),
    store_password: str = PASSWORD,
) -> Outcome:
    store = Store(folder, store_password, now, plan_only=plan_only)
    signer = store.own_authority(policy) if authority is None else store.given_authority(*authority)
    store.ensure(hosts, signer, policy, provided=provided, trusted=trusted)
    return store.outcome


def leaf(folder: Path, host: str = "kafka-1") -> x509.Certificate:
    return parse_certificates(host, (folder / host / "host.pem").read_text())[0]


def state(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


class TestIssue:
    def test_a_host_gets_all_its_files_once(self, tmp_path: Path) -> None:
        first = ensure(tmp_path / "tls")
        assert first.did == [f"make a CA in {tmp_path / 'tls'}", "issue kafka-1: it has none"]
        before = state(tmp_path / "tls")
        assert set(before) == {"ca.key", "ca.pem", *(f"kafka-1/{name}" for name in tls_files.NAMES)}
        assert not ensure(tmp_path / "tls").did
        assert state(tmp_path / "tls") == before

    def test_all_is_for_the_owner_alone(self, tmp_path: Path) -> None:
        ensure(tmp_path / "tls")
        for path in (tmp_path / "tls", *(tmp_path / "tls").rglob("*")):
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path

    def test_a_certificate_says_who_and_for_what(self, tmp_path: Path) -> None:
        told = ensure(tmp_path / "tls").certificates["kafka-1"]
        certificate = leaf(tmp_path / "tls")
        assert certificate.subject.rfc4514_string() == "CN=kafka-1"
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert set(names.get_values_for_type(x509.DNSName)) == {"kafka-1", "kafka-1.example"}
        assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.11"]
        purposes = set(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        assert purposes == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
        assert told["days_left"] == 365
        assert told["provided"] is False
        authority = parse_certificates("ca", (tmp_path / "tls/ca.pem").read_text())[0]
        certificate.verify_directly_issued_by(authority)

    def test_the_stores_of_java_hold_the_same(self, tmp_path: Path) -> None:
        ensure(tmp_path / "tls")
        folder = tmp_path / "tls/kafka-1"
        store = pkcs12.load_pkcs12((folder / "host.p12").read_bytes(), PASSWORD.encode())
        assert store.cert is not None
        assert store.cert.friendly_name == b"host"
        assert store.cert.certificate == leaf(tmp_path / "tls")
        trust = pkcs12.load_pkcs12((folder / "trust.p12").read_bytes(), PASSWORD.encode())
        assert [entry.certificate for entry in trust.additional_certs] == parse_certificates(
            "ca", (folder / "ca.pem").read_text()
        )

    def test_a_plan_writes_nothing_and_says_the_same(self, tmp_path: Path) -> None:
        planned = ensure(tmp_path / "tls", plan_only=True)
        assert not (tmp_path / "tls").exists()
        assert planned.certificates == {}
        assert planned.did == ensure(tmp_path / "tls").did

    @pytest.mark.parametrize(("days", "issued"), [(334, False), (336, True), (400, True)])
    def test_it_is_issued_anew_when_it_ends_soon(self, tmp_path: Path, days: int, issued: bool) -> None:
        ensure(tmp_path / "tls")
        before = leaf(tmp_path / "tls")
        outcome = ensure(tmp_path / "tls", now=NOW + timedelta(days=days))
        assert bool(outcome.did) is issued
        assert (leaf(tmp_path / "tls") != before) is issued
        if issued:
            assert "valid from 2030-01-01 to 2031-01-01" in outcome.did[0]

    @pytest.mark.parametrize("addresses", [("10.0.0.12", "kafka-1.example"), ("10.0.0.11",), ()])
    def test_it_is_issued_anew_when_the_names_differ(self, tmp_path: Path, addresses: tuple[str, ...]) -> None:
        ensure(tmp_path / "tls")
        outcome = ensure(tmp_path / "tls", [Host("kafka-1", addresses)])
        assert outcome.did[0].startswith("issue kafka-1: it covers 10.0.0.11, kafka-1, kafka-1.example, not ")
        assert not ensure(tmp_path / "tls", [Host("kafka-1", addresses)]).did

    def test_other_spellings_of_the_same_names_change_nothing(self, tmp_path: Path) -> None:
        ensure(tmp_path / "tls", [Host("kafka-1", ("fd00::1", "Kafka-1.Example"))])
        assert not ensure(tmp_path / "tls", [Host("kafka-1", ("kafka-1.example", "FD00:0::1", "fd00::1"))]).did

    def test_another_ca_issues_all_of_them_anew(self, tmp_path: Path) -> None:
        ensure(tmp_path / "tls", [KAFKA, MINIO])
        for name in ("ca.key", "ca.pem"):
            (tmp_path / "tls" / name).unlink()
        outcome = ensure(tmp_path / "tls", [KAFKA, MINIO])
        assert outcome.did[1:] == ["issue kafka-1: another CA signed it", "issue minio-1: another CA signed it"]

    @pytest.mark.parametrize("damage", ["host.key", "host.pem"])
    def test_a_damaged_file_is_replaced(self, tmp_path: Path, damage: str) -> None:
        ensure(tmp_path / "tls")
        (tmp_path / "tls/kafka-1" / damage).write_text("junk")
        assert ensure(tmp_path / "tls").did == ["issue kafka-1: it has none"]

    def test_a_key_of_another_is_replaced(self, tmp_path: Path) -> None:
        ensure(tmp_path / "tls", [KAFKA, MINIO])
        (tmp_path / "tls/kafka-1/host.key").write_bytes((tmp_path / "tls/minio-1/host.key").read_bytes())
        assert ensure(tmp_path / "tls", [KAFKA, MINIO]).did == ["issue kafka-1: its key is another's"]

    @pytest.mark.parametrize("name", ["host.p12", "trust.p12", "ca.pem"])
    def test_a_missing_file_is_made_again_without_a_new_certificate(self, tmp_path: Path, name: str) -> None:
        ensure(tmp_path / "tls")
        before = leaf(tmp_path / "tls")
        (tmp_path / "tls/kafka-1" / name).unlink()
        assert ensure(tmp_path / "tls").did == [f"write {name} of kafka-1"]
        assert leaf(tmp_path / "tls") == before

    def test_a_file_that_others_may_read_is_written_anew(self, tmp_path: Path) -> None:
        ensure(tmp_path / "tls")
        (tmp_path / "tls/kafka-1/host.p12").chmod(0o644)
        assert ensure(tmp_path / "tls").did == ["write host.p12 of kafka-1"]
        assert stat.S_IMODE((tmp_path / "tls/kafka-1/host.p12").stat().st_mode) == 0o600

    def test_another_password_makes_both_stores_anew(self, tmp_path: Path) -> None:
        ensure(tmp_path / "tls")
        assert ensure(tmp_path / "tls", store_password=PASSWORD.upper()).did == ["write host.p12, trust.p12 of kafka-1"]

    def test_a_further_ca_is_trusted_without_a_new_certificate(self, tmp_path: Path) -> None:
        ensure(tmp_path / "tls")
        ensure(tmp_path / "other")
        further = parse_certificates("ca", (tmp_path / "other/ca.pem").read_text())
        before = filters.fingerprint(str(tmp_path / "tls/kafka-1"))
        assert ensure(tmp_path / "tls", trusted=further).did == ["write ca.pem, trust.p12 of kafka-1"]
        assert not ensure(tmp_path / "tls", trusted=further).did
        assert (tmp_path / "tls/kafka-1/ca.pem").read_text().count("BEGIN CERTIFICATE") == 2
        assert filters.fingerprint(str(tmp_path / "tls/kafka-1")) != before


class TestAuthority:
    @pytest.mark.parametrize(("lost", "there"), [("ca.key", "ca.pem"), ("ca.pem", "ca.key")])
    def test_half_a_ca_is_refused(self, tmp_path: Path, lost: str, there: str) -> None:
        ensure(tmp_path / "tls")
        (tmp_path / "tls" / lost).unlink()
        with pytest.raises(Refused, match=f"found {there} without {lost}"):
            ensure(tmp_path / "tls")

    def test_a_key_that_others_could_read_is_refused(self, tmp_path: Path) -> None:
        ensure(tmp_path / "tls")
        (tmp_path / "tls/ca.key").chmod(0o640)
        with pytest.raises(Refused, match=r"ca\.key: found mode 0640, expected mode 0600"):
            ensure(tmp_path / "tls")

    def test_one_that_ends_is_named_and_then_refused(self, tmp_path: Path) -> None:
        ensure(tmp_path / "tls")
        soon = ensure(tmp_path / "tls", now=NOW + timedelta(days=3650 - 50))
        assert "49 days left" in soon.warnings[0] or "50 days left" in soon.warnings[0]
        # Nothing that it signs outlives it, so the same certificate is not made again at each run.
        assert not ensure(tmp_path / "tls", now=NOW + timedelta(days=3650 - 20)).did
        with pytest.raises(Refused, match="expired: valid from 2030-01-01 to 2039-12-30"):
            ensure(tmp_path / "tls", now=NOW + timedelta(days=3651))

    def test_a_given_one_signs_and_is_not_stored(self, tmp_path: Path) -> None:
        ensure(tmp_path / "given")
        texts = ((tmp_path / "given/ca.pem").read_text(), (tmp_path / "given/ca.key").read_text())
        ensure(tmp_path / "tls", authority=texts)
        assert {path.name for path in (tmp_path / "tls").iterdir()} == {"kafka-1"}
        assert (tmp_path / "tls/kafka-1/ca.pem").read_text() == texts[0]

    def test_a_certificate_that_is_no_ca_is_refused(self, tmp_path: Path) -> None:
        ensure(tmp_path / "given")
        folder = tmp_path / "given/kafka-1"
        with pytest.raises(Refused, match="may sign no others"):
            ensure(tmp_path / "tls", authority=((folder / "host.pem").read_text(), (folder / "host.key").read_text()))

    def test_a_key_of_another_ca_is_refused(self, tmp_path: Path) -> None:
        ensure(tmp_path / "a")
        ensure(tmp_path / "b")
        with pytest.raises(Refused, match="a key of another certificate"):
            ensure(
                tmp_path / "tls", authority=((tmp_path / "a/ca.pem").read_text(), (tmp_path / "b/ca.key").read_text())
            )

    def test_without_its_key_a_host_needs_a_certificate_of_its_own(self, tmp_path: Path) -> None:
        ensure(tmp_path / "given")
        with pytest.raises(Refused, match="because the CA's key is not given"):
            ensure(tmp_path / "tls", authority=((tmp_path / "given/ca.pem").read_text(), ""))


@pytest.fixture
def elsewhere(tmp_path: Path) -> tuple[str, str, dict[str, Identity]]:
    """A CA that is not ours, without its key, and the identities that it signed."""
    ensure(tmp_path / "elsewhere", [KAFKA, MINIO])
    identities = {}
    for host in ("kafka-1", "minio-1"):
        folder = tmp_path / "elsewhere" / host
        identities[host] = parse_identity(host, (folder / "host.pem").read_text(), (folder / "host.key").read_text())
    return (tmp_path / "elsewhere/ca.pem").read_text(), "", identities


class TestProvided:
    def test_it_is_stored_as_it_is(self, tmp_path: Path, elsewhere: tuple[str, str, dict[str, Identity]]) -> None:
        ca, key, identities = elsewhere
        outcome = ensure(tmp_path / "tls", [KAFKA, MINIO], authority=(ca, key), provided=identities)
        assert leaf(tmp_path / "tls") == identities["kafka-1"].certificate
        assert outcome.certificates["kafka-1"]["provided"] is True
        assert not ensure(tmp_path / "tls", [KAFKA, MINIO], authority=(ca, key), provided=identities).did

    def test_one_that_ends_soon_is_named(self, tmp_path: Path, elsewhere: tuple[str, str, dict[str, Identity]]) -> None:
        ca, key, identities = elsewhere
        outcome = ensure(
            tmp_path / "tls",
            [KAFKA, MINIO],
            authority=(ca, key),
            provided=identities,
            now=NOW + timedelta(days=355),
        )
        assert outcome.warnings == [
            f"provided certificate of {host}: 10 days left: valid from 2030-01-01 to 2031-01-01"
            for host in ("kafka-1", "minio-1")
        ]

    @pytest.mark.parametrize(
        ("now", "found"),
        [
            (NOW + timedelta(days=364), "1 day left: valid from 2030-01-01 to 2031-01-01, expected at least 2 days"),
            (NOW + timedelta(days=366), "expired: valid from 2030-01-01 to 2031-01-01"),
        ],
    )
    def test_one_that_is_over_is_refused_with_its_dates(
        self, tmp_path: Path, elsewhere: tuple[str, str, dict[str, Identity]], now: datetime, found: str
    ) -> None:
        ca, key, identities = elsewhere
        with pytest.raises(Refused, match=f"provided certificate of kafka-1: found {found}"):
            ensure(tmp_path / "tls", [KAFKA, MINIO], authority=(ca, key), provided=identities, now=now)
        assert not (tmp_path / "tls").exists()

    def test_one_of_the_future_is_refused(
        self, tmp_path: Path, elsewhere: tuple[str, str, dict[str, Identity]]
    ) -> None:
        certificate = elsewhere[2]["kafka-1"].certificate
        early = certificate_authority.standing(certificate, NOW - timedelta(days=1))
        assert early.state == "fail"
        assert early.text.startswith("not valid yet")

    @pytest.mark.parametrize(
        ("host", "given", "found"),
        [
            (KAFKA, ("kafka-1", "minio-1"), "found a key of another certificate"),
            (KAFKA, ("minio-1", "minio-1"), "found the common name minio-1, expected kafka-1"),
            (Host("kafka-1", ("10.9.9.9",)), ("kafka-1", "kafka-1"), r"expected 10\.9\.9\.9 too"),
        ],
    )
    def test_one_that_does_not_fit_is_refused(
        self,
        tmp_path: Path,
        elsewhere: tuple[str, str, dict[str, Identity]],
        host: Host,
        given: tuple[str, str],
        found: str,
    ) -> None:
        ca, key, identities = elsewhere
        mixed = Identity(identities[given[0]].certificate, (), identities[given[1]].key)
        with pytest.raises(Refused, match=found):
            ensure(tmp_path / "tls", [host], authority=(ca, key), provided={"kafka-1": mixed})

    def test_one_of_another_ca_is_refused(
        self, tmp_path: Path, elsewhere: tuple[str, str, dict[str, Identity]]
    ) -> None:
        with pytest.raises(Refused, match="kafka-1 signed by CN=streamops CA"):
            ensure(tmp_path / "tls", provided={"kafka-1": elsewhere[2]["kafka-1"]})

    def test_one_for_nobody_is_refused(self, tmp_path: Path, elsewhere: tuple[str, str, dict[str, Identity]]) -> None:
        with pytest.raises(Refused, match=r"certificate for minio-1: found no such host"):
            ensure(tmp_path / "tls", provided={"minio-1": elsewhere[2]["minio-1"]})

    def test_a_purpose_that_it_lacks_is_refused(self, tmp_path: Path) -> None:
        store = Store(tmp_path / "tls", PASSWORD, NOW)
        authority = store.own_authority(POLICY)
        identity = signed_for(authority, [ExtendedKeyUsageOID.SERVER_AUTH])
        with pytest.raises(Refused, match="found no use for client authentication"):
            store.ensure([KAFKA], authority, POLICY, provided={"kafka-1": identity})

    def test_a_chain_over_a_ca_in_between_is_kept(self, tmp_path: Path) -> None:
        root_store = Store(tmp_path / "root", PASSWORD, NOW)
        root = root_store.own_authority(POLICY)
        between, between_key = intermediate(root)
        identity = signed_for(Authority(between, between_key), None)
        whole = Identity(identity.certificate, (between,), identity.key)
        root_store.ensure([KAFKA], root, POLICY, provided={"kafka-1": whole})
        chain = parse_certificates("chain", (tmp_path / "root/kafka-1/host.pem").read_text())
        assert chain == [identity.certificate, between, root.certificate]
        with pytest.raises(Refused, match="give the CA that signed it, and the CAs in between"):
            root_store.ensure([KAFKA], root, POLICY, provided={"kafka-1": identity})

    def test_a_given_ca_in_between_brings_those_above_it(self, tmp_path: Path) -> None:
        root = Store(tmp_path / "root", PASSWORD, NOW).own_authority(POLICY)
        between, between_key = intermediate(root)
        text = between.public_bytes(serialization.Encoding.PEM).decode()
        key = between_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()
        with pytest.raises(Refused, match="the whole chain, up to the CA that signed itself"):
            ensure(tmp_path / "tls", authority=(text, key))
        whole = text + root.certificate.public_bytes(serialization.Encoding.PEM).decode()
        ensure(tmp_path / "tls", authority=(whole, key))
        assert parse_certificates("ca", (tmp_path / "tls/kafka-1/ca.pem").read_text()) == [between, root.certificate]
        assert not ensure(tmp_path / "tls", authority=(whole, key)).did


def signed_for(authority: Authority, purposes: list[x509.ObjectIdentifier] | None) -> Identity:
    """An identity of kafka-1 that somebody else made."""
    key = ec.generate_private_key(ec.SECP256R1())
    assert authority.key is not None
    builder = certificate_authority._builder(
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kafka-1")]),
        authority.certificate.subject,
        key.public_key(),
        NOW,
        NOW + timedelta(days=90),
    ).add_extension(
        x509.SubjectAlternativeName([certificate_authority._general_name(name) for name in KAFKA.names]), critical=False
    )
    if purposes is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    return Identity(builder.sign(authority.key, hashes.SHA256()), (), key)


def intermediate(root: Authority) -> tuple[x509.Certificate, certificate_authority.PrivateKey]:
    """A CA that the root signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    assert root.key is not None
    certificate = (
        certificate_authority._builder(
            x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "in between")]),
            root.certificate.subject,
            key.public_key(),
            NOW,
            NOW + timedelta(days=900),
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(root.key, hashes.SHA256())
    )
    return certificate, key


@pytest.mark.parametrize(
    ("entry", "found"),
    [
        ({"name": "a" * 65}, "a name of 65 characters"),
        ({"name": "kafka 1"}, "'kafka 1'"),
        ({"name": "kafka-1", "addresses": ["10.0.0.1/24"]}, "'10.0.0.1/24'"),
        ({"name": "kafka-1", "addresses": "10.0.0.1"}, "expected a list"),
    ],
)
def test_names_that_no_certificate_can_hold_are_refused(entry: dict[str, object], found: str) -> None:
    with pytest.raises(Refused, match=found):
        parse_hosts([entry])


def test_the_same_host_twice_is_refused() -> None:
    with pytest.raises(Refused, match="its name twice"):
        parse_hosts([{"name": "kafka-1"}, {"name": "kafka-1"}])


@pytest.mark.parametrize("text", ["", "junk", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_what_is_no_key_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(Refused, match="no usable key") as caught:
        parse_key("key", text)
    assert "AAAA" not in str(caught.value)


class TestInstall:
    def test_everything_is_written_once_for_its_owner_alone(self, tmp_path: Path) -> None:
        ensure(tmp_path / "tls")
        contents = {name: (tmp_path / "tls/kafka-1" / name).read_bytes() for name in tls_files.NAMES}
        wanted = tls_files.wanted_files(contents, {"minio/public.crt": "host.pem", "minio/CAs/ca.crt": "ca.pem"})
        owner = tls_files.Owner.named("")
        folder = tmp_path / "host/etc/tls"
        planned = tls_files.install(folder, wanted, owner, plan_only=True)
        assert not folder.exists()
        assert tls_files.install(folder, wanted, owner) == planned
        assert len(planned) == 3 + len(wanted)
        assert tls_files.install(folder, wanted, owner) == []
        assert (folder / "minio/CAs/ca.crt").read_bytes() == contents["ca.pem"]
        for path in (folder, *folder.rglob("*")):
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path

    def test_only_what_differs_is_written(self, tmp_path: Path) -> None:
        contents = dict.fromkeys(tls_files.NAMES, b"x")
        owner = tls_files.Owner.named("")
        tls_files.install(tmp_path / "tls", contents, owner)
        (tmp_path / "tls/host.key").chmod(0o640)
        assert tls_files.install(tmp_path / "tls", {**contents, "ca.pem": b"y"}, owner) == [
            f"write {tmp_path / 'tls/ca.pem'}",
            f"write {tmp_path / 'tls/host.key'}",
        ]

    @pytest.mark.parametrize(
        ("copies", "found"),
        [
            ({"../minio/public.crt": "host.pem"}, "a path of another place"),
            ({"/etc/passwd": "host.pem"}, "a path of another place"),
            ({"host.key": "ca.pem"}, "a path of another place"),
            ({"public.crt": "cert.pem"}, "cert.pem as its source"),
        ],
    )
    def test_a_copy_that_leads_elsewhere_is_refused(self, copies: dict[str, str], found: str) -> None:
        with pytest.raises(Refused, match=found):
            tls_files.wanted_files(dict.fromkeys(tls_files.NAMES, b"x"), copies)

    def test_a_missing_file_is_named(self) -> None:
        with pytest.raises(Refused, match=r"found no host\.key, trust\.p12"):
            tls_files.wanted_files(dict.fromkeys(("ca.pem", "host.pem", "host.p12"), b"x"), {})

    def test_an_unknown_account_is_named(self) -> None:
        with pytest.raises(Refused, match="account nobody-here: found none of that name"):
            tls_files.Owner.named("nobody-here")


def test_filters_carry(tmp_path: Path) -> None:
    assert filters.files_of(str(tmp_path / "tls/kafka-1")) == {}
    assert filters.fingerprint(str(tmp_path / "tls/kafka-1")) == ""
    ensure(tmp_path / "tls", now=datetime.now(UTC))
    assert set(filters.files_of(str(tmp_path / "tls/kafka-1"))) == set(tls_files.NAMES)
    assert len(filters.fingerprint(str(tmp_path / "tls/kafka-1"))) == 16


def run(folder: Path, tasks: list[dict[str, Any]], *options: str) -> tuple[int, str]:
    """Run tasks on this machine; everything that Ansible prints, at its most talkative."""
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": tasks}
    (folder / "play.yml").write_text(json.dumps([play]))
    (folder / "ansible.cfg").touch()
    done = subprocess.run(
        [Path(sys.executable).parent / "ansible-playbook", "-i", "localhost,", "-vvv", "--diff", *options, "play.yml"],
        cwd=folder,
        env={
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(PROJECT / "collections"),
            "ANSIBLE_ROLES_PATH": str(PROJECT / "roles"),
            "ANSIBLE_CONFIG": str(folder / "ansible.cfg"),
            "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
            "ANSIBLE_NOCOLOR": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout


def test_the_role_issues_and_installs_and_prints_no_key(tmp_path: Path) -> None:
    variables = {
        "certificates_dir": str(tmp_path / "tls"),
        "certificates_hosts": [{"name": "localhost", "addresses": ["127.0.0.1"]}],
        "certificates_store_password": PASSWORD,
        "certificates_target": str(tmp_path / "host/etc/tls"),
        "certificates_copies": {"minio/public.crt": "host.pem"},
    }
    tasks = [
        {
            "name": f"Certificates {entry}",
            "ansible.builtin.include_role": {"name": "certificates", "tasks_from": entry},
            "vars": variables,
        }
        for entry in ("issue", "install")
    ]
    code, planned = run(tmp_path, tasks, "--check")
    assert code == 0, planned
    assert "changed=2" in planned
    assert not (tmp_path / "tls").exists()
    code, done = run(tmp_path, tasks)
    assert code == 0, done
    assert "changed=2" in done
    code, again = run(tmp_path, tasks)
    assert code == 0, again
    assert "changed=0" in again
    assert (tmp_path / "host/etc/tls/minio/public.crt").read_bytes() == (
        tmp_path / "tls/localhost/host.pem"
    ).read_bytes()
    for name in ("host.key", "host.p12"):
        content = (tmp_path / "tls/localhost" / name).read_bytes()
        shown = [filters.files_of(str(tmp_path / "tls/localhost"))[name]]
        shown += [line for line in content.decode(errors="replace").splitlines() if len(line) > 40]
        for secret in (*shown, PASSWORD):
            assert secret not in planned + done + again
