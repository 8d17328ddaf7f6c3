"""The catalog of artifacts: the kinds there are, and config/artifacts.yml read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible_collections.streamops.runbook.plugins.module_utils.artifact.base import Artifact
from ansible_collections.streamops.runbook.plugins.module_utils.artifact.debian import DebianPackages
from ansible_collections.streamops.runbook.plugins.module_utils.artifact.golang import GoModule
from ansible_collections.streamops.runbook.plugins.module_utils.artifact.maven import MavenBundle
from ansible_collections.streamops.runbook.plugins.module_utils.errors import ArtifactError

KINDS: Mapping[str, type[Artifact]] = {"maven": MavenBundle, "go": GoModule, "debian": DebianPackages}


def load_catalog(path: Path) -> dict[str, Artifact]:
    """Read config/artifacts.yml and the checksum lists beside it.

    :param path: the catalog; poms and lists are named relative to its folder.
    :returns: artifact by name.
    :raises ArtifactError: when the file or a list is missing, malformed or of an unknown kind.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        entries = document["artifacts"]
        # Clients run in folders of their own, where a relative path would name something else.
        base = path.parent.absolute()
        return {name: _parse(name, entry, base) for name, entry in entries.items()}
    except OSError as error:
        raise ArtifactError(str(path), str(error), "a readable catalog of artifacts") from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(
            str(path), f"a malformed entry ({error!r})", "artifacts: {name: {kind, version, ...}}"
        ) from error


def _parse(name: str, entry: Mapping[str, Any], base: Path) -> Artifact:
    kind = entry["kind"]
    if kind not in KINDS:
        raise ArtifactError(name, f"kind {kind!r}", f"kind {' or '.join(KINDS)}")
    return KINDS[kind].parse(name, entry, base)
