"""Containers that stand for the machines of a lab: bring them up, break them, remove them.

Each is a whole system with systemd as its first process and sshd, on one bridge network of the lab with a fixed
address. All that is made carries the label ``streamops.lab=<root of the lab>`` and is found by it alone: a name could
be somebody else's. A fault that hits nothing is an error.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import io
import ipaddress
import json
import os
import re
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from docker.errors import APIError, DockerException, ImageNotFound
from docker.models.containers import Container
from docker.models.networks import Network

PROJECT = Path(__file__).resolve().parents[2]
CONTEXT = Path(__file__).resolve().parent / "machines"
LAB = "streamops.lab"
MACHINE = "streamops.machine"
ADDRESS = "streamops.address"
# Where a lab without a net of its own looks for a free one, in this order.
NETS = tuple(f"172.{second}.{third}" for second in (30, 31, 29) for third in range(16))
FIRST_NUMBER = 11
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
ENGINE = ".config/setup/docker-engine.sh"


class MachineError(Exception):
    """What an operator may read: the thing, what was found there, what was expected, what to do next."""

    def __init__(self, thing: str, found: str, expected: str, next_step: str = "") -> None:
        message = f"{thing}: found {found}, expected {expected}."
        super().__init__(f"{message} Next: {next_step}" if next_step else message)


def say(line: str) -> None:
    print(line, flush=True)


# What can be decided without an engine


def wanted(arguments: Sequence[str]) -> dict[str, int | None]:
    """Return the last number of each machine's address, or None, from ``NAME`` or ``NAME=NUMBER`` as typed.

    :raises MachineError: no host name, a number that is no host's, or one of either twice.
    """
    machines: dict[str, int | None] = {}
    for argument in arguments:
        name, sign, number = argument.partition("=")
        if not NAME.fullmatch(name):
            raise MachineError("machine", repr(name), "a host name of a-z, 0-9 and hyphens")
        if sign and not (number.isascii() and number.isdigit() and 2 <= int(number) <= 254):
            raise MachineError(f"machine {name}", f"the number {number!r}", "the last number of its address, 2 to 254")
        if name in machines:
            raise MachineError(f"machine {name}", "its name twice", "each once")
        machines[name] = int(number) if sign else None
    given = [number for number in machines.values() if number is not None]
    if len(set(given)) < len(given):
        raise MachineError("machines", f"the numbers {sorted(given)}", "each once")
    return machines


def subnet(net: str) -> ipaddress.IPv4Network:
    """Return the 256 addresses of a net as ``172.30.7``.

    :raises MachineError: it is no such net, or not one of the private ones that begin with 172.
    """
    try:
        found = ipaddress.IPv4Network(f"{net}.0/24")
    except ValueError:
        found = ipaddress.IPv4Network("0.0.0.0/24")
    if not found.subnet_of(ipaddress.IPv4Network("172.16.0.0/12")):
        raise MachineError("net", repr(net), "three numbers between 172.16.0 and 172.31.255, as 172.30.7")
    return found


def routed(table: str) -> list[ipaddress.IPv4Network]:
    """Return what the kernel's routing table (the text of /proc/net/route) leads to, the default route left out."""
    networks = []
    for line in table.splitlines()[1:]:
        columns = line.split()
        # The kernel prints its words in the machine's own order of bytes.
        target, mask = (int(columns[at], 16).to_bytes(4, sys.byteorder) for at in (1, 7))
        if any(mask):
            networks.append(ipaddress.IPv4Network((target, str(ipaddress.IPv4Address(mask)))))
    return networks


def default_device(table: str) -> str | None:
    """Return the device of the default route in the text of /proc/net/route, if there is one."""
    columns = (line.split() for line in table.splitlines()[1:])
    return next((line[0] for line in columns if line[1] == line[7] == "00000000"), None)


def free(taken: Iterable[ipaddress.IPv4Network], nets: Iterable[str] = NETS) -> list[str]:
    """Return those of ``nets`` that overlap nothing that is taken."""
    held = list(taken)
    return [net for net in nets if not any(subnet(net).overlaps(other) for other in held)]


