"""What every kind of artifact is to the store, and the bench on which one is made."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from ansible_collections.streamops.runbook.plugins.module_utils.artifact.tools import Tools
from ansible_collections.streamops.runbook.plugins.module_utils.errors import ArtifactError

MANIFEST = "manifest.json"
REPORT_EVERY_SECONDS = 10.0

# The name of a client, and what looks for it: returns its path or raises ArtifactError.
Check = tuple[str, Callable[[], str]]


@dataclass(frozen=True)
class Artifact(ABC):
    """One entry of the catalog; each kind knows how it is read, made and recognised."""

    name: str
    version: str

    @classmethod
    @abstractmethod
    def parse(cls, name: str, entry: Mapping[str, Any], base: Path) -> Self:
        """Read an entry of the catalog.

        :param base: folder that the files of an entry are named relative to.
        :raises ArtifactError: a list that is malformed.
        :raises KeyError, TypeError, ValueError, AttributeError: a key that is missing or of another type.
        """

    @classmethod
    @abstractmethod
    def checks(cls, tools: Tools, missing: Sequence[Self]) -> list[Check]:
        """What looks for each client that makes these; called with at least one."""

    @abstractmethod
    def expected(self, home: Path) -> dict[str, str]:
        """What the folder must hold, as :func:`content_of` names it, by path relative to it.

        :raises ArtifactError: the manifest is missing, malformed or of another recipe.
        """

    @abstractmethod
    def make(self, bench: Bench) -> None:
        """Make it in the bench's folder, which is empty.

        :raises ArtifactError: a client failed or brought what was not committed.
        """

    def damaged(self, home: Path, path: Path, found: str, expected: str) -> ArtifactError:
        """The error for a file that is not what it must be; it removes nothing."""
        return ArtifactError(
            f"artifact {self.name} {self.version}, file {path}",
            found,
            expected,
            f"find out who changed it; `rm -rf -- '{home}'` removes just this artifact, "
            "and the same command as before then makes it again.",
        )

    def read_manifest(self, home: Path, recipe: str) -> Mapping[str, Any]:
        """Read what was written down when it was made.

        :raises ArtifactError: it is missing, malformed or of another recipe.
        """
        path = home / MANIFEST
        try:
            manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            found = manifest["recipe"]
        except FileNotFoundError:
            raise self.damaged(home, path, "no such file", "the manifest of the build") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self.damaged(home, path, f"{error!r}", "the manifest of the build") from error
        if found != recipe:
            raise self.damaged(home, path, f"recipe {found}", f"recipe {recipe}")
        return manifest

    def write_manifest(self, folder: Path, recipe: str, made_with: str, **contents: object) -> None:
        """Write down what was made; ``contents`` are the keys that ``expected`` reads again."""
        manifest = {
            "name": self.name,
            "version": self.version,
            "recipe": recipe,
            "built_with": made_with,
            "built_at": datetime.now(UTC).isoformat(timespec="seconds"),
            **contents,
        }
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class Bench:
    """Where one artifact is made, and what its clients run under.

    :param staging: folder that becomes the artifact's own when all went well.
    :param clients: path of each client by name.
    :param environment: what the clients run under.
    :param lock: file descriptor of the artifact's lock; it stays open in the clients.
    :param clock: seconds, as of time.monotonic.
    :param deadline_seconds: for each run of a client.
    """

    artifact: Artifact
    staging: Path
    clients: Mapping[str, str]
    tools: Tools
    environment: Mapping[str, str]
    lock: int
    clock: Callable[[], float]
    deadline_seconds: float
    notify: Callable[[str], None]

    def run(
        self,
        command: Sequence[str],
        folder: Path,
        purpose: str,
        *,
        environment: Mapping[str, str] | None = None,
        next_step: str = "when the network was the cause, run the same command again.",
    ) -> str:
        """Run a client to its end, with a line of progress every ten seconds.

        :param environment: variables that are set on top of the bench's own.
        :param next_step: for the error, when it fails.
        :returns: the last lines of its output.
        :raises ArtifactError: it failed or went past the deadline; with its last lines.
        """
        label = f"{self.artifact.name} {self.artifact.version}"
        # Some clients say less, or answer otherwise, where they believe that nobody looks.
        variables = {name: value for name, value in self.environment.items() if name != "CI"} | dict(environment or {})
        started = self.clock()
        self.notify(f"{label}: {purpose}")
        with _Progress(self.notify, self.clock, self.artifact.name, purpose) as progress:
            code, output = self.tools.run(command, folder, variables, self.lock, progress.line, self.deadline_seconds)
        if code != 0:
            raise ArtifactError(
                f"artifact {label}, `{' '.join(command[:2])}`",
                f"exit code {code} after {self.clock() - started:.0f} s, ending in: {output[-1200:]}",
                "exit code 0",
                next_step,
            )
        return output


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


def content_of(path: Path) -> str:
    """What stands at a path, in one line: ``link to <target>`` or ``sha256 <hex>``."""
    return f"link to {path.readlink()}" if path.is_symlink() else f"sha256 {sha256_of(path)}"


def leaves(folder: Path) -> Iterator[Path]:
    """Everything below a folder that is no folder itself: a link is one whatever it points at."""
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(parent, name)
            if name in files or path.is_symlink():
                yield path


def recipe_of(parts: object) -> str:
    """Sha256 in hex of all that decides what comes out; the parts are plain JSON."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def first_line(text: str) -> str:
    """The first line of a client's answer, for an error."""
    return text.strip().splitlines()[0] if text.strip() else "no output"
