"""What the services of a host have in the Docker engine: containers, an address, volumes.

They are found by their labels, made from deployed definitions, and told from what is somebody else's. Whoever
changes something here holds the lock of the host's root.
"""

from __future__ import annotations

import dataclasses
import datetime
import ipaddress
import os
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ansible_collections.streamops.runbook.plugins.module_utils import container_network
from ansible_collections.streamops.runbook.plugins.module_utils.docker_client import (
    LABEL_ACCOUNT,
    LABEL_HOST,
    LABEL_ROLE,
    LABEL_ROOT,
    LABEL_SERVICE,
    Body,
    Engine,
    found,
    labels_of,
)
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused, ServiceError
from ansible_collections.streamops.runbook.plugins.module_utils.runtime import Outcome, container
from ansible_collections.streamops.runbook.plugins.module_utils.runtime.container import (
    Definition,
    Image,
)
from ansible_collections.streamops.runbook.plugins.module_utils.service import (
    ServiceDefinition,
    ServiceRef,
    mask,
)
from ansible_collections.streamops.runbook.plugins.module_utils.service_files import Owner, write_atomic
from docker.errors import APIError, NotFound

_POLL_SECONDS = 0.1
_TASK_SECONDS = 120
#: Lines of a container's log that outlive it.
_KEPT_LINES = 5000
_BLOCK = 512


@dataclasses.dataclass(frozen=True)
class Process:
    """One process of a container, as the machine numbers it; memory in bytes."""

    pid: int
    parent: int
    suspended: bool
    memory: int


