"""What .config/setup/venv.sh leaves alone."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.unit.setup import support


def test_environment_of_another_clone_is_not_emptied_through_a_link(tmp_path: Path) -> None:
    clone, other = tmp_path / "clone", tmp_path / "other" / ".venv"
    shutil.copytree(support.SETUP, clone / ".config" / "setup")
    other.mkdir(parents=True)
    (other / ".installed").write_text("what the other clone has installed")
    (clone / ".venv").symlink_to(other)
    done = subprocess.run(
        [clone / ".config" / "setup" / "venv.sh"],
        # Whatever comes after the refusal must not find a cache of this machine.
        env={**os.environ, "STREAMOPS_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert f"found .venv as a link to {other}" in done.stderr
    assert (other / ".installed").read_text() == "what the other clone has installed"
    assert not (tmp_path / "cache").exists()
