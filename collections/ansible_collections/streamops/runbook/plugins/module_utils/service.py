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
import subprocess
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
USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
IMAGE = re.compile(r"[a-z0-9][a-z0-9._/-]*(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?")
SIGNALS = ("TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "KILL")
POLICIES = ("on-failure", "always", "never")

#: Variables that mark every process of a service in its own environment: whoever reads
#: /proc/PID/environ knows what runs there and from which definition it was started.
TAG_SERVICE = "STREAMOPS_SERVICE"
TAG_ROOT = "STREAMOPS_ROOT"
TAG_DIGEST = "STREAMOPS_DEFINITION"
#: Digest of the files that a signal makes the process read again, as they were when it was started.
TAG_RELOADABLE = "STREAMOPS_RELOADABLE"

_INIT_SECONDS = 120
_ROOT_ALLOWED = "an absolute path of letters, digits and ._/@+:,=~-"
_BELOW_ROOT = "a path below the host's root"


class ServiceInfo(TypedDict):
    """What is known of one service on one host, the same for each runtime.

    ``state`` is running | starting | suspended | isolated | stopped | exited | fatal | backoff |
    absent | unknown; what is isolated runs and has lost its network. ``healthy`` is left null for
    the probes; ``started_at`` is RFC 3339 in UTC; ``memory_bytes`` is the resident set of the
    process and its children; ``exit_code`` is that of the last end, negative for a signal.
    ``digest_running`` is read from the process itself, ``identity`` from the data on the disk:
    whose they are, null where they do not say.
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
    reload_needed: bool
    identity: str | None


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
    :param reloads: whether the service's reload signal is enough for that; overrules ``restarts``.
    """

    path: str
    content: str
    mode: str = "0640"
    sensitive: bool = False
    restarts: bool = True
    reloads: bool = False


@dataclasses.dataclass(frozen=True)
class Init:
    """A command that prepares the service's data once, until ``creates`` exists."""

    command: tuple[str, ...]
    creates: str


@dataclasses.dataclass(frozen=True)
class Identity:
    """Where the service's data say whose they are: a file with a line ``key=value``."""

    path: str
    key: str


@dataclasses.dataclass(frozen=True)
class Restart:
    """When the runtime starts an ended process again.

    :param policy: ``on-failure``, ``always`` or ``never``.
    :param success_exit_codes: codes that end the service for good under ``on-failure``.
    :param retries: tries in a row before the runtime gives up and shows ``fatal``.
    :param crashes: failures within ``window_seconds`` after which it gives up as well, however long
        each try lasted; None, together with ``window_seconds``, for the runtime's own rule.
    """

    policy: str = "on-failure"
    success_exit_codes: tuple[int, ...] = (0,)
    retries: int = 10
    crashes: int | None = None
    window_seconds: int | None = None


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
    """A whole service. Paths of files and directories are relative to ``root``.

    ``validate`` holds commands that must end with 0 before any file is put in place; ``{root}`` in
    them is a folder that holds the files as they would be. ``reload_signal`` makes the running
    process read its files with ``reloads`` again. ``user`` is the account that the process runs as,
    ``image`` and ``network`` are what its container is made from and joins, ``volumes`` are the
    folders below the root that hold data and outlive a container, ``mounts`` the absolute paths that
    it reads besides its own root; a runtime without such a thing passes over them. ``nofile`` is how many
    files a process may have open; None leaves it to the runtime.
    """

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
    validate: tuple[tuple[str, ...], ...] = ()
    reload_signal: str | None = None
    identity: Identity | None = None
    user: str | None = None
    image: str | None = None
    network: str | None = None
    volumes: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    nofile: int | None = None

    @property
    def ref(self) -> ServiceRef:
        """The reference that the other verbs take."""
        return ServiceRef(self.name, self.host, self.root, self.address)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits over all that a running process was started from.

        Files with ``restarts=False`` (tools for people), files that a signal makes it read again,
        and the folders are left out: a change there is deployed without asking for a restart.
        """
        body = dataclasses.asdict(self)
        for field in ("directories", "validate", "reload_signal", "identity"):
            del body[field]
        for field in ("user", "image", "network", "volumes", "mounts", "nofile"):
            # As below: what a runtime does not use may not ask for a restart.
            if not body[field]:
                del body[field]
        body["files"] = [dataclasses.asdict(f) for f in self.files if f.restarts and not f.reloads]
        for file in body["files"]:
            del file["reloads"]
        if self.restart.crashes is None:
            # What a service does not use may not ask for its restart on the day it comes to exist.
            del body["restart"]["crashes"], body["restart"]["window_seconds"]
        body["environment"] = dict(sorted(self.environment.items()))
        text = json.dumps(body, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def reload_digest(self) -> str | None:
        """16 hexadecimal digits over the files that a signal makes it read again; None without a signal."""
        if self.reload_signal is None:
            return None
        files = [[file.path, file.content] for file in self.files if file.reloads]
        return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]

    def tags(self) -> dict[str, str]:
        """The environment that marks the service's processes."""
        tags = {TAG_SERVICE: self.name, TAG_ROOT: self.root, TAG_DIGEST: self.digest}
        return tags if self.reload_digest is None else {**tags, TAG_RELOADABLE: self.reload_digest}

    def public(self) -> dict[str, Any]:
        """The definition as it is stored on the host: contents replaced by their sha256."""
        body = dataclasses.asdict(self)
        for entry in body["files"]:
            entry["sha256"] = hashlib.sha256(entry.pop("content").encode()).hexdigest()
        body["digest"] = self.digest
        body["reload_digest"] = self.reload_digest
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

    def integer(self, field: str, low: int, high: int) -> int:
        value = self.number(field, low, high, _REQUIRED)
        if not isinstance(value, int):
            raise Refused(f"{self.where}.{field}", repr(value), f"a whole number from {low} to {high}")
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
            reloads=part.flag("reloads", False),
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
        if key in (TAG_SERVICE, TAG_ROOT, TAG_DIGEST, TAG_RELOADABLE):
            raise Refused(f"{read.where}.environment.{key}", "set", "left to the runtime")
    return dict(environment)


def _read_paths(read: _Reader, field: str, allowed: str, accept: Callable[[str], bool]) -> tuple[str, ...]:
    paths = []
    for index, value in enumerate(read.items(field)):
        if not isinstance(value, str) or not accept(value):
            raise Refused(f"{read.where}.{field}[{index}]", repr(value), allowed)
        paths.append(value)
    return tuple(paths)


def _read_optional(read: _Reader, field: str, allowed: str, accept: re.Pattern[str]) -> str | None:
    return None if read.value(field, None) is None else read.text(field, allowed, accept.fullmatch)


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


def _read_identity(read: _Reader) -> Identity | None:
    if read.value("identity", None) is None:
        return None
    part = _Reader(f"{read.where}.identity", read.data["identity"], ("path", "key"))
    return Identity(
        path=part.text("path", "a path below the host's root", _relative),
        key=part.text("key", "the name before the equals sign", bool),
    )


def _read_validate(read: _Reader) -> tuple[tuple[str, ...], ...]:
    commands = []
    for index, value in enumerate(read.items("validate")):
        where = f"{read.where}.validate[{index}]"
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise Refused(where, repr(value), "a program and its arguments, as a list")
        commands.append(_command(where, list(value)))
    return tuple(commands)


def _read_reload_signal(read: _Reader) -> str | None:
    if read.value("reload_signal", None) is None:
        return None
    return read.text("reload_signal", " | ".join(SIGNALS), SIGNALS.__contains__)


def _read_restart(read: _Reader) -> Restart:
    if read.value("restart", None) is None:
        return Restart()
    known = [field.name for field in dataclasses.fields(Restart)]
    part = _Reader(f"{read.where}.restart", read.data["restart"], known)
    limited = [part.value(field, None) is not None for field in ("crashes", "window_seconds")]
    if any(limited) and not all(limited):
        missing = "window_seconds" if limited[0] else "crashes"
        raise Refused(f"{part.where}.{missing}", "nothing", "both crashes and window_seconds, or neither")
    return Restart(
        policy=part.text("policy", " | ".join(POLICIES), POLICIES.__contains__, "on-failure"),
        success_exit_codes=_read_integers(part, "success_exit_codes", (0,), 0, 255, "a code"),
        retries=int(part.number("retries", 0, 1000, 10)),
        crashes=int(part.number("crashes", 1, 1000, _REQUIRED)) if limited[0] else None,
        window_seconds=int(part.number("window_seconds", 1, 86_400, _REQUIRED)) if limited[1] else None,
    )


def parse_definition(data: object) -> ServiceDefinition:
    """Check a definition and give it types.

    :param data: the dict as it comes from the inventory (see the module ``service``).
    :raises Refused: naming the field, what was found there and what is allowed.
    """
    read = _Reader("definition", data, [field.name for field in dataclasses.fields(ServiceDefinition)])
    name = read.text("name", "lower-case letters, digits and hyphens", NAME.fullmatch)
    read.where = f"service {name}"
    return ServiceDefinition(
        name=name,
        host=read.text("host", "a host's name", HOST.fullmatch),
        root=read.text("root", _ROOT_ALLOWED, _absolute).rstrip("/"),
        address=read.text("address", "a name or an IP address", ADDRESS.fullmatch),
        command=_command(f"{read.where}.command", read.items("command", _REQUIRED)),
        environment=_read_environment(read),
        directories=_read_paths(read, "directories", _BELOW_ROOT, _relative),
        files=_read_files(read),
        ports=_read_integers(read, "ports", (), 1, 65535, "a port"),
        init=_read_init(read),
        stop_signal=read.text("stop_signal", " | ".join(SIGNALS), SIGNALS.__contains__, "TERM"),
        stop_timeout=read.number("stop_timeout", 1, 3600, 30),
        start_seconds=read.number("start_seconds", 0, 3600, 5),
        restart=_read_restart(read),
        memory_limit=_read_optional(read, "memory_limit", "a size like 768m or 2g", MEMORY),
        validate=_read_validate(read),
        reload_signal=_read_reload_signal(read),
        identity=_read_identity(read),
        user=_read_optional(read, "user", "a system account", USER),
        image=_read_optional(read, "image", "an image's name and tag", IMAGE),
        network=_read_optional(read, "network", "a network's name", HOST),
        volumes=_read_paths(read, "volumes", _BELOW_ROOT, _relative),
        mounts=_read_paths(read, "mounts", _ROOT_ALLOWED, _absolute),
        nofile=None if read.value("nofile", None) is None else read.integer("nofile", 1024, 1_048_576),
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


def stored_identity(ref: ServiceRef, stored: Mapping[str, Any]) -> str | None:
    """Whose the service's data say that they are; None where there are none, or they do not say.

    :param stored: the deployed definition.
    """
    place = stored.get("identity")
    if place is None:
        return None
    try:
        lines = (Path(ref.root) / place["path"]).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    found = (line.partition("=") for line in lines)
    return next((value.strip() for key, _, value in found if key.strip() == place["key"]), None)


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
    what = f"init of {definition.name}"
    code, tail = run_program(what, init.command, definition, definition.root, _INIT_SECONDS)
    if code != 0:
        raise ServiceError(what, f"exit code {code}: {tail}", "exit code 0")
    if init_needed(definition):
        raise ServiceError(what, f"no {init.creates}", f"that it makes {init.creates}")


def run_program(
    what: str, command: Sequence[str], definition: ServiceDefinition, folder: str, seconds: float
) -> tuple[int, str]:
    """Run a program of a service to its end, in the service's own environment.

    :param what: what the run is, for errors.
    :returns: exit code and the last lines that it printed, secrets masked.
    :raises ServiceError: there is no such program, or it comes to no end within ``seconds``.
    """
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**base_environment(), **definition.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            check=False,
        )
    except FileNotFoundError as error:
        raise ServiceError(what, f"no program {command[0]}", "an installed program") from error
    except subprocess.TimeoutExpired as error:
        raise ServiceError(what, f"no end after {seconds:g} s", "an end") from error
    output = mask(done.stdout.decode(errors="replace"), definition)
    return done.returncode, "\n".join(output.strip().splitlines()[-12:])


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
