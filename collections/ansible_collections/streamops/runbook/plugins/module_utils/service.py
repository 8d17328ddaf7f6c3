"""A service as one typed dict: validation, digest, and the files that it puts on its host.

Nothing here knows which runtime (supervisor, systemd, docker) runs the service, and nothing
imports Ansible: the modules ``service`` and ``service_info`` translate parameters and errors.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused, ServiceError

NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252})")
ADDRESS = re.compile(r"[A-Za-z0-9.:-]{1,253}")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
MODE = re.compile(r"0[0-7]{3}")
MEMORY = re.compile(r"[1-9][0-9]*[kmg]")
SIGNALS = ("TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "KILL")
POLICIES = ("on-failure", "always", "never")

#: Variables that mark every process of a service in its own environment: whoever reads
#: /proc/PID/environ knows what runs there and from which definition it was started.
TAG_SERVICE = "STREAMOPS_SERVICE"
TAG_ROOT = "STREAMOPS_ROOT"
TAG_DIGEST = "STREAMOPS_DEFINITION"

_INIT_SECONDS = 120
_ROOT_ALLOWED = "an absolute path of letters, digits and ._/@+:,=~-"


class ServiceInfo(TypedDict):
    """What is known of one service on one host, the same for each runtime.

    ``state`` is running | starting | suspended | stopped | exited | fatal | backoff | absent |
    unknown; ``healthy`` is left null for the probes; ``started_at`` is RFC 3339 in UTC;
    ``memory_bytes`` is the resident set of the process and its children; ``exit_code`` is that
    of the last end, negative for a signal. ``digest_running`` is read from the process itself.
    """

    service: str
    host: str
    state: str
    healthy: bool | None
    pid: int | None
    started_at: str | None
    memory_bytes: int | None
    exit_code: int | None
    detail: str
    digest_deployed: str | None
    digest_running: str | None
    restart_needed: bool


class DiffEntry(TypedDict):
    """One file of a difference, as Ansible's ``--diff`` prints it."""

    before: str
    after: str
    before_header: str
    after_header: str


@dataclasses.dataclass(frozen=True)
class ManagedFile:
    """A file that the service owns.

    :param path: relative to the host's root.
    :param content: whole text of the file.
    :param mode: octal permissions as text, for example ``0640``.
    :param sensitive: never show the content, neither in a difference nor in an error.
    :param restarts: whether the running process must be restarted to take up a change of it.
    """

    path: str
    content: str
    mode: str = "0640"
    sensitive: bool = False
    restarts: bool = True


@dataclasses.dataclass(frozen=True)
class Init:
    """A command that prepares the service's data once, until ``creates`` exists."""

    command: tuple[str, ...]
    creates: str


@dataclasses.dataclass(frozen=True)
class Restart:
    """When the runtime starts an ended process again.

    :param policy: ``on-failure``, ``always`` or ``never``.
    :param success_exit_codes: codes that end the service for good under ``on-failure``.
    :param retries: tries in a row before the runtime gives up and shows ``fatal``.
    """

    policy: str = "on-failure"
    success_exit_codes: tuple[int, ...] = (0,)
    retries: int = 10


@dataclasses.dataclass(frozen=True)
class ServiceRef:
    """Which service on which host; enough for every verb but ``deploy``."""

    name: str
    host: str
    root: str
    address: str = ""

    @property
    def folder(self) -> Path:
        """Where the deployed definition of this service stands."""
        return Path(self.root) / "services" / self.name


