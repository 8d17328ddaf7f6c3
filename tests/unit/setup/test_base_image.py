"""What .config/setup/base-image.sh builds the image from, and when it builds nothing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.unit.setup import support

BASE = ("awk", "bash", "cat", "cut", "dirname", "env", "flock", "mkdir", "mktemp", "mv", "rm", "sed", "sha256sum")
MORE = ("sleep", "sort", "timeout", "uname")
STANZA = """\
Types: deb
URIs: http://mirror.example/debian
Suites: bookworm
 bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/mirror.gpg
"""
OTHERS = """\
# An engine's vendor has the suite, but another component.
Types: deb
URIs: https://vendor.example/debian
Suites: bookworm
Components: stable

Types: deb
URIs: https://database.example/debian
Suites: bookworm-pgdg
Components: main

Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
Enabled: no

Types: deb-src
URIs: http://source.example/debian
Suites: bookworm
Components: main
"""
LINES = """\
deb http://old.example/debian bookworm main contrib
# deb http://comment.example/debian bookworm main
deb-src http://old.example/debian bookworm main
deb [arch=amd64 signed-by=/keys/old.gpg] http://security.example/debian-security bookworm-security main
deb [arch=amd64] https://vendor.example/debian bookworm stable
deb https://database.example/debian bookworm-pgdg main
"""


class Machine(support.Machine):
    """A machine with an engine that keeps its images in a file, and sources that a test writes."""

    def __init__(self, folder: Path) -> None:
        programs, self.files, self.cache = folder / "bin", folder / "files", folder / "cache"
        self.images, self.log, self.seen = folder / "images", folder / "calls", folder / "seen"
        for made in (programs, self.files / "etc/apt/sources.list.d", self.seen):
            made.mkdir(parents=True)
        super().__init__(programs, (*BASE, *MORE))
        (self.files / "etc/os-release").write_text("ID=debian\nVERSION_CODENAME=bookworm\n")
        self.images.touch()
        self.environment |= {"STREAMOPS_IMAGE_MACHINE": str(self.files), "STREAMOPS_CACHE": str(self.cache)}
        self.environment["HOME"] = str(folder)
        self.add("id", "echo 1000")
        self.add(
            "docker",
            f"""case "$1 $2" in
            version*) echo 20.10;;
            "image inspect") while read -r image; do [[ $image != "$3" ]] || exit 0; done <{self.images}; exit 1;;
            import*) echo import >>{self.log}; echo "${{*: -1}}" >>{self.images};;
            esac""",
        )
        self.add("apt-config", f"cat {folder}/apt")
        (folder / "apt").write_text("")
        self.add(
            "mmdebstrap",
            f"""printf '%s\\n' mmdebstrap >>{self.log}
            for argument; do
              printf '%s\\n' "$argument" >>{self.seen}/arguments
              case $argument in
              *.list | *.sources) cat "$argument" >>{self.seen}/sources;;
              --aptopt=*) cat "${{argument#*=}}" >>{self.seen}/options;;
              *.tar) echo system >"$argument";;
              esac
            done""",
        )

    def sources(self, text: str, name: str = "sources.list.d/debian.sources") -> None:
        (self.files / "etc/apt" / name).write_text(text)

    def base(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("base-image.sh", *arguments)

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    made.sources(STANZA)
    return made


def test_the_name_is_all_of_stdout_and_progress_is_shown(machine: Machine) -> None:
    done = machine.base()
    assert done.returncode == 0, done.stderr
    assert done.stdout == machine.images.read_text()
    assert done.stdout.startswith("streamops/base:")
    assert "base-image: building bookworm with python3" in done.stderr


def test_an_image_that_is_there_is_left_alone(machine: Machine) -> None:
    name = machine.base().stdout
    done = machine.base()
    assert (done.returncode, done.stdout, done.stderr) == (0, name, "")
    assert machine.calls() == ["mmdebstrap", "import"]


def test_another_engine_takes_it_from_the_cache(machine: Machine) -> None:
    name = machine.base().stdout
    machine.images.write_text("")
    assert machine.base().stdout == name
    assert machine.calls() == ["mmdebstrap", "import", "import"]


@pytest.mark.parametrize("argument", ["service", "streamops/service"])
def test_another_name(machine: Machine, argument: str) -> None:
    assert machine.base(argument).stdout.startswith("streamops/service:")


def test_a_build_that_failed_is_no_image(machine: Machine) -> None:
    machine.add("mmdebstrap", "echo half >${*: -2:1}; exit 25")
    done = machine.base()
    assert done.returncode == 1
    assert "mmdebstrap unable to build bookworm" in done.stderr
    assert not list((machine.cache / "images").glob("base-????????????????.tar"))
    assert machine.images.read_text() == ""


def test_a_mirror_with_a_short_break_is_asked_again(machine: Machine) -> None:
    build = (machine.folder / "mmdebstrap").read_text().partition("\n")[2]
    machine.add("mmdebstrap", f"[[ -e {machine.seen}/tried ]] || {{ : >{machine.seen}/tried; exit 25; }}\n{build}")
    done = machine.base()
    assert done.returncode == 0, done.stderr
    assert "that was try 1 of 4" in done.stderr
    assert machine.calls() == ["mmdebstrap", "import"]


def test_only_the_releases_own_sources_are_used(machine: Machine) -> None:
    machine.sources(f"{STANZA}\n{OTHERS}")
    machine.sources(LINES, "sources.list")
    assert machine.base().returncode == 0
    used = (machine.seen / "sources").read_text()
    assert used.count("mirror.example") == 1
    assert "Suites: bookworm\n bookworm-updates" in used
    assert [line for line in used.splitlines() if line.startswith("deb")] == [
        LINES.splitlines()[0],
        LINES.splitlines()[3],
    ]
    for other in ("vendor", "database", "off.", "source.", "comment"):
        assert other not in used


def test_a_keyring_that_a_source_names_comes_along(machine: Machine) -> None:
    machine.sources(LINES, "sources.list")
    machine.base()
    hooks = [
        line for line in (machine.seen / "arguments").read_text().splitlines() if line.startswith("--customize-hook")
    ]
    assert [path for hook in hooks for path in ("/keys/old.gpg", "/usr/share/keyrings/mirror.gpg") if path in hook] == [
        "/keys/old.gpg",
        "/usr/share/keyrings/mirror.gpg",
    ]


def test_how_sources_are_reached_comes_along(machine: Machine) -> None:
    (machine.files.parent / "apt").write_text(
        'Acquire::http::Proxy "http://192.0.2.1:3142";\nAcquire::Check-Date "false";\nDPkg::Post-Invoke "rm";\n'
    )
    machine.base()
    assert (machine.seen / "options").read_text().splitlines() == [
        'Acquire::http::Proxy "http://192.0.2.1:3142";',
        'Acquire::Check-Date "false";',
        'Acquire::Retries "5";',
    ]


def test_the_name_changes_with_what_it_is_made_from(machine: Machine) -> None:
    first = machine.base().stdout
    machine.sources(STANZA.replace("mirror.example", "another.example"))
    second = machine.base().stdout
    (machine.files.parent / "apt").write_text('Acquire::Languages "none";\n')
    third = machine.base().stdout
    assert len({first, second, third}) == 3


def test_without_a_source_it_says_so(machine: Machine) -> None:
    machine.sources(OTHERS)
    done = machine.base()
    assert done.returncode == 1
    assert done.stdout == ""
    assert "no source of 'bookworm' with the component main" in done.stderr


def test_without_apt_it_says_so(machine: Machine) -> None:
    (machine.folder / "apt-config").unlink()
    done = machine.base()
    assert done.returncode == 1
    assert "found no apt-config" in done.stderr


def test_without_root_the_line_that_installs_the_builder_is_named(machine: Machine) -> None:
    (machine.folder / "mmdebstrap").unlink()
    machine.add("apt-get", "exit 9")
    done = machine.base()
    assert done.returncode == 1
    assert "sudo apt-get install --yes --no-install-recommends mmdebstrap" in done.stderr
