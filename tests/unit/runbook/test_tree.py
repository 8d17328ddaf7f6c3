"""Trees: measured, packed once, unpacked whole, and nothing of a stranger's replaced."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.streamops.runbook.plugins.module_utils import tree
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused, ServiceError

PROJECT = Path(__file__).resolve().parents[3]
PLAYBOOK = Path(sys.executable).parent / "ansible-playbook"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    (folder / "bin").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "bin" / "tool").write_text("#!/bin/sh\n")
    (folder / "bin" / "tool").chmod(0o700)
    (folder / "data").write_bytes(b"\0" * 5000)
    (folder / "data").chmod(0o600)
    (folder / "link").symlink_to("bin/tool")
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.pyc").write_text("x")
    return folder


def send(source: Path, path: Path, cache: Path, exclude: tuple[str, ...] = ()) -> str | None:
    wanted = tree.known_measure(source, cache, exclude)
    why = tree.difference(path, wanted, exclude)
    if why is not None:
        tree.unpack(tree.pack(source, wanted, cache, exclude), path, wanted)
    return why


def test_a_copy_is_whole_readable_and_made_once(source: Path, tmp_path: Path) -> None:
    path, cache = tmp_path / "host" / "trees" / "kafka", tmp_path / "cache"
    assert send(source, path, cache, ("__pycache__",)) == "it is not there"
    assert (path / "bin" / "tool").read_text() == "#!/bin/sh\n"
    assert (path / "bin" / "tool").stat().st_mode & 0o777 == 0o755
    assert (path / "data").stat().st_mode & 0o777 == 0o644
    assert path.stat().st_mode & 0o777 == 0o755
    assert (path / "link").readlink() == Path("bin/tool")
    assert (path / "empty").is_dir()
    assert not (path / "__pycache__").exists()
    assert send(source, path, cache, ("__pycache__",)) is None
    # Caches that appear there do not count.
    (path / "__pycache__").mkdir()
    (path / "__pycache__" / "x.pyc").write_text("x")
    assert send(source, path, cache, ("__pycache__",)) is None
    assert {entry.name for entry in path.parent.iterdir()} == {"kafka", ".kafka.lock"}


def test_a_change_replaces_the_copy(source: Path, tmp_path: Path) -> None:
    path, cache = tmp_path / "host" / "trees" / "kafka", tmp_path / "cache"
    send(source, path, cache)
    (source / "data").write_text("new")
    (source / "empty").rmdir()
    assert send(source, path, cache) == "another one is there"
    assert (path / "data").read_text() == "new"
    assert not (path / "empty").exists()
    assert send(source, path, cache) is None


def test_only_the_executable_bit_of_permissions_counts(source: Path) -> None:
    before = tree.measure(source)
    (source / "data").chmod(0o640)
    assert tree.measure(source) == before
    (source / "data").chmod(0o750)
    assert tree.measure(source) != before


def test_damage_is_seen_and_repaired(source: Path, tmp_path: Path) -> None:
    path, cache = tmp_path / "host" / "trees" / "kafka", tmp_path / "cache"
    send(source, path, cache)
    (path / "data").write_text("cut off")
    assert send(source, path, cache) == "3 files with 18 bytes are left of 3 with 5011"
    assert (path / "data").stat().st_size == 5000
    (path / tree.MARKER).write_text("not json")
    assert send(source, path, cache) == "its marker can't be read"
    assert send(source, path, cache) is None


def test_a_strangers_folder_is_refused(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "host" / "trees" / "kafka"
    path.mkdir(parents=True)
    (path / "precious").write_text("x")
    with pytest.raises(Refused, match="it was not put there as a tree"):
        send(source, path, tmp_path / "cache")
    assert (path / "precious").exists()


@pytest.mark.parametrize("path", ["/", "/opt", "/opt/kafka", "relative/a/b/c", "/opt/a/../../etc"])
def test_a_path_that_could_be_the_systems_is_refused(path: str) -> None:
    with pytest.raises(Refused, match="no place for a tree"):
        tree.difference(Path(path), tree.Measure("0", 0, 0))


def test_what_is_no_tree_is_refused(source: Path, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no such folder"):
        tree.known_measure(tmp_path / "nothing", tmp_path / "cache")
    os.mkfifo(source / "pipe")
    with pytest.raises(Refused, match="pipe: found neither file nor folder nor link"):
        tree.measure(source)


def test_files_are_read_again_only_when_something_changed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Path] = []
    real = tree.measure

    def counting(folder: Path, exclude: Any = ()) -> tree.Measure:
        calls.append(folder)
        return real(folder, exclude)

    monkeypatch.setattr(tree, "measure", counting)
    first = tree.known_measure(source, tmp_path / "cache")
    assert tree.known_measure(source, tmp_path / "cache") == first
    assert len(calls) == 1
    (source / "data").write_bytes(b"\1" * 5000)
    assert tree.known_measure(source, tmp_path / "cache") != first
    assert len(calls) == 2
    for note in (tmp_path / "cache").glob("*.json"):
        note.write_text("{}")
    tree.known_measure(source, tmp_path / "cache")
    assert len(calls) == 3


def test_packs_are_kept_while_they_are_asked_for(source: Path, tmp_path: Path) -> None:
    cache, day = tmp_path / "cache", 86_400.0
    first = tree.known_measure(source, cache)
    old = tree.pack(source, first, cache, clock=lambda: 0.0)
    made = old.stat().st_ino
    assert tree.pack(source, first, cache, clock=lambda: 20 * day).stat().st_ino == made
    (source / "data").write_text("new")
    second = tree.known_measure(source, cache)
    tree.pack(source, second, cache, clock=lambda: 49 * day)
    assert old.exists()
    new = tree.pack(source, second, cache, clock=lambda: 51 * day)
    assert not old.exists()
    assert new.exists()


def test_a_pack_that_is_not_what_was_promised_is_not_put_in_place(source: Path, tmp_path: Path) -> None:
    path, cache = tmp_path / "host" / "trees" / "kafka", tmp_path / "cache"
    send(source, path, cache)
    good = tree.known_measure(source, cache)
    packed = tree.pack(source, good, cache)
    other = tree.Measure("0" * 64, good.files, good.bytes)
    with pytest.raises(ServiceError, match="expected digest 0000"):
        tree.unpack(packed, path, other)
    packed.write_bytes(packed.read_bytes()[:100])
    with pytest.raises(ServiceError, match="expected a whole pack"):
        tree.unpack(packed, path, good)
    assert tree.difference(path, good) is None
    assert {entry.name for entry in path.parent.iterdir()} == {"kafka", ".kafka.lock"}


@pytest.mark.parametrize("name", ["../out", "/etc/out", "link/out", "missing/out"])
def test_a_member_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    packed = tmp_path / "evil.tar.gz"
    with tarfile.open(packed, "w:gz") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(ServiceError, match="members inside of the tree"):
        tree.unpack(packed, tmp_path / "host" / "trees" / "kafka", tree.Measure("0", 0, 0))
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_refused_before_it_is_filled(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = tree.known_measure(source, tmp_path / "cache")
    packed = tree.pack(source, wanted, tmp_path / "cache")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(Refused, match="0 MiB free, expected 64 MiB for the tree and some to spare"):
        tree.unpack(packed, tmp_path / "host" / "trees" / "kafka", wanted)


def play(folder: Path, trees: list[dict[str, Any]], *options: str) -> str:
    """Call the module once on this machine; everything that Ansible prints."""
    task = {"streamops.runbook.tree": {"trees": trees, "cache": str(folder / "cache")}}
    body = {"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": [task]}
    (folder / "play.yml").write_text(json.dumps([body]))
    (folder / "ansible.cfg").touch()
    done = subprocess.run(
        [PLAYBOOK, "-i", "localhost,", "-v", *options, "play.yml"],
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
        timeout=180,
        check=False,
    )
    return done.stdout


def test_the_module_under_a_real_ansible(source: Path, tmp_path: Path) -> None:
    path = tmp_path / "host" / "trees" / "kafka"
    trees = [{"source": str(source), "path": str(path)}]
    planned = play(tmp_path, trees, "--check")
    assert "changed: [localhost]" in planned
    assert f"send {path}: it is not there" in planned
    assert not path.exists()
    unmade = play(tmp_path, [{"source": str(tmp_path / "later"), "path": str(path)}], "--check")
    assert "changed: [localhost]" in unmade
    assert "later is still to be made" in unmade
    assert "changed: [localhost]" in play(tmp_path, trees)
    assert (path / "bin" / "tool").exists()
    assert "ok: [localhost]" in play(tmp_path, trees)
    (path / tree.MARKER).unlink()
    refused = play(tmp_path, trees)
    assert "FAILED!" in refused
    assert "it was not put there as a tree" in refused
