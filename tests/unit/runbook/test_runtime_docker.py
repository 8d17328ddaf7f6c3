"""The runtime docker, with real files and an engine in memory."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.streamops.runbook.plugins.module_utils import runtime
from ansible_collections.streamops.runbook.plugins.module_utils.errors import (
    DeadlineExceeded,
    Refused,
    RunbookError,
    ServiceError,
)
from ansible_collections.streamops.runbook.plugins.module_utils.runtime import container
from ansible_collections.streamops.runbook.plugins.module_utils.runtime.container_main import Record, write_record
from ansible_collections.streamops.runbook.plugins.module_utils.runtime.docker_engine import DockerRuntime
from ansible_collections.streamops.runbook.plugins.module_utils.service import (
    ServiceDefinition,
    ServiceInfo,
    parse_definition,
)
from ansible_collections.streamops.runbook.plugins.module_utils.service_files import Owner, revert_files
from docker.errors import DockerException

from tests.unit.runbook.fake_engine import FakeEngine

ACCOUNT = f"streamops:{os.geteuid()}:{os.getegid()}"
IMAGE = "streamops/clock:1"
ADDRESS = "172.28.0.11"


class Bed:
    """One deployment with a host on an engine in memory; time passes by sleeping."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.root = home / "hosts" / "clock-1"
        self.now = 1_800_000_000.0
        self.engine = FakeEngine(lambda: self.now)
        self.engine.add_image(IMAGE, ACCOUNT)
        self.engine.add_network("pipe", "172.28.0.0/24", str(home))
        self.runtime = DockerRuntime(lambda: self.engine, lambda: self.now, self.sleep, lambda: self.now)

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def define(self, **changes: Any) -> ServiceDefinition:
        base: dict[str, Any] = {
            "name": "clock",
            "host": "clock-1",
            "root": str(self.root),
            "address": ADDRESS,
            "command": ["/usr/bin/clock", "--config", f"{self.root}/etc/clock/clock.yml"],
            "directories": ["log"],
            "files": [{"path": "etc/clock/clock.yml", "content": "tick: 1\n"}],
            "ports": [8080],
            "image": IMAGE,
            "network": "pipe",
            "stop_timeout": 10,
            "start_seconds": 5,
        }
        return parse_definition({**base, **changes})

    def running(self, **changes: Any) -> ServiceDefinition:
        definition = self.define(**changes)
        self.runtime.deploy(definition)
        self.runtime.start(definition.ref)
        self.now += 60
        return definition

    def info(self, definition: ServiceDefinition) -> ServiceInfo:
        return self.runtime.info(definition.ref)

    def record(self, **said: Any) -> None:
        write_record(self.root / "state", Record("clock", "clock-1", **{"updated": self.now, **said}))


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    return Bed(tmp_path)


def test_the_registry_knows_docker() -> None:
    assert isinstance(runtime.get("docker"), DockerRuntime)


# What a container is made from


@pytest.mark.parametrize(
    ("host", "service", "name"),
    [
        ("kafka-1", "kafka", "kafka-1"),
        ("spark-12", "spark-streaming", "spark-12"),
        ("producer-1", "producer", "producer-1"),
        ("monitoring-1", "prometheus", "monitoring-1-prometheus"),
        ("kafka-1", "node-exporter", "kafka-1-node-exporter"),
        ("ops", "inbox", "ops-inbox"),
    ],
)
def test_a_container_has_its_hosts_name_where_the_host_is_named_after_the_service(
    host: str, service: str, name: str
) -> None:
    assert container.container_name(host, service) == name


def stored(bed: Bed, **changes: Any) -> dict[str, Any]:
    return dict(json.loads(json.dumps(bed.define(**changes).public())))


def service_body(bed: Bed, holder: str | None = None, **changes: Any) -> dict[str, Any]:
    return container.service_body(stored(bed, **changes), container.Image("i", Owner("streamops", 7, 8)), holder)


def test_a_service_gets_the_rights_that_it_needs_and_no_more(bed: Bed) -> None:
    body = service_body(bed, memory_limit="768m", stop_signal="INT", stop_timeout=90)
    host = body["HostConfig"]
    assert (host["Memory"], host["MemorySwap"]) == (768 << 20, 768 << 20)
    assert (host["CapDrop"], host["SecurityOpt"], host["ReadonlyRootfs"]) == (["ALL"], ["no-new-privileges"], True)
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}
    assert host["Ulimits"] == [{"Name": "nofile", "Soft": 20_000, "Hard": 20_000}]
    fewer = service_body(bed, nofile=4096)["HostConfig"]["Ulimits"]
    assert fewer == [{"Name": "nofile", "Soft": 4096, "Hard": 4096}]
    assert (body["User"], body["StopSignal"], body["StopTimeout"]) == ("7:8", "SIGINT", 90)
    assert body["NetworkingConfig"]["EndpointsConfig"]["pipe"]["IPAMConfig"] == {"IPv4Address": ADDRESS}
    assert body["Healthcheck"]["Test"] == ["CMD", "bash", "-c", f"exec 3<>/dev/tcp/{ADDRESS}/8080"]
    assert "Memory" not in service_body(bed)["HostConfig"]
    assert "Healthcheck" not in service_body(bed, ports=[])