@dataclasses.dataclass(frozen=True)
class ServiceDefinition:
    """A whole service. Paths of files and directories are relative to ``root``."""

    name: str
    host: str
    root: str
    address: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    directories: tuple[str, ...]
    files: tuple[ManagedFile, ...]
    ports: tuple[int, ...]
    init: Init | None
    stop_signal: str
    stop_timeout: float
    start_seconds: float
    restart: Restart
    memory_limit: str | None

    @property
    def ref(self) -> ServiceRef:
        """The reference that the other verbs take."""
        return ServiceRef(self.name, self.host, self.root, self.address)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits over all that a running process was started from.

        Files with ``restarts=False`` (tools for people) and the folders are left out: a change
        there is deployed without asking for a restart.
        """
        body = dataclasses.asdict(self)
        del body["directories"]
        body["files"] = [dataclasses.asdict(f) for f in self.files if f.restarts]
        body["environment"] = dict(sorted(self.environment.items()))
        text = json.dumps(body, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def tags(self) -> dict[str, str]:
        """The environment that marks the service's processes."""
        return {TAG_SERVICE: self.name, TAG_ROOT: self.root, TAG_DIGEST: self.digest}

    def public(self) -> dict[str, Any]:
        """The definition as it is stored on the host: contents replaced by their sha256."""
        body = dataclasses.asdict(self)
        for entry in body["files"]:
            entry["sha256"] = hashlib.sha256(entry.pop("content").encode()).hexdigest()
        body["digest"] = self.digest
        return body


