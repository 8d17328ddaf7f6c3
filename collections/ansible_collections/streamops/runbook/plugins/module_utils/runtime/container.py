"""What the containers of a service are made of: pure functions from a deployed definition to the engine's bodies.

A definition is the dict that :meth:`ServiceDefinition.public` wrote. A container has the same paths as its host:
folders with the service's files are mounted read-only where they are, data stands on named volumes, and all else
is the image's own and read-only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ansible_collections.streamops.runbook.plugins.module_utils.docker_client import (
    LABEL_DIGEST,
    LABEL_HOST,
    LABEL_ROLE,
    LABEL_ROOT,
    LABEL_SERVICE,
    LABEL_SHAPE,
    Body,
)
from ansible_collections.streamops.runbook.plugins.module_utils.runtime import container_main
from ansible_collections.streamops.runbook.plugins.module_utils.service import (
    TAG_DIGEST,
    TAG_ROOT,
    TAG_SERVICE,
)
from ansible_collections.streamops.runbook.plugins.module_utils.service_files import Owner

Definition = Mapping[str, Any]

#: Where the first process stands, relative to the service's own folder.
FIRST = "container.py"
#: The folder that a service may always write to, relative to the root: its record and its state as metrics.
STATE = "state"

#: Files that a process may have open, of a definition that does not say. The engine's own limit can be lower, and
#: then no container starts.
NOFILE = 20_000

_PYTHON = "/usr/bin/python3"
_HEALTH_SECONDS = 15
_SECOND = 1_000_000_000
_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_LOGS = {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}
# Libraries unpack native code there and map it, so it is not noexec.
_TMPFS = {"/tmp": "rw,exec,nosuid,nodev,mode=1777,size=64m"}  # noqa: S108 - of the container alone
_NO_RESTART = {"Name": "no", "MaximumRetryCount": 0}


@dataclasses.dataclass(frozen=True)
class Image:
    """What an image says of itself: its id, and the account that its services run as and own their files as."""

    id: str
    owner: Owner

    @property
    def account(self) -> str:
        """The account as the engine takes it."""
        return f"{self.owner.uid}:{self.owner.gid}"


def is_main(host: str, service: str) -> bool:
    """Whether the host is named after the service: its container then carries the host's own name."""
    return service.startswith(re.sub(r"-[0-9]+$", "", host))


def container_name(host: str, service: str) -> str:
    """The name of a service's container: ``kafka-1`` for kafka there, else ``monitoring-1-prometheus``."""
    return host if is_main(host, service) else f"{host}-{service}"


def volume_name(definition: Definition, folder: str) -> str:
    """The name of the volume for a folder; two deployments never share one."""
    root = hashlib.sha256(os.path.realpath(deployment(definition["root"])).encode()).hexdigest()[:8]
    return f"streamops-{root}-{definition['host']}-{folder.strip('/').replace('/', '-')}"


def labels(definition: Definition, role: str) -> dict[str, str]:
    """The labels that say whose a thing is."""
    marks = {**volume_labels(definition), LABEL_ROLE: role}
    return marks if role == "address" else {**marks, LABEL_SERVICE: definition["name"]}


def volume_labels(definition: Definition) -> dict[str, str]:
    """The labels of a volume, which several services of a host may use."""
    return {LABEL_ROOT: deployment(definition["root"]), LABEL_HOST: definition["host"]}


def on_volume(definition: Definition, path: str) -> bool:
    """Whether a path relative to the root is on one of the volumes."""
    return any(PurePosixPath(path).is_relative_to(volume) for volume in definition["volumes"])


def deployment(root: str) -> str:
    """The folder that the roots of all hosts of a deployment on one machine stand in: ``<it>/hosts/<host>``."""
    path = PurePosixPath(root)
    return str(path.parent.parent) if path.parent.name == "hosts" else root


def read_only_paths(definition: Definition) -> list[str]:
    """What of this machine the container sees at the same place and may not write to.

    The folders in which its files stand, those that are on no volume, and the mounts; what stands in another of
    them is not named again.
    """
    root = Path(definition["root"])
    paths = {root / PurePosixPath(entry["path"]).parent for entry in definition["files"]}
    paths |= {root / name for name in definition["directories"] if not on_volume(definition, name)}
    paths |= {Path(name) for name in definition["mounts"]}
    return sorted(str(path) for path in paths if not any(parent in paths for parent in path.parents))