@pytest.mark.parametrize(("policy", "name"), [("on-failure", "on-failure"), ("always", "on-failure"), ("never", "no")])
def test_docker_starts_again_what_its_first_process_wants_started_again(bed: Bed, policy: str, name: str) -> None:
    assert service_body(bed, restart={"policy": policy})["HostConfig"]["RestartPolicy"]["Name"] == name


def test_the_first_process_is_told_the_rules(bed: Bed) -> None:
    asked = {"success_exit_codes": [0, 78], "crashes": 3, "window_seconds": 900}
    entrypoint = service_body(bed, restart=asked)["Entrypoint"]
    assert entrypoint[:4] == ["/usr/bin/python3", "-I", "-S", f"{bed.root}/services/clock/container.py"]
    rules = json.loads(entrypoint[4])
    assert rules["success_exit_codes"] == [0, 78]
    assert (rules["crashes"], rules["window_seconds"], rules["folder"]) == (3, 900, f"{bed.root}/state")


def test_files_are_mounted_where_they_are_and_data_stands_on_volumes(bed: Bed) -> None:
    files = [
        {"path": "etc/clock/clock.yml", "content": ""},
        {"path": "etc/clock/more/x.yml", "content": ""},
        {"path": "bin/tool.sh", "content": ""},
    ]
    body = service_body(
        bed, files=files, directories=["log", "data/clock/a"], volumes=["data/clock"], mounts=["/srv/release"]
    )
    mounts = {mount["Target"]: mount for mount in body["HostConfig"]["Mounts"]}
    read_only = {target for target, mount in mounts.items() if mount.get("ReadOnly")}
    assert read_only == {
        f"{bed.root}/bin",
        f"{bed.root}/etc/clock",
        f"{bed.root}/log",
        f"{bed.root}/services/clock/container.py",
        "/srv/release",
    }
    assert not mounts[f"{bed.root}/state"]["ReadOnly"]
    volume = mounts[f"{bed.root}/data/clock"]
    assert volume["Type"] == "volume"
    assert volume["Source"].endswith("-clock-1-data-clock")
    assert volume["VolumeOptions"]["Labels"] == {"streamops.root": str(bed.home), "streamops.host": "clock-1"}


def test_two_deployments_never_share_a_volume(bed: Bed, tmp_path: Path) -> None:
    other = Bed(tmp_path / "other")
    assert container.volume_name(stored(bed), "data") != container.volume_name(stored(other), "data")


def test_all_that_a_container_is_made_from_counts_when_two_are_compared(bed: Bed) -> None:
    shape = service_body(bed)["Labels"]["streamops.shape"]
    assert service_body(bed)["Labels"]["streamops.shape"] == shape
    assert service_body(bed, mounts=["/srv"])["Labels"]["streamops.shape"] != shape
    assert service_body(bed, directories=["log", "more"])["Labels"]["streamops.shape"] != shape


def test_processes_carry_the_tags_of_their_definition(bed: Bed) -> None:
    definition = bed.define(environment={"EDITION": "2"})
    environment = service_body(bed, environment={"EDITION": "2"})["Env"]
    assert f"STREAMOPS_DEFINITION={definition.digest}" in environment
    assert {"STREAMOPS_SERVICE=clock", f"STREAMOPS_ROOT={bed.root}", "EDITION=2", "HOME=/tmp"} <= set(environment)


# Deploy


def test_nothing_deployed_is_absent_and_cannot_be_started(bed: Bed) -> None:
    ref = bed.define().ref
    assert bed.runtime.info(ref)["state"] == "absent"
    with pytest.raises(Refused, match="clock on clock-1: found nothing deployed"):
        bed.runtime.start(ref)
    assert bed.runtime.stop(ref).did == []
    assert bed.runtime.remove(ref).did == []


def test_deploying_twice_changes_once_and_starts_nothing(bed: Bed) -> None:
    definition = bed.define()
    planned = bed.runtime.deploy(definition, check=True)
    assert not bed.root.exists()
    assert not bed.engine.bodies
    first = bed.runtime.deploy(definition)
    assert first.did == planned.did
    assert first.did[-1] == "create container clock-1"
    assert bed.runtime.deploy(definition).did == []
    info = bed.info(definition)
    assert (info["state"], info["detail"]) == ("stopped", "not started yet")
    assert info["digest_deployed"] == definition.digest


