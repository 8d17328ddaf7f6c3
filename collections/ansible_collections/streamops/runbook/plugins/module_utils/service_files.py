"""The files that a service puts on its host: what differs, the product's own check, the way back.

A change of a service that reloads keeps what it replaced in ``services/NAME/previous.json`` until it is
committed; reverting puts all of it back.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pwd
import shutil
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused, ServiceError
from ansible_collections.streamops.runbook.plugins.module_utils.service import (
    DiffEntry,
    ManagedFile,
    ServiceDefinition,
    ServiceRef,
    run_program,
    stored_definition,
)

_VALIDATE_SECONDS = 60
#: What an uncommitted change replaced.
PREVIOUS = "previous.json"
#: Which reloadable files the process has read: written with each signal, and when they change under it.
READ_MARK = "reloaded.json"


@dataclasses.dataclass(frozen=True)
class Owner:
    """The account that a service runs as, by number; its files and folders belong to it."""

    name: str
    uid: int
    gid: int

    def has(self, path: Path) -> bool:
        """Whether that path is its own."""
        seen = path.stat()
        return (seen.st_uid, seen.st_gid) == (self.uid, self.gid)

    def prefix(self) -> list[str]:
        """What stands before a command that this account is to run, with no more rights than its own."""
        if os.geteuid() == self.uid:
            return []
        ids = [f"--reuid={self.uid}", f"--regid={self.gid}"]
        return ["setpriv", *ids, "--init-groups", "--no-new-privs", "--"]


def find_owner(name: str) -> Owner | None:
    """The account of that name; None when the machine has none."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return Owner(name, entry.pw_uid, entry.pw_gid)


def _read(path: Path) -> tuple[str | None, int]:
    """Text and permissions of a file; (None, 0) when there is none."""
    try:
        with path.open(encoding="utf-8", errors="replace", newline="") as stream:
            return stream.read(), stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
    except FileNotFoundError:
        return None, 0
    except OSError as error:
        raise ServiceError(str(path), error.strerror or str(error), "a readable file") from error


def write_atomic(path: Path, content: str, mode: int, ids: tuple[int, int] | None = None) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part.

    Owner and permissions hold before the first byte is written.

    :param ids: numbers of the user and the group that it belongs to; None for those of the caller.
    :raises ServiceError: when the folder can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
                os.fchmod(stream.fileno(), mode)
                if ids is not None:
                    os.fchown(stream.fileno(), *ids)
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink()
            raise
    except OSError as error:
        raise ServiceError(str(path), error.strerror or str(error), "a writable file") from error


def _make_folder(folder: Path, owner: Owner | None, whose: tuple[int, int] | None) -> None:
    """Make a folder and those above it that are missing.

    :param owner: whose group may enter the folders above it; they belong to the caller, so that a service
        can't put another folder or a link in their place.
    :param whose: numbers of the user and the group that the folder itself belongs to.
    :raises ServiceError: naming the folder that can't be made.
    """
    try:
        if owner is None:
            folder.mkdir(parents=True, exist_ok=True, mode=0o750)
            return
        for path in [path for path in (*reversed(folder.parents), folder) if not path.is_dir()]:
            path.mkdir(exist_ok=True)
            # Whatever the umask of the caller is.
            path.chmod(0o750)
            os.chown(path, -1, owner.gid)
        if whose is not None:
            os.chown(folder, *whose)
    except OSError as error:
        raise ServiceError(str(folder), error.strerror or str(error), "a folder that can be made") from error


@dataclasses.dataclass
class FilePlan:
    """What differs between the host and the definition.

    :param folders: missing directories.
    :param writes: files whose content or permissions differ.
    :param removals: files of the former definition that the new one no longer has.
    :param diff: for ``--diff``; sensitive contents are left out.
    :param owner: whom folders and files of the definition belong to; None for the caller.
    :param owned: the paths of these files.
    :param given: directories and files that are right but for their owner.
    """

    folders: list[Path]
    writes: list[tuple[Path, ManagedFile]]
    removals: list[Path]
    diff: list[DiffEntry]
    owner: Owner | None = None
    owned: set[Path] = dataclasses.field(default_factory=set)
    given: list[Path] = dataclasses.field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.folders or self.writes or self.removals or self.given)

    def ids(self, path: Path) -> tuple[int, int] | None:
        """Numbers of the user and the group that a file is to belong to; None for those of the caller."""
        return None if self.owner is None or path not in self.owned else (self.owner.uid, self.owner.gid)

    def summary(self) -> list[str]:
        """One phrase per difference, for people."""
        return (
            [f"create {path}/" for path in self.folders]
            + [f"write {path}" for path, _ in self.writes]
            + [f"remove {path}" for path in self.removals]
            + [f"give {path} to {self.owner.name}" for path in self.given if self.owner is not None]
        )


