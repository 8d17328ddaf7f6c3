"""Which engine may be restarted: the one that the project's own script has started, and no other."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.programs import load

containers = load("molecule/shared/containers.py")


@pytest.mark.parametrize(
    ("name", "environment", "own"),
    [
        ("dockerd", {"STREAMOPS_ENGINE": "started"}, True),
        ("dockerd", {}, False),
        ("dockerd", {"STREAMOPS_ENGINE": "somebody"}, False),
        ("sleep", {"STREAMOPS_ENGINE": "started"}, False),
    ],
)
def test_an_engine_is_known_by_its_mark(tmp_path: Path, name: str, environment: dict[str, str], own: bool) -> None:
    program = tmp_path / name
    shutil.copy(shutil.which("sleep") or "", program)
    process = subprocess.Popen([program, "60"], env=environment)
    try:
        assert containers.is_own_engine(psutil.Process(process.pid)) is own
    finally:
        process.kill()
        process.wait()
    assert not containers.is_own_engine(psutil.Process(os.getpid()))