def test_folders_of_volumes_are_made_there_and_not_on_this_machine(bed: Bed) -> None:
    tasks: list[dict[str, Any]] = []

    def task(body: dict[str, Any]) -> int:
        tasks.append(body)
        return 0

    bed.engine.task = task
    definition = bed.define(volumes=["data/clock"], directories=["log", "data/clock/a"])
    bed.runtime.deploy(definition)
    assert not (bed.root / "data").exists()
    (preparation,) = tasks
    assert preparation["Config"]["User"] == "0:0"
    entrypoint = preparation["Config"]["Entrypoint"]
    account = f"{os.geteuid()}:{os.getegid()}"
    assert entrypoint[4:] == [account, "1", f"{bed.root}/data/clock", f"{bed.root}/data/clock/a"]
    assert [mount["Type"] for mount in preparation["HostConfig"]["Mounts"]] == ["volume"]
    assert [body["Name"] for body in bed.engine.bodies.values()] == ["/clock-1"]


def volume_of(bed: Bed) -> str:
    (name,) = bed.engine.vols
    return name


def test_init_runs_once_in_a_container_of_its_own(bed: Bed) -> None:
    init = {"command": ["format", "data"], "creates": "data/meta"}
    ran: list[list[str]] = []

    def task(body: dict[str, Any]) -> int:
        ran.append(body["Config"]["Cmd"])
        bed.engine.data[volume_of(bed)].add("meta")
        return 0

    bed.engine.task = task
    definition = bed.define(volumes=["data"], init=init)
    assert bed.runtime.deploy(definition, check=True).did[-1] == "init makes data/meta"
    assert bed.runtime.deploy(definition).did[-1] == "init makes data/meta"
    assert ran[-1] == ["format", "data"]
    assert bed.runtime.deploy(definition).did == []
    # Not when the container is made from something else by now, nor when it is gone: the data is there.
    changed = bed.define(volumes=["data"], init=init, environment={"EDITION": "2"})
    assert not any(phrase.startswith("init") for phrase in bed.runtime.deploy(changed).did)
    bed.engine.remove_container("clock-1", force=True)
    assert bed.runtime.deploy(changed).did == ["create container clock-1"]
    assert ran.count(["format", "data"]) == 1


def test_a_failing_init_shows_its_last_words_without_secrets(bed: Bed) -> None:
    files = [{"path": "etc/clock/s", "content": "password=Vb3Canary9Secret77qrs", "mode": "0600", "sensitive": True}]

    def task(body: dict[str, Any]) -> int:
        bed.engine.printed[body["Id"]] = ["read", "password=Vb3Canary9Secret77qrs"]
        return 4

    bed.engine.task = task
    definition = bed.define(init={"command": ["format"], "creates": "etc/none"}, files=files)
    with pytest.raises(ServiceError, match=r"init of clock: found exit code 4: read\npassword=\*{8}, expected"):
        bed.runtime.deploy(definition)
    assert [body["Name"] for body in bed.engine.bodies.values()] == ["/clock-1"]