class HostContainers:
    """Containers of the services of a host.

    :param connect: gives the engine; asked once, when the first call needs it.
    """

    def __init__(
        self,
        connect: Callable[[], Engine],
        clock: Callable[[], float],
        sleep: Callable[[float], None],
    ) -> None:
        self._connect = connect
        self._clock = clock
        self._sleep = sleep
        self._connected: Engine | None = None

    @property
    def engine(self) -> Engine:
        """The engine.

        :raises ServiceError: none answers.
        """
        if self._connected is None:
            self._connected = self._connect()
        return self._connected

    # What is there

    def listed(self, root: str, host: str, role: str, service: str | None = None) -> list[Body]:
        """Containers of a host with that role, whatever their names, as the engine lists them.

        :param service: only those of this service.
        """
        marks = {LABEL_ROOT: container.deployment(root), LABEL_HOST: host, LABEL_ROLE: role}
        if service is not None:
            marks[LABEL_SERVICE] = service
        wanted = [f"{key}={value}" for key, value in marks.items()]
        return self.engine.containers(all=True, filters={"label": wanted})

    def find(self, ref: ServiceRef) -> Body | None:
        """The service's container as it is inspected; None when there is none."""
        for one in self.listed(ref.root, ref.host, "service", ref.name):
            body = found(self.engine.inspect_container, one["Id"])
            if body is not None:
                return body
        return None

    def image(self, stored: Definition, *, check: bool = False) -> Image:
        """The service's image and the account in it.

        :param check: takes an image that is still to be built for one of ours.
        :raises Refused: it is not there, or its account is not the wanted one or can't be given files.
        """
        for field in ("image", "network"):
            if not stored[field]:
                raise Refused(f"service {stored['name']}.{field}", "nothing", f"the {field} of its container")
        thing = f"image {stored['image']}"
        body = found(self.engine.inspect_image, stored["image"])
        if body is None and check:
            return Image("", Owner("its account", os.geteuid(), os.getegid()))
        if body is None:
            raise Refused(thing, "none of that name in this engine", "a built image", "run site.yml")
        user, uid, gid = _account(body)
        if not uid.isdigit() or (stored["user"] and user != stored["user"]):
            wanted = stored["user"] or "an account with a number"
            raise Refused(thing, f"the account {user or uid}", wanted, "build the image with that account")
        owner = Owner(user or f"user {uid}", int(uid), int(gid or uid))
        if os.geteuid() not in (0, owner.uid):
            raise Refused(
                thing,
                f"services that run as user {uid}, to whom user {os.geteuid()} can't give files",
                f"an image for user {os.geteuid()}",
                "run site.yml as that user, or as root",
            )
        return Image(body["Id"], owner)

    def processes(self, there: Body) -> list[Process]:
        """The processes of a running container, its first one included; empty when it ends meanwhile."""
        try:
            rows = self.engine.top(there["Id"], ps_args="-eo pid,ppid,stat,rss")["Processes"] or []
        except APIError:
            return []
        return [Process(int(pid), int(parent), stat[0] in "Tt", int(rss) * 1024) for pid, parent, stat, rss in rows]

    def printed(self, there: Body, lines: int) -> list[str]:
        """The newest lines that a container printed."""
        text = self.engine.logs(there["Id"], stdout=True, stderr=True, tail=lines)
        return text.decode(errors="replace").splitlines()

    def outdated(self, stored: Definition, there: Body) -> bool:
        """Whether a start would make another container from the same definition."""
        try:
            image = self.image(stored)
        except Refused:
            # Without its image nothing better could be made.
            return False
        _, _, holder = there["HostConfig"]["NetworkMode"].partition("container:")
        return container.differs(there, self.body(stored, image, holder or None))

    # What is somebody else's

    def refuse_address_outside(self, stored: Definition, *, check: bool = False) -> None:
        """Refuse an address that the network does not give.

        :param check: the network may still have to be made.
        :raises Refused: naming the address and the network.
        """
        network = container_network.find(self.engine, stored["network"])
        if network is None and check:
            return
        if network is None:
            raise Refused(f"network {stored['network']}", "none of that name in this engine", "one", "run site.yml")
        thing = f"address {stored['address']} of {stored['host']}"
        configs = network["IPAM"]["Config"] or []
        try:
            address = ipaddress.ip_address(stored["address"])
        except ValueError as error:
            raise Refused(thing, "a name", "an IP address, which its container gets", "correct host_address") from error
        for config in configs:
            subnet = ipaddress.ip_network(config["Subnet"])
            if address not in subnet:
                continue
            # The engine takes the first one for itself where nobody says otherwise.
            gateway = config.get("Gateway") or str(subnet.network_address + 1)
            if str(address) in (str(subnet.network_address), str(subnet.broadcast_address), gateway):
                raise Refused(thing, f"one that network {stored['network']} needs itself", "another", "choose one")
            return
        subnets = ", ".join(config["Subnet"] for config in configs)
        next_step = "correct host_address or service_subnet"
        raise Refused(thing, f"network {stored['network']} with {subnets}", "an address in there", next_step)

    def refuse_strangers(self, stored: Definition, there: Body | None) -> None:
        """Refuse names of ours that something of somebody else's has.

        :param there: the service's own container.
        :raises Refused: naming the thing and whose it is.
        """
        if there is None:
            own = container.labels(stored, "service")
            _refuse_stranger("container", name_of(stored), self.engine.inspect_container, own)
            if not container.is_main(stored["host"], stored["name"]):
                own = container.labels(stored, "address")
                _refuse_stranger("container", stored["host"], self.engine.inspect_container, own)
        for folder in stored["volumes"]:
            name = container.volume_name(stored, folder)
            _refuse_stranger("volume", name, self.engine.inspect_volume, container.volume_labels(stored))

    def refuse_taken_address(self, stored: Definition, there: Body | None) -> None:
        """Refuse a start while somebody else's container has the host's address.

        :param there: the service's own container.
        :raises Refused: naming that container.
        """
        network = container_network.find(self.engine, stored["network"]) or {}
        own = [] if there is None else [there["Id"]]
        if not container.is_main(stored["host"], stored["name"]):
            own += [one["Id"] for one in self.listed(stored["root"], stored["host"], "address")]
        for container_id, entry in (network.get("Containers") or {}).items():
            if entry["IPv4Address"].partition("/")[0] == stored["address"] and container_id not in own:
                raise Refused(
                    f"address {stored['address']} of {stored['host']}",
                    f"container {entry['Name']} with it",
                    "a free address",
                    "end that container, or give the host another address",
                )

    # The address

    def hold_address(self, stored: Definition, image: Image) -> str | None:
        """The container whose address the service shares, made where there is none; None for one with its own."""
        if container.is_main(stored["host"], stored["name"]):
            return None
        for one in self.listed(stored["root"], stored["host"], "address"):
            return str(one["Id"])
        body = container.holder_body(stored, image)
        return str(self.engine.create_container_from_config(body, stored["host"])["Id"])

    def bearer(self, stored: Definition, there: Body) -> Body | None:
        """The container that has the service's address: itself, or the one whose network it shares."""
        if container.is_main(stored["host"], stored["name"]):
            return there
        _, _, holder = there["HostConfig"]["NetworkMode"].partition(":")
        return found(self.engine.inspect_container, holder)

    def lost_address(self, stored: Definition, there: Body) -> str:
        """Why a container whose network is another's has lost it for good; empty when it has not.

        A network ends with the container that it was made for; whoever shares it keeps what is left of it.
        """
        bearer = self.bearer(stored, there)
        if bearer is not None and bearer["Id"] == there["Id"]:
            return ""
        thing = f"container {stored['host']}, whose address it had,"
        if bearer is None:
            return f"{thing} is gone"
        if not bearer["State"]["Running"]:
            return f"{thing} does not run"
        return f"{thing} was started after it" if started(bearer) > started(there) else ""

    def cut_off(self, stored: Definition, there: Body) -> Body | None:
        """The container to connect when the service is cut off from its network; None when it is not."""
        bearer = self.bearer(stored, there)
        # What another runtime deployed here names no network.
        if bearer is None or stored["network"] is None or stored["network"] in bearer["NetworkSettings"]["Networks"]:
            return None
        return bearer

    def join(self, stored: Definition, there: Body, outcome: Outcome) -> None:
        """Connect a container that somebody has cut off from its network."""
        network = stored["network"]
        if network not in there["NetworkSettings"]["Networks"]:
            self.engine.connect_container_to_network(
                there["Id"], network, ipv4_address=stored["address"], aliases=[stored["host"]]
            )
            outcome.did.append(f"connect {there['Name'].lstrip('/')} to network {network}")

    def start_holder(self, stored: Definition, holder: str, outcome: Outcome) -> None:
        """Start what holds the host's address, unless it runs."""
        body = self.engine.inspect_container(holder)
        self.join(stored, body, outcome)
        if not body["State"]["Running"]:
            self.engine.start(holder)
            outcome.did.append(f"start container {stored['host']}, which holds the address")

    def release_address(self, ref: ServiceRef) -> None:
        """Stop what holds the host's address once no service uses it."""
        services = self.listed(ref.root, ref.host, "service")
        if any(one["State"] in ("running", "paused", "restarting") for one in services):
            return
        for one in self.listed(ref.root, ref.host, "address"):
            if one["State"] == "running":
                self.engine.stop(one["Id"], timeout=0)

    # Containers

    def body(self, stored: Definition, image: Image, holder: str | None) -> Body:
        """What the service's container is to be made from."""
        return container.service_body(stored, image, holder)

    def create(self, stored: Definition, image: Image) -> Body:
        """Make the service's container, with its volumes in the hands of its account; it is not started."""
        wanted = self.body(stored, image, self.hold_address(stored, image))
        made = self.engine.create_container_from_config(wanted, name_of(stored))
        if self._unprepared(stored, image, made["Id"]):
            self._run_task(container.preparation_body(stored, image), f"volumes of {stored['name']}")
        return self.engine.inspect_container(made["Id"])

    def discard(self, ref: ServiceRef, there: Body) -> None:
        """Remove a stopped container; the end of its log, which would go with it, is kept on this machine."""
        lines = self.printed(there, _KEPT_LINES)
        if lines:
            write_atomic(kept_log(ref), "\n".join(lines) + "\n", 0o640)
        self.engine.remove_container(there["Id"], force=True)

    # Data

    def init_needed(self, stored: Definition, there: Body | None) -> bool:
        """Whether the command that prepares the data has still to run.

        :param there: the service's container; without one, a volume that is there counts as prepared.
        """
        if not stored["init"]:
            return False
        creates = stored["init"]["creates"]
        if not container.on_volume(stored, creates):
            return not (Path(stored["root"]) / creates).exists()
        if there is not None:
            return not self._has(there["Id"], f"{stored['root']}/{creates}")
        names = [container.volume_name(stored, folder) for folder in stored["volumes"]]
        return any(found(self.engine.inspect_volume, name) is None for name in names)

    def prepare_data(self, definition: ServiceDefinition, stored: Definition, image: Image, there: Body) -> bool:
        """Run init when what it makes is not there.

        :returns: whether it was run.
        :raises ServiceError: with the last lines that it printed, secrets masked.
        """
        if definition.init is None:
            return False
        current = not container.differs(there, self.body(stored, image, self.hold_address(stored, image)))
        # A container of an older definition may lack the very volume.
        if current and not self.init_needed(stored, there):
            return False
        body = container.init_body(stored, image)

        def done(task: str) -> bool:
            return not self.init_needed(stored, {"Id": task})

        return self._run_task(body, f"init of {definition.name}", done, lambda text: mask(text, definition))

    def _unprepared(self, stored: Definition, image: Image, container_id: str) -> bool:
        """Whether a volume does not belong to the account, or lacks one of its folders."""
        root, owner = stored["root"], (image.owner.uid, image.owner.gid)
        if any(self._owner(container_id, f"{root}/{name}") != owner for name in stored["volumes"]):
            return True
        folders = [name for name in stored["directories"] if container.on_volume(stored, name)]
        return not all(self._has(container_id, f"{root}/{name}") for name in folders)

    def _has(self, container_id: str, path: str) -> bool:
        try:
            self.engine.get_archive(container_id, path, _BLOCK)
        except NotFound:
            return False
        return True

    def _owner(self, container_id: str, path: str) -> tuple[int, int] | None:
        """User and group of a path in a container that need not run; None when the first block does not say."""
        chunks, _ = self.engine.get_archive(container_id, path, _BLOCK)
        try:
            entry = tarfile.TarInfo.frombuf(next(chunks)[:_BLOCK], "utf-8", "surrogateescape")
        except (StopIteration, tarfile.HeaderError):
            return None
        return entry.uid, entry.gid

    def _run_task(
        self,
        body: Body,
        what: str,
        done: Callable[[str], bool] | None = None,
        shown: Callable[[str], str] = str,
    ) -> bool:
        """Run a container to its end and remove it.

        :param done: says of the container whether its work is there; when it is before the run, it is not run.
        :param shown: what of its output may be shown.
        :returns: whether it was run.
        """
        marks = body["Labels"]
        for stale in self.listed(marks[LABEL_ROOT], marks[LABEL_HOST], "task", marks[LABEL_SERVICE]):
            # Whoever left it is gone: we hold the lock.
            self.engine.remove_container(stale["Id"], force=True)
        task = self.engine.create_container_from_config(body)["Id"]
        try:
            if done is not None and done(task):
                return False
            self.engine.start(task)
            code = self._await_task(task, what)
            if code != 0:
                tail = shown("\n".join(self.printed({"Id": task}, 12)))
                raise ServiceError(what, f"exit code {code}: {tail}", "exit code 0")
            if done is not None and not done(task):
                raise ServiceError(what, "no trace of what it was to make", "that it makes it")
        finally:
            self.engine.remove_container(task, force=True)
        return True

    def _await_task(self, task: str, what: str) -> int:
        deadline = self._clock() + _TASK_SECONDS
        while True:
            state = self.engine.inspect_container(task)["State"]
            if not state["Running"]:
                return int(state["ExitCode"])
            if self._clock() > deadline:
                raise ServiceError(what, f"no end after {_TASK_SECONDS:g} s", "an end")
            self._sleep(_POLL_SECONDS)


