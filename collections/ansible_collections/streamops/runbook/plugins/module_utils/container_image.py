"""Images of the components, built here from a base that the engine has; nothing is pulled.

An image's tag is a digest of all that goes in, so that one that did not change is never built again, and a service
that names its image says with it what runs.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import io
import json
import os
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ansible_collections.streamops.runbook.plugins.module_utils import commands, python_set
from ansible_collections.streamops.runbook.plugins.module_utils.artifact import load_catalog
from ansible_collections.streamops.runbook.plugins.module_utils.docker_client import (
    LABEL_ACCOUNT,
    LABEL_IMAGE,
    Engine,
    found,
    talking,
)
from ansible_collections.streamops.runbook.plugins.module_utils.errors import (
    ArtifactError,
    DeadlineExceeded,
    Refused,
    ServiceError,
)
from ansible_collections.streamops.runbook.plugins.module_utils.progress import report
from ansible_collections.streamops.runbook.plugins.module_utils.service_files import Owner

#: Where everything that is ours stands in an image.
STORE = "/opt/streamops"

#: Number of the account where root deploys: no service runs as root, and no account of a distribution has it.
ACCOUNT_ID = 10_001

_REPORT_SECONDS = 10.0
_CHUNK = 1 << 20
_BASE_NEXT = ".config/setup/base-image.sh, which makes the base and prints its name; name it in service_base_image"


@dataclasses.dataclass(frozen=True)
class Tree:
    """A folder that goes into an image.

    :param source: where it stands on this machine.
    :param target: its path in the image, below :data:`STORE`.
    :param identity: what tells one content from another.
    """

    source: Path
    target: str
    identity: str


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that goes into an image.

    :param name: the component, the last part of the image's name.
    :param base: name of the base.
    :param dockerfile: text of the Dockerfile.
    :param account: whom its services run as, and whose their files are.
    """

    name: str
    base: str
    dockerfile: str
    packages: tuple[str, ...]
    trees: tuple[Tree, ...]
    account: Owner

    @property
    def label(self) -> str:
        """The account as the image's label says it."""
        return f"{self.account.name}:{self.account.uid}:{self.account.gid}"

    def reference(self, base_id: str) -> str:
        """The image's name and tag.

        :param base_id: the base as the engine knows it.
        """
        parts = [
            base_id,
            self.dockerfile,
            sorted(self.packages),
            [[tree.target, tree.identity] for tree in self.trees],
            self.label,
        ]
        return f"streamops/{self.name}:{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]}"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The image, whether it was (or under check would be) built, and how many seconds that took."""

    reference: str
    changed: bool
    seconds: float


def account_here(name: str) -> Owner:
    """The account for images on this machine: who deploys gives it the files of services."""
    if os.geteuid() == 0:
        return Owner(name, ACCOUNT_ID, ACCOUNT_ID)
    return Owner(name, os.geteuid(), os.getegid())


def artifact_trees(names: Sequence[str], catalog: Path, cache: Path) -> list[Tree]:
    """The artifacts of that name in the cache, known by their recorded checksums.

    :raises ArtifactError: one is not in the catalog or not in the cache.
    """
    known = load_catalog(catalog)
    trees = []
    for name in sorted(set(names)):
        if name not in known:
            raise ArtifactError(f"artifact {name!r}", "no entry of that name", ", ".join(sorted(known)))
        artifact = known[name]
        folder = f"{artifact.name}-{artifact.version}"
        home = cache / "artifacts" / folder
        if not home.is_dir():
            raise ArtifactError(f"artifact {name}", f"nothing at {home}", "the fetched artifact", commands.line("site"))
        identity = hashlib.sha256(json.dumps(artifact.expected(home), sort_keys=True).encode()).hexdigest()
        trees.append(Tree(home, f"artifacts/{folder}", identity))
    return trees


def python_trees(names: Sequence[str], cache: Path, *, check: bool = False) -> list[Tree]:
    """The sets of Python packages of that name, copied into the cache where they are not there yet.

    :raises Refused: there is no such set, or a package of it is not installed.
    """
    trees = []
    for name in sorted(set(names)):
        path, _ = python_set.ensure(name, str(cache / "python"), check=check)
        # The name of the folder is a digest of what is in it.
        trees.append(Tree(Path(path), f"python/{Path(path).name}", Path(path).name))
    return trees


def ensure(
    engine: Engine,
    recipe: Recipe,
    locks: Path,
    *,
    check: bool = False,
    deadline_seconds: float = 1800.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    notify: Callable[[str], None] = report,
) -> Outcome:
    """Build an image unless the engine has it.

    :param locks: folder for the lock that keeps others from building the same one.
    :raises Refused: the engine lacks the base.
    :raises ServiceError: the build failed; with its last lines.
    :raises DeadlineExceeded: another run has been building it for too long.
    """
    started = clock()
    with talking(f"image {recipe.name}"):
        base = found(engine.inspect_image, recipe.base)
        if base is None:
            raise Refused(f"image {recipe.base}", "none of that name in this engine", "the base of images", _BASE_NEXT)
        reference = recipe.reference(base["Id"])
        if found(engine.inspect_image, reference) is not None:
            return Outcome(reference, False, round(clock() - started, 3))
        if check:
            return Outcome(reference, True, round(clock() - started, 3))
        with _locked(locks / f".{recipe.name}.lock", recipe.name, deadline_seconds, clock, sleep, notify):
            if found(engine.inspect_image, reference) is not None:
                # Another run has built it meanwhile.
                return Outcome(reference, False, round(clock() - started, 3))
            _build(engine, recipe, reference, clock, notify)
    seconds = round(clock() - started, 3)
    notify(f"image {reference}: built in {seconds:.0f} s")
    return Outcome(reference, True, seconds)


def _build(
    engine: Engine, recipe: Recipe, reference: str, clock: Callable[[], float], notify: Callable[[str], None]
) -> None:
    notify(f"image {recipe.name}: building {reference}")
    lines: list[str] = []
    reported = clock()
    with _context(recipe) as stream:
        answers = engine.build(
            fileobj=stream,
            custom_context=True,
            tag=reference,
            buildargs=_arguments(recipe),
            labels={LABEL_IMAGE: recipe.name, LABEL_ACCOUNT: recipe.label},
            pull=False,
            rm=True,
            forcerm=True,
            # Packages come from where this machine gets its own, which may be reached from here alone.
            network_mode="host",
            decode=True,
        )
        for answer in answers:
            if "error" in answer:
                said = " / ".join([*lines[-5:], str(answer["error"]).strip()])
                raise ServiceError(f"image {reference}", f"a build that failed: {said}", "a build that succeeds")
            lines += [line for line in str(answer.get("stream", "")).splitlines() if line.strip()]
            if lines and clock() - reported >= _REPORT_SECONDS:
                reported = clock()
                notify(f"image {recipe.name}: {lines[-1][:120]}")


def _arguments(recipe: Recipe) -> Mapping[str, str]:
    return {
        "BASE": recipe.base,
        # In order, so that images with the same packages share what they installed.
        "PACKAGES": " ".join(sorted(recipe.packages)),
        "ACCOUNT": recipe.account.name,
        "ACCOUNT_UID": str(recipe.account.uid),
        "ACCOUNT_GID": str(recipe.account.gid),
    }


@contextmanager
def _context(recipe: Recipe) -> Iterator[IO[bytes]]:
    """The build's context as a stream that is packed while it is sent: some are larger than half a gigabyte.

    :raises ServiceError: naming a file that can't be read.
    """
    reading, writing = os.pipe()
    errors: list[ServiceError] = []

    def pack() -> None:
        try:
            with os.fdopen(writing, "wb") as sink, tarfile.open(fileobj=sink, mode="w|", bufsize=_CHUNK) as archive:
                pack_context(archive, recipe)
        except BrokenPipeError:
            # The engine ended the build, and says why.
            return
        except OSError as error:
            seen = error.strerror or str(error)
            errors.append(ServiceError(str(error.filename or recipe.name), seen, f"a file for image {recipe.name}"))

    packer = threading.Thread(target=pack, daemon=True)
    packer.start()
    try:
        with os.fdopen(reading, "rb", buffering=_CHUNK) as stream:
            yield stream
    except Exception:
        if errors:
            raise errors[0] from None
        raise
    finally:
        packer.join()
    if errors:
        raise errors[0]


def pack_context(archive: tarfile.TarFile, recipe: Recipe) -> None:
    """Write the Dockerfile and ``opt/`` as it is to stand in the image: everybody may read it, root alone owns it."""
    _add_text(archive, "Dockerfile", recipe.dockerfile)
    store = f"opt/{Path(STORE).name}"
    for folder in ("opt", store, f"{store}/artifacts", f"{store}/python"):
        entry = tarfile.TarInfo(folder)
        entry.type, entry.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(entry)
    for tree in recipe.trees:
        archive.add(tree.source, f"{store}/{tree.target}", filter=_public)


def _add_text(archive: tarfile.TarFile, name: str, text: str) -> None:
    content = text.encode()
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    archive.addfile(entry, io.BytesIO(content))


def _public(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
    return entry


@contextmanager
def _locked(
    path: Path,
    name: str,
    deadline_seconds: float,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
    notify: Callable[[str], None],
) -> Iterator[None]:
    """One build of an image at a time; the kernel frees the lock of whoever dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        started = reported = clock()
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                now = clock()
                if now - started > deadline_seconds:
                    found_there = f"another run that builds it for {now - started:.0f} s"
                    raise DeadlineExceeded(f"image {name}", found_there, f"the lock {path} free") from None
                if now - reported >= _REPORT_SECONDS:
                    reported = now
                    notify(f"image {name}: another run builds it, waiting for {now - started:.0f} s")
                sleep(0.5)
        yield
