"""Issue hosts certificates that end soon, by the deployment's own authority and with the names that they have.

Only the controller's folder is written; whoever wants them on the hosts installs them as always.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "collections"))

from ansible_collections.streamops.runbook.plugins.module_utils import certificate_authority as ca  # noqa: E402

_GIVEN = re.compile(r"(?P<host>[a-z0-9-]+)=(?P<number>[0-9]+)(?P<unit>[ds])")


def names(certificate: x509.Certificate) -> tuple[str, ...]:
    """Return what a certificate covers: names and addresses."""
    covered = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = covered.get_values_for_type(x509.IPAddress)
    return (*covered.get_values_for_type(x509.DNSName), *(str(address) for address in addresses))


def issue(home: Path, host: str, days: int, seconds: int, now: datetime) -> str:
    """Issue a certificate that ends after so many days and seconds, at most an hour of them; returns what was done."""
    folder = home / "tls"
    password = json.loads((home / "credentials.json").read_text())["tokens"]["tls_store"]
    present = folder / host / "host.pem"
    certificate = x509.load_pem_x509_certificates(present.read_bytes())[0]
    # A certificate that is good for long would be left alone.
    present.unlink()
    store = ca.Store(folder, password, now + timedelta(seconds=seconds))
    policy = ca.Policy(days=days, renew_days=0)
    store.ensure([ca.Host(host, names(certificate))], store.own_authority(policy), policy)
    return f"{host}: {store.outcome.certificates[host]['not_after']}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path, required=True, help="where the controller keeps the deployment")
    parser.add_argument("certificates", nargs="+", metavar="HOST=TIME", help="what is left of it, as 10d or 90s")
    given = parser.parse_args()
    for text in given.certificates:
        found = _GIVEN.fullmatch(text)
        if found is None:
            parser.error(f"{text!r}: expected a host and its time, as kafka-1=10d")
        number = int(found["number"])
        days, seconds = (number, 0) if found["unit"] == "d" else (0, number)
        print(issue(given.home, found["host"], days, seconds, datetime.now(UTC).replace(microsecond=0)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
