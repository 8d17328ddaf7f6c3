"""Committed lists of checksums."""

from __future__ import annotations

import re
from pathlib import Path

from ansible_collections.streamops.runbook.plugins.module_utils.errors import ArtifactError


def read_sums(path: Path) -> dict[str, str]:
    """Read a list in the form of sha256sum: ``<64 hex digits>  <file name>`` on each line.

    :returns: sha256 in hex by file name.
    :raises ArtifactError: a line of another form, naming it, or no line at all.
    :raises OSError: the list can't be read.
    """
    sums: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        digest, _, name = line.partition("  ")
        if not re.fullmatch(r"[0-9a-f]{64}", digest) or not name or "/" in name:
            raise ArtifactError(f"{path}, line {number}", repr(line), "'<sha256>  <file name>' as sha256sum writes")
        sums[name] = digest
    if not sums:
        raise ArtifactError(str(path), "no line", "at least one checksum")
    return sums
