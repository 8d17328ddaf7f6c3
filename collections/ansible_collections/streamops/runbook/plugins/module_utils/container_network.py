"""The network that the containers of a deployment share: a bridge of this machine with a subnet of its own."""

from __future__ import annotations

import ipaddress

from ansible_collections.streamops.runbook.plugins.module_utils.docker_client import (
    LABEL_ROOT,
    Body,
    Engine,
    labels_of,
    talking,
)
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused
from ansible_collections.streamops.runbook.plugins.module_utils.runtime.container import deployment


def find(engine: Engine, name: str) -> Body | None:
    """The network of exactly that name as it is inspected; None when there is none."""
    for one in engine.networks(names=[name]):
        # The engine also lists names that hold this one.
        if one["Name"] == name:
            return engine.inspect_network(one["Id"])
    return None


def ensure(engine: Engine, name: str, subnet: str, root: str, *, check: bool = False) -> bool:
    """Make the network unless it is there.

    :param subnet: as 172.28.0.0/24.
    :param root: folder of a host of the deployment, or of the deployment itself.
    :returns: whether it was (or under ``check`` would be) made.
    :raises Refused: the subnet is none or another network has a part of it; one of that name is somebody else's or
        has another subnet.
    :raises ServiceError: the engine could not make it.
    """
    thing = f"network {name}"
    wanted = _subnet(thing, subnet)
    labels = {LABEL_ROOT: deployment(root)}
    with talking(thing):
        there = find(engine, name)
        if there is not None:
            _refuse_other(thing, there, wanted, labels[LABEL_ROOT])
            return False
        for other in engine.networks():
            for part in _subnets(other):
                if part.overlaps(wanted):
                    raise Refused(
                        thing,
                        f"subnet {wanted}, of which network {other['Name']} has {part}",
                        "a subnet that nobody else has",
                        "name another in service_subnet",
                    )
        if not check:
            ipam = {"Driver": "default", "Config": [{"Subnet": str(wanted)}]}
            engine.create_network(name, driver="bridge", ipam=ipam, labels=labels)
    return True


def remove(engine: Engine, name: str, root: str, *, check: bool = False) -> bool:
    """Remove the network, which no container may use any more.

    :returns: whether it was (or under ``check`` would be) removed.
    :raises Refused: it is somebody else's, or a container is in it.
    """
    thing = f"network {name}"
    with talking(thing):
        there = find(engine, name)
        if there is None:
            return False
        owner = labels_of(there).get(LABEL_ROOT)
        if owner != deployment(root):
            raise Refused(thing, _whose(owner), f"that of {deployment(root)}")
        members = sorted(entry["Name"] for entry in (there.get("Containers") or {}).values())
        if members:
            raise Refused(thing, f"containers in it: {', '.join(members)}", "none", "stop these first")
        if not check:
            engine.remove_network(there["Id"])
    return True


def _subnet(thing: str, text: str) -> ipaddress.IPv4Network:
    try:
        return ipaddress.IPv4Network(text)
    except ValueError as error:
        raise Refused(thing, f"subnet {text!r} ({error})", "one as 172.28.0.0/24") from error


def _subnets(network: Body) -> list[ipaddress.IPv4Network]:
    configs = (network.get("IPAM") or {}).get("Config") or []
    return [ipaddress.IPv4Network(config["Subnet"]) for config in configs if "." in config.get("Subnet", "")]


def _whose(owner: str | None) -> str:
    return f"that of {owner}" if owner else "one that is not of this project"


def _refuse_other(thing: str, there: Body, wanted: ipaddress.IPv4Network, root: str) -> None:
    owner = labels_of(there).get(LABEL_ROOT)
    if owner != root:
        raise Refused(thing, _whose(owner), f"that of {root}", "name another in service_network")
    if _subnets(there) != [wanted]:
        seen = ", ".join(map(str, _subnets(there))) or "none"
        next_step = "correct service_subnet, or remove the network when nothing is in it"
        raise Refused(thing, f"subnet {seen}", f"subnet {wanted}", next_step)
