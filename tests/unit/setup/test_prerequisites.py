"""What .config/setup/prerequisites.sh says and does where programs are missing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.setup import support

# What the script itself is written with; all else is found only when a test puts it there.
BASE = ("bash", "cat", "dirname", "env", "grep", "head", "sed")
WANTED = ("mvn", "git", "setpriv", "flock", "ps")


class Machine(support.Machine):
    """A machine that lacks nothing."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, BASE)
        # A link would lose the virtual environment that it belongs to.
        self.add("python3", f'exec {sys.executable} "$@"')
        self.add("java", """echo 'openjdk version "17.0.15" 2025-04-15' >&2""")
        self.add("id", "echo 1000")
        for name in WANTED:
            self.add(name, "true")

    def prerequisites(self) -> subprocess.CompletedProcess[str]:
        return self.run("prerequisites.sh")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_whole_machine_is_silent(machine: Machine) -> None:
    done = machine.prerequisites()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(("program", "package"), [("mvn", "maven"), ("git", "git"), ("setpriv", "util-linux")])
def test_without_root_the_line_is_printed(machine: Machine, program: str, package: str) -> None:
    (machine.folder / program).unlink()
    machine.add("apt-get", "exit 9")
    done = machine.prerequisites()
    assert done.returncode == 1
    assert f"{program}: found no such program" in done.stdout
    assert f"sudo apt-get install --yes --no-install-recommends {package}" in done.stderr


def test_an_old_java_is_named_with_its_version(machine: Machine) -> None:
    machine.add("java", """echo 'openjdk version "11.0.2" 2019-01-15' >&2""")
    machine.add("apt-get", "exit 9")
    machine.add("apt-cache", "true")
    done = machine.prerequisites()
    assert done.returncode == 1
    assert "java: found version 11, wanted a JDK 17 or newer" in done.stdout
    assert "openjdk-17-jdk-headless" in done.stderr


def test_the_jdk_that_the_distribution_has_is_proposed(machine: Machine) -> None:
    (machine.folder / "java").unlink()
    machine.add("apt-get", "exit 9")
    machine.add("apt-cache", '[[ "$2" == openjdk-21-jdk-headless ]]')
    assert "openjdk-21-jdk-headless" in machine.prerequisites().stderr


def test_an_old_python_is_named(machine: Machine) -> None:
    machine.add("python3", '[[ "$1" == --version ]] && echo Python 3.9.2')
    machine.add("apt-get", "exit 9")
    done = machine.prerequisites()
    assert done.returncode == 1
    assert "python3: found 3.9.2, wanted Python 3.11 to 3.13" in done.stdout


def test_root_installs_what_is_missing(machine: Machine) -> None:
    (machine.folder / "mvn").unlink()
    machine.add("id", "echo 0")
    mvn = machine.folder / "mvn"
    log = machine.folder / "log"
    # The program that the package brings is a copy of another stand-in.
    machine.add(
        "apt-get",
        f'echo "$*" >>{log}\n[[ "$1" != install ]] || {shutil.which("cp")} {machine.folder / "git"} {mvn}',
    )
    assert machine.prerequisites().returncode == 0
    assert log.read_text().splitlines() == [
        "update --quiet",
        "install --yes --no-install-recommends maven",
    ]


def test_an_installation_that_brings_nothing_is_not_believed(machine: Machine) -> None:
    (machine.folder / "mvn").unlink()
    machine.add("id", "echo 0")
    machine.add("apt-get", "true")
    done = machine.prerequisites()
    assert done.returncode == 1
    assert "Still missing after the installation: mvn" in done.stderr


def test_another_distribution_is_told_so(machine: Machine) -> None:
    (machine.folder / "git").unlink()
    done = machine.prerequisites()
    assert done.returncode == 1
    assert "no apt-get" in done.stderr
