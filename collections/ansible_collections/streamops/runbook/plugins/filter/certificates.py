"""Filters that carry certificates from the controller's folder to hosts, and judge those that stand there."""

from __future__ import annotations

import base64
import datetime
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible_collections.streamops.runbook.plugins.module_utils import certificate_authority, tls_files


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


def standing(text: str) -> dict[str, Any]:
    """How long a certificate is still good for: ``state`` ok | warn | fail | absent, and ``text`` with the dates.

    :param text: the certificate in PEM, with or without a chain; empty when there is none.
    """
    if not text:
        return {"state": "absent", "text": "no certificate"}
    certificate = certificate_authority.parse_certificates("certificate", text)[0]
    now = datetime.datetime.now(datetime.UTC)
    stands = certificate_authority.standing(certificate, now)
    return {"state": stands.state, "text": stands.text}


class FilterModule:
    """The filters ``tls_files``, ``tls_fingerprint`` and ``certificate_standing`` of ``streamops.runbook``."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names and functions, as Ansible wants them."""
        return {
            "tls_files": files_of,
            "tls_fingerprint": fingerprint,
            "certificate_standing": standing,
        }
