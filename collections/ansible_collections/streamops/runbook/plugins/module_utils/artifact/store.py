"""The cache: where artifacts are, whether they are what was committed, how they get there."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ansible_collections.streamops.runbook.plugins.module_utils.artifact.base import (
    MANIFEST,
    REPORT_EVERY_SECONDS,
    Artifact,
    Bench,
    Check,
    content_of,
    leaves,
)
from ansible_collections.streamops.runbook.plugins.module_utils.artifact.catalog import KINDS
from ansible_collections.streamops.runbook.plugins.module_utils.artifact.tools import Tools
from ansible_collections.streamops.runbook.plugins.module_utils.errors import (
    ArtifactError,
    DeadlineExceeded,
    RunbookError,
)
from ansible_collections.streamops.runbook.plugins.module_utils.progress import report

State = Literal["present", "fetched", "planned"]

_HASHING_THREADS = 4


@dataclass(frozen=True)
class Outcome:
    """What was found or done for one artifact; ``seconds`` is wall time, verification included."""

    name: str
    version: str
    path: Path
    state: State
    seconds: float


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
        :param environment: what the clients (mvn, go, apt-get) run under.
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

        :raises ArtifactError: naming the file, the content found and the one expected, and the
            command that removes just this artifact.
        """
        home = self.path(artifact)
        expected = artifact.expected(home)
        present = {str(path.relative_to(home)) for path in leaves(home)} - {MANIFEST}
        for name in sorted(present - expected.keys()):
            # The folders go on class paths as a whole, so a stray file is as good as a changed one.
            raise artifact.damaged(home, home / name, "a file that does not belong here", "nothing")
        for name in sorted(expected.keys() - present):
            raise artifact.damaged(home, home / name, "no such file", expected[name])
        with ThreadPoolExecutor(max_workers=_HASHING_THREADS) as pool:
            contents = pool.map(lambda name: (name, content_of(home / name)), sorted(expected))
            for name, content in contents:
                if content != expected[name]:
                    raise artifact.damaged(home, home / name, content, expected[name])

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

    def _require_clients(self, missing: Sequence[Artifact]) -> dict[str, str]:
        """Find the programs that make what is missing; path by name.

        :raises ArtifactError: naming the program, the version found and wanted, the line that
            installs it. Several missing ones stand in the notes of the first.
        """
        checks: list[Check] = []
        for kind in KINDS.values():
            if group := [artifact for artifact in missing if isinstance(artifact, kind)]:
                checks += kind.checks(self._tools, group)
        clients: dict[str, str] = {}
        errors: dict[str, ArtifactError] = {}
        for name, check in checks:
            try:
                clients[name] = check()
            except ArtifactError as error:
                # Two programs of one kind may be refused for the same reason.
                errors.setdefault(str(error), error)
        if errors:
            first, *others = errors.values()
            for other in others:
                first.add_note(str(other))
            raise first
        return clients

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
                artifact.make(self._bench(artifact, staging, clients, lock))
                staging.rename(self.path(artifact))
            finally:
                shutil.rmtree(staging, ignore_errors=True)
            self.verify(artifact)
        outcome = self._outcome(artifact, "fetched", started)
        self._notify(f"{artifact.name} {artifact.version}: in the cache after {outcome.seconds:.0f} s")
        return outcome

    def _bench(self, artifact: Artifact, staging: Path, clients: Mapping[str, str], lock: int) -> Bench:
        return Bench(
            artifact=artifact,
            staging=staging,
            clients=clients,
            tools=self._tools,
            environment=self._environment,
            lock=lock,
            clock=self._clock,
            deadline_seconds=self._deadline,
            notify=self._notify,
        )

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
