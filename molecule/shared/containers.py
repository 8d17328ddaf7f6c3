"""Break containers of the lab (kill, pause, cut off, restart their engine), keep what they said, remove them.

They are found by the label that carries the root of the lab and by nothing else: a name could be somebody's real
container. A fault that hits nothing is an error. An engine is restarted only where the project's own script has
started it; another one may run what is none of ours.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
from pathlib import Path

import docker
import psutil
from docker.models.containers import Container

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "collections"))

from ansible_collections.streamops.runbook.plugins.module_utils import container_deployment  # noqa: E402

#: What .config/setup/docker-engine.sh puts into the environment of a daemon that it starts.
ENGINE_MARK = "STREAMOPS_ENGINE"
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


def keep_logs(client: docker.DockerClient, root: Path, folder: Path) -> int:
    """Write what each container of the lab has said into a file of its own, those that have ended included.

    :returns: how many there were.
    :raises LookupError: the engine has none of the lab.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    there = client.containers.list(all=True, filters={"label": f"streamops.root={root.resolve()}"})
    if not there:
        raise LookupError(f"no container of {root} is there")
    for container in there:
        (folder / f"container-{container.name}.log").write_bytes(container.logs(timestamps=True))
    return len(there)


def remove(client: docker.DockerClient, root: Path) -> int:
    """Remove all that the engine has of the lab, whatever state a deployment was left in.

    :returns: how many containers there were.
    """
    for container in client.containers.list(filters={"label": f"streamops.root={root.resolve()}"}):
        # One that has ended meanwhile is as good.
        with contextlib.suppress(docker.errors.APIError):
            container.kill()
    return len(container_deployment.absent(client.api, str(root.resolve())).containers)


def is_own_engine(process: psutil.Process) -> bool:
    """Whether it is a daemon that the project's script has started, by the mark in its environment."""
    try:
        return process.name() == "dockerd" and process.environ().get(ENGINE_MARK) == "started"
    except psutil.Error:
        # Ended meanwhile, or another user's.
        return False


def restart_engine() -> int:
    """Restart the daemon as a machine's restart does: it stops all that runs, and starts again what is to run.

    :returns: the exit code; 0 with a line that begins with ``skipped`` where the engine is none of ours.
    """
    daemon = next(filter(is_own_engine, psutil.process_iter()), None)
    if daemon is None:
        print(f"skipped: no dockerd with {ENGINE_MARK}=started, so the engine is none that this project has started")
        return 0
    daemon.terminate()
    try:
        # It waits for the slowest of its containers itself, the driver of the stream with its 90 s.
        daemon.wait(timeout=180)
    except psutil.TimeoutExpired:
        print(f"dockerd (process {daemon.pid}) still there after 180 s", file=sys.stderr)
        return 1
    if subprocess.run(["docker", "version"], capture_output=True, check=False).returncode == 0:
        print(f"dockerd (process {daemon.pid}) has ended, and an engine answers all the same", file=sys.stderr)
        return 1
    # It answers only when it has started all that is to run.
    patient = os.environ | {"STREAMOPS_ENGINE_PATIENCE": "180"}
    code = subprocess.run([ROOT / ".config" / "setup" / "docker-engine.sh"], env=patient, check=False).returncode
    print(f"restarted the engine, code {code}")
    return code


def inject(client: docker.DockerClient, root: Path, fault: str, host: str) -> None:
    """Bring one fault about on a host's main container, or on everything that runs.

    :raises LookupError: nothing of that name runs.
    """
    for container in find(client, root, host):
        try:
            hit(client, container, fault)
        except docker.errors.APIError:
            # One that has ended meanwhile is down as well.
            if host != EVERYTHING:
                raise
    print(f"{fault} {host}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    text = f"FAULT is one of {', '.join(FAULTS)}; HOST may be {EVERYTHING}"
    parser.add_argument("faults", nargs="*", metavar="FAULT=HOST", help=text)
    parser.add_argument("--root", type=Path, required=True, help="the lab's root")
    parser.add_argument("--logs", type=Path, metavar="FOLDER", help="keep what each container has said there")
    parser.add_argument("--remove", action="store_true", help="all that the engine has of the lab, and nothing else")
    parser.add_argument("--restart-engine", action="store_true", help="with all that runs in it, after the faults")
    given = parser.parse_args()
    faults = [text.partition("=")[::2] for text in given.faults]
    if unknown := [fault for fault, _ in faults if fault not in FAULTS]:
        parser.error(f"fault {unknown[0]!r}: expected one of {', '.join(FAULTS)}")
    if not (faults or given.logs or given.remove or given.restart_engine):
        parser.error("expected a fault, --logs, --remove or --restart-engine")
    client = docker.from_env()
    try:
        for fault, host in faults:
            inject(client, given.root, fault, host)
        if given.logs is not None:
            print(f"{keep_logs(client, given.root, given.logs)} containers have said what stands in {given.logs}")
    except LookupError as error:
        print(error, file=sys.stderr)
        return 1
    if given.remove:
        print(f"removed {remove(client, given.root)} containers")
    return restart_engine() if given.restart_engine else 0


if __name__ == "__main__":
    sys.exit(main())
