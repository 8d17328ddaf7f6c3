"""The lab: a sandbox of the tests' own root and net, brought up once for all end-to-end tests."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Answer:
    """What a command ended with: exit code, both outputs together, seconds."""

    code: int
    output: str
    seconds: float


@dataclass(frozen=True)
class Lab:
    """The lab's root and how to run a procedure on it."""

    root: Path
    environment: dict[str, str]
    show: Callable[[str], None]

    def play(
        self, name: str, *arguments: str, folder: Path = ROOT, live: bool = False, more: dict[str, str] | None = None
    ) -> Answer:
        """Run a procedure as a person would; with ``live``, each line is shown as it comes."""
        path = os.path.relpath(ROOT / "playbooks" / f"{name}.yml", folder)
        return self.run("ansible-playbook", path, *arguments, folder=folder, live=live, more=more)

    def run(self, *command: str, folder: Path = ROOT, live: bool = False, more: dict[str, str] | None = None) -> Answer:
        """Run any command in the lab's environment."""
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**self.environment, **(more or {})},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
        )
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if live:
                self.show(line)
        return Answer(process.wait(), "".join(lines), time.monotonic() - began)

    def holding(self, procedure: str) -> tuple[subprocess.Popen[bytes], str]:
        """Start a procedure and return its process and run id once it holds the lock of the stack."""
        process = subprocess.Popen(
            ["ansible-playbook", f"playbooks/{procedure}.yml"],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        lock = self.root / "state" / "locks" / "stack.lock"
        deadline = time.monotonic() + 20
        while True:
            holder = json.loads(lock.read_text() or "{}") if lock.exists() else {}
            if holder.get("pid") == process.pid:
                return process, str(holder["run"])
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def records(self, procedure: str) -> list[dict[str, Any]]:
        """Return the finished records of a procedure, oldest first."""
        paths = sorted((self.root / "state" / "runs").glob(f"*-{procedure}-*.finished.json"))
        return [json.loads(path.read_text()) for path in paths]


@pytest.fixture(scope="session")
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Deploy the lab; whatever stands there from an earlier session is put right by the same run."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def show(line: str) -> None:
        # Past pytest's capture: long work shows its progress.
        with capture.global_and_fixture_disabled():
            os.write(1, line.encode())

    root = ROOT / ".cache" / "lab"
    # As .config/molecule/config.yml says it: both bring up the same lab.
    own = {"SANDBOX_ROOT": str(root), "SANDBOX_NET": "auto", "SANDBOX_STORAGE_BYTES": str(1 << 30)}
    environment = {**os.environ, **own}
    made = Lab(root, environment, show)
    first = made.play("site", live=True)
    assert first.code == 0, first.output[-5000:]
    yield made
    if (root / ".streamops-sandbox").is_file():
        stopped = made.play("stack-down")
        assert stopped.code == 0, stopped.output[-3000:]
