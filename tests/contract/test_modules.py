"""Modules answer the same wherever they run: in the process of their task on the controller, or packed and sent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
COLLECTION = ROOT / "collections" / "ansible_collections" / "streamops" / "runbook"
DIRECT = COLLECTION / "plugins" / "action" / "direct.py"


def test_each_module_without_an_action_of_its_own_can_run_directly() -> None:
    modules = {path.name for path in (COLLECTION / "plugins" / "modules").glob("[a-z]*.py")}
    actions = set(DIRECT.parent.glob("[a-z]*.py")) - {DIRECT}
    linked = {path.name for path in actions if path.is_symlink() and path.readlink() == Path(DIRECT.name)}
    assert linked == modules - {path.name for path in actions if not path.is_symlink()}


def answer(module: str, arguments: dict[str, Any], home: Path, *options: str, direct: bool) -> tuple[int, str]:
    """Call a module on this machine, with Ansible's own interpreter or with one of another name."""
    interpreter = Path(sys.executable) if direct else Path(sys.executable).with_name("python3")
    given = json.dumps({"ansible_python_interpreter": str(interpreter)})
    command = ["ansible", "localhost", "-e", given, "-m", f"streamops.runbook.{module}", "-a", json.dumps(arguments)]
    environment = {**os.environ, "SANDBOX_ROOT": str(home / "root"), "ANSIBLE_CALLBACK_RESULT_FORMAT": "json"}
    done = subprocess.run([*command, *options], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


INFO = {"runtime": "supervisor", "services": ["kafka"]}


@pytest.mark.parametrize(
    ("module", "arguments", "options", "code", "named"),
    [
        ("service_info", {**INFO, "host": "kafka-1"}, [], 0, '"changed": false'),
        ("service_info", INFO, [], 2, "missing required arguments: host"),
        ("sandbox_root", {"cluster_id": "id", "net": "127.9.1"}, ["--check"], 0, '"changed": true'),
    ],
)
def test_both_ways_answer_the_same(
    tmp_path: Path, module: str, arguments: dict[str, Any], options: list[str], code: int, named: str
) -> None:
    given = {**arguments, "root": str(tmp_path / "root")}
    direct = answer(module, given, tmp_path, *options, direct=True)
    assert direct == answer(module, given, tmp_path, *options, direct=False)
    assert direct[0] == code
    assert named in direct[1]


MODULE = """
import os
from ansible.module_utils.basic import AnsibleModule

def main():
    spec = {"what": {"type": "str"}, "password": {"type": "str", "no_log": True}}
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    if module.params["what"] == "crash":
        raise RuntimeError("broken")
    module.warn("careful")
    module.exit_json(changed=True, folder=os.getcwd(), check=module.check_mode, said=module.params["password"])

if __name__ == "__main__":
    main()
"""
PLAY = """
- hosts: localhost
  gather_facts: false
  tasks:
    - streamops.trial.say: {what: "{{ item }}", password: hunter2}
      loop: [word, crash]
      delegate_to: localhost
      register: told
      failed_when: false
    - ansible.builtin.copy:
        content: "{{ told.results | map('dict2items') | map('rejectattr', 'key', 'in', drop) | map('items2dict') }}"
        dest: "{{ out }}"
      vars: {drop: [exception, msg]}
      check_mode: false
"""


@pytest.mark.parametrize("options", [[], ["--check"]], ids=["run", "plan"])
def test_crash_warning_and_secret_are_told_the_same(tmp_path: Path, options: list[str]) -> None:
    trial = tmp_path / "ansible_collections" / "streamops" / "trial"
    (trial / "plugins" / "modules").mkdir(parents=True)
    (trial / "plugins" / "modules" / "say.py").write_text(MODULE)
    (trial / "plugins" / "action").mkdir()
    (trial / "plugins" / "action" / "say.py").symlink_to(DIRECT)
    (tmp_path / "play.yml").write_text(PLAY)
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": f"{tmp_path}:{ROOT / 'collections'}",
        # Without that of runs: there is no procedure of this name.
        "ANSIBLE_CALLBACKS_ENABLED": "ansible.builtin.minimal",
    }
    found = []
    for interpreter in ("python", "python3"):
        given = {"ansible_python_interpreter": str(Path(sys.executable).with_name(interpreter))}
        given["out"] = str(tmp_path / f"{interpreter}.json")
        command = ["ansible-playbook", str(tmp_path / "play.yml"), "-e", json.dumps(given), *options]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "careful" in done.stdout + done.stderr
        assert "hunter2" not in done.stdout + done.stderr
        found.append(json.loads(Path(given["out"]).read_text()))
    assert [one["item"] for one in found[0]] == ["word", "crash"]
    assert found[0] == found[1]


def test_no_second_interpreter_is_started_on_the_controller(tmp_path: Path) -> None:
    given = {**INFO, "host": "kafka-1", "root": str(tmp_path / "root")}
    assert "EXEC /bin/sh" not in answer("service_info", given, tmp_path, "-vvv", direct=True)[1]
    assert "EXEC /bin/sh" in answer("service_info", given, tmp_path, "-vvv", direct=False)[1]