def plan_files(
    definition: ServiceDefinition, runtime_files: Sequence[ManagedFile], owner: Owner | None = None
) -> FilePlan:
    """Compare the host with the definition; nothing is touched.

    :param runtime_files: what the runtime adds (its unit or program file), managed alike; their paths may
        be absolute, and they belong to whoever deploys.
    :param owner: whom the definition's folders and files belong to; None for whoever deploys.
    """
    root = Path(definition.root)
    record = ManagedFile(
        path=f"services/{definition.name}/definition.json",
        content=json.dumps(definition.public(), indent=1, sort_keys=True) + "\n",
        mode="0600",
    )
    wanted = [*definition.files, *runtime_files, record]
    plan = FilePlan([], [], [], [], owner, {root / file.path for file in definition.files})
    for folder in definition.directories:
        if not (root / folder).is_dir():
            plan.folders.append(root / folder)
        elif owner is not None and not owner.has(root / folder):
            plan.given.append(root / folder)
    for file in wanted:
        path = root / file.path
        content, mode = _read(path)
        if content == file.content and mode == int(file.mode, 8):
            if owner is not None and path in plan.owned and not owner.has(path):
                plan.given.append(path)
            continue
        plan.writes.append((path, file))
        if file is not record:
            plan.diff.append(_difference(path, file, content, mode))
    kept = {file.path for file in wanted}
    for name in _former_files(definition.ref):
        path = root / name
        if name not in kept and path.is_file():
            plan.removals.append(path)
            plan.diff.append(DiffEntry(before="(removed)\n", after="", before_header=str(path), after_header="absent"))
    return plan


def _former_files(ref: ServiceRef) -> list[str]:
    try:
        former = stored_definition(ref) or {}
    except ServiceError:
        # A damaged record is replaced by this very deployment; what it listed is unknown.
        former = {}
    return [str(entry["path"]) for entry in former.get("files", [])]


def _difference(path: Path, file: ManagedFile, content: str | None, mode: int) -> DiffEntry:
    before, after = content or "", file.content
    if file.sensitive:
        before = "" if content is None else "(content hidden)\n"
        after = "(content hidden, differs)\n" if content != file.content else "(content hidden)\n"
    header = "absent" if content is None else f"{path} mode {mode:04o}"
    return DiffEntry(before=before, after=after, before_header=header, after_header=f"{path} mode {file.mode}")


def validate_files(definition: ServiceDefinition, plan: FilePlan) -> None:
    """Let the product's own checker look at the files before any of them is put in place.

    It runs as the account that the files are for.

    :raises Refused: with the last lines that the checker printed, secrets masked.
    :raises ServiceError: when there is no such checker, or it comes to no end.
    """
    if not definition.validate or not plan.writes:
        return
    staging = Path(tempfile.mkdtemp(prefix="streamops-validate-"))
    try:
        for file in definition.files:
            write_atomic(staging / file.path, file.content, 0o600)
        if plan.owner is not None:
            for path in (staging, *staging.rglob("*")):
                os.chown(path, plan.owner.uid, plan.owner.gid)
        for command in definition.validate:
            _check(definition, [part.replace("{root}", str(staging)) for part in command], staging, plan.owner)
    finally:
        shutil.rmtree(staging)


def _check(definition: ServiceDefinition, command: Sequence[str], staging: Path, owner: Owner | None) -> None:
    what = f"{Path(command[0]).name} on the files of {definition.name}"
    prefix = [] if owner is None else owner.prefix()
    code, tail = run_program(what, [*prefix, *command], definition, str(staging), _VALIDATE_SECONDS)
    if code != 0:
        said = tail.replace(str(staging), definition.root)
        raise Refused(what, f"exit code {code}: {said}", "files that it accepts", "correct them; nothing was touched")


