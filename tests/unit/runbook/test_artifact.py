"""The artifact store: what is verified, what is made, what is refused."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.streamops.runbook.plugins.module_utils.artifact import (
    Artifact,
    ArtifactStore,
    DebianPackages,
    GoModule,
    MavenBundle,
    Tools,
    load_catalog,
    local_tools,
)
from ansible_collections.streamops.runbook.plugins.module_utils.artifact import base as subject
from ansible_collections.streamops.runbook.plugins.module_utils.errors import (
    ArtifactError,
    DeadlineExceeded,
)

ROOT = Path(__file__).resolve().parents[3]
JARS = {"a.jar": b"alpha", "b.jar": b"beta"}
BUNDLE = MavenBundle(
    name="bundle",
    version="1.0",
    pom=Path("pom.xml"),
    directory="libs",
    sums={name: hashlib.sha256(data).hexdigest() for name, data in JARS.items()},
)
PROGRAM = GoModule(
    name="program",
    version="2.0",
    module="example.org/program",
    module_version="v2.0.0",
    module_sum="h1:right",
    go_version="1.24",
    programs={"bin/program": "."},
    link_strings={"example.org/program.Version": "2.0"},
    expected_minutes=1,
)
SUITE = replace(PROGRAM, name="suite", programs={"bin/server": "./cmd/server", "bin/tool": "./cmd/tool"})
CATALOG: dict[str, Artifact] = {artifact.name: artifact for artifact in (BUNDLE, PROGRAM, SUITE)}


class FakeTools:
    """Stands for java, mvn and go: answers versions, and writes what the real ones would."""

    def __init__(self) -> None:
        self.programs = {name: f"/usr/bin/{name}" for name in ("java", "mvn", "go")}
        self.versions = {
            "java": 'openjdk version "17.0.15" 2025-04-15',
            "go": "go version go1.26.8 linux/amd64",
        }
        self.jars = dict(JARS)
        self.module_sum = "h1:right"
        self.answers: dict[str, str] = {}
        self.exit_code = 0
        self.commands: list[list[str]] = []
        self.environments: list[dict[str, str]] = []
        self.before_work: Callable[[], None] = lambda: None

    def tools(self) -> Tools:
        return Tools(which=self.programs.get, capture=self.capture, run=self.run, release=dict)

    def capture(self, command: Sequence[str]) -> tuple[int, str]:
        if command[1] == "--version":
            return 0, self.answers.get(Path(command[0]).name, "program version 2.0\n")
        return 0, self.versions[Path(command[0]).name] + "\n"

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
        self.environments.append(dict(environment))
        self.before_work()
        on_line("working\n")
        if self.exit_code:
            return self.exit_code, "the last words"
        if command[1:3] == ["mod", "download"]:
            return 0, "go: downloading\n" + json.dumps({"Sum": self.module_sum, "Dir": str(folder)})
        if command[1] == "build":
            target = Path(command[command.index("-o") + 1])
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(b"a program")
            return 0, ""
        option = next(part for part in command if part.startswith("-DoutputDirectory="))
        target = Path(option.partition("=")[2])
        target.mkdir()
        for name, data in self.jars.items():
            (target / name).write_bytes(data)
        return 0, ""


@pytest.fixture
def fake() -> FakeTools:
    return FakeTools()


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, fake: FakeTools, notes: list[str]) -> ArtifactStore:
    return ArtifactStore(
        CATALOG,
        tmp_path / "cache",
        tools=fake.tools(),
        environment={"CI": "true", "GOFLAGS": "-mod=vendor", "HOME": "/home/x"},
        notify=notes.append,
        deadline_seconds=2.0,
    )


def test_missing_artifacts_are_made_and_then_left_alone(store: ArtifactStore, fake: FakeTools) -> None:
    first = store.ensure(["program", "bundle"])
    assert [(outcome.name, outcome.state) for outcome in first] == [
        ("program", "fetched"),
        ("bundle", "fetched"),
    ]
    assert sorted(path.name for path in first[1].path.rglob("*.jar")) == ["a.jar", "b.jar"]
    assert first[1].path.stat().st_mode & 0o777 == 0o700
    commands = len(fake.commands)
    second = store.ensure(["program", "bundle"])
    assert {outcome.state for outcome in second} == {"present"}
    assert len(fake.commands) == commands


def test_only_what_is_named_is_made(store: ArtifactStore, fake: FakeTools) -> None:
    del fake.programs["go"]
    store.ensure(["bundle"])
    assert not store.path(PROGRAM).exists()


def test_plan_writes_nothing(store: ArtifactStore, fake: FakeTools, tmp_path: Path) -> None:
    outcomes = store.ensure(["bundle", "program"], plan_only=True)
    assert {outcome.state for outcome in outcomes} == {"planned"}
    assert fake.commands == []
    assert list(tmp_path.iterdir()) == []


def test_one_flipped_byte_is_refused_by_name(store: ArtifactStore) -> None:
    home = store.ensure(["bundle"])[0].path
    jar = home / "libs" / "b.jar"
    jar.write_bytes(b"betA")
    with pytest.raises(ArtifactError) as caught:
        store.ensure(["bundle"])
    message = str(caught.value)
    assert str(jar) in message
    assert hashlib.sha256(b"betA").hexdigest() in message
    assert BUNDLE.sums["b.jar"] in message
    assert f"rm -rf -- '{home}'" in message
    assert jar.read_bytes() == b"betA"


def test_a_damaged_artifact_keeps_the_others_from_being_fetched(store: ArtifactStore, fake: FakeTools) -> None:
    home = store.ensure(["bundle"])[0].path
    (home / "libs" / "a.jar").write_bytes(b"")
    commands = len(fake.commands)
    with pytest.raises(ArtifactError):
        store.ensure(["program", "bundle"])
    assert len(fake.commands) == commands


@pytest.mark.parametrize("stray", ["libs/evil.jar", "extra", "libs/more/c.jar"])
def test_a_stray_file_is_refused(store: ArtifactStore, stray: str) -> None:
    path = store.ensure(["bundle"])[0].path / stray
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x")
    with pytest.raises(ArtifactError, match="does not belong here"):
        store.ensure(["bundle"])


def test_a_missing_file_is_refused(store: ArtifactStore) -> None:
    (store.ensure(["bundle"])[0].path / "libs" / "a.jar").unlink()
    with pytest.raises(ArtifactError, match=r"a\.jar: found no such file"):
        store.ensure(["bundle"])


def test_what_the_client_brings_must_match(store: ArtifactStore, fake: FakeTools) -> None:
    fake.jars["a.jar"] = b"something else"
    with pytest.raises(ArtifactError, match=r"a\.jar"):
        store.ensure(["bundle"])


def test_a_changed_binary_is_refused(store: ArtifactStore) -> None:
    home = store.ensure(["program"])[0].path
    (home / "bin" / "program").write_bytes(b"a Program")
    with pytest.raises(ArtifactError, match=r"bin/program: found sha256"):
        store.ensure(["program"])


def test_a_manifest_of_another_recipe_is_refused(store: ArtifactStore) -> None:
    path = store.ensure(["program"])[0].path / "manifest.json"
    path.write_text(path.read_text().replace(PROGRAM.recipe, "0" * 64))
    with pytest.raises(ArtifactError, match="recipe 000"):
        store.ensure(["program"])


def test_a_build_without_its_manifest_is_refused(store: ArtifactStore) -> None:
    (store.ensure(["program"])[0].path / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="the manifest of the build"):
        store.ensure(["program"])


def test_a_module_of_another_hash_is_never_built(store: ArtifactStore, fake: FakeTools) -> None:
    fake.module_sum = "h1:wrong"
    with pytest.raises(ArtifactError, match=r"found hash h1:wrong, expected hash h1:right"):
        store.ensure(["program"])
    assert all(command[1] != "build" for command in fake.commands)
    assert not store.path(PROGRAM).exists()


def test_a_module_may_yield_several_programs(store: ArtifactStore, fake: FakeTools) -> None:
    home = store.ensure(["suite"])[0].path
    builds = [command for command in fake.commands if command[1] == "build"]
    assert [command[-1] for command in builds] == ["./cmd/server", "./cmd/tool"]
    manifest = json.loads((home / "manifest.json").read_text())
    assert manifest["files"] == dict.fromkeys(SUITE.programs, hashlib.sha256(b"a program").hexdigest())
    (home / "bin" / "tool").write_bytes(b"a Program")
    with pytest.raises(ArtifactError, match=r"bin/tool: found sha256"):
        store.ensure(["suite"])


@pytest.mark.parametrize("name", ["server", "tool"])
def test_each_program_must_say_its_version(store: ArtifactStore, fake: FakeTools, name: str) -> None:
    fake.answers[name] = f"{name}, version (devel)"
    with pytest.raises(ArtifactError, match=rf"{name} --version: found exit code 0, {name}, version \(devel\)"):
        store.ensure(["suite"])
    assert not store.path(SUITE).exists()


def test_the_packages_of_a_module_belong_to_its_recipe() -> None:
    assert SUITE.recipe != PROGRAM.recipe
    assert replace(SUITE, programs={"bin/server": "./cmd/server"}).recipe != SUITE.recipe


def test_the_newest_toolchain_that_any_of_them_needs_is_asked_for(tmp_path: Path, fake: FakeTools) -> None:
    modules: dict[str, Artifact] = {
        "old": replace(PROGRAM, name="old"),
        "new": replace(PROGRAM, name="new", go_version="1.27"),
    }
    store = ArtifactStore(modules, tmp_path, tools=fake.tools(), environment={})
    with pytest.raises(ArtifactError, match=r"go1\.26\.8 linux/amd64, expected Go 1\.27 or newer"):
        store.ensure(["old", "new"])


@pytest.mark.parametrize("stray", ["libs/link.jar", "more"])
def test_a_stray_link_is_refused_whatever_it_points_at(store: ArtifactStore, tmp_path: Path, stray: str) -> None:
    (store.ensure(["bundle"])[0].path / stray).symlink_to(tmp_path)
    with pytest.raises(ArtifactError, match="does not belong here"):
        store.ensure(["bundle"])


def test_a_link_is_no_file_even_to_the_same_bytes(store: ArtifactStore, tmp_path: Path) -> None:
    jar = store.ensure(["bundle"])[0].path / "libs" / "a.jar"
    copy = tmp_path / "copy.jar"
    jar.rename(copy)
    jar.symlink_to(copy)
    with pytest.raises(ArtifactError, match=rf"a\.jar: found link to {copy}, expected sha256"):
        store.ensure(["bundle"])


def test_no_setting_of_the_user_changes_the_build(store: ArtifactStore, fake: FakeTools) -> None:
    store.ensure(["program"])
    for environment in fake.environments:
        assert "CI" not in environment
        assert environment["GOTOOLCHAIN"] == "local"
        assert environment["GOFLAGS"] == ""
        assert environment["HOME"] == "/home/x"


@pytest.mark.parametrize(
    ("program", "version", "names", "found"),
    [
        ("java", None, ["bundle"], "java: found no such program"),
        ("java", 'openjdk version "11.0.2"', ["bundle"], 'found openjdk version "11.0.2"'),
        ("mvn", None, ["bundle"], "mvn: found no such program"),
        ("go", None, ["program"], "go: found no such program"),
        ("go", "go version go1.19.8 linux/amd64", ["program"], "found go version go1.19.8"),
    ],
)
def test_a_missing_or_old_client_is_named_with_what_installs_it(
    store: ArtifactStore,
    fake: FakeTools,
    program: str,
    version: str | None,
    names: list[str],
    found: str,
) -> None:
    if version is None:
        del fake.programs[program]
    else:
        fake.versions[program] = version
    with pytest.raises(ArtifactError) as caught:
        store.ensure(names)
    assert found in str(caught.value)
    assert "Next: `" in str(caught.value)
    assert fake.commands == []


def test_a_client_is_not_needed_for_what_is_there(store: ArtifactStore, fake: FakeTools) -> None:
    store.ensure(["bundle", "program"])
    fake.programs.clear()
    assert {outcome.state for outcome in store.ensure(["bundle", "program"])} == {"present"}


def test_several_missing_clients_are_all_named(store: ArtifactStore, fake: FakeTools) -> None:
    fake.programs.clear()
    with pytest.raises(ArtifactError, match="java") as caught:
        store.ensure(["bundle", "program"])
    assert [note.split(":")[0] for note in caught.value.__notes__] == ["mvn", "go"]


def test_a_failed_client_leaves_nothing_behind(store: ArtifactStore, fake: FakeTools) -> None:
    fake.exit_code = 1
    with pytest.raises(ArtifactError, match=r"exit code 1 .* the last words"):
        store.ensure(["bundle"])
    assert [path.suffix for path in store.path(BUNDLE).parent.iterdir()] == [".lock"]


def test_leftovers_of_a_killed_run_are_removed(store: ArtifactStore) -> None:
    leftover = store.path(BUNDLE).parent / ".bundle-1.0.99999.partial"
    leftover.mkdir(parents=True)
    store.ensure(["bundle"])
    assert not leftover.exists()


def test_an_unknown_name_lists_the_known(store: ArtifactStore) -> None:
    with pytest.raises(ArtifactError, match="expected bundle, program, suite"):
        store.ensure(["bundel"])


def test_two_clones_at_once_make_it_once(tmp_path: Path, fake: FakeTools, notes: list[str]) -> None:
    fake.before_work = lambda: time.sleep(1.5)
    outcomes: list[str] = []

    def work() -> None:
        store = ArtifactStore(CATALOG, tmp_path, tools=fake.tools(), environment={}, notify=notes.append)
        outcomes.append(store.ensure(["bundle"])[0].state)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["fetched", "present"]
    assert len(fake.commands) == 1
    assert any(f"process {os.getpid()} is making it" in note for note in notes)


def test_waiting_for_another_run_ends_at_the_deadline(store: ArtifactStore) -> None:
    folder = store.path(BUNDLE).parent
    folder.mkdir(parents=True)
    with (folder / ".bundle-1.0.lock").open("w") as lock:
        lock.write("4711\n")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DeadlineExceeded, match="process 4711 still making it"):
            store.ensure(["bundle"])


def test_progress_goes_on_while_a_client_works(
    store: ArtifactStore, fake: FakeTools, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subject, "REPORT_EVERY_SECONDS", 0.05)

    def work() -> None:
        deadline = time.monotonic() + 30
        while sum("s so far" in note for note in notes) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)

    fake.before_work = work
    store.ensure(["bundle"])
    assert sum("s so far" in note for note in notes) >= 2
    assert notes[-1].startswith("bundle 1.0: in the cache after")


class TestLocalTools:
    """The real way to run a client."""

    def run(self, script: str, tmp_path: Path, deadline: float = 30.0) -> tuple[int, str, int]:
        lock = os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT)
        lines: list[str] = []
        try:
            code, output = local_tools().run([sys.executable, "-c", script], tmp_path, {}, lock, lines.append, deadline)
        finally:
            os.close(lock)
        return code, output, len(lines)

    def test_gives_each_line_and_the_exit_code(self, tmp_path: Path) -> None:
        script = "import sys; print('one'); print('two', file=sys.stderr); sys.exit(3)"
        code, output, lines = self.run(script, tmp_path)
        assert (code, lines) == (3, 2)
        assert "one" in output
        assert "two" in output

    def test_ends_a_client_at_the_deadline(self, tmp_path: Path) -> None:
        code, _, _ = self.run("import time; time.sleep(60)", tmp_path, deadline=0.5)
        assert code == -9

    def test_the_lock_outlives_a_killed_parent(self, tmp_path: Path) -> None:
        parent = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import fcntl, os, subprocess, sys, time\n"
                f"fd = os.open({str(tmp_path / 'lock')!r}, os.O_RDWR | os.O_CREAT)\n"
                "fcntl.flock(fd, fcntl.LOCK_EX)\n"
                "from ansible_collections.streamops.runbook.plugins.module_utils.artifact import"
                " local_tools\n"
                "from pathlib import Path\n"
                "local_tools().run([sys.executable, '-c', 'import time; print(1, flush=True);"
                " time.sleep(3)'], Path('/'), {}, fd, lambda _: print('up', flush=True), 60)\n",
            ],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT / "collections")},
        )
        with parent:
            assert parent.stdout is not None
            assert parent.stdout.readline() == b"up\n"
            parent.kill()
        with (tmp_path / "lock").open("r+") as lock:
            with pytest.raises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(lock, fcntl.LOCK_EX)


class TestCatalog:
    """The committed catalog and what malformed ones say."""

    def test_the_committed_one_is_whole(self) -> None:
        catalog = load_catalog(ROOT / "config" / "artifacts.yml")
        bundles = {name: artifact for name, artifact in catalog.items() if isinstance(artifact, MavenBundle)}
        modules = [artifact for artifact in catalog.values() if isinstance(artifact, GoModule)]
        assert {name: len(bundle.sums) for name, bundle in bundles.items()} == {
            "kafka": 54,
            "jmx-exporter": 1,
            "spark-connectors": 43,
        }
        assert all(bundle.pom.is_file() for bundle in bundles.values())
        assert {program for module in modules for program in module.programs} == {
            "bin/minio",
            "bin/alertmanager",
            "bin/amtool",
            "bin/node_exporter",
        }
        for module in modules:
            assert module.module_sum.startswith("h1:")
            assert all(isinstance(value, str) for value in module.link_strings.values())

    def test_the_packages_are_those_of_the_version_that_the_folder_is_named_for(self) -> None:
        prometheus = load_catalog(ROOT / "config" / "artifacts.yml")["prometheus"]
        assert isinstance(prometheus, DebianPackages)
        (own,) = [file for file in prometheus.sums if file.startswith("prometheus_")]
        assert own.startswith(f"prometheus_{prometheus.version}+")

    def test_a_minio_that_was_built_before_stays_good(self) -> None:
        minio = load_catalog(ROOT / "config" / "artifacts.yml")["minio"]
        assert isinstance(minio, GoModule)
        # What caches hold that were filled before a module could yield several programs.
        assert minio.recipe == "e530d796f87d163866a9a48840080c302a9afff2858f01939ef424a762d15dea"

    def test_a_relative_one_names_its_files_wherever_a_client_runs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(ROOT)
        kafka = load_catalog(Path("config/artifacts.yml"))["kafka"]
        assert isinstance(kafka, MavenBundle)
        assert kafka.pom.is_absolute()

    @pytest.mark.parametrize("name", ["jmx-exporter", "kafka", "spark-connectors"])
    def test_every_jar_that_a_pom_names_is_in_its_list(self, name: str) -> None:
        bundle = load_catalog(ROOT / "config" / "artifacts.yml")[name]
        assert isinstance(bundle, MavenBundle)
        text = bundle.pom.read_text()
        for block in text.split("<dependencies>")[1].split("<dependency>")[1:]:
            artifact_id = block.split("<artifactId>")[1].split("<")[0]
            version = block.split("<version>")[1].split("<")[0]
            assert f"{artifact_id}-{version}.jar" in bundle.sums

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("artifacts: {x: {version: '1'}}", "malformed"),
            ("[]", "malformed"),
            ("artifacts: [", "malformed"),
            ("artifacts: {x: {kind: ftp}}", "kind 'ftp', expected kind maven or go or debian"),
            (
                "artifacts: {x: {kind: go, version: '1', module: m, module_version: v, module_sum: s,"
                " go_version: '1.24', programs: bin/x, link_strings: {}, expected_minutes: 1}}",
                "malformed",
            ),
        ],
    )
    def test_a_malformed_one_is_named(self, tmp_path: Path, text: str, expected: str) -> None:
        path = tmp_path / "artifacts.yml"
        path.write_text(text)
        with pytest.raises(ArtifactError, match=expected):
            load_catalog(path)

    def test_a_missing_one_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ArtifactError, match=r"artifacts\.yml"):
            load_catalog(tmp_path / "artifacts.yml")

    @pytest.mark.parametrize("line", ["abc  a.jar", "0" * 64, "0" * 64 + "  ../a.jar", ""])
    def test_a_malformed_list_is_named(self, tmp_path: Path, line: str) -> None:
        (tmp_path / "SUMS").write_text(f"{line}\n" if line else "")
        path = tmp_path / "artifacts.yml"
        path.write_text("artifacts: {x: {kind: maven, version: '1', pom: p, sums: SUMS, directory: d}}")
        with pytest.raises(ArtifactError, match="SUMS"):
            load_catalog(path)
