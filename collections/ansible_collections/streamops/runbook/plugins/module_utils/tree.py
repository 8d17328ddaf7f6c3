"""Trees: folders that are copied to a host whole, or not at all.

The controller measures a tree and packs it once, however many hosts want it; a host compares the measure with what
is there, unpacks beside it, measures again and swaps by rename. A copy carries a marker with its measure. Everybody
on the host may read a tree: it is no way for secrets.

Nothing here needs more than Python's own library, for it runs on the hosts too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import gzip
import hashlib
import json
import os
import shutil
import stat
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused, RunbookError, ServiceError

MARKER = ".streamops-tree.json"
_CHUNK = 1 << 20
#: Packed trees that nobody asked for in this time are dropped from the controller's cache.
_KEEP_SECONDS = 30 * 86_400
#: What a host keeps free beside a tree: a file system that is full to the brim stops its services.
_SPARE_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True)
class Measure:
    """What a tree is: the sha256 over names, kinds, contents and executable bits, and how large it is."""

    digest: str
    files: int
    bytes: int


def _entries(folder: Path, exclude: Sequence[str]) -> Iterator[tuple[str, Path, os.stat_result]]:
    """Each folder, file and link below ``folder`` in order; links are not followed.

    :raises Refused: for anything else, a socket say.
    """
    for path in sorted(folder.iterdir()):
        name = path.name
        if name in exclude or name == MARKER:
            continue
        seen = path.lstat()
        if not (stat.S_ISDIR(seen.st_mode) or stat.S_ISREG(seen.st_mode) or stat.S_ISLNK(seen.st_mode)):
            raise Refused(str(path), "neither file nor folder nor link", "a tree of these alone")
        yield name, path, seen
        if stat.S_ISDIR(seen.st_mode):
            for below, inner, inner_seen in _entries(path, exclude):
                yield f"{name}/{below}", inner, inner_seen


def measure(folder: Path, exclude: Sequence[str] = ()) -> Measure:
    """Read a whole tree.

    :param exclude: names that are passed over wherever they stand.
    :raises Refused: when there is no such folder, or it holds what can't be copied.
    :raises ServiceError: when it can't be read.
    """
    total = hashlib.sha256()
    files = size = 0
    with _naming(folder, "a tree that can be read"):
        for name, path, seen in _entries(_folder(folder), exclude):
            if stat.S_ISLNK(seen.st_mode):
                total.update(f"link\0{name}\0{path.readlink()}\0".encode())
            elif stat.S_ISDIR(seen.st_mode):
                total.update(f"folder\0{name}\0".encode())
            else:
                with path.open("rb") as stream:
                    content = hashlib.file_digest(stream, "sha256").hexdigest()
                total.update(f"file\0{name}\0{_mode(seen):o}\0{content}\0".encode())
                files += 1
                size += seen.st_size
    return Measure(total.hexdigest(), files, size)


def known_measure(folder: Path, cache: Path, exclude: Sequence[str] = ()) -> Measure:
    """Measure a tree, but read its files only when one of them changed since the last time.

    :param cache: folder in which the controller remembers what it measured.
    :raises Refused: as :func:`measure`.
    :raises ServiceError: as :func:`measure`, or when the cache can't be written.
    """
    fingerprint = hashlib.sha256()
    with _naming(folder, "a tree that can be read"):
        for name, _, seen in _entries(_folder(folder), exclude):
            fingerprint.update(f"{name}\0{seen.st_mode}\0{seen.st_size}\0{seen.st_mtime_ns}\0{seen.st_ino}\0".encode())
    key = hashlib.sha256("\0".join([str(folder.resolve()), *exclude]).encode()).hexdigest()[:16]
    with _locked(cache, key):
        note = cache / f"{key}.json"
        try:
            known = json.loads(note.read_text(encoding="utf-8"))
            if known["fingerprint"] == fingerprint.hexdigest():
                return Measure(**known["measure"])
        except (OSError, ValueError, KeyError, TypeError):
            # Nothing that can be used was noted: it is measured now.
            pass
        found = measure(folder, exclude)
        body = {"folder": str(folder), "fingerprint": fingerprint.hexdigest(), "measure": dataclasses.asdict(found)}
        _write(note, json.dumps(body) + "\n", 0o600)
    return found


def pack(
    folder: Path,
    wanted: Measure,
    cache: Path,
    exclude: Sequence[str] = (),
    clock: Callable[[], float] = time.time,
) -> Path:
    """Pack a tree into one compressed file of the cache, unless it stands there already.

    :param clock: Unix seconds; packs that were not asked for in a month are dropped.
    :raises ServiceError: when the cache can't be written.
    """
    target = cache / f"{wanted.digest}.tar.gz"
    with _locked(cache, wanted.digest[:16]), _naming(target, "a pack that can be written"):
        if not target.is_file():
            handle, temporary = tempfile.mkstemp(dir=cache, prefix=".pack-")
            try:
                with os.fdopen(handle, "wb") as stream:
                    _pack(folder, exclude, stream)
                Path(temporary).rename(target)
            except BaseException:
                Path(temporary).unlink()
                raise
        os.utime(target, (clock(), clock()))
        for other in cache.glob("*.tar.gz"):
            if other.stat().st_mtime < clock() - _KEEP_SECONDS:
                other.unlink()
    return target


def _pack(folder: Path, exclude: Sequence[str], stream: IO[bytes]) -> None:
    # Level 1: the network of a lab or a data centre is faster than a better compression.
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=stream) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, path, seen in _entries(folder, exclude):
            member = tarfile.TarInfo(name)
            member.mode = _mode(seen)
            member.mtime = int(seen.st_mtime)
            if stat.S_ISLNK(seen.st_mode):
                member.type, member.linkname = tarfile.SYMTYPE, str(path.readlink())
                archive.addfile(member)
            elif stat.S_ISDIR(seen.st_mode):
                member.type = tarfile.DIRTYPE
                archive.addfile(member)
            else:
                member.size = seen.st_size
                with path.open("rb") as content:
                    archive.addfile(member, content)


def difference(path: Path, wanted: Measure, exclude: Sequence[str] = ()) -> str | None:
    """Why the tree at ``path`` is not the wanted one, in words; None when it is.

    The marker and the sizes of all files are looked at, not their contents.

    :raises Refused: when something stands there that was not put there as a tree.
    """
    _refuse_shallow(path)
    if not path.exists() and not path.is_symlink():
        return "it is not there"
    try:
        text = (path / MARKER).read_text(encoding="utf-8")
    except OSError as error:
        raise Refused(
            str(path),
            f"no {MARKER} in it: it was not put there as a tree ({error.strerror})",
            "a tree, or nothing",
            "move it away, then run again",
        ) from error
    try:
        there = Measure(**json.loads(text))
    except (ValueError, TypeError):
        return "its marker can't be read"
    if there != wanted:
        return "another one is there"
    files = size = 0
    with _naming(path, "a tree that can be read"):
        for _, _, seen in _entries(path, exclude):
            if stat.S_ISREG(seen.st_mode):
                files += 1
                size += seen.st_size
    if (files, size) != (wanted.files, wanted.bytes):
        return f"{files} files with {size} bytes are left of {wanted.files} with {wanted.bytes}"
    return None


def unpack(archive: Path, path: Path, wanted: Measure) -> None:
    """Put a packed tree in place: beside what is there, measured, then by rename.

    :raises Refused: when the disk has no room for it.
    :raises ServiceError: when the pack is not what was promised, or the folder can't be written.
    """
    _refuse_shallow(path)
    with _naming(path.parent, "a folder that can be written"):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        with _locked(path.parent, path.name):
            for suffix in ("new", "old"):
                for rest in path.parent.glob(f".{path.name}.*.{suffix}"):
                    # Of a run that was killed; the lock says that nobody is at it.
                    shutil.rmtree(rest)
            _refuse_full(path.parent, wanted)
            fresh = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".new"))
            try:
                _unpack(archive, fresh)
                found = measure(fresh)
                if found != wanted:
                    raise ServiceError(f"pack {archive}", f"digest {found.digest}", f"digest {wanted.digest}")
                _write(fresh / MARKER, json.dumps(dataclasses.asdict(wanted)) + "\n", 0o644)
                fresh.chmod(0o755)
                _swap(fresh, path)
            except BaseException:
                shutil.rmtree(fresh, ignore_errors=True)
                raise


def _swap(fresh: Path, path: Path) -> None:
    if not path.exists():
        fresh.rename(path)
        return
    old = fresh.with_name(fresh.name.replace(".new", ".old"))
    path.rename(old)
    try:
        fresh.rename(path)
    except BaseException:
        old.rename(path)
        raise
    shutil.rmtree(old)


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack by hand: the tarfile of Debian's Python 3.11 has no filter yet that keeps a member inside."""
    made = {folder}
    try:
        with tarfile.open(archive, mode="r|gz") as members:
            for member in members:
                name = PurePosixPath(member.name)
                target = folder / name
                # A parent that is a link would lead out, so each must be a folder from this very pack.
                if name.is_absolute() or ".." in name.parts or target.parent not in made:
                    raise ServiceError(f"pack {archive}", f"a member {member.name!r}", "members inside of the tree")
                if member.isdir():
                    target.mkdir()
                    target.chmod(0o755)
                    made.add(target)
                elif member.issym():
                    target.symlink_to(member.linkname)
                elif member.isreg():
                    _unpack_file(members, member, target)
                else:
                    raise ServiceError(f"pack {archive}", f"a special member {member.name!r}", "files and folders")
    except (tarfile.TarError, EOFError, gzip.BadGzipFile) as error:
        raise ServiceError(f"pack {archive}", str(error), "a whole pack") from error


