"""Look for the lab's own secrets wherever they must not stand, and fail where one is found.

The secrets are the lab's credentials and the keys of its certificates, each generated for it alone, so that a hit is a
leak. They may stand in the credentials file, in the configuration of the services and in the folders of certificates,
which are mode 0600. Looked through is what the lab has written (records, logs, spool, messages), what any command on
it has said, every bundle of evidence, what its services show by HTTP, and the command lines of all processes.
Prometheus is asked for its series: on its disk they are packed. What machines and containers have said is brought into
the folder of evidence before.
"""

from __future__ import annotations

import argparse
import base64
import json
import ssl
import sys
import tarfile
import urllib.request
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

# What Prometheus and Alertmanager show beside their own metrics.
PAGES = {
    "prometheus": (
        "/api/v1/series?match[]=%7B__name__%3D~%22.%2B%22%7D",
        "/api/v1/status/config",
        "/api/v1/rules",
        "/api/v1/alerts",
    ),
    "alertmanager": ("/api/v2/alerts", "/api/v2/silences", "/api/v2/status"),
}


# Where none of a kind was looked at, nothing is proven.
KINDS = ("bundle", "file", "page", "process", "said")


@dataclass(frozen=True)
class Place:
    """Something to look through.

    :param kind: of what sort it is: file, said, bundle, page or process.
    """

    kind: str
    name: str
    content: bytes


def secrets(credentials: Path) -> dict[str, str]:
    """Return every secret of the file by whose it is; names and access keys are none."""
    found = json.loads(credentials.read_text())
    values = {f"kafka {name}": user["password"] for name, user in found["kafka"].items()}
    values |= {f"s3 {name}": user["secret_key"] for name, user in found["s3"].items()}
    values |= {f"token {name}": value for name, value in found["tokens"].items()}
    return values


def keys(folder: Path) -> dict[str, str]:
    """Return of every private key below a folder its first line of base64; it is long, and no other key has it."""
    found = {}
    for path in sorted(folder.rglob("*.key")):
        first = path.read_text().splitlines()[1]
        found[f"key {path.relative_to(folder)}"] = first
    return found


def forms(secret: str) -> set[bytes]:
    """Return the secret as it is and as it looks inside of base64, wherever it stands in what was encoded."""
    raw = secret.encode()
    found = {raw}
    for before in range(3):
        # Three bytes make four characters: only those count that nothing but the secret has a share in.
        first, last = -(-8 * before // 6), 8 * (before + len(raw)) // 6
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            found.add(encode(bytes(before) + raw)[first:last])
    return found


def _files(kind: str, folders: Iterable[Path]) -> Iterator[Place]:
    for folder in folders:
        for path in [folder] if folder.is_file() else sorted(folder.rglob("*")):
            if path.is_file():
                yield Place(kind, str(path), path.read_bytes())


def _bundles(evidence: Path) -> Iterator[Place]:
    for bundle in sorted(evidence.glob("*.tar.gz")):
        with tarfile.open(bundle) as archive:
            for member in archive:
                stream = archive.extractfile(member)
                if stream is not None:
                    yield Place("bundle", f"{bundle.name}:{member.name}", stream.read())


def _shown_by(folder: Path) -> ssl.SSLContext | None:
    """Return how the controller that has these certificates shows who it is; None in a lab without any."""
    if not folder.is_dir():
        return None
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / "host.pem", folder / "host.key")
    return context


def _pages(endpoints: Mapping[str, Any], context: ssl.SSLContext | None) -> Iterator[Place]:
    urls = list(endpoints["metrics"].values())
    urls += [endpoints[service] + path for service, paths in PAGES.items() for path in paths]
    for url in urls:
        try:
            # An address of the lab's own.
            with urllib.request.urlopen(url, timeout=10, context=context) as answer:  # noqa: S310
                yield Place("page", url, answer.read())
        except OSError as error:
            # A lab that failed is removed as well; what does not answer tells nobody anything.
            print(f"{url}: {error}")


def _processes() -> Iterator[Place]:
    for process in psutil.process_iter(["pid", "name", "cmdline"]):
        words = process.info["cmdline"] or []
        yield Place("process", f"process {process.info['pid']} ({process.info['name']})", "\0".join(words).encode())


def places(root: Path, evidence: Path) -> Iterator[Place]:
    """Yield all that the lab has written, said or sent.

    :param root: of the lab.
    :param evidence: the folder of the bundles and of what commands have said.
    """
    written = [root / "state", root / "lab", root / "endpoints.json"]
    written += [*root.glob("hosts/*/log"), *root.glob("hosts/*/state"), *root.glob("hosts/*/data/inbox")]
    yield from _files("file", written)
    yield from _files("said", sorted(path for form in ("log", "json", "xml") for path in evidence.glob(f"*.{form}")))
    yield from _bundles(evidence)
    yield from _pages(json.loads((root / "endpoints.json").read_text()), _shown_by(root / "tls" / "controller"))
    yield from _processes()


def search(wanted: Mapping[str, str], where: Iterable[Place]) -> tuple[list[str], Counter[str]]:
    """Look for each secret in each place.

    :param wanted: secrets by whose they are.
    :returns: a line for each hit, which never holds the secret; and how many places of each kind were looked through.
    """
    patterns = {name: forms(secret) for name, secret in wanted.items()}
    hits, looked = [], Counter[str]()
    for place in where:
        looked[place.kind] += 1
        found = [name for name, some in patterns.items() if any(form in place.content for form in some)]
        hits += [f"{place.name}: the secret of {name}" for name in found]
    return hits, looked


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="the lab's root")
    parser.add_argument("--evidence", type=Path, required=True, help="the folder of evidence")
    given = parser.parse_args()
    wanted = secrets(given.root / "credentials.json") | keys(given.root / "tls")
    hits, looked = search(wanted, places(given.root, given.evidence))
    counts = ", ".join(f"{kind} {count}" for kind, count in sorted(looked.items()))
    print(f"{len(wanted)} secrets, {looked.total()} places ({counts}), {len(hits)} hits")
    print("\n".join(hits))
    missing = [kind for kind in KINDS if not looked[kind]]
    if missing:
        print(f"{given.root}: found no {' and no '.join(missing)} to look at, expected some of each")
    return 1 if hits or missing or not wanted else 0


if __name__ == "__main__":
    sys.exit(main())