def addresses(
    machines: Mapping[str, int | None], present: Mapping[str, str], net: ipaddress.IPv4Network
) -> dict[str, str]:
    """Return the address of each machine: its own where it is there, the number asked for, or the lowest free one.

    :param present: address of each machine that the lab has.
    :raises MachineError: a number is another's, or a machine has another address than the one asked for.
    """
    chosen = dict(present)
    for name, number in machines.items():
        if number is None:
            continue
        address = str(net[number])
        if chosen.setdefault(name, address) != address:
            raise MachineError(f"machine {name}", f"it at {present[name]}", f"it at {address}", "down, then up again")
    held = list(chosen.values())
    if len(set(held)) < len(held):
        raise MachineError("machines", f"one address twice in {chosen}", "each its own")
    numbers = (number for number in range(FIRST_NUMBER, 255) if str(net[number]) not in held)
    for name in machines:
        if name not in chosen:
            chosen[name] = str(net[next(numbers)])
    return {name: chosen[name] for name in machines}


def cgroup_options(root: Path = Path("/sys/fs/cgroup")) -> dict[str, Any]:
    """Return how a container gets at the control groups that its systemd manages.

    Version 2 is one tree. Of version 1 each hierarchy is bound by itself: with the folder above them inside, systemd
    would remount that folder read-only, and this machine's with it.

    :raises MachineError: version 1 without the hierarchy by which systemd keeps its units apart.
    """
    if (root / "cgroup.controllers").exists():
        hierarchies = [root]
    else:
        hierarchies = sorted(path for path in root.iterdir() if path.is_dir() and not path.is_symlink())
        if root / "systemd" not in hierarchies:
            raise MachineError(
                str(root),
                "no hierarchy named systemd",
                "one",
                f"mkdir {root}/systemd && mount -t cgroup -o none,name=systemd cgroup {root}/systemd",
            )
    return {"cgroupns": "host", "volumes": [f"{path}:{path}:rw" for path in hierarchies]}


def image_name(base: str, context: Path = CONTEXT) -> str:
    """Return the name of the image, whose tag is a hash of all that it is made from."""
    made_from = hashlib.sha256(base.encode())
    for path in sorted(context.iterdir()):
        made_from.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return f"streamops/machine:{made_from.hexdigest()[:16]}"


def known_hosts(keys: Mapping[tuple[str, str], str]) -> str:
    """Return the text of a known_hosts file.

    :param keys: public host key (type and base64, perhaps a comment) by name and address of the machine.
    """
    lines = [f"{name},{address} {' '.join(key.split()[:2])}" for (name, address), key in sorted(keys.items())]
    return "".join(f"{line}\n" for line in lines)


def noted_keys(text: str) -> dict[tuple[str, str], str]:
    """Return what :func:`known_hosts` made ``text`` from."""
    keys = {}
    for line in text.splitlines():
        who, key = line.split(" ", 1)
        name, address = who.split(",")
        keys[name, address] = key
    return keys


@dataclass(frozen=True)
class Verb:
    """What is done to machines that are there.

    :param states: the engine's words for what a machine must be, for the verb to change anything.
    :param connected: whether it must be on the lab's network; None where that does not matter.
    :param done: the word for what happened.
    :param answers: whether the machine must answer afterwards.
    """

    states: tuple[str, ...]
    connected: bool | None
    done: str
    answers: bool

    def check(self, name: str, state: str, connected: bool) -> None:
        """Raise MachineError where the verb would change nothing, or is not possible."""
        if state not in self.states:
            raise MachineError(f"machine {name}", f"it {state}", f"it {' or '.join(self.states)} to be {self.done}")
        if self.connected is not None and connected is not self.connected:
            words = {True: "on the lab's network", False: "off the lab's network"}
            raise MachineError(f"machine {name}", f"it {words[connected]}", f"it {words[self.connected]}")


VERBS = {
    "kill": Verb(("running",), None, "killed", answers=False),
    "start": Verb(("exited", "created"), None, "started", answers=True),
    "pause": Verb(("running",), None, "paused", answers=False),
    "unpause": Verb(("paused",), None, "unpaused", answers=True),
    "disconnect": Verb(("running",), True, "disconnected", answers=False),
    "connect": Verb(("running",), False, "connected", answers=True),
}


# Ask and act


@dataclass(frozen=True)
class Machine:
    """A container of the lab, as it was when it was read."""

    name: str
    address: str
    state: str
    connected: bool
    container: Container