def test_an_init_that_leaves_no_trace_is_an_error(bed: Bed) -> None:
    with pytest.raises(ServiceError, match="no trace of what it was to make"):
        bed.runtime.deploy(bed.define(init={"command": ["format"], "creates": "etc/none"}))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image": None}, r"service clock\.image: found nothing"),
        ({"network": None}, r"service clock\.network: found nothing"),
        ({"image": "streamops/none:1"}, r"image streamops/none:1: found none of that name.*Next: run site\.yml"),
        ({"network": "none"}, "network none: found none of that name"),
        ({"address": "172.29.0.11"}, r"address 172\.29\.0\.11 of clock-1: found network pipe with 172\.28\.0\.0/24"),
        ({"address": "172.28.0.1"}, "found one that network pipe needs itself"),
        ({"address": "172.28.0.255"}, "found one that network pipe needs itself"),
        ({"address": "clock-1.lan"}, "found a name, expected an IP address"),
        ({"user": "kafka"}, "image streamops/clock:1: found the account streamops, expected kafka"),
        ({"mounts": ["/no/such/folder"]}, "mount /no/such/folder of service clock: found nothing there"),
        ({"files": [{"path": "x", "content": ""}]}, "expected a file in a folder"),
    ],
)
def test_what_can_not_work_is_refused_by_name_before_anything_is_touched(
    bed: Bed, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(Refused, match=said):
        bed.runtime.deploy(bed.define(**changes))
    assert not bed.engine.bodies
    assert not (bed.root / "services").exists()


def test_a_plan_is_made_before_image_and_network_are_there(bed: Bed) -> None:
    definition = bed.define(image="streamops/none:1", network="none")
    assert bed.runtime.deploy(definition, check=True).did[-1] == "create container clock-1"


def test_an_image_without_a_label_runs_as_its_own_user(bed: Bed) -> None:
    bed.engine.add_image(IMAGE, None, f"{os.geteuid()}:{os.getegid()}")
    bed.runtime.deploy(bed.define())
    bed.engine.add_image(IMAGE, None, "somebody")
    with pytest.raises(Refused, match="found the account somebody, expected an account with a number"):
        bed.runtime.deploy(bed.define())


def test_who_is_not_root_deploys_for_himself_alone(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    bed.engine.add_image(IMAGE, "streamops:4711:4711")
    monkeypatch.setattr(os, "geteuid", lambda: 4712)
    with pytest.raises(Refused, match="services that run as user 4711, to whom user 4712 can't give files"):
        bed.runtime.deploy(bed.define())


def test_a_container_of_that_name_that_is_not_ours_is_left_alone(bed: Bed, tmp_path: Path) -> None:
    bed.engine.create_container_from_config({"HostConfig": {}, "Labels": {}}, "clock-1")
    with pytest.raises(Refused, match="container clock-1: found one that is not of this project"):
        bed.runtime.deploy(bed.define())
    bed.engine.bodies.clear()
    other = Bed(tmp_path / "other")
    other.engine = bed.engine
    other.engine.nets["id-pipe"]["Labels"] = {}
    other.runtime.deploy(other.define())
    with pytest.raises(Refused, match=f"container clock-1: found that of clock of {other.home}"):
        bed.runtime.deploy(bed.define())


def test_a_volume_of_that_name_that_is_not_ours_is_left_alone(bed: Bed) -> None:
    name = container.volume_name(stored(bed), "data")
    bed.engine.vols[name] = {"Name": name, "Labels": None}
    with pytest.raises(Refused, match=f"volume {name}: found one that is not of this project"):
        bed.runtime.deploy(bed.define(volumes=["data"]))


# Start, stop, restart


def test_start_runs_what_is_deployed_once(bed: Bed) -> None:
    definition = bed.define()
    bed.runtime.deploy(definition)
    assert bed.runtime.start(definition.ref, check=True).did == ["start clock"]
    assert bed.runtime.start(definition.ref).did == ["start clock"]
    info = bed.info(definition)
    assert (info["state"], info["pid"], info["memory_bytes"]) == ("starting", 1001, 10_000 * 1024)
    assert info["started_at"] == "2027-01-15T08:00:00.000Z"
    assert info["digest_running"] == definition.digest
    assert not info["restart_needed"]
    bed.now += 5
    assert bed.info(definition)["state"] == "running"
    assert bed.runtime.start(definition.ref).did == []
    assert bed.engine.calls.count("start /clock-1") == 1


def test_a_start_that_ends_at_once_says_why(bed: Bed) -> None:
    definition = bed.define()
    bed.runtime.deploy(definition)
    start = bed.engine.start

    def failing(container: str) -> None:
        start(container)
        bed.engine.ended("clock-1", 3)
        bed.engine.printed[container] = ["no such file", "container: ended with exit code 3; Docker starts it again"]
        bed.record(state="backoff", code=3)

    bed.engine.start = failing  # type: ignore[method-assign]
    with pytest.raises(ServiceError, match=r"exited with exit code 3 right after the start \(no such file / ") as error:
        bed.runtime.start(definition.ref)
    assert error.value.__notes__ == ["start clock"]


def test_a_start_whose_service_never_shows_comes_to_an_end(bed: Bed) -> None:
    definition = bed.define()
    bed.runtime.deploy(definition)
    start = bed.engine.start

    def silent(container: str) -> None:
        start(container)
        (bed.root / "state" / "clock.json").unlink()

    bed.engine.start = silent  # type: ignore[method-assign]
    with pytest.raises(DeadlineExceeded, match="a container whose service does not show"):
        bed.runtime.start(definition.ref)


def test_a_changed_definition_waits_for_the_restart_and_takes_a_new_container(bed: Bed) -> None:
    old = bed.running(volumes=["data"])
    before = bed.engine.named("clock-1")["Id"]
    bed.engine.printed[before] = ["one", "two"]
    new = bed.define(environment={"EDITION": "2"}, volumes=["data"])
    bed.runtime.deploy(new)
    info = bed.info(new)
    assert (info["digest_running"], info["restart_needed"]) == (old.digest, True)
    did = bed.runtime.restart(new.ref).did
    assert did == ["stop clock", "remove outdated container clock-1", "create container clock-1", "start clock"]
    assert bed.engine.named("clock-1")["Id"] != before
    assert len(bed.engine.vols) == 1
    assert not bed.info(new)["restart_needed"]
    # What the former container printed is still there.
    bed.engine.printed[bed.engine.named("clock-1")["Id"]] = ["three"]
    assert bed.runtime.logs(new.ref, 2) == ["two", "three"]
    assert bed.runtime.logs(new.ref, 0) == []


def test_an_unchanged_one_keeps_its_container(bed: Bed) -> None:
    definition = bed.running()
    before = bed.engine.named("clock-1")["Id"]
    assert bed.runtime.restart(definition.ref).did == ["stop clock", "start clock"]
    assert bed.engine.named("clock-1")["Id"] == before


def test_another_image_of_the_same_name_asks_for_a_restart(bed: Bed) -> None:
    definition = bed.running()
    bed.engine.images[IMAGE]["Id"] = "sha256:other"
    assert bed.info(definition)["restart_needed"]


def test_since_spares_what_was_started_later(bed: Bed) -> None:
    definition = bed.running()
    assert bed.runtime.restart(definition.ref, since=bed.now - 120).did == []
    assert bed.runtime.restart(definition.ref, since=bed.now).did == ["stop clock", "start clock"]


def test_since_spares_nothing_that_is_stuck(bed: Bed) -> None:
    definition = bed.running()
    body = bed.engine.named("clock-1")
    # Docker itself may have started it again meanwhile, off its network as before.
    body["NetworkSettings"]["Networks"].clear()
    assert bed.runtime.restart(definition.ref, since=bed.now - 120).did == ["connect clock-1 to network pipe"]
    body["State"].update(Paused=True, Status="paused")
    assert bed.runtime.restart(definition.ref, since=bed.now - 120).did == ["unpause clock-1"]
    body["stat"] = "Tl"
    pid = bed.info(definition)["pid"]
    did = bed.runtime.restart(definition.ref, since=bed.now - 120).did
    assert did == ["stop clock", f"kill suspended {pid}", "start clock"]


def test_a_restart_whose_image_is_gone_stops_nothing(bed: Bed) -> None:
    definition = bed.running()
    bed.engine.images.clear()
    with pytest.raises(Refused, match="none of that name in this engine"):
        bed.runtime.restart(definition.ref)
    assert bed.info(definition)["state"] == "running"


def test_stop_ends_it_and_docker_starts_it_no_more(bed: Bed) -> None:
    definition = bed.running()
    assert bed.runtime.stop(definition.ref, check=True).did == ["stop clock"]
    assert bed.info(definition)["state"] == "running"
    assert bed.runtime.stop(definition.ref).did == ["stop clock"]
    assert bed.engine.named("clock-1")["HostConfig"]["RestartPolicy"]["Name"] == "no"
    info = bed.info(definition)
    assert (info["state"], info["exit_code"], info["detail"]) == ("stopped", 0, "")
    assert bed.runtime.stop(definition.ref).did == []
    bed.runtime.start(definition.ref)
    assert bed.engine.named("clock-1")["HostConfig"]["RestartPolicy"]["Name"] == "on-failure"


def test_what_takes_no_signal_is_killed_after_its_time(bed: Bed) -> None:
    definition = bed.running()
    bed.engine.deaf = True
    assert bed.runtime.stop(definition.ref).did == ["stop clock", "kill clock, which did not end within 10 s"]
    assert (bed.info(definition)["state"], bed.info(definition)["exit_code"]) == ("stopped", -9)


def test_a_callers_own_deadline_ends_the_waiting(bed: Bed) -> None:
    definition = bed.running()
    bed.engine.deaf = True
    with pytest.raises(DeadlineExceeded, match="its container still running after 3 s") as error:
        bed.runtime.stop(definition.ref, timeout=3)
    assert error.value.__notes__ == ["stop clock"]


def test_a_suspended_process_is_killed_by_a_restart(bed: Bed) -> None:
    definition = bed.running()
    bed.engine.named("clock-1")["stat"] = "Tl"
    info = bed.info(definition)
    assert (info["state"], info["detail"]) == ("suspended", "stopped by a signal (state T)")
    pid = info["pid"]
    assert bed.runtime.restart(definition.ref).did == ["stop clock", f"kill suspended {pid}", "start clock"]


def test_a_paused_container_goes_on_at_a_start_and_ends_at_a_restart(bed: Bed) -> None:
    definition = bed.running()
    state = bed.engine.named("clock-1")["State"]
    state.update(Paused=True, Status="paused")
    assert (bed.info(definition)["state"], bed.info(definition)["detail"]) == ("suspended", "its container is paused")
    assert bed.runtime.start(definition.ref, check=True).did == ["unpause clock-1"]
    assert bed.runtime.start(definition.ref).did == ["unpause clock-1"]
    assert bed.info(definition)["state"] == "running"
    state.update(Paused=True, Status="paused")
    assert bed.runtime.restart(definition.ref).did == ["stop clock", "start clock"]
    assert bed.engine.calls[-3:] == ["unpause /clock-1", "kill /clock-1 SIGTERM", "start /clock-1"]


@pytest.mark.parametrize("verb", ["start", "restart"])
def test_one_that_was_cut_off_from_its_network_joins_it_again(bed: Bed, verb: str) -> None:
    definition = bed.running()
    body = bed.engine.named("clock-1")
    body["NetworkSettings"]["Networks"].clear()
    assert (bed.info(definition)["state"], bed.info(definition)["detail"]) == ("isolated", "cut off from network pipe")
    assert "connect clock-1 to network pipe" in getattr(bed.runtime, verb)(definition.ref).did
    assert body["NetworkSettings"]["Networks"]["pipe"]["IPAMConfig"] == {"IPv4Address": ADDRESS}
    assert bed.info(definition)["state"] in ("starting", "running")
    assert bed.info(definition)["detail"] == ""


def test_what_somebody_started_by_hand_is_left_to_docker_again(bed: Bed) -> None:
    definition = bed.running()
    bed.runtime.stop(definition.ref)
    bed.engine.start("clock-1")
    assert bed.runtime.start(definition.ref).did == ["let Docker start clock-1 again when it fails"]
    assert bed.runtime.start(definition.ref).did == []


def test_a_taken_address_is_refused_by_name(bed: Bed) -> None:
    definition = bed.define()
    bed.runtime.deploy(definition)
    networking = {"EndpointsConfig": {"pipe": {"IPAMConfig": {"IPv4Address": ADDRESS}}}}
    bed.engine.create_container_from_config(
        {"HostConfig": {}, "Labels": {}, "NetworkingConfig": networking}, "stranger"
    )
    bed.engine.start("stranger")
    for check in (True, False):
        with pytest.raises(Refused, match=r"address 172\.28\.0\.11 of clock-1: found container stranger with it"):
            bed.runtime.start(definition.ref, check=check)
    assert bed.engine.named("stranger")["State"]["Running"]


def test_a_container_that_somebody_removed_is_made_again(bed: Bed) -> None:
    definition = bed.running()
    bed.engine.remove_container("clock-1", force=True)
    assert (bed.info(definition)["state"], bed.info(definition)["detail"]) == ("stopped", "no container")
    assert bed.runtime.start(definition.ref).did == ["create container clock-1", "start clock"]


def test_removing_keeps_volumes_and_the_end_of_the_log(bed: Bed) -> None:
    definition = bed.running(volumes=["data"])
    bed.engine.printed[bed.engine.named("clock-1")["Id"]] = ["last words"]
    planned = bed.runtime.remove(definition.ref, check=True).did
    did = bed.runtime.remove(definition.ref).did
    assert did == planned
    assert did[0] == "stop clock"
    assert did[-1] == "remove container clock-1"
    assert not bed.engine.bodies
    assert len(bed.engine.vols) == 1
    assert not (bed.root / "services" / "clock").exists()
    assert not (bed.root / "etc/clock/clock.yml").exists()
    assert (bed.root / "log" / "clock.log").read_text() == "last words\n"
    assert bed.info(definition)["state"] == "absent"


# How it ended


def test_what_ended_by_itself_says_with_which_code(bed: Bed) -> None:
    definition = bed.running()
    bed.engine.ended("clock-1", 0)
    bed.record(state="exited", code=78)
    info = bed.info(definition)
    assert (info["state"], info["exit_code"]) == ("exited", 78)
    assert info["detail"] == "ended by itself with exit code 78"
    assert info["pid"] is None
    assert info["digest_running"] is None
    assert bed.runtime.stop(definition.ref).did == []
    assert bed.info(definition)["state"] == "stopped"


def test_one_that_was_given_up_is_fatal_until_it_is_stopped_or_started(bed: Bed) -> None:
    definition = bed.running()
    bed.engine.ended("clock-1", 0)
    bed.record(state="fatal", code=-9, oom=True, reason="ended 3 times in 900 s")
    info = bed.info(definition)
    assert (info["state"], info["exit_code"]) == ("fatal", -9)
    assert info["detail"] == "ended 3 times in 900 s, last signal 9, killed for memory"
    assert bed.runtime.stop(definition.ref).did == ["clear fatal clock"]
    assert bed.info(definition)["state"] == "stopped"
    assert bed.runtime.start(definition.ref).did == ["start clock"]


def test_between_two_tries_of_docker_it_is_backing_off(bed: Bed) -> None:
    definition = bed.running()
    bed.engine.named("clock-1")["State"].update(Status="restarting", Restarting=True, ExitCode=3, Pid=0)
    bed.record(state="backoff", code=3)
    info = bed.info(definition)
    assert (info["state"], info["detail"]) == ("backoff", "keeps ending, last exit code 3")
    assert bed.runtime.start(definition.ref).did == ["start clock"]
    assert bed.engine.calls[-2:] == ["stop /clock-1", "start /clock-1"]


@pytest.mark.parametrize(("code", "seen"), [(137, -9), (143, -15), (3, 3), (255, 255)])
def test_without_a_word_of_the_first_process_dockers_own_code_counts(bed: Bed, code: int, seen: int) -> None:
    definition = bed.running()
    bed.engine.ended("clock-1", code)
    info = bed.info(definition)
    assert (info["state"], info["exit_code"]) == ("exited", seen)
    assert info["detail"].endswith("and Docker does not start it again")


def test_dockers_own_troubles_are_told(bed: Bed) -> None:
    definition = bed.running()
    bed.engine.ended("clock-1", 128)
    bed.engine.named("clock-1")["State"]["Error"] = "Address already in use"
    bed.record(state="backoff", code=3)
    info = bed.info(definition)
    assert (info["state"], info["detail"]) == ("fatal", "Docker could not start it again: Address already in use")


def test_a_living_one_tells_of_its_troubles(bed: Bed) -> None:
    definition = bed.running(memory_limit="64m")
    state = bed.engine.named("clock-1")["State"]
    state["Health"] = {"Status": "unhealthy"}
    assert bed.info(definition)["detail"] == "nothing takes connections at port 8080"
    state["Health"] = {"Status": "healthy"}
    bed.record(state="running", code=-9, oom=True)
    assert bed.info(definition)["detail"] == "started again after it was killed for memory over 64m"


# Reload


def reloading(bed: Bed, content: str) -> ServiceDefinition:
    files = [{"path": "etc/clock/clock.yml", "content": content, "reloads": True}]
    return bed.define(files=files, reload_signal="HUP")


def aged(bed: Bed, seconds: float) -> None:
    """Let the reloadable file be written that long ago, for time here is not the machine's."""
    path = bed.root / "etc/clock/clock.yml"
    os.utime(path, (bed.now - seconds, bed.now - seconds))


def test_a_signal_makes_it_read_changed_files_once(bed: Bed) -> None:
    old = reloading(bed, "tick: 1\n")
    bed.runtime.deploy(old)
    aged(bed, 10)
    bed.runtime.start(old.ref)
    assert not bed.info(old)["reload_needed"]
    assert bed.runtime.reload(old.ref).did == []
    new = reloading(bed, "tick: 2\n")
    bed.runtime.deploy(new)
    info = bed.info(new)
    assert (info["reload_needed"], info["restart_needed"]) == (True, False)
    assert bed.runtime.reload(new.ref, check=True).did == ["reload clock"]
    assert bed.runtime.reload(new.ref).did == ["reload clock"]
    assert bed.engine.calls[-1] == "kill /clock-1 SIGHUP"
    assert not bed.info(new)["reload_needed"]
    assert bed.runtime.reload(new.ref).did == []
    revert_files(new.ref)
    assert bed.info(old)["reload_needed"]


def test_one_that_docker_started_again_has_read_what_was_there(bed: Bed) -> None:
    definition = reloading(bed, "tick: 1\n")
    bed.runtime.deploy(definition)
    bed.runtime.start(definition.ref)
    bed.runtime.deploy(reloading(bed, "tick: 2\n"))
    aged(bed, 0)
    bed.now += 1
    bed.engine.start("clock-1")
    assert not bed.info(definition)["reload_needed"]
    bed.now += 1
    aged(bed, 0)
    assert bed.info(definition)["reload_needed"]


def test_a_service_without_a_reload_signal_is_not_reloaded(bed: Bed) -> None:
    definition = bed.running()
    with pytest.raises(Refused, match="no reload signal"):
        bed.runtime.reload(definition.ref)


# Several services on one host


@pytest.fixture
def pair(bed: Bed) -> tuple[ServiceDefinition, ServiceDefinition]:
    """Two services that share their host's address."""
    root = str(bed.home / "hosts" / "monitoring-1")
    host = {"host": "monitoring-1", "root": root, "address": "172.28.0.61", "files": []}
    first = bed.define(**host, name="prometheus", ports=[9090])
    second = bed.define(**host, name="inbox", ports=[9095])
    for definition in (first, second):
        bed.runtime.deploy(definition)
    return first, second


def test_services_of_a_host_share_the_address_that_a_third_container_holds(
    bed: Bed, pair: tuple[ServiceDefinition, ServiceDefinition]
) -> None:
    first, second = pair
    assert sorted(body["Name"] for body in bed.engine.bodies.values()) == [
        "/monitoring-1",
        "/monitoring-1-inbox",
        "/monitoring-1-prometheus",
    ]
    holder = bed.engine.named("monitoring-1")
    assert bed.engine.named("monitoring-1-inbox")["HostConfig"]["NetworkMode"] == f"container:{holder['Id']}"
    started = ["start container monitoring-1, which holds the address", "start prometheus"]
    assert bed.runtime.start(first.ref).did == started
    assert bed.runtime.start(second.ref).did == ["start inbox"]
    bed.runtime.stop(first.ref)
    assert holder["State"]["Running"]
    bed.runtime.stop(second.ref)
    assert not holder["State"]["Running"]
    for definition in pair:
        bed.runtime.remove(definition.ref)
    assert not bed.engine.bodies


def test_one_whose_address_was_taken_away_is_started_anew(
    bed: Bed, pair: tuple[ServiceDefinition, ServiceDefinition]
) -> None:
    first, _ = pair
    bed.runtime.start(first.ref)
    bed.now += 60
    bed.engine.stop("monitoring-1")
    assert bed.info(first)["detail"] == "container monitoring-1, whose address it had, does not run"
    bed.engine.start("monitoring-1")
    assert bed.info(first)["detail"] == "container monitoring-1, whose address it had, was started after it"
    assert bed.runtime.start(first.ref).did == ["stop prometheus", "start prometheus"]
    assert bed.info(first)["detail"] == ""
    bed.engine.remove_container("monitoring-1", force=True)
    assert bed.info(first)["detail"] == "container monitoring-1, whose address it had, is gone"
    assert bed.runtime.start(first.ref).did == [
        "stop prometheus",
        "start container monitoring-1, which holds the address",
        "remove outdated container monitoring-1-prometheus",
        "create container monitoring-1-prometheus",
        "start prometheus",
    ]


def test_what_holds_the_address_joins_the_network_again(
    bed: Bed, pair: tuple[ServiceDefinition, ServiceDefinition]
) -> None:
    first, second = pair
    for definition in pair:
        bed.runtime.start(definition.ref)
    bed.engine.named("monitoring-1")["NetworkSettings"]["Networks"].clear()
    for definition in pair:
        info = bed.info(definition)
        assert (info["state"], info["detail"]) == ("isolated", "cut off from network pipe")
    assert bed.runtime.start(second.ref).did == ["connect monitoring-1 to network pipe"]
    assert bed.runtime.start(first.ref).did == []


# An engine that is not there


def test_without_an_engine_the_state_is_unknown_and_verbs_say_what_starts_it(bed: Bed) -> None:
    definition = bed.running()

    def nobody(*_: object, **__: object) -> list[dict[str, Any]]:
        raise DockerException("Connection refused")

    bed.engine.containers = nobody  # type: ignore[method-assign]
    info = bed.info(definition)
    assert info["state"] == "unknown"
    assert info["digest_deployed"] == definition.digest
    assert "the Docker engine: found no answer (Connection refused)" in info["detail"]
    verbs: list[Callable[[], object]] = [
        lambda: bed.runtime.start(definition.ref),
        lambda: bed.runtime.stop(definition.ref),
        lambda: bed.runtime.deploy(definition),
    ]
    for verb in verbs:
        with pytest.raises(RunbookError, match=r"\.config/setup/docker-engine\.sh"):
            verb()


def test_a_damaged_definition_is_unknown_and_can_still_be_stopped(bed: Bed) -> None:
    definition = bed.running()
    (bed.root / "services/clock/definition.json").write_text("{")
    assert bed.info(definition)["state"] == "unknown"
    assert bed.runtime.stop(definition.ref).did == ["stop clock"]


def test_a_definition_that_another_runtime_stored_is_read(bed: Bed) -> None:
    definition = bed.running()
    path = bed.root / "services/clock/definition.json"
    body = json.loads(path.read_text())
    for field in ("image", "network", "user", "volumes", "mounts"):
        del body[field]
    path.write_text(json.dumps(body))
    assert bed.info(definition)["state"] == "running"
    with pytest.raises(Refused, match=r"service clock\.image: found nothing"):
        bed.runtime.restart(definition.ref)


def test_a_link_in_place_of_the_folder_for_metrics_gives_nothing_away(bed: Bed, tmp_path: Path) -> None:
    definition = bed.define()
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o700)
    bed.runtime.deploy(definition)
    (bed.root / "state" / "metrics").rmdir()
    (bed.root / "state" / "metrics").symlink_to(outside)
    with pytest.raises(ServiceError, match="state/metrics"):
        bed.runtime.start(definition.ref)
    assert outside.stat().st_mode & 0o777 == 0o700


def test_the_digest_of_a_definition_is_that_of_its_container(bed: Bed) -> None:
    definition = bed.running()
    assert dataclasses.replace(definition, directories=()).digest == definition.digest
    assert bed.engine.named("clock-1")["Config"]["Labels"]["streamops.digest"] == definition.digest
