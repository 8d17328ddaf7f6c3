"""The containers that stand for machines: what is decided without an engine, and what an engine is asked for."""

from __future__ import annotations

import io
import ipaddress
import json
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.programs import load

machines: Any = load("molecule/shared/machines.py")

NET = ipaddress.IPv4Network("172.30.7.0/24")
# In the byte order of the machine that it was read on.
ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
br-lab\t00001EAC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
"""


def test_machines_as_typed() -> None:
    assert machines.wanted(["kafka-1", "kafka-2=20"]) == {"kafka-1": None, "kafka-2": 20}


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        (["Kafka_1"], "'Kafka_1'"),
        (["-a"], "'-a'"),
        ([""], "''"),
        (["a=1"], "'1'"),
        (["a=255"], "'255'"),
        (["a="], "''"),
        (["a=x"], "'x'"),
        (["a=²"], "'²'"),
        (["a", "a"], "its name twice"),
        (["a=20", "b=20"], r"\[20, 20\]"),
    ],
)
def test_what_is_no_machine_is_named(typed: list[str], found: str) -> None:
    with pytest.raises(machines.MachineError, match=found):
        machines.wanted(typed)


def test_a_net_is_three_numbers() -> None:
    assert machines.subnet("172.30.7") == NET


@pytest.mark.parametrize("net", ["172.32.0", "10.0.0", "172.30", "172.30.7.0", "172.30.256", "", "auto"])
def test_other_nets_are_refused(net: str) -> None:
    with pytest.raises(machines.MachineError, match=r"between 172\.16\.0 and 172\.31\.255"):
        machines.subnet(net)


def test_routes_are_read_and_the_default_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "byteorder", "little")
    assert [str(net) for net in machines.routed(ROUTES)] == ["192.0.2.0/24", "172.30.0.0/16"]
    assert machines.default_device(ROUTES) == "eth0"
    assert machines.default_device(ROUTES.splitlines()[0]) is None


def test_a_net_that_anything_overlaps_is_not_free() -> None:
    taken = [ipaddress.IPv4Network("172.30.0.0/16"), ipaddress.IPv4Network("172.31.0.128/25")]
    assert machines.free(taken)[0] == "172.31.1"
    assert machines.free(taken, ["172.30.7"]) == []
    assert machines.free([])[0] == machines.NETS[0]
    assert all(machines.subnet(net) for net in machines.NETS)


class TestAddresses:
    def test_the_first_are_counted_up(self) -> None:
        assert machines.addresses({"a": None, "b": None}, {}, NET) == {"a": "172.30.7.11", "b": "172.30.7.12"}

    def test_a_number_that_was_asked_for_is_left_out(self) -> None:
        assert machines.addresses({"a": None, "b": 11}, {}, NET) == {"a": "172.30.7.12", "b": "172.30.7.11"}

    def test_who_is_there_keeps_its_own(self) -> None:
        found = machines.addresses({"b": None, "a": None, "c": 40}, {"a": "172.30.7.12", "c": "172.30.7.40"}, NET)
        assert found == {"b": "172.30.7.11", "a": "172.30.7.12", "c": "172.30.7.40"}

    def test_only_those_asked_for_are_returned(self) -> None:
        assert machines.addresses({"b": None}, {"a": "172.30.7.11"}, NET) == {"b": "172.30.7.12"}

    @pytest.mark.parametrize(
        ("asked", "found"), [({"a": 20}, r"it at 172\.30\.7\.11"), ({"b": 11}, "one address twice")]
    )
    def test_a_contradiction_is_named(self, asked: dict[str, int], found: str) -> None:
        with pytest.raises(machines.MachineError, match=found):
            machines.addresses(asked, {"a": "172.30.7.11"}, NET)


class TestControlGroups:
    def test_version_2_is_one_tree(self, tmp_path: Path) -> None:
        (tmp_path / "cgroup.controllers").touch()
        (tmp_path / "system.slice").mkdir()
        assert machines.cgroup_options(tmp_path)["volumes"] == [f"{tmp_path}:{tmp_path}:rw"]

    def test_of_version_1_each_hierarchy_and_never_the_folder(self, tmp_path: Path) -> None:
        for name in ("systemd", "cpu,cpuacct", "unified"):
            (tmp_path / name).mkdir()
        (tmp_path / "cpu").symlink_to("cpu,cpuacct")
        options = machines.cgroup_options(tmp_path)
        assert options["cgroupns"] == "host"
        assert options["volumes"] == [
            f"{tmp_path}/{name}:{tmp_path}/{name}:rw" for name in ("cpu,cpuacct", "systemd", "unified")
        ]

    def test_without_the_hierarchy_of_systemd_the_line_that_makes_it_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "cpu").mkdir()
        with pytest.raises(machines.MachineError, match="mount -t cgroup -o none,name=systemd"):
            machines.cgroup_options(tmp_path)


def test_the_image_is_named_after_all_that_it_is_made_from(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM base")
    names = {machines.image_name("streamops/base:1", tmp_path), machines.image_name("streamops/base:2", tmp_path)}
    (tmp_path / "Dockerfile").write_text("FROM other")
    names.add(machines.image_name("streamops/base:1", tmp_path))
    (tmp_path / "unit.conf").touch()
    names.add(machines.image_name("streamops/base:1", tmp_path))
    assert len(names) == 4
    assert all(name.startswith("streamops/machine:") for name in names)


def test_the_cache_is_where_the_scripts_have_it() -> None:
    home = {"HOME": "/home/x"}
    assert machines.cache(home) == Path("/home/x/.cache/streamops")
    assert machines.cache({**home, "XDG_CACHE_HOME": "/c"}) == Path("/c/streamops")
    assert machines.cache({**home, "STREAMOPS_CACHE": "/s", "XDG_CACHE_HOME": "/c"}) == Path("/s")


def test_an_image_is_built_once_and_an_error_is_quoted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STREAMOPS_CACHE", str(tmp_path))
    built: list[str] = []
    events: list[dict[str, str]] = [{"stream": "Step 1/2 : RUN false\n"}, {"error": "it returned 1"}]

    def get(name: str) -> str:
        if name not in built:
            raise machines.ImageNotFound(name)
        return name

    def build(tag: str, **_: Any) -> list[dict[str, str]]:
        built.extend([] if "error" in events[-1] else [tag])
        return events

    client = SimpleNamespace(images=SimpleNamespace(get=get), api=SimpleNamespace(build=build))
    with pytest.raises(machines.MachineError, match=r"(?s)it returned 1.*Step 1/2"):
        machines.machine_image(client, "streamops/base:1")
    events.pop()
    name = machines.machine_image(client, "streamops/base:1")
    assert machines.machine_image(client, "streamops/base:1") == name
    assert built == [name]


def test_host_keys_are_noted_by_name_and_address_without_their_comment() -> None:
    keys = {("b", "172.30.7.12"): "ssh-ed25519 BBBB root@b\n", ("a", "172.30.7.11"): "ssh-ed25519 AAAA"}
    text = machines.known_hosts(keys)
    assert text == "a,172.30.7.11 ssh-ed25519 AAAA\nb,172.30.7.12 ssh-ed25519 BBBB\n"
    assert machines.known_hosts(machines.noted_keys(text)) == text


def test_what_is_put_into_a_machine_is_roots_alone() -> None:
    content = machines._archive({".ssh/authorized_keys": "ssh-ed25519 AAAA lab\n"})
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = [(member.name, member.mode, member.uid) for member in archive]
    assert members == [(".ssh", 0o700, 0), (".ssh/authorized_keys", 0o600, 0)]


@pytest.mark.parametrize(
    ("verb", "state", "connected", "found"),
    [
        ("kill", "exited", True, "it exited"),
        ("start", "running", True, "it running"),
        ("pause", "paused", True, "it paused"),
        ("unpause", "running", True, "it running"),
        ("disconnect", "running", False, "off the lab's network"),
        ("connect", "running", True, "on the lab's network"),
        ("connect", "exited", False, "it exited"),
    ],
)
def test_a_fault_that_hits_nothing_is_an_error(verb: str, state: str, connected: bool, found: str) -> None:
    with pytest.raises(machines.MachineError, match=f"found .*{found}"):
        machines.VERBS[verb].check("a", state, connected)


class Thing:
    """A container, network or volume of a fake engine; what is done to it is noted."""

    def __init__(self, name: str, labels: dict[str, str], log: list[str], status: str = "running") -> None:
        self.name, self.labels, self.log, self.status = name, labels, log, status
        self.attrs: dict[str, Any] = {"NetworkSettings": {"Networks": {}}, "IPAM": {"Config": [{"Subnet": str(NET)}]}}

    def __getattr__(self, verb: str) -> Any:
        return lambda *given, **named: self.log.append(" ".join([verb, self.name, *(str(item) for item in given)]))

    def __str__(self) -> str:
        return self.name


class Engine:
    """An engine with the things of two labs and one of nobody's, found as the real one finds them: by label."""

    def __init__(self, mine: Path, other: Path) -> None:
        self.log: list[str] = []
        label, machine, address = machines.LAB, machines.MACHINE, machines.ADDRESS
        things = [
            Thing("x-a", {label: str(mine), machine: "a", address: "172.30.7.11"}, self.log),
            Thing("x-b", {label: str(mine), machine: "b", address: "172.30.7.12"}, self.log, "paused"),
            Thing("x-service", {label: str(mine)}, self.log),
            Thing("y-a", {label: str(other), machine: "a", address: "172.30.8.11"}, self.log),
            Thing("a", {}, self.log),
        ]
        self.containers = self._kind(things)
        self.networks = self._kind([Thing(f"net-{root.name}", {label: str(root)}, self.log) for root in (mine, other)])
        self.volumes = self._kind([Thing(f"vol-{root.name}", {label: str(root)}, self.log) for root in (mine, other)])

    def _kind(self, things: list[Thing]) -> Any:
        def listed(filters: Any, **_: Any) -> list[Thing]:
            labels = [filters["label"]] if isinstance(filters["label"], str) else filters["label"]
            pairs = [label.partition("=") for label in labels]
            return [
                thing
                for thing in things
                if all(name in thing.labels and value in ("", thing.labels[name]) for name, _, value in pairs)
            ]

        return SimpleNamespace(list=listed)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine(tmp_path / "mine", tmp_path / "other")


