"""Artifacts out of Debian packages: what is fetched, kept, mended, refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.streamops.runbook.plugins.module_utils.artifact import (
    ArtifactStore,
    DebianPackages,
    Tools,
    load_catalog,
)
from ansible_collections.streamops.runbook.plugins.module_utils.errors import ArtifactError

SERVER = "server_1%3a2.0+ds-5_amd64.deb"
SCRIPTS = "libjs-scripts_3.1-1_all.deb"
PACKAGES = {SERVER: b"the server", SCRIPTS: b"the scripts"}
# A path with a target is a link.
TREES: dict[str, dict[str, bytes | Path]] = {
    SERVER: {
        "usr/bin/server": b"a program",
        "usr/share/man/server.1.gz": b"a manual",
        "usr/share/server/static/scripts": Path("/usr/share/javascript/scripts"),
        "usr/share/server/static/near": Path("../../javascript/scripts"),
        "etc/server/server.yml": b"",
    },
    SCRIPTS: {
        "usr/share/javascript/scripts/a.js": b"alert()",
        "usr/share/javascript/scripts/data.json": b"[]",
        "usr/share/doc/libjs-scripts/changelog.gz": b"more",
    },
}
SERVER_PACKAGES = DebianPackages(
    name="server",
    version="2.0",
    release="debian bookworm",
    architecture="amd64",
    sums={name: hashlib.sha256(data).hexdigest() for name, data in PACKAGES.items()},
    keep=("usr/bin/*", "usr/share/server/*", "usr/share/javascript/*.js"),
)


class FakeDebian:
    """Stands for apt-get, dpkg and dpkg-deb on a machine of some release."""

    def __init__(self) -> None:
        self.programs = {name: f"/usr/bin/{name}" for name in ("apt-get", "dpkg", "dpkg-deb")}
        self.release: dict[str, str] | None = {"ID": "debian", "VERSION_CODENAME": "bookworm"}
        self.architecture = "amd64"
        self.packages = dict(PACKAGES)
        self.trees = {name: dict(tree) for name, tree in TREES.items()}
        self.failing = ""
        self.commands: list[list[str]] = []
        self.configuration = ""

    def tools(self) -> Tools:
        return Tools(which=self.programs.get, capture=self.capture, run=self.run, release=self.os_release)

    def os_release(self) -> Mapping[str, str]:
        if self.release is None:
            raise FileNotFoundError("/etc/os-release")
        return self.release

    def capture(self, command: Sequence[str]) -> tuple[int, str]:
        match command[1:]:
            case ["--print-architecture"]:
                return 0, f"dpkg: warning: failed to open configuration file\n{self.architecture}\n"
            case ["--version"]:
                return 0, "Debian 'dpkg-deb' package archive backend version 1.21.22 (amd64).\n"
            case ["-x", package, root] if self.failing != "-x":
                for name, content in self.trees[Path(package).name].items():
                    path = Path(root) / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    if isinstance(content, Path):
                        path.symlink_to(content)
                    else:
                        path.write_bytes(content)
                return 0, ""
        return 2, "dpkg-deb: error: unexpected end of file"

    def run(
        self,
        command: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        lock: int,
        on_line: Callable[[str], None],
        deadline_seconds: float,
    ) -> tuple[int, str]:
        self.commands.append(list(command))
        if command[1] == self.failing:
            return 100, "E: Version '1:2.0+ds-5' for 'server' was not found"
        if command[1] == "update":
            option = next(part for part in command if part.startswith("--config-file="))
            self.configuration = Path(option.partition("=")[2]).read_text()
        if command[1] == "download":
            for name, data in self.packages.items():
                (folder / name).write_bytes(data)
        return 0, ""


@pytest.fixture
def fake() -> FakeDebian:
    return FakeDebian()


@pytest.fixture
def store(tmp_path: Path, fake: FakeDebian) -> ArtifactStore:
    return store_of(SERVER_PACKAGES, tmp_path, fake)


def store_of(artifact: DebianPackages, cache: Path, fake: FakeDebian) -> ArtifactStore:
    return ArtifactStore(
        {artifact.name: artifact}, cache, tools=fake.tools(), environment={}, notify=lambda _: None, deadline_seconds=2
    )


def test_what_is_kept_is_unpacked_once(store: ArtifactStore, fake: FakeDebian) -> None:
    first = store.ensure(["server"])[0]
    root = first.path / "root"
    assert first.state == "fetched"
    assert sorted(str(path.relative_to(first.path)) for path in first.path.rglob("*") if not path.is_dir()) == [
        "manifest.json",
        "root/usr/bin/server",
        "root/usr/share/javascript/scripts/a.js",
    ]
    assert not (root / "etc").exists()
    commands = len(fake.commands)
    assert store.ensure(["server"])[0].state == "present"
    assert len(fake.commands) == commands


def test_each_package_is_asked_for_by_its_exact_version(store: ArtifactStore, fake: FakeDebian) -> None:
    store.ensure(["server"])
    update, download = fake.commands
    assert update[1] == "update"
    assert [part for part in download[2:] if not part.startswith("--")] == [
        "server=1:2.0+ds-5",
        "libjs-scripts=3.1-1",
    ]


def test_apt_writes_beside_the_artifact_alone(store: ArtifactStore, fake: FakeDebian) -> None:
    store.ensure(["server"])
    staging = str(store.path(SERVER_PACKAGES).parent)
    settings = dict(line.rstrip(";").split(" ", 1) for line in fake.configuration.splitlines() if line[0] != "#")
    assert settings["Dir::State::Lists"].startswith(f'"{staging}/.server-2.0.')
    assert settings["Dir::Cache"].startswith(f'"{staging}/.server-2.0.')
    # The machine's own hooks would empty or refresh the machine's own caches.
    assert "#clear APT::Update::Post-Invoke;" in fake.configuration


def test_links_resolve_inside_the_artifact(store: ArtifactStore, tmp_path: Path) -> None:
    home = store.ensure(["server"])[0].path
    static = home / "root/usr/share/server/static"
    for name in ("scripts", "near"):
        assert static.joinpath(name).readlink() == Path("../../javascript/scripts")
        assert static.joinpath(name, "a.js").read_bytes() == b"alert()"
    assert json.loads((home / "manifest.json").read_text())["links"] == {
        "root/usr/share/server/static/near": "../../javascript/scripts",
        "root/usr/share/server/static/scripts": "../../javascript/scripts",
    }


@pytest.mark.parametrize("target", ["/usr/share/javascript/missing", "../../../../../../../outside", "loop"])
def test_a_link_that_leads_nowhere_or_outside_is_refused(
    store: ArtifactStore, fake: FakeDebian, tmp_path: Path, target: str
) -> None:
    (tmp_path / "outside").mkdir()
    fake.trees[SERVER]["usr/share/server/static/loop"] = Path(target)
    with pytest.raises(ArtifactError, match=r"link usr/share/server/static/loop: found target .* not among"):
        store.ensure(["server"])
    assert not store.path(SERVER_PACKAGES).exists()


def test_one_flipped_byte_is_refused_by_name(store: ArtifactStore) -> None:
    script = store.ensure(["server"])[0].path / "root/usr/share/javascript/scripts/a.js"
    script.write_bytes(b"alerT()")
    with pytest.raises(ArtifactError, match=r"scripts/a\.js: found sha256 .*, expected sha256") as caught:
        store.ensure(["server"])
    assert f"rm -rf -- '{store.path(SERVER_PACKAGES)}'" in str(caught.value)
    assert script.read_bytes() == b"alerT()"


def test_a_link_that_was_turned_is_refused_by_name(store: ArtifactStore) -> None:
    link = store.ensure(["server"])[0].path / "root/usr/share/server/static/scripts"
    link.unlink()
    link.symlink_to("/srv")
    with pytest.raises(
        ArtifactError, match=r"static/scripts: found link to /srv, expected link to \.\./\.\./javascript/scripts"
    ):
        store.ensure(["server"])


@pytest.mark.parametrize("stray", ["root/usr/bin/other", "root/usr/share/server/extra"])
def test_a_stray_file_is_refused(store: ArtifactStore, stray: str) -> None:
    (store.ensure(["server"])[0].path / stray).write_bytes(b"")
    with pytest.raises(ArtifactError, match="does not belong here"):
        store.ensure(["server"])


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ('"files"', '"filed"', "KeyError"),
        (SERVER_PACKAGES.recipe, "0" * 64, "recipe 000"),
    ],
)
def test_a_manifest_of_something_else_is_refused(store: ArtifactStore, old: str, new: str, found: str) -> None:
    path = store.ensure(["server"])[0].path / "manifest.json"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ArtifactError, match=found):
        store.ensure(["server"])


def test_what_is_kept_belongs_to_the_recipe() -> None:
    assert replace(SERVER_PACKAGES, keep=("usr/bin/*",)).recipe != SERVER_PACKAGES.recipe


def test_a_package_of_another_hash_is_never_unpacked(store: ArtifactStore, fake: FakeDebian) -> None:
    fake.packages[SCRIPTS] = b"other scripts"
    fake.failing = "-x"
    with pytest.raises(ArtifactError, match=rf"package {SCRIPTS}: found sha256 .*, expected sha256"):
        store.ensure(["server"])
    assert not store.path(SERVER_PACKAGES).exists()


def test_a_package_that_did_not_come_is_named(store: ArtifactStore, fake: FakeDebian) -> None:
    del fake.packages[SERVER]
    with pytest.raises(ArtifactError, match=r"server_1%3a2\.0\+ds-5_amd64\.deb: found no such file"):
        store.ensure(["server"])


def test_a_version_that_the_sources_no_longer_have_is_explained(store: ArtifactStore, fake: FakeDebian) -> None:
    fake.failing = "download"
    with pytest.raises(ArtifactError, match=r"exit code 100 .* was not found.* Next: .*replaced by a newer one"):
        store.ensure(["server"])


def test_a_package_that_can_not_be_unpacked_is_named(store: ArtifactStore, fake: FakeDebian) -> None:
    fake.failing = "-x"
    with pytest.raises(ArtifactError, match=r"dpkg-deb -x server_.*: found exit code 2, .* unexpected end of file"):
        store.ensure(["server"])
    assert [path.suffix for path in store.path(SERVER_PACKAGES).parent.iterdir()] == [".lock"]


def test_a_pattern_that_keeps_nothing_is_named(tmp_path: Path, fake: FakeDebian) -> None:
    packages = replace(SERVER_PACKAGES, keep=(*SERVER_PACKAGES.keep, "usr/lib/*"))
    with pytest.raises(ArtifactError, match=r"keep: found no unpacked path that matches usr/lib/\*"):
        store_of(packages, tmp_path, fake).ensure(["server"])


@pytest.mark.parametrize(
    ("release", "architecture", "found"),
    [
        ({"ID": "debian", "VERSION_CODENAME": "trixie"}, "amd64", "debian trixie"),
        ({"ID": "arch"}, "amd64", "arch without a codename"),
        (None, "amd64", "no os-release"),
        ({"ID": "debian", "VERSION_CODENAME": "bookworm"}, "arm64", "debian bookworm arm64"),
    ],
)
def test_another_release_or_architecture_is_refused_by_name(
    store: ArtifactStore, fake: FakeDebian, release: dict[str, str] | None, architecture: str, found: str
) -> None:
    fake.release, fake.architecture = release, architecture
    with pytest.raises(ArtifactError, match=rf"found {found}.*, expected debian bookworm amd64") as caught:
        store.ensure(["server"])
    assert "Next: " in str(caught.value)
    assert not hasattr(caught.value, "__notes__")
    assert fake.commands == []


@pytest.mark.parametrize("program", ["apt-get", "dpkg", "dpkg-deb"])
def test_a_missing_client_is_named_with_its_package(store: ArtifactStore, fake: FakeDebian, program: str) -> None:
    del fake.programs[program]
    with pytest.raises(ArtifactError, match=rf"^{program}: found no such program.* Next: put its package `(apt|dpkg)`"):
        store.ensure(["server"])


def test_another_release_hears_nothing_of_missing_programs(store: ArtifactStore, fake: FakeDebian) -> None:
    fake.release = {"ID": "fedora", "VERSION_CODENAME": ""}
    fake.programs.clear()
    with pytest.raises(ArtifactError, match="found fedora") as caught:
        store.ensure(["server"])
    assert not hasattr(caught.value, "__notes__")


def test_no_client_is_needed_for_what_is_there(store: ArtifactStore, fake: FakeDebian) -> None:
    store.ensure(["server"])
    fake.programs.clear()
    fake.release = None
    assert store.ensure(["server"])[0].state == "present"


@pytest.mark.parametrize("file", ["server_1.0_arm64.deb", "server.deb", "server_1.0_amd64.tar"])
def test_a_list_of_something_else_is_named(tmp_path: Path, file: str) -> None:
    (tmp_path / "SUMS").write_text(f"{'0' * 64}  {file}\n")
    catalog = tmp_path / "artifacts.yml"
    catalog.write_text(
        "artifacts: {x: {kind: debian, version: '1', release: debian bookworm, architecture: amd64,"
        " sums: SUMS, keep: ['*']}}"
    )
    with pytest.raises(ArtifactError, match=rf"SUMS: found '{file}', expected <name>_<version>_amd64"):
        load_catalog(catalog)