def apply_files(plan: FilePlan, keep: ServiceRef | None = None) -> None:
    """Make the host as planned: folders, files (each atomically), then removals.

    :param keep: the service whose replaced files are kept until the change is committed; None keeps nothing.
    :raises ServiceError: naming the path that can't be written.
    """
    if keep is not None and (plan.writes or plan.removals):
        _keep_previous(keep, [path for path, _ in plan.writes] + plan.removals)
    owner = plan.owner
    for folder in plan.folders:
        _make_folder(folder, owner, None if owner is None else (owner.uid, owner.gid))
    for path, file in plan.writes:
        if path in plan.owned:
            _make_folder(path.parent, owner, None)
        write_atomic(path, file.content, int(file.mode, 8), plan.ids(path))
    for path in plan.removals:
        path.unlink(missing_ok=True)
    for path in plan.given:
        if owner is not None:
            os.chown(path, owner.uid, owner.gid)


def mark_read(ref: ServiceRef, pid: int, created: float, digest: str | None) -> None:
    """Note which reloadable files a process has read.

    :param created: when the process began, Unix seconds: the pid may be another's by the next look.
    :param digest: of the files; None when they changed since, whatever it has read before.
    """
    mark = {"pid": pid, "created": created, "digest": digest}
    write_atomic(ref.folder / READ_MARK, json.dumps(mark) + "\n", 0o600)


def read_mark(ref: ServiceRef) -> dict[str, Any] | None:
    """What :func:`mark_read` noted last; None where it noted nothing that can be read."""
    try:
        mark: dict[str, Any] = json.loads((ref.folder / READ_MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return mark if mark.keys() >= {"pid", "created", "digest"} else None


def _keep_previous(ref: ServiceRef, paths: Sequence[Path]) -> None:
    """Note what stands at each path, unless an earlier change that was never committed noted it already."""
    if stored_definition(ref) is None:
        # The first deployment replaces nothing; the way back from it is removing the service.
        return
    noted = _previous(ref)
    known = {entry["path"] for entry in noted}
    for path in paths:
        if str(path) not in known:
            content, mode = _read(path)
            seen = None if content is None else path.stat()
            ids = None if seen is None else [seen.st_uid, seen.st_gid]
            noted.append({"path": str(path), "content": content, "mode": mode, "ids": ids})
    write_atomic(ref.folder / PREVIOUS, json.dumps({"files": noted}) + "\n", 0o600)


def _previous(ref: ServiceRef) -> list[dict[str, Any]]:
    path = ref.folder / PREVIOUS
    try:
        entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["files"]
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError):
        # The parser's own message may quote what stands in the file.
        raise ServiceError(str(path), "a damaged file", "the former files of the service") from None
    return entries


def _ids(entry: dict[str, Any]) -> tuple[int, int] | None:
    """Whom a noted file belonged to; None where that was not noted yet."""
    ids = entry.get("ids")
    return None if ids is None else (int(ids[0]), int(ids[1]))


def is_uncommitted(ref: ServiceRef) -> bool:
    """Whether a change waits to be committed or reverted."""
    return (ref.folder / PREVIOUS).is_file()


def revert_files(ref: ServiceRef, *, check: bool = False) -> list[str]:
    """Put back what the last uncommitted change replaced.

    :returns: one phrase per file; empty when there is nothing to put back.
    :raises ServiceError: naming the path that can't be written.
    """
    entries = _previous(ref)
    did = [f"put back {entry['path']}" for entry in entries]
    if not check and entries:
        mark = read_mark(ref)
        if mark is not None:
            mark_read(ref, mark["pid"], mark["created"], None)
        for entry in entries:
            path = Path(entry["path"])
            if entry["content"] is None:
                path.unlink(missing_ok=True)
            else:
                write_atomic(path, entry["content"], int(entry["mode"]), _ids(entry))
        (ref.folder / PREVIOUS).unlink()
    return did


def commit_files(ref: ServiceRef) -> bool:
    """Give up the way back: what is deployed has been proven.

    :returns: whether there was one.
    """
    path = ref.folder / PREVIOUS
    there = path.exists()
    path.unlink(missing_ok=True)
    return there
