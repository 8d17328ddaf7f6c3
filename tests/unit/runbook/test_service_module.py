"""The module ``service`` under a real Ansible: a planted secret appears nowhere, states are told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import basic
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused, ServiceError
from ansible_collections.streamops.runbook.plugins.module_utils.runtime import systemd
from ansible_collections.streamops.runbook.plugins.modules import service

CANARY = "Vb3Canary9Secret77qrs"
PROJECT = Path(__file__).resolve().parents[3]
PLAYBOOK = Path(sys.executable).parent / "ansible-playbook"


@pytest.fixture
def root() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="so-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def run(folder: Path, arguments: dict[str, Any], *options: str) -> str:
    """Call the module once on this machine; everything that Ansible prints, at its most talkative."""
    task = {"streamops.runbook.service": {"runtime": "supervisor", **arguments}}
    play = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": [task]}
    (folder / "play.yml").write_text(json.dumps([play]))
    (folder / "ansible.cfg").touch()
    done = subprocess.run(
        [PLAYBOOK, "-i", "localhost,", "-vvv", "--diff", *options, "play.yml"],
        cwd=folder,
        env={
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": str(PROJECT / "collections"),
            "ANSIBLE_CONFIG": str(folder / "ansible.cfg"),
            "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
            "ANSIBLE_NOCOLOR": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout


def definition(folder: Path, **changes: Any) -> dict[str, Any]:
    base = {
        "name": "clock",
        "host": "clock-1",
        "root": str(folder / "host"),
        "address": "127.0.0.1",
        "command": ["sleep", "60"],
        "files": [
            {"path": "etc/open", "content": "visible=1\n"},
            {"path": "etc/secret", "content": f"password={CANARY}\n", "mode": "0600", "sensitive": True},
        ],
    }
    return {**base, **changes}


def test_a_secret_is_written_and_never_printed(root: Path) -> None:
    planned = run(root, {"state": "deployed", "definition": definition(root)}, "--check")
    assert "changed: [localhost]" in planned
    assert not (root / "host").exists()
    done = run(root, {"state": "deployed", "definition": definition(root)})
    assert "changed: [localhost]" in done
    assert (root / "host/etc/secret").read_text() == f"password={CANARY}\n"
    again = run(root, {"state": "deployed", "definition": definition(root)})
    assert "ok: [localhost]" in again
    for printed in (planned, done):
        assert "visible=1" in printed
        assert CANARY not in printed
    assert CANARY not in again


def test_a_refusal_prints_no_secret_either(root: Path) -> None:
    printed = run(root, {"state": "deployed", "definition": definition(root, ports=[0])})
    assert "FAILED!" in printed
    assert "service clock.ports[0]: found 0, expected a port from 1 to 65535" in printed
    assert '"refused": true' in printed
    assert CANARY not in printed


def test_a_failing_init_prints_no_secret(root: Path) -> None:
    init = {"command": ["sh", "-c", "cat etc/secret; exit 4"], "creates": "data/x"}
    printed = run(root, {"state": "deployed", "definition": definition(root, init=init)})
    assert "exit code 4: password=********" in printed
    assert CANARY not in printed


@pytest.mark.parametrize("since", ["yesterday", "2030-01-01T00:00:00"])
def test_a_time_without_meaning_is_refused(since: str) -> None:
    with pytest.raises(Refused, match=r"since: found .*expected a time as 2025-01-31T12:00:00Z"):
        service._moment("since", since)
    assert service._moment("since", "1970-01-01T01:00:01+01:00") == 1.0


def test_a_host_without_the_runtimes_library_is_planned_and_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, systemd.__name__, None)
    params = dict.fromkeys(("name", "host", "root", "address", "since", "at", "timeout"))
    params |= {"runtime": "systemd", "state": "started", "definition": definition(root, user="streamops")}
    outcome, info, _ = service._act(params, check=True)
    assert outcome.did == ["deploy clock"]
    assert "no Python package" in outcome.skipped[0]
    assert info["state"] == "absent"
    with pytest.raises(ServiceError, match=r"no Python package .*Next: prepare the host"):
        service._act(params, check=False)
    with pytest.raises(ServiceError, match="no Python package"):
        service._act({**params, "state": "stopped"}, check=True)


def test_the_hosts_journal_is_told_nothing_of_the_parameters(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    given = {"runtime": "supervisor", "state": "deployed", "definition": definition(root), "_ansible_check_mode": True}
    # The task's own, as Ansible always sends it: it would win over a no_log of the module.
    arguments = {"ANSIBLE_MODULE_ARGS": {**given, "_ansible_no_log": False}}
    monkeypatch.setattr(basic, "_ANSIBLE_ARGS", json.dumps(arguments).encode())
    monkeypatch.setattr(basic, "_ANSIBLE_PROFILE", "legacy")
    monkeypatch.setattr(basic.AnsibleModule, "log", lambda _, text, **__: told.append(text))
    with pytest.raises(SystemExit):
        service.main()
    assert told == ["Invoked; its parameters may hold secrets and are told to nobody"]
