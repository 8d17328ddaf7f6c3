"""Look for the lab's own secrets wherever they must not stand: records, logs, spool, messages, metrics, evidence.

The secrets are the lab's credentials, each generated for it alone, so that a hit is a leak. They may stand in the
credentials file and in the configuration of the services, which are mode 0600.
"""

from __future__ import annotations

import argparse
import json
import sys
import tarfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path


def secrets(credentials: Path) -> list[bytes]:
    """Return every secret of the file; names and access keys are none."""
    found = json.loads(credentials.read_text())
    values = [user["password"] for user in found["kafka"].values()]
    values += [user["secret_key"] for user in found["s3"].values()]
    values += found["tokens"].values()
    return [str(value).encode() for value in values]


def places(root: Path, evidence: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (name, content) of all that the lab has written, said or sent."""
    folders = [root / "state", root / "lab", *root.glob("hosts/*/log"), *root.glob("hosts/*/state")]
    folders += [*root.glob("hosts/*/data/inbox"), *root.glob("hosts/*/data/prometheus"), root / "endpoints.json"]
    for folder in folders:
        for path in [folder] if folder.is_file() else folder.rglob("*"):
            if path.is_file():
                yield str(path), path.read_bytes()
    for bundle in evidence.glob("*.tar.gz"):
        with tarfile.open(bundle) as archive:
            for member in archive:
                stream = archive.extractfile(member)
                if stream is not None:
                    yield f"{bundle.name}:{member.name}", stream.read()
    for url in json.loads((root / "endpoints.json").read_text())["metrics"].values():
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310  an address of the lab's own
                yield url, answer.read()
        except OSError as error:
            # A lab that failed is removed as well; what does not answer tells nobody anything.
            print(f"{url}: {error}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="the lab's root")
    parser.add_argument("--evidence", type=Path, required=True, help="the folder of evidence bundles")
    given = parser.parse_args()
    wanted = secrets(given.root / "credentials.json")
    hits, looked, size = [], 0, 0
    for name, content in places(given.root, given.evidence):
        looked += 1
        size += len(content)
        hits += [name for secret in wanted if secret in content]
    print(f"{len(wanted)} secrets, {looked} places, {size} bytes, {len(hits)} hits")
    print("\n".join(hits))
    return 1 if hits or looked < len(wanted) else 0


if __name__ == "__main__":
    sys.exit(main())