class Lab:
    """What an engine has of one lab.

    :param client: Docker's own client.
    :param root: the lab's root; its text is the value of the label.
    """

    def __init__(self, client: docker.DockerClient, root: Path) -> None:
        self.client = client
        self.root = root.resolve()
        self.label = f"{LAB}={self.root}"
        # Names are unique in an engine, and two labs may both have a kafka-1.
        self.prefix = f"streamops-{hashlib.sha256(str(self.root).encode()).hexdigest()[:8]}"

    def machines(self) -> dict[str, Machine]:
        """Return the lab's machines by name."""
        found = {}
        for container in self.client.containers.list(all=True, filters={"label": [self.label, MACHINE]}):
            labels = container.labels
            found[labels[MACHINE]] = Machine(
                name=labels[MACHINE],
                address=labels[ADDRESS],
                state=container.status,
                connected=self.prefix in container.attrs["NetworkSettings"]["Networks"],
                container=container,
            )
        return dict(sorted(found.items()))

    def network(self) -> Network | None:
        """Return the lab's network, if it has one."""
        found = self.client.networks.list(filters={"label": self.label})
        return found[0] if found else None

    def chosen(self, names: Sequence[str], verb: str) -> list[Machine]:
        """Return the machines of these names.

        :raises MachineError: the lab has none of that name.
        """
        there = self.machines()
        for name in names:
            if name not in there:
                known = ", ".join(there) or "no machine"
                raise MachineError(f"{verb} {name}", f"{known} in {self.root}", "a machine of that name there")
        return [there[name] for name in names]

    def up(self, machines: Mapping[str, int | None], net: str | None, image: str, patience: float) -> None:
        """Bring the machines up, whatever state they are in, and wait until each one answers.

        :param machines: last number of each machine's address, or None for the lowest free one.
        :param net: the first three numbers of the lab's net; None for the one that it has, or a free one.
        :param patience: seconds until each must answer.
        :raises MachineError: what is there contradicts what was asked for, or a machine did not answer in time.
        """
        present = self.machines()
        for machine in present.values():
            made_from = machine.container.attrs["Config"]["Image"]
            if made_from != image:
                raise MachineError(
                    f"machine {machine.name}", f"it made from {made_from}", image, f"down --lab {self.root}"
                )
        network = self.network() or self._make_network(net)
        held = ipaddress.IPv4Network(network.attrs["IPAM"]["Config"][0]["Subnet"])
        if net is not None and held != subnet(net):
            raise MachineError("network", f"the lab's on {held}", str(subnet(net)), f"down --lab {self.root}")
        planned = addresses(machines, {name: machine.address for name, machine in present.items()}, held)
        public = self._key_pair(fresh=not present)
        options = cgroup_options()

        # None looks at the others meanwhile: a container that is being made is listed before it can be read.
        def settle(name: str) -> None:
            self._settle(name, planned[name], present.get(name), image, public, options)

        with ThreadPoolExecutor(max_workers=8) as pool:
            list(pool.map(settle, planned))
        self.await_answers(list(planned), patience)
        self._note_host_keys()
        say(f"{len(planned)} machines answer on {held}; key and host keys are in {self.root / 'ssh'}")

    def do(self, name: str, machines: Sequence[str], patience: float) -> None:
        """Do what a verb of :data:`VERBS` says to the machines, all of them or none.

        :raises MachineError: one is not there, or not in the state that the verb changes.
        """
        verb = VERBS[name]
        chosen = self.chosen(machines, name)
        for machine in chosen:
            verb.check(machine.name, machine.state, machine.connected)
        # All at once: a power cut does not take one machine after the other.
        with ThreadPoolExecutor(max_workers=8) as pool:
            list(pool.map(lambda machine: self._act(name, machine), chosen))
        for machine in chosen:
            say(f"{verb.done} {machine.name} ({machine.address})")
        if verb.answers:
            self.await_answers(machines, patience)

    def delay(self, names: Sequence[str], milliseconds: int) -> None:
        """Have every packet that a machine sends wait, or no longer (0), where its kernel can do that.

        Says so where it can't, with the kernel's own words: whether it can is the kernel's, and that is this machine's.

        :raises MachineError: the kernel can, and did not.
        """
        for machine in self.chosen(names, "delay"):
            order = f"tc qdisc replace dev eth0 root netem delay {milliseconds}ms"
            code, output = machine.container.exec_run((order if milliseconds else "tc qdisc del dev eth0 root").split())
            said = output.decode(errors="replace").strip().replace("\n", " ")
            if code == 0:
                say(f"packets of {machine.name} wait {milliseconds} ms")
            elif "kind is unknown" in said:
                say(f"skipped: netem of {milliseconds} ms on {machine.name}: {said}")
            else:
                raise MachineError(f"machine {machine.name}", f"{order}: {said}", "packets that wait")

    def await_answers(self, names: Sequence[str], patience: float) -> None:
        """Wait until systemd of each machine has come up, and sshd answers where the network reaches it.

        :param patience: seconds.
        :raises MachineError: one did not in time.
        """
        deadline = time.monotonic() + patience
        with ThreadPoolExecutor(max_workers=8) as pool:
            list(pool.map(lambda machine: _await_answer(machine, deadline), self.chosen(names, "wait for")))

    def down(self) -> list[str]:
        """Remove what carries the lab's label and nothing else; returns what was removed."""
        removed = []
        containers = self.client.containers.list(all=True, filters={"label": self.label})
        with ThreadPoolExecutor(max_workers=8) as pool:
            list(pool.map(lambda container: container.remove(force=True, v=True), containers))
        removed += [f"container {container.name}" for container in containers]
        for network in self.client.networks.list(filters={"label": self.label}):
            network.remove()
            removed.append(f"network {network.name}")
        for volume in self.client.volumes.list(filters={"label": self.label}):
            volume.remove()
            removed.append(f"volume {volume.name}")
        return removed

    def _act(self, verb: str, machine: Machine) -> None:
        if verb == "connect":
            self._connect(machine.container, machine.name, machine.address)
        elif verb == "disconnect":
            self._network().disconnect(machine.container)
        else:
            getattr(machine.container, verb)()

    def _note_host_keys(self) -> None:
        path = self.root / "ssh" / "known_hosts"
        noted = noted_keys(path.read_text()) if path.exists() else {}
        keys = {}
        for machine in self.machines().values():
            who = (machine.name, machine.address)
            if who in noted:
                keys[who] = noted[who]
            elif machine.state == "running":
                # Read through the engine, not over the network that it is to protect.
                code, key = machine.container.exec_run(["cat", "/etc/ssh/ssh_host_ed25519_key.pub"])
                if code == 0:
                    keys[who] = key.decode()
        _write(path, known_hosts(keys))

    def _network(self) -> Network:
        network = self.network()
        if network is None:
            raise MachineError("network", f"none labelled {self.label}", "the lab's", "up")
        return network

    def _connect(self, container: Container, name: str, address: str) -> None:
        self._network().connect(container, ipv4_address=address, aliases=[name])

    def _make_network(self, net: str | None) -> Network:
        table = Path("/proc/net/route").read_text()
        taken = routed(table)
        for other in self.client.networks.list():
            configured = [entry.get("Subnet", "") for entry in other.attrs["IPAM"]["Config"] or []]
            taken += [ipaddress.IPv4Network(found) for found in configured if found and ":" not in found]
        options = {}
        device = default_device(table)
        if device is not None:
            # Larger packets than the way out takes would have to be cut or get lost.
            options["com.docker.network.driver.mtu"] = Path(f"/sys/class/net/{device}/mtu").read_text().strip()
        for candidate in free(taken, NETS if net is None else [net]):
            pool = docker.types.IPAMPool(subnet=str(subnet(candidate)), gateway=str(subnet(candidate)[1]))
            try:
                return self.client.networks.create(
                    self.prefix,
                    driver="bridge",
                    options=options,
                    ipam=docker.types.IPAMConfig(pool_configs=[pool]),
                    labels={LAB: str(self.root)},
                )
            except APIError as error:
                # Another lab was quicker.
                if "overlaps" not in str(error):
                    raise
        found = f"{net} taken" if net is not None else f"all {len(NETS)} from {NETS[0]} to {NETS[-1]} taken"
        raise MachineError("net", found, "a free one", "name another one with --net")

    def _key_pair(self, fresh: bool) -> str:
        """Return the public key that the machines let in, made anew where the lab has no machine yet.

        :raises MachineError: there are machines, but the key that they know is gone.
        """
        path = self.root / "ssh" / "id_ed25519"
        if fresh:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            key = Ed25519PrivateKey.generate()
            _write(path, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()).decode())
            public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
            _write(path.with_suffix(".pub"), f"{public} lab\n")
            (path.parent / "known_hosts").unlink(missing_ok=True)
        elif not path.exists():
            raise MachineError(str(path), "no such file", "the key of the lab's machines", f"down --lab {self.root}")
        return path.with_suffix(".pub").read_text()

    def _settle(
        self, name: str, address: str, there: Machine | None, image: str, public: str, options: Mapping[str, Any]
    ) -> None:
        """Make the machine where it is not there, and take it out of whatever fault it is in."""
        container = self._create(name, address, image, options) if there is None else there.container
        if there is None or there.state == "created":
            container.put_archive("/root", _archive({".ssh/authorized_keys": public}))
        if there is not None and there.state == "paused":
            container.unpause()
        elif there is None or there.state != "running":
            container.start()
        if there is not None and not there.connected:
            self._connect(container, name, address)

    def _create(self, name: str, address: str, image: str, options: Mapping[str, Any]) -> Container:
        return self.client.containers.create(
            image,
            name=f"{self.prefix}-{name}",
            hostname=name,
            labels={LAB: str(self.root), MACHINE: name, ADDRESS: address},
            cap_add=["SYS_ADMIN", "NET_ADMIN"],
            security_opt=["seccomp=unconfined", "apparmor=unconfined"],
            # As on a machine, programs may be run from /tmp: Java's libraries unpack theirs there.
            tmpfs={"/run": "mode=755", "/run/lock": "mode=1777", "/tmp": "exec,mode=1777"},  # noqa: S108
            network=self.prefix,
            networking_config={
                self.prefix: self.client.api.create_endpoint_config(ipv4_address=address, aliases=[name])
            },
            **options,
        )


