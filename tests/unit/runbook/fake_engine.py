"""A Docker engine in memory: what the project uses of its API, with the answers of the real one."""

from __future__ import annotations

import copy
import itertools
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible_collections.streamops.runbook.plugins.module_utils.runtime.container_main import Record, write_record
from docker.errors import APIError, NotFound

Body = dict[str, Any]

NEVER = "0001-01-01T00:00:00Z"


def refusal(text: str) -> APIError:
    """An error as the engine gives it."""
    return APIError(text, explanation=text)


class FakeEngine:
    """Containers, images, networks and volumes.

    A started container of a service behaves as its first process does: it writes a record, has one more process,
    and ends at the stop signal unless it is deaf.

    :param now: the time in Unix seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self.now = now
        self.bodies: dict[str, Body] = {}
        self.images: dict[str, Body] = {}
        self.nets: dict[str, Body] = {}
        self.vols: dict[str, Body] = {}
        #: Files on volumes, by volume and path below it.
        self.data: dict[str, set[str]] = {}
        self.owners: dict[str, tuple[int, int]] = {}
        self.printed: dict[str, list[str]] = {}
        self.calls: list[str] = []
        self.deaf = False
        #: What a task does when it is started: gets its body, gives its exit code.
        self.task: Callable[[Body], int] = lambda _: 0
        self.builds: list[Body] = []
        self.build_answers: list[Body] = [{"stream": "Successfully built"}]
        self._ids = itertools.count(1)
        self._pids = itertools.count(1000, 10)

    # Set up

    def add_image(self, name: str, account: str | None = "streamops:0:0", user: str = "0:0") -> None:
        labels = {} if account is None else {"streamops.account": account}
        self.images[name] = {"Id": f"sha256:{name}", "Config": {"User": user, "Labels": labels}}

    def add_network(self, name: str, subnet: str, root: str = "") -> None:
        labels = {"streamops.root": root} if root else {}
        config = {"Config": [{"Subnet": subnet}]}
        self.nets[f"id-{name}"] = {"Id": f"id-{name}", "Name": name, "IPAM": config, "Labels": labels}

    def named(self, name: str) -> Body:
        (body,) = [body for body in self.bodies.values() if body["Name"] == f"/{name}"]
        return body

    def ended(self, name: str, code: int) -> None:
        """The container ended by itself and is not started again."""
        state = self.named(name)["State"]
        state.update(Running=False, Status="exited", ExitCode=code, Pid=0)

    # Containers

    def _body(self, container: str) -> Body:
        for body in self.bodies.values():
            if container in (body["Id"], body["Name"].lstrip("/")):
                return body
        raise NotFound(f"No such container: {container}")

    def containers(self, *, all: bool, filters: Mapping[str, Any]) -> list[Body]:  # noqa: A002 - the client's name
        assert all
        wanted = dict(entry.split("=", 1) for entry in filters["label"])
        return [
            {
                "Id": body["Id"],
                "Names": [body["Name"]],
                "State": body["State"]["Status"],
                "Labels": body["Config"]["Labels"],
            }
            for body in self.bodies.values()
            if wanted.items() <= body["Config"]["Labels"].items()
        ]

    def inspect_container(self, container: str) -> Body:
        return copy.deepcopy(self._body(container))

    def create_container_from_config(self, config: Body, name: str | None = None) -> Body:
        number = next(self._ids)
        name = name or f"nameless-{number}"
        if any(body["Name"] == f"/{name}" for body in self.bodies.values()):
            raise refusal(f"Conflict. The container name /{name} is already in use")
        host = config["HostConfig"]
        for mount in host.get("Mounts", []):
            if mount["Type"] == "bind" and not Path(mount["Source"]).exists():
                raise refusal(f"bind source path does not exist: {mount['Source']}")
            if mount["Type"] == "volume" and mount["Source"] not in self.vols:
                labels = mount["VolumeOptions"]["Labels"]
                self.vols[mount["Source"]] = {"Name": mount["Source"], "Labels": labels}
                self.data[mount["Source"]] = set()
                self.owners[mount["Source"]] = (0, 0)
        networks = copy.deepcopy(config.get("NetworkingConfig", {}).get("EndpointsConfig", {}))
        body: Body = {
            "Id": f"c{number}",
            "Name": f"/{name}",
            "Config": {key: config.get(key) for key in ("Entrypoint", "Cmd", "Env", "User", "Labels", "StopSignal")},
            "HostConfig": {"RestartPolicy": {"Name": "no"}, "Mounts": [], **copy.deepcopy(host)},
            "NetworkSettings": {"Networks": networks},
            "State": {
                "Status": "created",
                "Running": False,
                "Paused": False,
                "Restarting": False,
                "OOMKilled": False,
                "Pid": 0,
                "ExitCode": 0,
                "Error": "",
                "StartedAt": NEVER,
            },
        }
        self.bodies[body["Id"]] = body
        return {"Id": body["Id"]}

    def remove_container(self, container: str, *, force: bool) -> None:
        assert force
        del self.bodies[self._body(container)["Id"]]

    def start(self, container: str) -> None:
        body = self._body(container)
        self.calls.append(f"start {body['Name']}")
        if body["Config"]["Labels"].get("streamops.role") == "task":
            body["State"].update(Status="exited", ExitCode=self.task(body))
            return
        started = datetime.fromtimestamp(self.now(), tz=UTC).isoformat().replace("+00:00", "Z")
        body["State"].update(
            Status="running", Running=True, Paused=False, Restarting=False, Pid=next(self._pids), StartedAt=started
        )
        rules = self._rules(body)
        if rules:
            record = Record(rules["service"], rules["host"], state="running", began=self.now() - 1, updated=self.now())
            write_record(Path(rules["folder"]), record)

    @staticmethod
    def _rules(body: Body) -> dict[str, Any]:
        entrypoint = body["Config"]["Entrypoint"] or []
        return dict(json.loads(entrypoint[-1])) if entrypoint[-1:] and entrypoint[-1].startswith("{") else {}

    def stop(self, container: str, timeout: int | None = None) -> None:
        body = self._body(container)
        self.calls.append(f"stop {body['Name']}")
        body["State"].update(Status="exited", Running=False, Restarting=False, Pid=0, ExitCode=137)

    def kill(self, container: str, signal: str | None = None) -> None:
        body = self._body(container)
        self.calls.append(f"kill {body['Name']} {signal}")
        if not body["State"]["Running"]:
            raise refusal(f"Container {container} is not running")
        if signal not in (body["Config"]["StopSignal"], "SIGKILL") or (self.deaf and signal != "SIGKILL"):
            return
        killed = signal == "SIGKILL"
        body["State"].update(Status="exited", Running=False, Pid=0, ExitCode=137 if killed else 143)
        rules = self._rules(body)
        if rules and not killed:
            record = Record(rules["service"], rules["host"], state="stopped", code=0, updated=self.now())
            write_record(Path(rules["folder"]), record)

    def unpause(self, container: str) -> None:
        body = self._body(container)
        self.calls.append(f"unpause {body['Name']}")
        body["State"].update(Paused=False, Status="running")

    def update_container(self, container: str, *, restart_policy: Body) -> Body:
        self._body(container)["HostConfig"]["RestartPolicy"] = dict(restart_policy)
        return {}

    def top(self, container: str, ps_args: str | None = None) -> Body:
        assert ps_args == "-eo pid,ppid,stat,rss"
        body = self._body(container)
        first, stat = body["State"]["Pid"], body.get("stat", "Ssl")
        return {"Processes": [[str(first), "1", "Ss", "8000"], [str(first + 1), str(first), stat, "2000"]]}

    def logs(self, container: str, *, stdout: bool, stderr: bool, tail: int | str) -> bytes:
        lines = self.printed.get(self._body(container)["Id"], [])
        return "".join(f"{line}\n" for line in lines[-int(tail) :]).encode()

    def get_archive(self, container: str, path: str, chunk_size: int) -> tuple[Iterator[bytes], Body]:
        for mount in self._body(container)["HostConfig"]["Mounts"]:
            if mount["Type"] != "volume" or not path.startswith(mount["Target"]):
                continue
            name, below = mount["Source"], path[len(mount["Target"]) :].lstrip("/")
            if below and below not in self.data[name]:
                break
            entry = tarfile.TarInfo(Path(path).name)
            entry.type = tarfile.DIRTYPE
            entry.uid, entry.gid = self.owners[name]
            return iter([entry.tobuf()]), {}
        raise NotFound(f"Could not find the file {path}")

    # Images, networks, volumes

    def inspect_image(self, image: str) -> Body:
        if image not in self.images:
            raise NotFound(f"No such image: {image}")
        return self.images[image]

    def build(self, **options: Any) -> Iterator[Body]:
        content = options["fileobj"].read()
        self.builds.append({**options, "content": content})
        if not any("error" in answer for answer in self.build_answers):
            self.add_image(options["tag"], options["labels"]["streamops.account"])
        return iter(self.build_answers)

    def networks(self, names: list[str] | None = None, *, filters: Mapping[str, Any] | None = None) -> list[Body]:
        wanted = dict(entry.split("=", 1) for entry in (filters or {}).get("label", []))
        return [
            body
            for body in self.nets.values()
            if (names is None or any(name in body["Name"] for name in names))
            and wanted.items() <= body["Labels"].items()
        ]

    def inspect_network(self, net_id: str) -> Body:
        body = dict(self.nets[net_id])
        members = {}
        for one in self.bodies.values():
            endpoint = one["NetworkSettings"]["Networks"].get(body["Name"])
            if endpoint is not None and one["State"]["Running"]:
                address = f"{endpoint['IPAMConfig']['IPv4Address']}/24"
                members[one["Id"]] = {"Name": one["Name"].lstrip("/"), "IPv4Address": address}
        return {**body, "Containers": members}

    def create_network(self, name: str, *, driver: str, ipam: Body, labels: Mapping[str, str]) -> Body:
        assert driver == "bridge"
        self.add_network(name, ipam["Config"][0]["Subnet"], labels["streamops.root"])
        return {"Id": f"id-{name}"}

    def remove_network(self, net_id: str) -> None:
        del self.nets[net_id]

    def connect_container_to_network(
        self, container: str, net_id: str, *, ipv4_address: str, aliases: list[str]
    ) -> None:
        networks = self._body(container)["NetworkSettings"]["Networks"]
        networks[net_id] = {"IPAMConfig": {"IPv4Address": ipv4_address}, "Aliases": aliases}

    def inspect_volume(self, name: str) -> Body:
        if name not in self.vols:
            raise NotFound(f"no such volume: {name}")
        return self.vols[name]

    def volumes(self, *, filters: Mapping[str, Any]) -> Body:
        wanted = dict(entry.split("=", 1) for entry in filters["label"])
        return {"Volumes": [body for body in self.vols.values() if wanted.items() <= body["Labels"].items()] or None}

    def remove_volume(self, name: str) -> None:
        del self.vols[name]
