"""Names derived from what they stand for: a sandbox's cluster id, a release's digest."""

from __future__ import annotations

import base64
import hashlib
import os
import uuid
from pathlib import Path

from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused

_NAMESPACE = uuid.UUID("6ad4ce1c-9c62-5a5e-8a39-0f4c9b1d7e52")


def cluster_id(root: str) -> str:
    """The Kafka cluster id that belongs to a root folder: 22 characters of base64url.

    The same folder always has the same id and two folders never share one, so a node or a tool
    that meets another sandbox's data sees it. It never begins with a hyphen, which Kafka's own
    command lines would take for an option.
    """
    path = os.path.realpath(root)
    for attempt in range(100):
        raw = uuid.uuid5(_NAMESPACE, f"{path}#{attempt}").bytes
        text = base64.urlsafe_b64encode(raw).decode().rstrip("=")
        if not text.startswith("-"):
            return text
    raise Refused("cluster id", f"no usable one for {path}", "another folder")


def loopback_net(root: str) -> str:
    """The loopback net that a root folder gets when it may have any: three octets, 127.0.78 to 127.0.247.

    The same folder always has the same one. Two folders may share one; then the reservation of
    the second is refused and names the first.
    """
    digest = hashlib.sha256(os.path.realpath(root).encode()).digest()
    return f"127.0.{78 + int.from_bytes(digest[:4], 'big') % 170}"


def package_files(folder: str) -> list[Path]:
    """The files of a Python package, relative and in order; caches and hidden files left out.

    :raises Refused: when there is no such package.
    """
    base = Path(folder)
    if not (base / "__init__.py").is_file():
        raise Refused(str(base), "no Python package", "a folder with __init__.py")
    return sorted(
        path.relative_to(base)
        for path in base.rglob("*")
        if path.is_file()
        and "__pycache__" not in path.parts
        and not any(part.startswith(".") for part in path.relative_to(base).parts)
    )


def tree_digest(folder: str) -> str:
    """12 hexadecimal digits over names and contents of a package's files.

    :raises Refused: when there is no such package.
    """
    digest = hashlib.sha256()
    for name in package_files(folder):
        content = (Path(folder) / name).read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:12]
