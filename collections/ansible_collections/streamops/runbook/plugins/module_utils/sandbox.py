"""The root folder of one deployment: its marker, its loopback net, its secrets, its removal.

A sandbox is a folder that carries the marker file; nothing without it is ever removed. Its services
listen on ``<net>.x``, addresses of 127/8 that all users of the machine share, so the net is
reserved in one registry for the whole machine.
"""

from __future__ import annotations

import fcntl
import ipaddress
import json
import os
import re
import secrets
import shutil
import stat
import string
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from ansible_collections.streamops.runbook.plugins.module_utils import commands
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused, RunbookError
from ansible_collections.streamops.runbook.plugins.module_utils.private import refuse_open_secrets
from ansible_collections.streamops.runbook.plugins.module_utils.processes import Process
from ansible_collections.streamops.runbook.plugins.module_utils.runtime import run_folder

MARKER = ".streamops-sandbox"
# One for the machine on purpose: a TMPDIR of a session's own would hide other sandboxes from it.
REGISTRY = Path("/tmp/streamops-nets.json")  # noqa: S108
# Written before anything is deployed, by whatever records the run that deploys.
_BEFORE_THE_MARKER = frozenset({"state"})
_ALPHABET = string.ascii_letters + string.digits
_SECRET_LENGTH = 40
PLACEHOLDER = "change-me"
"""What stands in a sample for whatever has to be filled in."""