def mounts(definition: Definition) -> list[Body]:
    """All mounts of a service's container."""
    root = Path(definition["root"])
    first = root / "services" / definition["name"] / FIRST
    state = root / STATE
    bound = [_bind(path, read_only=True) for path in [*read_only_paths(definition), str(first)]]
    return [*bound, _bind(str(state), read_only=False), *_volumes(definition)]


def _bind(path: str, *, read_only: bool) -> Body:
    return {"Type": "bind", "Source": path, "Target": path, "ReadOnly": read_only}


def _volumes(definition: Definition) -> list[Body]:
    return [
        {
            "Type": "volume",
            "Source": volume_name(definition, folder),
            "Target": f"{definition['root']}/{folder}",
            # Nothing of the image is copied into it, and it can be told whose it is.
            "VolumeOptions": {"NoCopy": True, "Labels": volume_labels(definition)},
        }
        for folder in definition["volumes"]
    ]


def memory_bytes(limit: str | None) -> int | None:
    """A limit as 768m in bytes."""
    return None if limit is None else int(limit[:-1]) * _UNITS[limit[-1]]


def restart_policy(definition: Definition) -> Body:
    """The first process decides by its exit code; Docker does the rest."""
    return _NO_RESTART if definition["restart"]["policy"] == "never" else {"Name": "on-failure", "MaximumRetryCount": 0}


def no_restart() -> Body:
    """The policy of what somebody stopped: the engine leaves it stopped when the machine starts again."""
    return dict(_NO_RESTART)


def environment(definition: Definition) -> list[str]:
    """The container's environment, which marks its processes as everywhere; the rest is the image's."""
    tags = {
        TAG_SERVICE: definition["name"],
        TAG_ROOT: definition["root"],
        TAG_DIGEST: definition["digest"],
    }
    variables = {"HOME": "/tmp", **definition["environment"], **tags}  # noqa: S108 - of the container alone
    return [f"{key}={value}" for key, value in sorted(variables.items())]


def service_body(definition: Definition, image: Image, holder: str | None) -> Body:
    """The container that runs the service.

    :param holder: the container whose network it shares; None gives it an address of its own.
    """
    root = definition["root"]
    rules = dataclasses.asdict(container_main.rules_of(definition, f"{root}/{STATE}"))
    body: Body = {
        "Image": definition["image"],
        "Entrypoint": [_PYTHON, "-I", "-S", f"{root}/services/{definition['name']}/{FIRST}", json.dumps(rules)],
        "Cmd": list(definition["command"]),
        "Env": environment(definition),
        "User": image.account,
        "WorkingDir": root,
        "StopSignal": f"SIG{definition['stop_signal']}",
        "StopTimeout": round(definition["stop_timeout"]),
        "HostConfig": {
            **_confined(definition),
            "Mounts": mounts(definition),
            "RestartPolicy": restart_policy(definition),
        },
    }
    limit = memory_bytes(definition["memory_limit"])
    if limit is not None:
        # No swap on top: a service over its limit ends, for all to see, and does not crawl.
        body["HostConfig"] |= {"Memory": limit, "MemorySwap": limit}
    if definition["ports"]:
        body["Healthcheck"] = _health(definition)
    _join(body, definition, holder)
    shape = hashlib.sha256(json.dumps([image.id, body], sort_keys=True).encode()).hexdigest()[:16]
    body["Labels"] = {
        **labels(definition, "service"),
        LABEL_DIGEST: definition["digest"],
        LABEL_SHAPE: shape,
    }
    return body


def holder_body(definition: Definition, image: Image) -> Body:
    """The container that does nothing but hold the address which several services of a host share."""
    body: Body = {
        "Image": definition["image"],
        "Entrypoint": ["sleep", "infinity"],
        "Cmd": [],
        "User": image.account,
        # As first process, sleep takes no other signal.
        "StopSignal": "SIGKILL",
        "HostConfig": {**_confined(definition), "RestartPolicy": {"Name": "unless-stopped", "MaximumRetryCount": 0}},
        "Labels": labels(definition, "address"),
    }
    _join(body, definition, None)
    return body


