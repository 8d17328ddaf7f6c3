"""Break containers of the lab: kill them, one or all of them, pause them, cut them off from their network.

They are found by the label that carries the root of the lab and by nothing else: a name could be somebody's real
container. A fault that hits nothing is an error.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import docker
from docker.models.containers import Container

FAULTS = ("kill", "pause", "disconnect")
EVERYTHING = "everything"


def find(client: docker.DockerClient, root: Path, host: str) -> list[Container]:
    """Return the container of a host's main service, or every one that runs.

    :raises LookupError: the lab has none of that name.
    """
    labels = [f"streamops.root={root.resolve()}"]
    if host != EVERYTHING:
        labels.append(f"streamops.host={host}")
    running = client.containers.list(filters={"label": labels})
    if found := [container for container in running if host in (container.name, EVERYTHING)]:
        return found
    raise LookupError(f"no container {host} of {root} runs")


def hit(client: docker.DockerClient, container: Container, fault: str) -> None:
    """Bring one fault about."""
    if fault == "kill":
        container.kill()
    elif fault == "pause":
        container.pause()
    else:
        for network in container.attrs["NetworkSettings"]["Networks"]:
            client.networks.get(network).disconnect(container)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    text = f"FAULT is one of {', '.join(FAULTS)}; HOST may be {EVERYTHING}"
    parser.add_argument("faults", nargs="+", metavar="FAULT=HOST", help=text)
    parser.add_argument("--root", type=Path, required=True, help="the lab's root")
    given = parser.parse_args()
    client = docker.from_env()
    for text in given.faults:
        fault, _, host = text.partition("=")
        if fault not in FAULTS:
            parser.error(f"fault {fault!r}: expected one of {', '.join(FAULTS)}")
        try:
            for container in find(client, given.root, host):
                try:
                    hit(client, container, fault)
                except docker.errors.APIError:
                    # One that has ended meanwhile is down as well.
                    if host != EVERYTHING:
                        raise
        except LookupError as error:
            print(error, file=sys.stderr)
            return 1
        print(f"{fault} {host}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