# Given by a person: nothing in it needs quoting in any file that it is written to, and nobody guesses it.
_GIVEN_SECRET = re.compile(r"[A-Za-z0-9._~-]{16,128}")
# What MinIO takes for the name of a user.
_GIVEN_KEY = re.compile(r"[A-Za-z0-9._-]{3,64}")
# 16 bytes in base64url as Kafka itself writes them; a hyphen in front its commands would take for an option.
_CLUSTER_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{20}[AQgw]")
# Addresses of documentation (RFC 5737), which belong to nobody.
_NOWHERE = tuple(ipaddress.ip_network(net) for net in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"))


@dataclass(frozen=True)
class Presence:
    """What ``present`` found or did; ``did`` has one short sentence for each change."""

    changed: bool
    did: list[str]


@dataclass(frozen=True)
class Removal:
    """What would be removed or was.

    :param cluster_id: of the marker; empty when there is no sandbox.
    :param entries: each file or folder directly under the root, with its size in bytes.
    :param running: processes that use the root.
    :param refusal: why the removal is refused; empty when it is not.
    """

    changed: bool
    cluster_id: str = ""
    entries: dict[str, int] = field(default_factory=dict)
    running: list[Process] = field(default_factory=list)
    refusal: str = ""


class NetRegistry:
    """Which sandbox holds which net of 127/8: one file for the machine, under a kernel lock."""

    def __init__(self, path: Path = REGISTRY) -> None:
        self._path = path

    def reserve(self, net: str, root: Path, claim: Callable[[], None], *, plan_only: bool = False) -> bool:
        """Reserve a net for a root and let go of any other that the root holds.

        Reservations of roots that are gone are dropped on the way.

        :param net: three octets, ``127.0.77``; empty reserves nothing.
        :param claim: makes the root with its marker; called under the lock, since a reservation
            whose root has no marker is one that anybody may drop.
        :param plan_only: call and write nothing.
        :returns: whether the registry changed, or would.
        :raises Refused: another living sandbox holds the net; it is named, and a free net with it.
        """
        if not net:
            if not plan_only:
                claim()
            return False
        with self._locked(plan_only=plan_only) as (before, write):
            entries = {held: owner for held, owner in before.items() if _alive(Path(owner), held)}
            holder = entries.get(net)
            if holder is not None and holder != str(root):
                raise Refused(
                    f"net {net}",
                    f"held by the sandbox {holder}",
                    "a net that no other sandbox of this machine holds",
                    f"put SANDBOX_NET={self._free(entries)} before the command.",
                )
            entries = {held: owner for held, owner in entries.items() if owner != str(root)}
            entries[net] = str(root)
            if not plan_only:
                claim()
                write(entries)
            return entries != before

    def release(self, root: Path) -> None:
        """Let go of whatever the root holds."""
        with self._locked(plan_only=False) as (entries, write):
            write({held: owner for held, owner in entries.items() if owner != str(root)})

    @staticmethod
    def _free(entries: Mapping[str, str]) -> str:
        return next(net for n in range(78, 255) if (net := f"127.0.{n}") not in entries)

    @contextmanager
    def _locked(self, *, plan_only: bool) -> Iterator[tuple[dict[str, str], Callable[[Mapping[str, str]], None]]]:
        if plan_only and not self._path.exists():
            yield {}, lambda _: None
            return
        descriptor = self._open()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            text = os.pread(descriptor, 1 << 20, 0).decode(errors="replace")

            def write(entries: Mapping[str, str]) -> None:
                data = json.dumps(dict(sorted(entries.items())), indent=1).encode() + b"\n"
                if data.decode() != text:
                    os.pwrite(descriptor, data, 0)
                    os.ftruncate(descriptor, len(data))

            yield self._parse(text), write
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        while True:
            try:
                # In a sticky folder the kernel may forbid O_CREAT on a file of another user.
                return os.open(self._path, flags)
            except FileNotFoundError:
                pass
            except OSError as error:
                raise Refused(
                    f"registry of nets {self._path}", str(error), "a file that all users can write"
                ) from error
            with suppress(FileExistsError):
                descriptor = os.open(self._path, flags | os.O_CREAT | os.O_EXCL, 0o666)
                # Every user of the machine reserves here, whatever the umask of the first.
                os.fchmod(descriptor, 0o666)
                return descriptor

    def _parse(self, text: str) -> dict[str, str]:
        try:
            entries = json.loads(text or "{}")
            return {str(net): str(root) for net, root in entries.items()}
        except (ValueError, AttributeError) as error:
            raise Refused(
                f"registry of nets {self._path}",
                f"{error!r}",
                "JSON, root by net",
                f"`rm {self._path}`: each sandbox reserves its net again when it is next deployed.",
            ) from error


def _alive(root: Path, net: str) -> bool:
    """Whether the root's marker names the net; one that can't be read counts as alive."""
    try:
        return read_marker(root).get("net") == net
    except FileNotFoundError:
        return False
    except (OSError, RunbookError):
        return True


def read_marker(root: Path) -> dict[str, str]:
    """Read the marker of a sandbox: ``{"cluster_id": ..., "net": ...}``.

    :raises FileNotFoundError: there is none.
    :raises Refused: it is a link, no file, or does not hold what we write.
    """
    path = root / MARKER
    if not stat.S_ISREG(path.lstat().st_mode):
        raise Refused(f"marker {path}", "something else than a file", "the file that we wrote")
    try:
        marker = json.loads(path.read_text(encoding="utf-8"))
        return {"cluster_id": str(marker["cluster_id"]), "net": str(marker["net"])}
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(f"marker {path}", f"{error!r}", "JSON with cluster_id and net") from error


def check_net(net: str) -> None:
    """Refuse what is neither three octets of 127/8 (or of the nets of containers) nor free of the machine's own use."""
    octets = net.split(".")
    if net and (
        not re.fullmatch(r"(127\.\d{1,3}|172\.29)\.\d{1,3}", net)
        or any(int(octet) > 255 or octet != str(int(octet)) for octet in octets)
        or net in {"127.0.0", "127.0.1"}
    ):
        raise Refused(
            "net of the sandbox",
            repr(net),
            "three octets of 127/8 other than 127.0.0 and 127.0.1, or of 172.29/16 for containers",
            "put SANDBOX_NET=127.0.77 before the command.",
        )


class Sandbox:
    """One root folder.

    :param processes: lists the processes that use a folder.
    :param outside: names what the runtime keeps elsewhere for the root of a host.
    """

    def __init__(
        self,
        root: Path,
        *,
        registry: NetRegistry | None = None,
        processes: Callable[[Path], list[Process]] | None = None,
        outside: Callable[[Path], Path] = run_folder,
    ) -> None:
        self._root = root
        self._outside = outside
        self._registry = registry or NetRegistry()
        self._processes = processes or processes_using

    def present(self, cluster_id: str, net: str, *, plan_only: bool = False) -> Presence:
        """Make the root (0700), its marker and its reservation.

        :param net: three octets of 127/8, of 172.29/16 for containers; empty where services listen elsewhere.
        :param plan_only: say what would be done and write nothing.
        :raises Refused: the folder is not ours, belongs to another cluster id, is a link, or its
            net is held by another sandbox or can't change because services run.
        """
        check_net(net)
        marker = self._own_marker()
        did: list[str] = []
        if marker is None:
            self.refuse_claimed()
        else:
            if marker["cluster_id"] != cluster_id:
                raise Refused(
                    f"sandbox {self._root}",
                    f"cluster id {marker['cluster_id']}",
                    f"cluster id {cluster_id}, which its place gives",
                    "a sandbox can't be moved or copied: choose another SANDBOX_ROOT.",
                )
            if marker["net"] != net and (running := self._processes(self._root)):
                raise Refused(
                    f"sandbox {self._root}",
                    f"net {marker['net']} in use by {_some(running)}",
                    f"no process before it moves to {net}",
                    f"run `{commands.line('stack-down')}` with the old SANDBOX_NET first.",
                )
        wanted = {"cluster_id": cluster_id, "net": net}
        if not self._root.is_dir() or stat.S_IMODE(self._root.stat().st_mode) != 0o700:
            did.append(f"make {self._root} with mode 0700")
        if marker != wanted:
            did.append(f"write its marker for {net}")

        def claim() -> None:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._root.chmod(0o700)
            if marker != wanted:
                write_private(self._root / MARKER, json.dumps(wanted, indent=1) + "\n")

        if self._registry.reserve(net, self._root, claim, plan_only=plan_only):
            did.append(f"reserve {net}")
        return Presence(changed=bool(did), did=did)

    def absent(self, cluster_id: str, *, keep: Sequence[str] = (), plan_only: bool = False) -> Removal:
        """Remove the root; links in it are removed, never followed.

        What is removed last is the marker, so that an interrupted removal can go on.

        :param cluster_id: must be the one of the marker.
        :param keep: names directly under the root that stay; the root then stays with them.
        :param plan_only: return what would be removed, and the refusal instead of raising it.
        :raises Refused: no marker, another cluster id, another owner, a link, services that run,
            something mounted under the root.
        """
        if not self._root.is_dir() or (not os.path.lexists(self._root / MARKER) and self._names() <= set(keep)):
            return Removal(changed=False)
        try:
            marker = self._own_marker()
            if marker is None:
                raise Refused(
                    f"folder {self._root}",
                    f"no marker {MARKER}",
                    "a sandbox that this project made",
                    "look at it and remove it by hand if it is yours.",
                )
        except Refused as error:
            if not plan_only:
                raise
            return Removal(changed=False, refusal=str(error))
        entries = {name: _bytes_under(self._root / name) for name in sorted(self._names() - set(keep))}
        running = self._processes(self._root)
        refusal = self._why_not_absent(marker, cluster_id, running)
        if refusal is not None and not plan_only:
            raise refusal
        if not plan_only:
            self._remove_all(entries)
        return Removal(
            changed=refusal is None,
            cluster_id=marker["cluster_id"],
            entries=entries,
            running=running,
            refusal="" if refusal is None else str(refusal),
        )

    def _remove_all(self, names: Collection[str]) -> None:
        for host in self._root.glob("hosts/*") if "hosts" in names else ():
            if not host.is_symlink():
                _remove_own(self._outside(host))
        for name in names:
            _remove(self._root / name)
        self._registry.release(self._root)
        (self._root / MARKER).unlink()
        if not self._names():
            self._root.rmdir()

    def _why_not_absent(self, marker: Mapping[str, str], cluster_id: str, running: list[Process]) -> Refused | None:
        if marker["cluster_id"] != cluster_id:
            return Refused(
                f"sandbox {self._root}",
                f"cluster id {marker['cluster_id']}",
                f"cluster id {cluster_id}, as confirmed",
            )
        if running:
            return Refused(
                f"sandbox {self._root}", _some(running), "nothing running", f"`{commands.line('stack-down')}` stops it."
            )
        mounted = _mounts_under(self._root)
        if mounted:
            return Refused(
                f"sandbox {self._root}",
                f"something mounted at {mounted[0]}",
                "no mount under it",
                f"`umount {mounted[0]}` if it is yours.",
            )
        return None

    def _names(self) -> set[str]:
        return {entry.name for entry in os.scandir(self._root)} - {MARKER}

    def _own_marker(self) -> dict[str, str] | None:
        """The marker, or None where there is none; refuses a link and another user's root."""
        try:
            status = self._root.lstat()
        except FileNotFoundError:
            return None
        if not stat.S_ISDIR(status.st_mode):
            raise Refused(f"root {self._root}", "a link or a file", "a folder of its own")
        if status.st_uid != os.geteuid():
            raise Refused(
                f"root {self._root}",
                f"owner {status.st_uid}",
                f"owner {os.geteuid()}, who runs this",
                "choose another SANDBOX_ROOT.",
            )
        try:
            return read_marker(self._root)
        except FileNotFoundError:
            return None

    def refuse_claimed(self) -> None:
        """Refuse a folder without a marker that holds something: it is somebody else's.

        :raises Refused: naming what it holds.
        """
        if self._root.is_dir() and (foreign := self._names() - _BEFORE_THE_MARKER):
            raise Refused(
                f"root {self._root}",
                f"a folder without our marker that holds {', '.join(sorted(foreign)[:3])}",
                "an empty folder, or none",
                "choose another SANDBOX_ROOT.",
            )


def ensure_credentials(
    path: Path,
    kafka: Sequence[str],
    s3: Sequence[str],
    *,
    tokens: Sequence[str] = (),
    plan_only: bool = False,
    token: Callable[[int], str] | None = None,
) -> list[str]:
    """Generate the credentials that are missing; what is there is never changed.

    The file is ``{"kafka": {name: {"username", "password"}}, "s3": {name: {"access_key",
    "secret_key"}}, "tokens": {name: token}}``, mode 0600, replaced by one rename.

    :param kafka: principals, each its own username.
    :param s3: users; the access key is the name with eight random characters.
    :param tokens: names of bearer tokens, by which services know each other's messages.
    :param token: random letters and digits of a length; for tests.
    :returns: what was added, as ``kafka/<principal>``, ``s3/<user>`` and ``tokens/<name>``; never a secret.
    :raises Refused: the file is a link, another user's, readable by others, or not ours to parse.
    """
    token = token or _random
    found = _read_credentials(path)
    added = [f"kafka/{name}" for name in kafka if name not in found["kafka"]]
    added += [f"s3/{name}" for name in s3 if name not in found["s3"]]
    added += [f"tokens/{name}" for name in tokens if name not in found["tokens"]]
    if plan_only or not added:
        return added
    for name in kafka:
        found["kafka"].setdefault(name, {"username": name, "password": token(_SECRET_LENGTH)})
    for name in s3:
        found["s3"].setdefault(name, {"access_key": f"{name}-{token(8)}", "secret_key": token(_SECRET_LENGTH)})
    for name in tokens:
        found["tokens"].setdefault(name, token(_SECRET_LENGTH))
    write_private(path, json.dumps(found, indent=1) + "\n")
    return added


def _read_credentials(path: Path) -> dict[str, dict[str, Any]]:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return {"kafka": {}, "s3": {}, "tokens": {}}
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        raise Refused(f"credentials {path}", "a link or another user's file", "a file of our own")
    refuse_open_secrets(path, mode)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        found = {section: dict(document[section]) for section in ("kafka", "s3")}
        return {**found, "tokens": dict(document.get("tokens", {}))}
    except (ValueError, KeyError, TypeError):
        # The parser's own message may quote what stands in the file.
        raise Refused(
            f"credentials {path}",
            "a file that is not what we wrote",
            "JSON with kafka and s3",
            "put back the file that the services were deployed with.",
        ) from None


def credential_problems(text: str, kafka: Sequence[str], s3: Sequence[str], tokens: Sequence[str]) -> list[str]:
    """Say what keeps given credentials from being used, with the keys that it is true of; never a word of theirs.

    :param text: of the file, decrypted; its form is that of :func:`ensure_credentials`.
    :param kafka: principals that must be there, each its own username.
    :param s3: users that must be there.
    :param tokens: names of tokens that must be there.
    """
    try:
        document = json.loads(text)
    except ValueError:
        return ["no JSON"]
    # Key in the file, and what must stand there.
    wanted: list[tuple[tuple[str, ...], re.Pattern[str]]] = []
    for name in kafka:
        wanted += [(("kafka", name, "username"), re.compile(re.escape(name)))]
        wanted += [(("kafka", name, "password"), _GIVEN_SECRET)]
    for name in s3:
        wanted += [(("s3", name, "access_key"), _GIVEN_KEY), (("s3", name, "secret_key"), _GIVEN_SECRET)]
    wanted += [(("tokens", name), _GIVEN_SECRET) for name in tokens]
    found: dict[str, list[str]] = {}
    for path, pattern in wanted:
        value = document
        for part in path:
            value = value.get(part) if isinstance(value, dict) else None
        if value is None:
            found.setdefault("missing", []).append(".".join(path))
        elif value == PLACEHOLDER:
            found.setdefault("still the placeholder of the sample", []).append(".".join(path))
        elif not isinstance(value, str) or not pattern.fullmatch(value):
            found.setdefault(f"not {_form(pattern)}", []).append(".".join(path))
    return [f"{', '.join(keys)}: {what}" for what, keys in found.items()]


def _form(pattern: re.Pattern[str]) -> str:
    """Say in words what a pattern of given credentials asks for."""
    words = {
        _GIVEN_SECRET: "16 to 128 letters, digits or . _ ~ -",
        _GIVEN_KEY: "3 to 64 letters, digits or . _ -",
    }
    return words.get(pattern, "the name of the principal")


def inventory_problems(cluster_id: str, addresses: Mapping[str, str]) -> list[str]:
    """Say what of an inventory is still to be filled in, each in a phrase.

    :param cluster_id: of Kafka.
    :param addresses: of each machine by its name in the inventory.
    """
    found = []
    if not _CLUSTER_ID.fullmatch(cluster_id):
        found.append(f"kafka_cluster_id {cluster_id!r}, which is not 16 random bytes in base64url (22 characters)")
    nowhere = [f"{host} at {address}" for host, address in sorted(addresses.items()) if _is_nowhere(address)]
    if nowhere:
        found.append(f"{', '.join(nowhere)}: addresses of examples, which belong to nobody")
    return found


def _is_nowhere(address: str) -> bool:
    try:
        return any(ipaddress.ip_address(address) in net for net in _NOWHERE)
    except ValueError:
        # A name.
        return False


def _random(length: int) -> str:
    # Letters and digits alone need no quoting in any file that they are written to.
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def write_private(path: Path, text: str) -> None:
    """Replace a file by one rename; mode 0600 from its first byte on."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def processes_using(folder: Path) -> list[Process]:
    """Processes whose folder, program, arguments or open files are under a folder.

    Our own ancestors are left out: a run that is told to remove a sandbox names it.
    """
    ours = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    prefix = f"{folder.resolve()}/"
    using: list[Process] = []
    for process in psutil.process_iter():
        if process.pid in ours:
            continue
        try:
            with process.oneshot():
                places = [f"{process.cwd()}/", process.exe(), *process.cmdline()]
                if any(prefix in place for place in places) or any(
                    opened.path.startswith(prefix) for opened in process.open_files()
                ):
                    using.append(Process.of(process))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            # Gone, or of a user who can't see into a folder of mode 0700 either.
            continue
    return using


def _some(running: Sequence[Process]) -> str:
    shown = ", ".join(map(str, running[:3]))
    rest = f" and {len(running) - 3} more" if len(running) > 3 else ""
    return f"{shown}{rest}"


def _mounts_under(root: Path) -> list[str]:
    prefix = f"{root.resolve()}/"
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    points = [line.split()[4].replace(r"\040", " ") for line in lines]
    return [point for point in points if point.startswith(prefix)]


def _bytes_under(path: Path) -> int:
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        return status.st_size
    total = 0
    for folder, _, files in os.walk(path, followlinks=False):
        for name in files:
            with suppress(FileNotFoundError):
                total += Path(folder, name).lstat().st_size
    return total


def _remove_own(folder: Path) -> None:
    """Remove a folder that stands where everybody may write, if it is one and ours."""
    with suppress(FileNotFoundError):
        status = folder.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
            shutil.rmtree(folder)


def _remove(path: Path) -> None:
    if stat.S_ISDIR(path.lstat().st_mode):
        shutil.rmtree(path)
    else:
        path.unlink()