def name_of(stored: Definition) -> str:
    """The name of a service's container."""
    return container.container_name(stored["host"], stored["name"])


def kept_log(ref: ServiceRef) -> Path:
    """Where the end of the log stands that the service's former container left."""
    return Path(ref.root) / "log" / f"{ref.name}.log"


def started(there: Body) -> float:
    """When a container was last started, in Unix seconds."""
    return datetime.datetime.fromisoformat(there["State"]["StartedAt"]).timestamp()


def _account(image: Body) -> Sequence[str]:
    """Name, user and group of the account that an image's label names, else of its own user."""
    user, _, group = (image["Config"].get("User") or "0").partition(":")
    label = labels_of(image).get(LABEL_ACCOUNT, "")
    return label.split(":") if label.count(":") == 2 else ("", user, group)


def _refuse_stranger(kind: str, name: str, look: Callable[[str], Body], own: Mapping[str, str]) -> None:
    body = found(look, name)
    marks = {} if body is None else labels_of(body)
    if body is None or own.items() <= marks.items():
        return
    whose = "one that is not of this project"
    if LABEL_ROOT in marks:
        whose = f"that of {marks.get(LABEL_SERVICE, 'a host')} of {marks[LABEL_ROOT]}"
    raise Refused(
        f"{kind} {name}",
        whose,
        "nothing of that name",
        f"look at it with `docker {kind} inspect {name}`; remove or rename it, or give the host another name",
    )