@pytest.fixture
def lab(engine: Engine, tmp_path: Path) -> Any:
    return machines.Lab(engine, tmp_path / "mine")


def test_down_removes_what_carries_the_label_and_nothing_else(lab: Any, engine: Engine) -> None:
    removed = lab.down()
    assert sorted(engine.log) == [f"remove {name}" for name in ("net-mine", "vol-mine", "x-a", "x-b", "x-service")]
    assert len(removed) == 5


def test_a_machine_is_found_by_its_labels(lab: Any, engine: Engine) -> None:
    assert {name: machine.address for name, machine in lab.machines().items()} == {
        "a": "172.30.7.11",
        "b": "172.30.7.12",
    }
    lab.do("kill", ["a"], 1)
    assert engine.log == ["kill x-a"]


def test_a_verb_hits_all_or_none(lab: Any, engine: Engine) -> None:
    with pytest.raises(machines.MachineError, match="machine b: found it paused"):
        lab.do("kill", ["a", "b"], 1)
    with pytest.raises(machines.MachineError, match="kill service: found a, b in"):
        lab.do("kill", ["a", "service"], 1)
    assert engine.log == []


@pytest.mark.parametrize(
    ("milliseconds", "code", "said", "told"),
    [
        (100, 0, "", "packets of a wait 100 ms"),
        (0, 0, "", "packets of a wait 0 ms"),
        (100, 2, "Error: Specified qdisc kind is unknown.\n", "skipped: netem of 100 ms on a: Error: Specified"),
    ],
)
def test_packets_wait_where_the_kernel_can_do_that(
    lab: Any,
    engine: Engine,
    capsys: pytest.CaptureFixture[str],
    milliseconds: int,
    code: int,
    said: str,
    told: str,
) -> None:
    asked: list[list[str]] = []
    machine = engine.containers.list(filters={"label": f"{machines.MACHINE}=a"})[0]

    def answer(command: list[str]) -> tuple[int, bytes]:
        asked.append(command)
        return code, said.encode()

    machine.exec_run = answer
    lab.delay(["a"], milliseconds)
    assert capsys.readouterr().out.startswith(told)
    assert asked[0][:2] == ["tc", "qdisc"]
    assert ("delay" in asked[0]) is bool(milliseconds)


