"""Artifacts in a cache outside the checkout: verified against committed hashes, made when missing.

An artifact is a folder ``<cache>/artifacts/<name>-<version>``. It appears there by one rename,
complete, and is never changed afterwards: what does not match its hash is refused by name, and
only a person removes it. Each kind is a module of its own; the store knows none of them.
"""

from __future__ import annotations

from ansible_collections.streamops.runbook.plugins.module_utils.artifact.base import Artifact
from ansible_collections.streamops.runbook.plugins.module_utils.artifact.catalog import load_catalog
from ansible_collections.streamops.runbook.plugins.module_utils.artifact.debian import DebianPackages
from ansible_collections.streamops.runbook.plugins.module_utils.artifact.golang import GoModule
from ansible_collections.streamops.runbook.plugins.module_utils.artifact.maven import MavenBundle
from ansible_collections.streamops.runbook.plugins.module_utils.artifact.store import ArtifactStore, Outcome
from ansible_collections.streamops.runbook.plugins.module_utils.artifact.tools import Tools, local_tools

__all__ = [
    "Artifact",
    "ArtifactStore",
    "DebianPackages",
    "GoModule",
    "MavenBundle",
    "Outcome",
    "Tools",
    "load_catalog",
    "local_tools",
]
