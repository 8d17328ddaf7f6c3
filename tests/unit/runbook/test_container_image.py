"""Images, networks and what is left of a deployment, with an engine in memory and real files."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import io
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.streamops.runbook.plugins.module_utils import (
    container_deployment,
    container_image,
    container_network,
    python_set,
)
from ansible_collections.streamops.runbook.plugins.module_utils.container_image import Recipe, Tree
from ansible_collections.streamops.runbook.plugins.module_utils.errors import (
    ArtifactError,
    DeadlineExceeded,
    Refused,
    ServiceError,
)
from ansible_collections.streamops.runbook.plugins.module_utils.service_files import Owner

from tests.unit.runbook.fake_engine import FakeEngine
from tests.unit.runbook.support import Clock

DOCKERFILE = Path(__file__).resolve().parents[3] / "config" / "images" / "Dockerfile"
JAR = b"PK"


@pytest.fixture
def engine() -> FakeEngine:
    made = FakeEngine(lambda: 0.0)
    made.add_image("streamops/base:1")
    return made


def recipe(tmp_path: Path, **changes: Any) -> Recipe:
    tree = tmp_path / "kafka-1"
    (tree / "libs").mkdir(parents=True, exist_ok=True)
    (tree / "libs" / "a.jar").write_bytes(JAR)
    (tree / "run.sh").write_text("exit 0\n")
    (tree / "run.sh").chmod(0o700)
    if not (tree / "latest.jar").is_symlink():
        (tree / "latest.jar").symlink_to("libs/a.jar")
    base: dict[str, Any] = {
        "name": "kafka",
        "base": "streamops/base:1",
        "dockerfile": DOCKERFILE.read_text(),
        "packages": ("openjdk-17-jre-headless",),
        "trees": (Tree(tree, "artifacts/kafka-1", "one"),),
        "account": Owner("streamops", 10_001, 10_001),
    }
    return Recipe(**{**base, **changes})


def ensure(engine: FakeEngine, wanted: Recipe, tmp_path: Path, **options: Any) -> container_image.Outcome:
    return container_image.ensure(engine, wanted, tmp_path / "locks", notify=lambda _: None, **options)


def test_an_image_is_built_once(engine: FakeEngine, tmp_path: Path) -> None:
    wanted = recipe(tmp_path)
    planned = ensure(engine, wanted, tmp_path, check=True)
    assert planned.changed
    assert not engine.builds
    made = ensure(engine, wanted, tmp_path)
    assert (made.reference, made.changed) == (planned.reference, True)
    assert made.reference.startswith("streamops/kafka:")
    assert not ensure(engine, wanted, tmp_path).changed
    assert len(engine.builds) == 1


def test_the_build_pulls_nothing_and_says_whose_the_image_is(engine: FakeEngine, tmp_path: Path) -> None:
    ensure(engine, recipe(tmp_path, packages=("zlib1g", "bash")), tmp_path)
    (build,) = engine.builds
    assert build["pull"] is False
    assert build["labels"] == {"streamops.image": "kafka", "streamops.account": "streamops:10001:10001"}
    assert build["buildargs"] == {
        "BASE": "streamops/base:1",
        "PACKAGES": "bash zlib1g",
        "ACCOUNT": "streamops",
        "ACCOUNT_UID": "10001",
        "ACCOUNT_GID": "10001",
    }


def test_what_goes_in_is_for_everybody_to_read_and_for_root_to_own(engine: FakeEngine, tmp_path: Path) -> None:
    ensure(engine, recipe(tmp_path), tmp_path)
    with tarfile.open(fileobj=io.BytesIO(engine.builds[0]["content"])) as archive:
        seen = {entry.name: entry for entry in archive}
    home = "opt/streamops/artifacts/kafka-1"
    assert set(seen) == {
        "Dockerfile",
        "opt",
        "opt/streamops",
        "opt/streamops/artifacts",
        "opt/streamops/python",
        home,
        f"{home}/latest.jar",
        f"{home}/libs",
        f"{home}/libs/a.jar",
        f"{home}/run.sh",
    }
    assert {(entry.uid, entry.gid) for entry in seen.values()} == {(0, 0)}
    modes = {name: entry.mode for name, entry in seen.items()}
    assert (modes[home], modes[f"{home}/run.sh"], modes[f"{home}/libs/a.jar"]) == (0o755, 0o755, 0o644)
    assert seen[f"{home}/latest.jar"].linkname == "libs/a.jar"


@pytest.mark.parametrize(
    "changes",
    [
        {"dockerfile": "FROM scratch\n"},
        {"packages": ()},
        {"trees": ()},
        {"account": Owner("streamops", 1000, 1000)},
    ],
)
def test_whatever_goes_in_makes_another_tag(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert recipe(tmp_path, **changes).reference("base") != recipe(tmp_path).reference("base")
    assert recipe(tmp_path).reference("other") != recipe(tmp_path).reference("base")
    assert recipe(tmp_path).reference("base") == recipe(tmp_path).reference("base")


def test_without_its_base_nothing_is_built(engine: FakeEngine, tmp_path: Path) -> None:
    engine.images.clear()
    for check in (True, False):
        with pytest.raises(Refused, match=r"image streamops/base:1: found none.*\.config/setup/base-image\.sh"):
            ensure(engine, recipe(tmp_path), tmp_path, check=check)


def test_a_failed_build_ends_in_its_last_lines(engine: FakeEngine, tmp_path: Path) -> None:
    engine.build_answers = [
        {"stream": "Step 1/9 : ARG BASE\n"},
        {"stream": "E: Unable to locate package java\n"},
        {"error": "The command returned a non-zero code: 100"},
    ]
    said = "Step 1/9 : ARG BASE / E: Unable to locate package java / The command returned a non-zero code: 100"
    with pytest.raises(ServiceError, match=said):
        ensure(engine, recipe(tmp_path), tmp_path)


def test_a_file_that_vanishes_on_the_way_is_what_the_error_names(engine: FakeEngine, tmp_path: Path) -> None:
    wanted = recipe(tmp_path)
    gone = dataclasses.replace(wanted, trees=(Tree(tmp_path / "none", "artifacts/none", "x"),))
    with pytest.raises(ServiceError, match="/none: found No such file or directory, expected a file for image kafka"):
        ensure(engine, gone, tmp_path)


def test_a_build_by_another_run_is_waited_for(engine: FakeEngine, tmp_path: Path) -> None:
    wanted = recipe(tmp_path)
    clock = Clock()
    (tmp_path / "locks").mkdir()
    told: list[str] = []
    with (tmp_path / "locks" / ".kafka.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        def sleep(seconds: float) -> None:
            clock.sleep(seconds)
            if clock.now > 25:
                engine.add_image(wanted.reference("sha256:streamops/base:1"))
                fcntl.flock(held, fcntl.LOCK_UN)

        outcome = container_image.ensure(
            engine, wanted, tmp_path / "locks", clock=clock, sleep=sleep, notify=told.append
        )
    assert not outcome.changed
    assert not engine.builds
    assert [line.rpartition("for ")[2] for line in told] == ["10 s", "20 s"]


def test_but_not_for_ever(engine: FakeEngine, tmp_path: Path) -> None:
    clock = Clock()
    (tmp_path / "locks").mkdir()
    with (tmp_path / "locks" / ".kafka.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(DeadlineExceeded, match="image kafka: found another run that builds it for 30"):
            ensure(engine, recipe(tmp_path), tmp_path, deadline_seconds=30, clock=clock, sleep=clock.sleep)


def catalog(tmp_path: Path) -> Path:
    path = tmp_path / "artifacts.yml"
    path.write_text(
        "artifacts:\n  kafka: {kind: maven, version: '1', pom: pom.xml, sums: SHA256SUMS, directory: libs}\n"
    )
    (tmp_path / "SHA256SUMS").write_text(f"{hashlib.sha256(JAR).hexdigest()}  a.jar\n")
    (tmp_path / "pom.xml").touch()
    return path


def test_artifacts_are_known_by_their_recorded_checksums(tmp_path: Path) -> None:
    path = catalog(tmp_path)
    (tmp_path / "artifacts" / "kafka-1" / "libs").mkdir(parents=True)
    (tree,) = container_image.artifact_trees(["kafka", "kafka"], path, tmp_path)
    assert (tree.source, tree.target) == (tmp_path / "artifacts" / "kafka-1", "artifacts/kafka-1")
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  a.jar\n")
    assert container_image.artifact_trees(["kafka"], path, tmp_path)[0].identity != tree.identity


def test_artifacts_that_are_not_there_are_named(tmp_path: Path) -> None:
    path = catalog(tmp_path)
    with pytest.raises(ArtifactError, match=r"artifact kafka: found nothing at .*Next: make up"):
        container_image.artifact_trees(["kafka"], path, tmp_path)
    with pytest.raises(ArtifactError, match="artifact 'zookeeper': found no entry of that name, expected kafka"):
        container_image.artifact_trees(["zookeeper"], path, tmp_path)


def test_python_sets_are_known_by_the_name_of_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(name: str, root: str, *, check: bool) -> tuple[str, bool]:
        return f"{root}/{name}-abc", check

    monkeypatch.setattr(python_set, "ensure", made)
    trees = container_image.python_trees(["spark", "pipeline"], tmp_path, check=True)
    assert [tree.target for tree in trees] == ["python/pipeline-abc", "python/spark-abc"]
    assert trees[0].source == tmp_path / "python" / "pipeline-abc"


@pytest.mark.parametrize(("uid", "number"), [(0, 10_001), (1000, 1000)])
def test_services_run_as_whoever_deploys_but_never_as_root(
    monkeypatch: pytest.MonkeyPatch, uid: int, number: int
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(os, "getegid", lambda: uid)
    assert container_image.account_here("streamops") == Owner("streamops", number, number)


# Networks

SUBNET = "172.28.0.0/24"


def test_a_network_is_made_once_for_all_hosts_of_a_deployment(engine: FakeEngine) -> None:
    assert container_network.ensure(engine, "pipe", SUBNET, "/srv/a/hosts/kafka-1", check=True)
    assert not engine.nets
    assert container_network.ensure(engine, "pipe", SUBNET, "/srv/a/hosts/kafka-1")
    assert not container_network.ensure(engine, "pipe", SUBNET, "/srv/a/hosts/kafka-2")
    assert engine.nets["id-pipe"]["Labels"] == {"streamops.root": "/srv/a"}


def test_a_network_of_a_longer_name_is_another_one(engine: FakeEngine) -> None:
    engine.add_network("pipeline", "172.30.0.0/24", "/srv/a")
    assert container_network.find(engine, "pipe") is None


@pytest.mark.parametrize(
    ("subnet", "root", "said"),
    [
        ("172.30.0.0/24", "/srv/a", r"network pipe: found subnet 172\.28\.0\.0/24, expected subnet 172\.30\.0\.0/24"),
        (SUBNET, "/srv/b", "network pipe: found that of /srv/a, expected that of /srv/b"),
        ("172.28.0.1/24", "/srv/a", r"found subnet '172\.28\.0\.1/24' \(.*has host bits set\)"),
        ("everything", "/srv/a", "found subnet 'everything'"),
    ],
)
def test_a_network_that_is_not_the_wanted_one_is_left_alone(
    engine: FakeEngine, subnet: str, root: str, said: str
) -> None:
    engine.add_network("pipe", SUBNET, "/srv/a")
    with pytest.raises(Refused, match=said):
        container_network.ensure(engine, "pipe", subnet, root)


def test_addresses_that_another_network_has_are_refused(engine: FakeEngine) -> None:
    engine.add_network("other", "172.28.0.0/16")
    with pytest.raises(Refused, match=r"subnet 172\.28\.0\.0/24, of which network other has 172\.28\.0\.0/16"):
        container_network.ensure(engine, "pipe", SUBNET, "/srv/a")


def member(engine: FakeEngine, name: str, root: str, role: str = "service") -> None:
    """A running container of a deployment in the network pipe, with a volume."""
    labels = {"streamops.root": root, "streamops.role": role}
    networking = {"EndpointsConfig": {"pipe": {"IPAMConfig": {"IPv4Address": "172.28.0.2"}}}}
    volume = {"Type": "volume", "Source": f"{name}-data", "VolumeOptions": {"Labels": {"streamops.root": root}}}
    body = {"HostConfig": {"Mounts": [volume]}, "Labels": labels, "NetworkingConfig": networking}
    engine.create_container_from_config(body, name)
    engine.start(name)


def test_a_network_goes_when_nothing_is_in_it(engine: FakeEngine) -> None:
    assert not container_network.remove(engine, "pipe", "/srv/a")
    engine.add_network("pipe", SUBNET, "/srv/a")
    with pytest.raises(Refused, match="found that of /srv/a, expected that of /srv/b"):
        container_network.remove(engine, "pipe", "/srv/b")
    member(engine, "kafka-1", "/srv/a")
    with pytest.raises(Refused, match="network pipe: found containers in it: kafka-1"):
        container_network.remove(engine, "pipe", "/srv/a")
    engine.remove_container("kafka-1", force=True)
    assert container_network.remove(engine, "pipe", "/srv/a", check=True)
    assert container_network.remove(engine, "pipe", "/srv/a")
    assert not engine.nets


# What a deployment has


def test_a_deployment_is_removed_with_its_data_once_nothing_of_it_runs(engine: FakeEngine) -> None:
    engine.add_network("pipe", SUBNET, "/srv/a")
    engine.add_network("other", "172.30.0.0/24", "/srv/b")
    member(engine, "kafka-1", "/srv/a")
    member(engine, "monitoring-1", "/srv/a", role="address")
    member(engine, "stranger", "/srv/b")
    planned = container_deployment.absent(engine, "/srv/a", check=True)
    assert (planned.containers, planned.volumes) == (
        ["kafka-1", "monitoring-1"],
        ["kafka-1-data", "monitoring-1-data"],
    )
    assert (planned.networks, planned.running) == (["pipe"], ["kafka-1"])
    assert planned.refusal == "found kafka-1 running, expected nothing that runs"
    with pytest.raises(Refused, match=r"containers of /srv/a: found kafka-1 running.*Next: make down"):
        container_deployment.absent(engine, "/srv/a")
    engine.stop("kafka-1")
    assert container_deployment.absent(engine, "/srv/a").changed
    assert [body["Name"] for body in engine.bodies.values()] == ["/stranger"]
    assert (list(engine.vols), list(engine.nets)) == (["stranger-data"], ["id-other"])
    assert not container_deployment.absent(engine, "/srv/a").changed
