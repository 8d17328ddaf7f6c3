"""All that a deployment has in the Docker engine of this machine: listed, and removed with its data."""

from __future__ import annotations

import dataclasses

from ansible_collections.streamops.runbook.plugins.module_utils import commands
from ansible_collections.streamops.runbook.plugins.module_utils.docker_client import (
    LABEL_ROLE,
    LABEL_ROOT,
    Engine,
    talking,
)
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused


@dataclasses.dataclass(frozen=True)
class Removal:
    """What would be removed or was, by name; images are shared by all deployments and stay.

    :param running: containers of services that run.
    :param refusal: why the removal is refused; empty when it is not.
    """

    changed: bool
    containers: list[str]
    volumes: list[str]
    networks: list[str]
    running: list[str]
    refusal: str = ""


def absent(engine: Engine, root: str, *, check: bool = False) -> Removal:
    """Remove containers, volumes and networks that carry the deployment's label.

    :param root: folder of the deployment.
    :raises Refused: a service of it runs; under ``check`` that is only said.
    :raises ServiceError: the engine could not remove something.
    """
    thing = f"containers of {root}"
    filters = {"label": [f"{LABEL_ROOT}={root}"]}
    with talking(thing):
        containers = engine.containers(all=True, filters=filters)
        volumes = sorted(body["Name"] for body in engine.volumes(filters=filters)["Volumes"] or [])
        networks = {body["Name"]: body["Id"] for body in engine.networks(filters=filters)}
        names = {body["Id"]: body["Names"][0].lstrip("/") for body in containers}
        running = sorted(
            names[body["Id"]]
            for body in containers
            # What only holds an address ends with whatever used it.
            if body["State"] in ("running", "paused", "restarting") and body["Labels"].get(LABEL_ROLE) == "service"
        )
        refusal = f"found {', '.join(running)} running, expected nothing that runs" if running else ""
        if refusal and not check:
            raise Refused(thing, f"{', '.join(running)} running", "nothing that runs", commands.line("stack-down"))
        if not check:
            for container_id in names:
                engine.remove_container(container_id, force=True)
            for volume in volumes:
                engine.remove_volume(volume)
            for network_id in networks.values():
                engine.remove_network(network_id)
    changed = bool(names or volumes or networks)
    return Removal(changed, sorted(names.values()), volumes, sorted(networks), running, refusal)
