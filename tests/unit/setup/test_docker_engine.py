"""What .config/setup/docker-engine.sh does where an engine answers, where none does, and where none can."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.setup import support

BASE = ("bash", "cat", "dirname", "env", "flock", "rm", "setsid", "sleep", "tail", "timeout")
LOCK = "run/streamops-docker-engine.lock"
# It answers from then on, and lives on, as a daemon does.
DAEMON = "echo up >>{log}; : >{answers}; exec sleep 60"


class Machine(support.Machine):
    """A machine without an engine: programs in ``bin``, its files in ``files``."""

    def __init__(self, folder: Path) -> None:
        programs, self.files = folder / "bin", folder / "files"
        for made in (programs, self.files / "run", self.files / "var/log", self.files / "proc/self/ns"):
            made.mkdir(parents=True)
        super().__init__(programs, BASE)
        (self.files / "proc/self/ns/mnt").touch()
        self.log = folder / "calls"
        self.answers = folder / "answers"
        self.environment |= {"STREAMOPS_ENGINE_MACHINE": str(self.files), "STREAMOPS_ENGINE_PATIENCE": "30"}
        self.add("id", 'test "$1" = -u && echo 0 || echo root')

    def client(self) -> None:
        self.add("docker", f"test -e {self.answers} && echo 20.10 || {{ echo no engine >&2; exit 1; }}")

    def daemon(self, script: str = DAEMON) -> None:
        self.add("dockerd", script.format(log=self.log, answers=self.answers))

    def whole(self) -> None:
        self.client()
        self.daemon()
        self.add("iptables", "true")

    def process(self, number: int, name: str) -> None:
        """Show a process that sees the same files."""
        folder = self.files / "proc" / str(number)
        (folder / "ns").mkdir(parents=True)
        (folder / "comm").write_text(f"{name}\n")
        os.link(self.files / "proc/self/ns/mnt", folder / "ns/mnt")

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def engine(self) -> subprocess.CompletedProcess[str]:
        return self.run("docker-engine.sh")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    # What a test left running names the folder of its own programs.
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"PATH={made.folder}:".encode() in environ.read_bytes():
                os.kill(int(environ.parent.name), signal.SIGKILL)
        except (OSError, ProcessLookupError):
            continue


def test_an_engine_that_answers_is_left_alone(machine: Machine) -> None:
    machine.client()
    machine.answers.touch()
    done = machine.engine()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (machine.files / LOCK).exists()


class TestWithoutRoot:
    @pytest.fixture(autouse=True)
    def user(self, machine: Machine) -> None:
        machine.add("id", 'test "$1" = -u && echo 1000 || echo somebody')

    def test_the_line_that_installs_is_named(self, machine: Machine) -> None:
        machine.add("apt-get", f"echo called >>{machine.log}")
        done = machine.engine()
        assert done.returncode == 1
        assert "sudo apt-get install --yes --no-install-recommends docker.io iptables" in done.stderr
        assert machine.calls() == []

    def test_without_apt_it_says_so(self, machine: Machine) -> None:
        done = machine.engine()
        assert done.returncode == 1
        assert "docker.io iptables" in done.stderr
        assert "no apt-get" in done.stderr

    def test_an_engine_that_is_only_installed_is_started_by_root(self, machine: Machine) -> None:
        machine.whole()
        done = machine.engine()
        assert done.returncode == 1
        assert f"Next: sudo {support.SETUP}/docker-engine.sh" in done.stderr

    def test_a_daemon_that_does_not_answer_this_user(self, machine: Machine) -> None:
        machine.whole()
        machine.process(77, "dockerd")
        done = machine.engine()
        assert done.returncode == 1
        assert "process 77, a dockerd that does not answer somebody: no engine" in done.stderr
        assert "usermod --append --groups docker somebody" in done.stderr


def test_only_what_is_missing_is_installed_then_it_is_started(machine: Machine) -> None:
    machine.add("iptables", "true")
    machine.client()
    store = machine.folder.parent / "dockerd"
    machine.daemon()
    (machine.folder / "dockerd").rename(store)
    machine.add(
        "apt-get",
        f'echo "$*" >>{machine.log}\n[[ $1 != install ]] || {shutil.which("cp")} {store} {machine.folder}/dockerd',
    )
    done = machine.engine()
    assert done.returncode == 0, done.stderr
    assert machine.calls() == ["update --quiet", "install --yes --no-install-recommends docker.io", "up"]
    assert "docker-engine: engine 20.10 answers" in done.stdout
    # The daemon lives on and must not hold the lock of its start.
    with (machine.files / LOCK).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert machine.engine().stdout == ""
    assert machine.calls()[3:] == []


def test_a_client_in_a_package_of_its_own_is_the_second_step(machine: Machine) -> None:
    machine.add(
        "apt-get",
        f'echo "$*" >>{machine.log}\n'
        f"case ${{*: -1}} in iptables) files='dockerd iptables';; docker-cli) files=docker;; *) exit 0;; esac\n"
        f"for file in $files; do {shutil.which('cp')} {machine.folder.parent}/$file {machine.folder}/$file; done",
    )
    machine.whole()
    for name in ("docker", "dockerd", "iptables"):
        (machine.folder / name).rename(machine.folder.parent / name)
    done = machine.engine()
    assert done.returncode == 0, done.stderr
    installed = [call.split()[3:] for call in machine.calls() if call.startswith("install")]
    assert installed == [["docker.io", "iptables"], ["docker-cli"]]


def test_an_installation_that_brings_nothing_is_not_believed(machine: Machine) -> None:
    machine.add("apt-get", "true")
    done = machine.engine()
    assert done.returncode == 1
    assert "docker.io iptables still missing after the installation" in done.stderr


def test_an_installation_that_fails_is_named(machine: Machine) -> None:
    machine.add("apt-get", f'echo "$1" >>{machine.log}; exit 100')
    done = machine.engine()
    assert done.returncode == 1
    assert "that was try 3 of 4" in done.stdout
    assert machine.calls() == ["update"] * 4
    assert "found apt-get unable to install docker.io iptables" in done.stderr


@pytest.mark.parametrize("name", ["", "postgres"])
def test_the_number_of_a_dead_daemon_is_forgotten(machine: Machine, name: str) -> None:
    machine.whole()
    pid = machine.files / "run/docker.pid"
    pid.write_text("4711")
    if name:
        machine.process(4711, name)
    done = machine.engine()
    assert done.returncode == 0, done.stderr
    assert f"process 4711 is {name or 'gone'}, not dockerd" in done.stdout
    assert not pid.exists()


def test_a_living_containerd_keeps_its_number(machine: Machine) -> None:
    machine.whole()
    pid = machine.files / "run/docker/containerd/containerd.pid"
    pid.parent.mkdir(parents=True)
    pid.write_text("4711")
    machine.process(4711, "containerd")
    assert machine.engine().returncode == 0
    assert pid.exists()


def test_there_are_never_two_daemons(machine: Machine) -> None:
    machine.whole()
    # One that lives and does not answer, as when it is suspended.
    machine.process(os.getpid(), "dockerd")
    machine.environment["STREAMOPS_ENGINE_PATIENCE"] = "1"
    done = machine.engine()
    assert done.returncode == 1
    assert f"process {os.getpid()} is a dockerd already" in done.stdout
    assert "alive but without an answer after 1 s" in done.stderr
    assert machine.calls() == []


def test_the_daemon_of_a_container_is_not_ours(machine: Machine) -> None:
    machine.whole()
    machine.process(77, "dockerd")
    (machine.files / "proc/77/ns/mnt").unlink()
    (machine.files / "proc/77/ns/mnt").touch()
    assert machine.engine().returncode == 0
    assert machine.calls() == ["up"]


def test_a_daemon_that_ends_is_quoted(machine: Machine) -> None:
    machine.whole()
    machine.daemon("echo no room on the disk; exit 1")
    done = machine.engine()
    assert done.returncode == 1
    assert "ended before it answered; its last words:\nno room on the disk" in done.stderr
    assert "Next:" in done.stderr


def test_the_daemon_holds_no_file_of_its_caller(machine: Machine) -> None:
    machine.whole()
    reading, writing = os.pipe()
    done = subprocess.run(
        [support.SETUP / "docker-engine.sh"],
        env={"PATH": str(machine.folder), **machine.environment},
        pass_fds=[writing],
        stdout=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 0
    os.set_blocking(reading, False)
    # The end of the pipe, not one that somebody may still write to.
    assert os.read(reading, 1) == b""
    os.close(reading)


def test_the_daemon_gets_nothing_of_its_callers_environment(machine: Machine) -> None:
    machine.whole()
    machine.daemon("env >{log}; : >{answers}; exec sleep 60")
    machine.environment["STREAMOPS_SERVICE"] = "producer"
    assert machine.engine().returncode == 0
    # But for the mark by which it is known as ours.
    assert [line for line in machine.calls() if line.startswith("STREAMOPS")] == ["STREAMOPS_ENGINE=started"]


def test_where_systemd_runs_the_service_is_started(machine: Machine) -> None:
    machine.whole()
    (machine.files / "run/systemd/system").mkdir(parents=True)
    machine.add(
        "systemctl",
        f'echo "systemctl $*" >>{machine.log}\ncase $1 in show) echo $PPID;; enable) : >{machine.answers};; esac',
    )
    done = machine.engine()
    assert done.returncode == 0, done.stderr
    assert machine.calls()[0] == "systemctl enable --now docker"
    assert "up" not in machine.calls()


def test_a_service_that_does_not_start_is_quoted(machine: Machine) -> None:
    machine.whole()
    (machine.files / "run/systemd/system").mkdir(parents=True)
    machine.add("systemctl", "exit 1")
    machine.add("journalctl", "echo its journal")
    done = machine.engine()
    assert done.returncode == 1
    assert "docker.service that does not start:\nits journal" in done.stderr


def test_an_engine_elsewhere_is_not_replaced(machine: Machine) -> None:
    machine.whole()
    machine.environment["DOCKER_HOST"] = "tcp://192.0.2.7:2376"
    done = machine.engine()
    assert done.returncode == 1
    assert "DOCKER_HOST=tcp://192.0.2.7:2376" in done.stderr
    assert machine.calls() == []