def _await_answer(machine: Machine, deadline: float) -> None:
    said = "nothing"
    while True:
        machine.container.reload()
        if machine.container.status != "running":
            last_words = machine.container.logs(tail=20).decode(errors="replace")
            raise MachineError(f"machine {machine.name}", f"it {machine.container.status}:\n{last_words}", "it running")
        said = _ask(machine, "systemctl", "is-system-running")
        if said in ("running", "degraded"):
            if not machine.connected or _sshd_answers(machine.address):
                break
            said = f"systemd {said}, but no sshd at {machine.address}"
        if time.monotonic() > deadline:
            journal = _ask(machine, "journalctl", "--no-pager", "--lines=20")
            raise MachineError(
                f"machine {machine.name}", f"{said or 'nothing'}; its journal:\n{journal}", "an answer in time"
            )
        time.sleep(0.3)
    if said == "degraded":
        failed = _ask(machine, "systemctl", "list-units", "--failed", "--plain", "--no-legend")
        say(f"{machine.name} came up without: {failed}")


def _ask(machine: Machine, *command: str) -> str:
    """Return what the command printed in the machine, whatever its code; an early systemd says nothing yet."""
    _, output = machine.container.exec_run(list(command))
    return str(output.decode(errors="replace")).strip()


def _sshd_answers(address: str) -> bool:
    try:
        with socket.create_connection((address, 22), timeout=2) as connection:
            connection.settimeout(2)
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _archive(files: Mapping[str, str]) -> bytes:
    """Return a tar of the files, root's alone, in folders of the same kind."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, text in files.items():
            folder = tarfile.TarInfo(str(Path(name).parent))
            folder.type, folder.mode = tarfile.DIRTYPE, 0o700
            archive.addfile(folder)
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text.encode()), 0o600
            archive.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


def _write(path: Path, text: str) -> None:
    """Replace the file as a whole; nobody else may read it at any time."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(text)
    fresh.replace(path)


