"""Filters that carry certificates from the controller's folder to hosts."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible_collections.streamops.runbook.plugins.module_utils import tls_files


def files_of(folder: str) -> dict[str, str]:
    """The files of a host in base64 by name, as the module ``tls_files`` takes them; none that is not there yet.

    :param folder: the host's folder on the controller.
    """
    contents = {name: tls_files.read_or_none(Path(folder) / name) for name in tls_files.NAMES}
    return {name: base64.b64encode(content).decode() for name, content in contents.items() if content is not None}


def fingerprint(folder: str) -> str:
    """16 hexadecimal digits over what a process reads of a host's folder when it starts; empty before the first issue.

    Part of a service's definition, it makes a new certificate and a new CA ask for a restart as any change does.
    """
    contents = [tls_files.read_or_none(Path(folder) / name) for name in ("ca.pem", "host.pem")]
    if None in contents:
        return ""
    return hashlib.sha256(b"".join(content for content in contents if content is not None)).hexdigest()[:16]


class FilterModule:
    """The filters ``tls_files`` and ``tls_fingerprint`` of ``streamops.runbook``."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names and functions, as Ansible wants them."""
        return {
            "tls_files": files_of,
            "tls_fingerprint": fingerprint,
        }