class _Reader:
    """Reads one mapping field by field; every complaint names the field."""

    def __init__(self, where: str, data: object, known: Iterable[str]) -> None:
        if not isinstance(data, Mapping):
            raise Refused(where, f"{type(data).__name__}", "a mapping")
        self.where = where
        self.data = data
        unknown = sorted(set(map(str, data)) - set(known))
        if unknown:
            raise Refused(f"{where}.{unknown[0]}", "an unknown field", f"one of {', '.join(sorted(known))}")

    def value(self, field: str, default: object) -> object:
        value = self.data.get(field, default)
        if value is _REQUIRED:
            raise Refused(f"{self.where}.{field}", "nothing", "a value: the field is required")
        return value

    def text(self, field: str, allowed: str, accept: Callable[[str], object], default: object = None) -> str:
        value = self.value(field, _REQUIRED if default is None else default)
        if not isinstance(value, str) or not accept(value):
            raise Refused(f"{self.where}.{field}", repr(value), allowed)
        return value

    def number(self, field: str, low: float, high: float, default: object) -> float:
        value = self.value(field, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Refused(f"{self.where}.{field}", repr(value), f"a number from {low} to {high}")
        if not low <= value <= high:
            raise Refused(f"{self.where}.{field}", repr(value), f"a number from {low} to {high}")
        return value

    def flag(self, field: str, default: bool) -> bool:
        value = self.value(field, default)
        if not isinstance(value, bool):
            raise Refused(f"{self.where}.{field}", repr(value), "true or false")
        return value

    def items(self, field: str, default: object = ()) -> list[object]:
        value = self.value(field, default)
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise Refused(f"{self.where}.{field}", repr(value), "a list")
        return list(value)


_REQUIRED = object()


def _relative(text: str) -> bool:
    path = Path(text)
    return bool(text) and not path.is_absolute() and ".." not in path.parts and text != "."


def _absolute(text: str) -> bool:
    # White space and the characters that a shell, an ini file or a glob reads as its own have no
    # safe spelling in every runtime, so the root may not hold them.
    return re.fullmatch(r"/[A-Za-z0-9._/@+:,=~-]+", text) is not None and ".." not in text.split("/")


def _printable(text: str) -> bool:
    return all(ch.isprintable() for ch in text)


def _command(where: str, values: list[object]) -> tuple[str, ...]:
    if not values:
        raise Refused(where, "an empty list", "a program and its arguments")
    for index, value in enumerate(values):
        if not isinstance(value, str) or not _printable(value):
            raise Refused(f"{where}[{index}]", repr(value), "text of printable characters")
    return tuple(str(value) for value in values)


def _read_files(read: _Reader) -> tuple[ManagedFile, ...]:
    known = [field.name for field in dataclasses.fields(ManagedFile)]
    files: list[ManagedFile] = []
    for index, entry in enumerate(read.items("files")):
        part = _Reader(f"{read.where}.files[{index}]", entry, known)
        path = part.text("path", "a path below the host's root", _relative)
        part.where = f"{read.where}.files[{path}]"
        if path in [file.path for file in files]:
            raise Refused(f"{read.where}.files", f"{path} twice", "each path once")
        file = ManagedFile(
            path=path,
            content=part.text("content", "text", lambda text: "\0" not in text),
            mode=part.text("mode", "four octal digits, as 0640", MODE.fullmatch, "0640"),
            sensitive=part.flag("sensitive", False),
            restarts=part.flag("restarts", True),
        )
        if file.sensitive and int(file.mode, 8) & 0o077:
            raise Refused(f"{part.where}.mode", file.mode, "no rights for others on a sensitive file")
        files.append(file)
    return tuple(files)


def _read_environment(read: _Reader) -> dict[str, str]:
    environment = read.value("environment", {})
    if not isinstance(environment, Mapping):
        raise Refused(f"{read.where}.environment", repr(environment), "a mapping")
    for key, value in environment.items():
        if not isinstance(key, str) or not VARIABLE.fullmatch(key):
            raise Refused(f"{read.where}.environment", repr(key), "a variable's name")
        if not isinstance(value, str) or not _printable(value):
            raise Refused(f"{read.where}.environment.{key}", repr(value), "text of printable characters")
        if key in (TAG_SERVICE, TAG_ROOT, TAG_DIGEST):
            raise Refused(f"{read.where}.environment.{key}", "set", "left to the runtime")
    return dict(environment)


def _read_directories(read: _Reader) -> tuple[str, ...]:
    directories = []
    for index, value in enumerate(read.items("directories")):
        if not isinstance(value, str) or not _relative(value):
            raise Refused(f"{read.where}.directories[{index}]", repr(value), "a path below the host's root")
        directories.append(value)
    return tuple(directories)


def _read_integers(read: _Reader, field: str, default: object, low: int, high: int, what: str) -> tuple[int, ...]:
    numbers = []
    for index, value in enumerate(read.items(field, default)):
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise Refused(f"{read.where}.{field}[{index}]", repr(value), f"{what} from {low} to {high}")
        numbers.append(value)
    return tuple(numbers)


def _read_init(read: _Reader) -> Init | None:
    if read.value("init", None) is None:
        return None
    part = _Reader(f"{read.where}.init", read.data["init"], ("command", "creates"))
    return Init(
        command=_command(f"{part.where}.command", part.items("command", _REQUIRED)),
        creates=part.text("creates", "a path below the host's root", _relative),
    )


def _read_restart(read: _Reader) -> Restart:
    if read.value("restart", None) is None:
        return Restart()
    known = [field.name for field in dataclasses.fields(Restart)]
    part = _Reader(f"{read.where}.restart", read.data["restart"], known)
    return Restart(
        policy=part.text("policy", " | ".join(POLICIES), POLICIES.__contains__, "on-failure"),
        success_exit_codes=_read_integers(part, "success_exit_codes", (0,), 0, 255, "a code"),
        retries=int(part.number("retries", 0, 1000, 10)),
    )


def parse_definition(data: object) -> ServiceDefinition:
    """Check a definition and give it types.

    :param data: the dict as it comes from the inventory (see the module ``service``).
    :raises Refused: naming the field, what was found there and what is allowed.
    """
    read = _Reader("definition", data, [field.name for field in dataclasses.fields(ServiceDefinition)])
    name = read.text("name", "lower-case letters, digits and hyphens", NAME.fullmatch)
    read.where = f"service {name}"
    memory_limit = None
    if read.value("memory_limit", None) is not None:
        memory_limit = read.text("memory_limit", "a size like 768m or 2g", MEMORY.fullmatch)
    return ServiceDefinition(
        name=name,
        host=read.text("host", "a host's name", HOST.fullmatch),
        root=read.text("root", _ROOT_ALLOWED, _absolute).rstrip("/"),
        address=read.text("address", "a name or an IP address", ADDRESS.fullmatch),
        command=_command(f"{read.where}.command", read.items("command", _REQUIRED)),
        environment=_read_environment(read),
        directories=_read_directories(read),
        files=_read_files(read),
        ports=_read_integers(read, "ports", (), 1, 65535, "a port"),
        init=_read_init(read),
        stop_signal=read.text("stop_signal", " | ".join(SIGNALS), SIGNALS.__contains__, "TERM"),
        stop_timeout=read.number("stop_timeout", 1, 3600, 30),
        start_seconds=read.number("start_seconds", 0, 3600, 5),
        restart=_read_restart(read),
        memory_limit=memory_limit,
    )


def parse_ref(name: str, host: str, root: str, address: str = "") -> ServiceRef:
    """Check the parts of a reference; the rules are those of a definition.

    :raises Refused: naming the field, what was found there and what is allowed.
    """
    data: dict[str, object] = {"name": name, "host": host, "root": root, "address": address}
    read = _Reader("service", data, data)
    return ServiceRef(
        name=read.text("name", "lower-case letters, digits and hyphens", NAME.fullmatch),
        host=read.text("host", "a host's name", HOST.fullmatch),
        root=read.text("root", _ROOT_ALLOWED, _absolute).rstrip("/"),
        address=read.text("address", "a name or an IP address", lambda a: not a or ADDRESS.fullmatch(a)),
    )


def stored_definition(ref: ServiceRef) -> dict[str, Any] | None:
    """The deployed definition as :meth:`ServiceDefinition.public` wrote it, or None.

    :raises ServiceError: when the file is there but can't be read as what was written.
    """
    path = ref.folder / "definition.json"
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ServiceError(str(path), error.strerror or str(error), "a readable file") from error
    try:
        body = json.loads(text)
    except ValueError as error:
        raise ServiceError(
            str(path), f"no JSON ({error})", "the deployed definition", "deploy the service again"
        ) from error
    if not isinstance(body, dict) or not isinstance(body.get("digest"), str):
        raise ServiceError(str(path), "no digest", "the deployed definition", "deploy the service again")
    return body


def _read(path: Path) -> tuple[str | None, int]:
    """Text and permissions of a file; (None, 0) when there is none."""
    try:
        with path.open(encoding="utf-8", errors="replace", newline="") as stream:
            return stream.read(), stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
    except FileNotFoundError:
        return None, 0
    except OSError as error:
        raise ServiceError(str(path), error.strerror or str(error), "a readable file") from error


def write_atomic(path: Path, content: str, mode: int) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part.

    The permissions hold before the first byte is written.

    :raises ServiceError: when the folder can't be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="") as stream:
                os.fchmod(stream.fileno(), mode)
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink()
            raise
    except OSError as error:
        raise ServiceError(str(path), error.strerror or str(error), "a writable file") from error


@dataclasses.dataclass
class FilePlan:
    """What differs between the host and the definition.

    :param folders: missing directories.
    :param writes: files whose content or permissions differ.
    :param removals: files of the former definition that the new one no longer has.
    :param diff: for ``--diff``; sensitive contents are left out.
    """

    folders: list[Path]
    writes: list[tuple[Path, ManagedFile]]
    removals: list[Path]
    diff: list[DiffEntry]

    def __bool__(self) -> bool:
        return bool(self.folders or self.writes or self.removals)

    def summary(self) -> list[str]:
        """One phrase per difference, for people."""
        return (
            [f"create {path}/" for path in self.folders]
            + [f"write {path}" for path, _ in self.writes]
            + [f"remove {path}" for path in self.removals]
        )


def plan_files(definition: ServiceDefinition, runtime_files: Sequence[ManagedFile]) -> FilePlan:
    """Compare the host with the definition; nothing is touched.

    :param runtime_files: what the runtime adds (its unit or program file), managed alike.
    """
    root = Path(definition.root)
    record = ManagedFile(
        path=f"services/{definition.name}/definition.json",
        content=json.dumps(definition.public(), indent=1, sort_keys=True) + "\n",
        mode="0600",
    )
    wanted = [*definition.files, *runtime_files, record]
    plan = FilePlan([], [], [], [])
    for folder in definition.directories:
        if not (root / folder).is_dir():
            plan.folders.append(root / folder)
    for file in wanted:
        path = root / file.path
        content, mode = _read(path)
        if content == file.content and mode == int(file.mode, 8):
            continue
        plan.writes.append((path, file))
        if file is not record:
            plan.diff.append(_difference(path, file, content, mode))
    try:
        former = stored_definition(definition.ref) or {}
    except ServiceError:
        # A damaged record is replaced by this very deployment; what it listed is unknown.
        former = {}
    kept = {file.path for file in wanted}
    for entry in former.get("files", []):
        path = root / entry["path"]
        if entry["path"] not in kept and path.is_file():
            plan.removals.append(path)
            plan.diff.append(DiffEntry(before="(removed)\n", after="", before_header=str(path), after_header="absent"))
    return plan


def _difference(path: Path, file: ManagedFile, content: str | None, mode: int) -> DiffEntry:
    before, after = content or "", file.content
    if file.sensitive:
        before = "" if content is None else "(content hidden)\n"
        after = "(content hidden, differs)\n" if content != file.content else "(content hidden)\n"
    header = "absent" if content is None else f"{path} mode {mode:04o}"
    return DiffEntry(before=before, after=after, before_header=header, after_header=f"{path} mode {file.mode}")


def apply_files(plan: FilePlan) -> None:
    """Make the host as planned: folders, files (each atomically), then removals.

    :raises ServiceError: naming the path that can't be written.
    """
    for folder in plan.folders:
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        except OSError as error:
            raise ServiceError(str(folder), error.strerror or str(error), "a folder that can be made") from error
    for path, file in plan.writes:
        write_atomic(path, file.content, int(file.mode, 8))
    for path in plan.removals:
        path.unlink(missing_ok=True)


def init_needed(definition: ServiceDefinition) -> bool:
    """Whether the command that prepares the data has still to run."""
    init = definition.init
    return init is not None and not (Path(definition.root) / init.creates).exists()


def run_init(definition: ServiceDefinition) -> None:
    """Prepare the service's data once.

    :raises ServiceError: with the last lines that the command printed, secrets masked.
    """
    init = definition.init
    if init is None:
        return
    try:
        done = subprocess.run(
            init.command,
            cwd=definition.root,
            env={**base_environment(), **definition.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_INIT_SECONDS,
            check=False,
        )
    except FileNotFoundError as error:
        raise ServiceError(
            f"init of {definition.name}", f"no program {init.command[0]}", "an installed program"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise ServiceError(f"init of {definition.name}", f"no end after {_INIT_SECONDS} s", "an end") from error
    output = mask(done.stdout.decode(errors="replace"), definition)
    if done.returncode != 0:
        tail = "\n".join(output.splitlines()[-12:])
        raise ServiceError(f"init of {definition.name}", f"exit code {done.returncode}: {tail}", "exit code 0")
    if init_needed(definition):
        raise ServiceError(f"init of {definition.name}", f"no {init.creates}", f"that it makes {init.creates}")


def base_environment() -> dict[str, str]:
    """The few variables that a service may inherit; all others are the definition's own.

    A variable such as CI, which changes how MinIO behaves, must not leak in from the shell of
    whoever ran a procedure last.
    """
    kept = {key: os.environ[key] for key in ("HOME", "LANG", "USER", "TZ") if key in os.environ}
    kept["PATH"] = os.environ.get("PATH", os.defpath)
    return kept


def mask(text: str, definition: ServiceDefinition) -> str:
    """Replace what looks like a secret of a sensitive file wherever it occurs in ``text``."""
    for secret in secrets(definition):
        text = text.replace(secret, "********")
    return text


def secrets(definition: ServiceDefinition) -> list[str]:
    """Words of the sensitive files that look generated: 16 and more characters, mixed.

    Ordinary words of a configuration (class names, listener names) have no digit inside, so
    messages stay readable.
    """
    found: set[str] = set()
    for file in definition.files:
        if file.sensitive:
            for word in re.findall(r"[A-Za-z0-9_+/-]{16,}", file.content):
                if re.search(r"\d", word) and re.search(r"[A-Za-z]", word):
                    found.add(word)
    return sorted(found, key=len, reverse=True)