def base_image() -> str:
    """Return the name of the base image, started and built where it is missing.

    :raises MachineError: the script that does it failed; it has said why.
    """
    script = PROJECT / ".config" / "setup" / "base-image.sh"
    done = subprocess.run([script, "base"], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise MachineError(str(script), f"code {done.returncode}", "the name of an image", "what it says above")
    return done.stdout.splitlines()[-1]


def machine_image(client: docker.DockerClient, base: str) -> str:
    """Return the name of the machines' image; it is built where the engine does not have it.

    :raises MachineError: the build failed; the message has its last lines.
    """
    name = image_name(base)
    if _has(client, name):
        return name
    folder = cache(os.environ) / "images"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        # Of two builds the second would take the name from the first, which nobody would ever remove.
        say(f"building {name}, after any other build on this machine")
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not _has(client, name):
            _build(client, name, base)
    finally:
        os.close(lock)
    return name


def cache(environment: Mapping[str, str]) -> Path:
    """Return the folder of what is made once for all clones, as the set-up scripts choose it."""
    if found := environment.get("STREAMOPS_CACHE"):
        return Path(found)
    return Path(environment.get("XDG_CACHE_HOME") or Path(environment["HOME"]) / ".cache") / "streamops"


def _has(client: docker.DockerClient, name: str) -> bool:
    try:
        client.images.get(name)
    except ImageNotFound:
        return False
    return True


def _build(client: docker.DockerClient, name: str, base: str, every: float = 10.0) -> None:
    """Build the image, with a line every ``every`` seconds."""
    began = told = time.monotonic()
    last: list[str] = []
    # With the network of this machine, so that a proxy that only it can reach is reached.
    for event in client.api.build(
        path=str(CONTEXT), tag=name, buildargs={"BASE": base}, network_mode="host", rm=True, forcerm=True, decode=True
    ):
        if "error" in event:
            raise MachineError(name, f"{event['error']}\n" + "\n".join(last), "it built")
        last = [*last, *event.get("stream", "").strip().splitlines()][-20:]
        if time.monotonic() - told > every:
            told = time.monotonic()
            say(f"building {name}, {told - began:.0f} s so far: {last[-1] if last else ''}")
    say(f"built {name} in {time.monotonic() - began:.0f} s")


def show(lab: Lab, as_json: bool) -> None:
    network = lab.network()
    machines = [
        {"name": machine.name, "address": machine.address, "state": machine.state, "connected": machine.connected}
        for machine in lab.machines().values()
    ]
    if as_json:
        subnets = [] if network is None else [entry["Subnet"] for entry in network.attrs["IPAM"]["Config"]]
        say(json.dumps({"lab": str(lab.root), "subnets": subnets, "machines": machines}, indent=2))
        return
    for machine in machines:
        joined = "connected" if machine["connected"] else "disconnected"
        say(f"{machine['name']:20} {machine['address']:16} {machine['state']:10} {joined}")
    if not machines:
        say(f"no machine is labelled {lab.label}")


def engine() -> docker.DockerClient:
    """Return a client of the engine.

    :raises MachineError: none answers.
    """
    try:
        return docker.from_env()
    except DockerException as error:
        raise MachineError("docker engine", str(error), "one that answers", ENGINE) from error


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = options.add_subparsers(dest="verb", required=True)
    verbs.add_parser("image", help="build what machines are made from, and print its name last")
    of_a_lab = argparse.ArgumentParser(add_help=False)
    of_a_lab.add_argument("--lab", type=Path, required=True, help="the lab's root")
    waiting = argparse.ArgumentParser(add_help=False)
    waiting.add_argument("--patience", type=float, default=90.0, help="seconds until each machine must answer")
    up = verbs.add_parser("up", parents=[of_a_lab, waiting], help="bring machines up, or back to health")
    up.add_argument("--net", help=f"the first three numbers of the lab's net, as {NETS[7]}; without it a free one")
    up.add_argument("machines", nargs="+", metavar="NAME[=NUMBER]", help="and the last number of its address")
    verbs.add_parser("down", parents=[of_a_lab], help="remove all that carries the lab's label")
    status = verbs.add_parser("status", parents=[of_a_lab], help="the machines and their state")
    status.add_argument("--json", action="store_true", help="for programs")
    delay = verbs.add_parser("delay", parents=[of_a_lab], help="their packets wait, where the kernel has netem")
    delay.add_argument("--milliseconds", type=int, required=True, help="0 for no longer")
    delay.add_argument("machines", nargs="+", metavar="NAME")
    for verb in VERBS:
        acting = verbs.add_parser(verb, parents=[of_a_lab, waiting], help=f"the machines named are {VERBS[verb].done}")
        acting.add_argument("machines", nargs="+", metavar="NAME")
    return options


def main() -> int:
    given = parser().parse_args()
    try:
        if given.verb == "image":
            base = base_image()
            say(machine_image(engine(), base))
            return 0
        if given.verb == "up":
            machines = wanted(given.machines)
            base = base_image()
            client = engine()
            image = machine_image(client, base)
            Lab(client, given.lab).up(machines, given.net, image, given.patience)
            return 0
        lab = Lab(engine(), given.lab)
        if given.verb == "down":
            say("\n".join(f"removed {what}" for what in lab.down()) or f"nothing is labelled {lab.label}")
        elif given.verb == "status":
            show(lab, given.json)
        elif given.verb == "delay":
            lab.delay(given.machines, given.milliseconds)
        else:
            lab.do(given.verb, given.machines, given.patience)
    except (MachineError, DockerException) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