def _unpack_file(members: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    content = members.extractfile(member)
    if content is None:
        raise ServiceError(str(target), "no content", "a file")
    with target.open("xb") as stream:
        shutil.copyfileobj(content, stream, _CHUNK)
        os.fchmod(stream.fileno(), 0o755 if member.mode & 0o100 else 0o644)
    os.utime(target, (member.mtime, member.mtime))


def _mode(seen: os.stat_result) -> int:
    """Permissions that a copy gets, whatever umask the original was made under."""
    return 0o755 if stat.S_ISDIR(seen.st_mode) or seen.st_mode & 0o100 else 0o644


def _folder(path: Path) -> Path:
    if not path.is_absolute() or not path.is_dir():
        raise Refused(str(path), "no such folder", "the absolute path of a tree")
    return path


def _refuse_shallow(path: Path) -> None:
    """A tree replaces what stands at its path, so that may be no folder of the system."""
    if not path.is_absolute() or ".." in path.parts or len(path.parts) < 4:
        raise Refused(str(path), "no place for a tree", "an absolute path, three folders deep at least")


def _refuse_full(folder: Path, wanted: Measure) -> None:
    free = shutil.disk_usage(folder).free
    if free < wanted.bytes + _SPARE_BYTES:
        raise Refused(
            f"file system of {folder}",
            f"{free >> 20} MiB free",
            f"{(wanted.bytes + _SPARE_BYTES) >> 20} MiB for the tree and some to spare",
            "make room on that host",
        )


def _write(path: Path, text: str, mode: int) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        os.fchmod(stream.fileno(), mode)
        stream.write(text)
    Path(temporary).replace(path)


@contextlib.contextmanager
def _locked(folder: Path, key: str) -> Iterator[None]:
    """One at a time for the same tree: the others wait, and find it done."""
    with _naming(folder, "a folder that can be written"):
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / f".{key}.lock").open("a")
    with stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _naming(path: Path, expected: str) -> Iterator[None]:
    """Tell what failed by its path."""
    try:
        yield
    except RunbookError:
        raise
    except OSError as error:
        raise ServiceError(error.filename or str(path), error.strerror or str(error), expected) from error
