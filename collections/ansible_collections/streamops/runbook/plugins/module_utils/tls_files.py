"""The files with which a host shows who it is and knows the others; written whole or not at all.

Nothing here needs more than Python itself, because it runs on hosts.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused, ServiceError

#: What every host has: the CAs that it trusts, its certificate with the chain, its key, and both as PKCS#12 for Java.
NAMES = ("ca.pem", "host.pem", "host.key", "host.p12", "trust.p12")
_FOLDER_MODE = 0o700
_FILE_MODE = 0o600


@dataclass(frozen=True)
class Owner:
    """Numbers of the account and its group that the files belong to."""

    uid: int
    gid: int

    @classmethod
    def named(cls, name: str) -> Owner:
        """The account of that name with its own group; whoever runs this when the name is empty.

        :raises Refused: there is no such account.
        """
        if not name:
            return cls(os.geteuid(), os.getegid())
        try:
            account = pwd.getpwnam(name)
        except KeyError:
            raise Refused(
                f"account {name}", "none of that name on this host", "the account that the services run as"
            ) from None
        return cls(account.pw_uid, grp.getgrgid(account.pw_gid).gr_gid)


def write_private(path: Path, content: bytes, owner: Owner | None = None) -> None:
    """Write a file of mode 0600 so that a reader sees the old one or the new one, never a part.

    Owner and permissions hold before the first byte is written.

    :raises ServiceError: when the folder can't be written.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                os.fchmod(stream.fileno(), _FILE_MODE)
                if owner is not None:
                    os.fchown(stream.fileno(), owner.uid, owner.gid)
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink()
            raise
    except OSError as error:
        raise ServiceError(str(path), error.strerror or str(error), "a writable file") from error


def make_private(folder: Path, owner: Owner | None = None) -> None:
    """Make a folder of mode 0700, those above it with the usual permissions.

    :raises ServiceError: when it can't be made.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        folder.mkdir(exist_ok=True, mode=_FOLDER_MODE)
        folder.chmod(_FOLDER_MODE)
        if owner is not None:
            os.chown(folder, owner.uid, owner.gid)
    except OSError as error:
        raise ServiceError(str(folder), error.strerror or str(error), "a folder that can be made") from error


def read_or_none(path: Path) -> bytes | None:
    """What a file holds; None when there is none.

    :raises ServiceError: when it is there and can't be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ServiceError(str(path), error.strerror or str(error), "a readable file") from error


def wanted_files(files: Mapping[str, bytes], copies: Mapping[str, str]) -> dict[str, bytes]:
    """Every file that is to stand below the folder, by path.

    :param files: contents of :data:`NAMES`, all of them.
    :param copies: further paths and the name whose content they have, for programs that insist on names of their own.
    :raises Refused: a file is missing, a name is not known, a path leads out of the folder.
    """
    missing = [name for name in NAMES if name not in files]
    if missing:
        raise Refused("certificate files", f"no {', '.join(missing)}", "all of them", "issue the certificates first")
    wanted = {name: files[name] for name in NAMES}
    for path, name in copies.items():
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts or not pure.name or path in NAMES:
            raise Refused(f"copy {path}", "a path of another place", "a path of its own below the folder")
        if name not in NAMES:
            raise Refused(f"copy {path}", f"{name} as its source", f"one of {', '.join(NAMES)}")
        wanted[path] = files[name]
    return wanted


def install(folder: Path, wanted: Mapping[str, bytes], owner: Owner, *, plan_only: bool = False) -> list[str]:
    """Make the files below a folder what they are to be.

    :param wanted: contents by path, as of :func:`wanted_files`.
    :returns: one phrase per difference; empty when all is as wanted.
    :raises ServiceError: naming what can't be written.
    """
    did = []
    folders = sorted({folder, *((folder / path).parent for path in wanted)}, key=lambda path: len(path.parts))
    for place in folders:
        if _differs(place, _FOLDER_MODE, owner):
            did.append(f"make {place}/")
            if not plan_only:
                make_private(place, owner)
    for path, content in wanted.items():
        file = folder / path
        if _differs(file, _FILE_MODE, owner) or read_or_none(file) != content:
            did.append(f"write {file}")
            if not plan_only:
                write_private(file, content, owner)
    return did


def _differs(path: Path, mode: int, owner: Owner) -> bool:
    try:
        found = path.stat()
    except FileNotFoundError:
        return True
    except OSError as error:
        raise ServiceError(str(path), error.strerror or str(error), "something readable") from error
    return stat.S_IMODE(found.st_mode) != mode or (found.st_uid, found.st_gid) != (owner.uid, owner.gid)
