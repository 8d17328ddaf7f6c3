"""The checkers of Prometheus and Alertmanager, from the artifacts that the project deploys."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from ansible_collections.streamops.runbook.plugins.module_utils.artifact import ArtifactStore, load_catalog, local_tools

PROJECT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Tools:
    promtool: Path
    amtool: Path


@pytest.fixture(scope="session")
def tools() -> Tools:
    """promtool and amtool, fetched into the cache when they are not there yet."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    store = ArtifactStore(
        load_catalog(PROJECT / "config" / "artifacts.yml"),
        Path(os.environ.get("STREAMOPS_CACHE") or home / "streamops"),
        tools=local_tools(),
        environment=os.environ,
    )
    prometheus, alertmanager = store.ensure(["prometheus", "alertmanager"])
    return Tools(prometheus.path / "root/usr/bin/promtool", alertmanager.path / "bin/amtool")