def _confined(definition: Definition) -> Body:
    # What an older release has stored does not say.
    nofile = definition.get("nofile") or NOFILE
    return {
        "ReadonlyRootfs": True,
        "Tmpfs": _TMPFS,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "Ulimits": [{"Name": "nofile", "Soft": nofile, "Hard": nofile}],
        "LogConfig": _LOGS,
    }


def _health(definition: Definition) -> Body:
    probe = f"exec 3<>/dev/tcp/{definition['address']}/{definition['ports'][0]}"
    return {
        "Test": ["CMD", "bash", "-c", probe],
        "Interval": _HEALTH_SECONDS * _SECOND,
        "Timeout": 5 * _SECOND,
        "Retries": 3,
        "StartPeriod": round(definition["start_seconds"] * _SECOND),
    }


def _join(body: Body, definition: Definition, holder: str | None) -> None:
    if holder is not None:
        body["HostConfig"]["NetworkMode"] = f"container:{holder}"
        return
    network = definition["network"]
    body["Hostname"] = definition["host"]
    body["HostConfig"]["NetworkMode"] = network
    body["NetworkingConfig"] = {"EndpointsConfig": {network: endpoint(definition)}}


def endpoint(definition: Definition) -> Body:
    """How the container of a host joins its network."""
    return {"IPAMConfig": {"IPv4Address": definition["address"]}, "Aliases": [definition["host"]]}


def init_body(definition: Definition, image: Image) -> Body:
    """The container that prepares the data once: same image, files and volumes, no network."""
    body: Body = {
        "Image": definition["image"],
        "Entrypoint": [],
        "Cmd": list(definition["init"]["command"]),
        "Env": environment(definition),
        "User": image.account,
        "WorkingDir": definition["root"],
        "HostConfig": {**_confined(definition), "Mounts": mounts(definition), "NetworkMode": "none"},
        "Labels": labels(definition, "task"),
    }
    limit = memory_bytes(definition["memory_limit"])
    if limit is not None:
        body["HostConfig"] |= {"Memory": limit, "MemorySwap": limit}
    return body


def preparation_body(definition: Definition, image: Image) -> Body:
    """The container that gives the volumes to the account, with the folders that the definition wants there.

    It runs as root with the few rights that this takes, sees nothing but the volumes, and runs before the service.
    """
    root = definition["root"]
    volumes = [f"{root}/{name}" for name in definition["volumes"]]
    folders = [f"{root}/{name}" for name in definition["directories"] if on_volume(definition, name)]
    script = (
        'account=$1; count=$2; shift 2; mkdir -p -- "$@"; '
        'while [ "$count" -gt 0 ]; do chown -R -- "$account" "$1"; shift; count=$((count - 1)); done'
    )
    return {
        "Image": definition["image"],
        "Entrypoint": ["/bin/sh", "-euc", script, "sh", image.account, str(len(volumes)), *volumes, *folders],
        "Cmd": [],
        "User": "0:0",
        "HostConfig": {
            "ReadonlyRootfs": True,
            "CapDrop": ["ALL"],
            "CapAdd": ["CHOWN", "DAC_OVERRIDE", "FOWNER"],
            "SecurityOpt": ["no-new-privileges"],
            "NetworkMode": "none",
            "Mounts": _volumes(definition),
        },
        "Labels": labels(definition, "task"),
    }


def differs(body: Body, wanted: Body) -> bool:
    """Whether a container as it was inspected was made from something else than the wanted body."""
    found: Mapping[str, str] = body["Config"].get("Labels") or {}
    return bool(found.get(LABEL_SHAPE) != wanted["Labels"][LABEL_SHAPE])


def variable(body: Body, name: str) -> str | None:
    """A variable of an inspected container's environment."""
    entries: Sequence[str] = body["Config"].get("Env") or []
    return next((entry.partition("=")[2] for entry in entries if entry.startswith(f"{name}=")), None)
