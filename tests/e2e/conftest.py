"""The lab: a sandbox of the tests' own root and net, brought up once for all end-to-end tests."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
EVIDENCE = ROOT / ".cache" / "evidence"
#: All that any command of these tests has said; molecule/shared/leaks.py looks for secrets in it.
OUTPUTS = EVIDENCE / "outputs.log"


@dataclass(frozen=True)
class Answer:
    """What a command ended with.

    :param lines: of both outputs together, each with the seconds from the start to its arrival.
    """

    code: int
    lines: tuple[tuple[float, str], ...]
    seconds: float

    @property
    def output(self) -> str:
        """Both outputs as one text."""
        return "".join(line for _, line in self.lines)

    def __repr__(self) -> str:
        # Of a failing test pytest shows every value it compares: the last lines are what tells.
        return f"Answer(code={self.code}, seconds={self.seconds:.1f}, output=...{self.output[-2000:]!r})"


@dataclass(frozen=True)
class Lab:
    """The lab's root and how to run a procedure on it.

    :param began: Unix time at which the tests began to bring it up.
    """

    root: Path
    environment: dict[str, str]
    show: Callable[[str], None]
    began: float

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
        with OUTPUTS.open("a", encoding="utf-8") as outputs:
            outputs.write(f"$ {shlex.join(command)}\n")
            for line in process.stdout:
                lines.append((time.monotonic() - began, line))
                outputs.write(line)
                # Whoever looks for secrets may be a child of this very command.
                outputs.flush()
                if live:
                    self.show(line)
        return Answer(process.wait(), tuple(lines), time.monotonic() - began)

    def holding(self, procedure: str, *arguments: str) -> tuple[subprocess.Popen[bytes], str]:
        """Start a procedure and return its process and run id once it holds the lock of the stack."""
        with OUTPUTS.open("ab") as outputs:
            process = subprocess.Popen(
                ["ansible-playbook", f"playbooks/{procedure}.yml", *arguments],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=outputs,
                stderr=outputs,
            )
        deadline = time.monotonic() + 20
        while True:
            holder = self.holder()
            if holder.get("pid") == process.pid:
                return process, str(holder["run"])
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def holder(self) -> dict[str, Any]:
        """Return what the lock of the stack says of its last holder; empty when there was none."""
        lock = self.root / "state" / "locks" / "stack.lock"
        found: dict[str, Any] = json.loads(lock.read_text() or "{}") if lock.exists() else {}
        return found

    def records(self, procedure: str) -> list[dict[str, Any]]:
        """Return the finished records of a procedure, oldest first."""
        paths = sorted((self.root / "state" / "runs").glob(f"*-{procedure}-*.finished.json"))
        return [json.loads(path.read_text()) for path in paths]

    def processes(self) -> dict[tuple[str, str], set[tuple[int, float]]]:
        """Return pid and start time of the processes of each (service, host), read from the processes themselves."""
        found: dict[tuple[str, str], set[tuple[int, float]]] = {}
        for process in psutil.process_iter():
            try:
                words = process.environ()
                if words.get("STREAMOPS_ROOT", "").startswith(str(self.root)):
                    place = (words.get("STREAMOPS_SERVICE", "supervisor"), Path(words["STREAMOPS_ROOT"]).name)
                    found.setdefault(place, set()).add((process.pid, process.create_time()))
            except psutil.Error:
                # Ended meanwhile, or another user's: not the lab's.
                continue
        return found

    def endpoints(self) -> dict[str, Any]:
        """Return what tools are told of the stack."""
        found: dict[str, Any] = json.loads((self.root / "endpoints.json").read_text())
        return found


@pytest.fixture(scope="session")
def bare_lab(request: pytest.FixtureRequest) -> Lab:
    """Return the lab as it stands: nothing is deployed."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def show(line: str) -> None:
        # Past pytest's capture: long work shows its progress.
        with capture.global_and_fixture_disabled():
            os.write(1, line.encode())

    root = ROOT / ".cache" / "lab"
    EVIDENCE.mkdir(parents=True, exist_ok=True)
    for said in (OUTPUTS, EVIDENCE / "ansible.log"):
        said.unlink(missing_ok=True)
    # As .config/molecule/config.yml says it: both bring up the same lab.
    own = {
        "SANDBOX_ROOT": str(root),
        "SANDBOX_NET": os.environ.get("LAB_NET", "auto"),
        "SANDBOX_STORAGE_BYTES": str(1 << 30),
    }
    return Lab(root, {**os.environ, **own}, show, time.time())


@pytest.fixture(scope="session")
def lab(bare_lab: Lab) -> Iterator[Lab]:
    """Deploy the lab; whatever stands there from an earlier session is put right by the same run."""
    first = bare_lab.play("site", live=True)
    assert first.code == 0, first.output[-5000:]
    yield bare_lab
    if (bare_lab.root / ".streamops-sandbox").is_file():
        stopped = bare_lab.play("stack-down")
        assert stopped.code == 0, stopped.output[-3000:]


@pytest.fixture(scope="session")
def declared(lab: Lab) -> list[tuple[str, str]]:
    """Return (service, host) of every service that the inventory declares, sorted."""
    # Ansible's own answer, since the inventory may compute what a host carries.
    asked = ["ansible", "services", "--one-line", "-m", "ansible.builtin.debug", "-a", "var=host_services"]
    done = subprocess.run(asked, cwd=ROOT, env=lab.environment, stdout=subprocess.PIPE, text=True, check=True)
    hosts = re.findall(r"^(\S+) \| SUCCESS => (\{.*\})$", done.stdout, re.MULTILINE)
    found = sorted((service, host) for host, answer in hosts for service in json.loads(answer)["host_services"])
    assert found
    return found