def test_a_delay_that_fails_for_another_reason_is_an_error(lab: Any, engine: Engine) -> None:
    machine = engine.containers.list(filters={"label": f"{machines.MACHINE}=a"})[0]
    machine.exec_run = lambda _: (1, b"Cannot find device eth0")
    with pytest.raises(machines.MachineError, match="Cannot find device"):
        lab.delay(["a"], 100)


def test_two_labs_may_have_machines_of_one_name(engine: Engine, tmp_path: Path) -> None:
    prefixes = {machines.Lab(engine, tmp_path / name).prefix for name in ("mine", "other")}
    assert len(prefixes) == 2


def test_a_lab_without_machines_gets_a_key_of_its_own_that_only_its_owner_reads(lab: Any) -> None:
    first = lab._key_pair(fresh=True)
    private = lab.root / "ssh" / "id_ed25519"
    assert private.stat().st_mode & 0o777 == 0o600
    assert private.parent.stat().st_mode & 0o777 == 0o700
    assert private.read_text().startswith("-----BEGIN OPENSSH PRIVATE KEY-----")
    assert lab._key_pair(fresh=False) == first
    assert lab._key_pair(fresh=True) != first
    private.unlink()
    with pytest.raises(machines.MachineError, match="the key of the lab's machines"):
        lab._key_pair(fresh=False)


def test_the_state_is_there_for_programs(lab: Any, capsys: pytest.CaptureFixture[str]) -> None:
    machines.show(lab, as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert shown["subnets"] == [str(NET)]
    assert [(machine["name"], machine["state"]) for machine in shown["machines"]] == [("a", "running"), ("b", "paused")]


@pytest.mark.parametrize("verb", ["up", "down", "status", *machines.VERBS])
def test_every_verb_wants_to_know_the_lab(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        machines.parser().parse_args([verb, *([] if verb in ("down", "status") else ["a"])])
    assert "--lab" in capsys.readouterr().err
