"""The root of a sandbox: claimed, reserved, removed; never somebody else's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ansible_collections.streamops.runbook.plugins.module_utils.errors import Refused
from ansible_collections.streamops.runbook.plugins.module_utils.processes import Process
from ansible_collections.streamops.runbook.plugins.module_utils.sandbox import (
    MARKER,
    PLACEHOLDER,
    NetRegistry,
    Sandbox,
    credential_problems,
    ensure_credentials,
    inventory_problems,
    processes_using,
)

ID = "cluster-a"
NET = "127.0.90"


@pytest.fixture
def registry(tmp_path: Path) -> NetRegistry:
    return NetRegistry(tmp_path / "nets.json")


def make(root: Path, registry: NetRegistry, running: list[Process] | None = None) -> Sandbox:
    return Sandbox(root, registry=registry, processes=lambda _: running or [])


class TestPresent:
    def test_makes_root_marker_and_reservation_once(self, tmp_path: Path, registry: NetRegistry) -> None:
        root = tmp_path / "root"
        assert len(make(root, registry).present(ID, NET).did) == 3
        assert root.stat().st_mode & 0o777 == 0o700
        assert json.loads((root / MARKER).read_text()) == {"cluster_id": ID, "net": NET}
        assert json.loads((tmp_path / "nets.json").read_text()) == {NET: str(root)}
        again = make(root, registry).present(ID, NET)
        assert not again.changed
        assert again.did == []

    def test_plan_writes_nothing(self, tmp_path: Path, registry: NetRegistry) -> None:
        assert make(tmp_path / "root", registry).present(ID, NET, plan_only=True).changed
        assert list(tmp_path.iterdir()) == []

    def test_takes_a_folder_that_holds_only_records(self, tmp_path: Path, registry: NetRegistry) -> None:
        (tmp_path / "root" / "state" / "runs").mkdir(parents=True)
        assert make(tmp_path / "root", registry).present(ID, NET).changed

    def test_refuses_a_folder_of_somebody(self, tmp_path: Path, registry: NetRegistry) -> None:
        (tmp_path / "root").mkdir(mode=0o755)
        (tmp_path / "root" / "thesis.tex").touch()
        with pytest.raises(Refused, match=r"without our marker that holds thesis\.tex"):
            make(tmp_path / "root", registry).present(ID, NET)
        assert (tmp_path / "root").stat().st_mode & 0o777 == 0o755

    def test_refuses_a_link(self, tmp_path: Path, registry: NetRegistry) -> None:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "root").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(Refused, match="a link"):
            make(tmp_path / "root", registry).present(ID, NET)

    def test_refuses_a_moved_sandbox(self, tmp_path: Path, registry: NetRegistry) -> None:
        make(tmp_path / "root", registry).present("cluster-b", NET)
        with pytest.raises(Refused, match="found cluster id cluster-b, expected cluster id"):
            make(tmp_path / "root", registry).present(ID, NET)

    def test_refuses_a_net_of_another_living_sandbox(self, tmp_path: Path, registry: NetRegistry) -> None:
        make(tmp_path / "one", registry).present(ID, NET)
        with pytest.raises(Refused) as caught:
            make(tmp_path / "two", registry).present("cluster-b", NET)
        assert str(tmp_path / "one") in str(caught.value)
        assert "SANDBOX_NET=127.0.78" in str(caught.value)
        assert not (tmp_path / "two").exists()

    def test_frees_the_net_of_a_sandbox_that_is_gone(self, tmp_path: Path, registry: NetRegistry) -> None:
        make(tmp_path / "one", registry).present(ID, NET)
        (tmp_path / "one" / MARKER).unlink()
        (tmp_path / "one").rmdir()
        make(tmp_path / "two", registry).present("cluster-b", NET)
        assert json.loads((tmp_path / "nets.json").read_text()) == {NET: str(tmp_path / "two")}

    def test_a_stopped_sandbox_moves_to_another_net(self, tmp_path: Path, registry: NetRegistry) -> None:
        make(tmp_path / "root", registry).present(ID, NET)
        make(tmp_path / "root", registry).present(ID, "127.0.91")
        assert json.loads((tmp_path / "nets.json").read_text()) == {"127.0.91": str(tmp_path / "root")}

    def test_a_running_sandbox_keeps_its_net(self, tmp_path: Path, registry: NetRegistry) -> None:
        make(tmp_path / "root", registry).present(ID, NET)
        with pytest.raises(Refused, match=r"in use by process 7 \(java of user me\)"):
            make(tmp_path / "root", registry, [Process(7, "java", "me")]).present(ID, "127.0.91")

    def test_services_on_machines_of_their_own_need_no_net(self, tmp_path: Path, registry: NetRegistry) -> None:
        assert make(tmp_path / "root", registry).present(ID, "").changed
        assert not make(tmp_path / "root", registry).present(ID, "").changed
        assert not (tmp_path / "nets.json").exists()

    @pytest.mark.parametrize("net", ["10.0.0", "127.0.0", "127.0.1", "127.0.256", "127.0.07", "127.0.1.1", "127.0"])
    def test_refuses_a_net_that_is_none(self, tmp_path: Path, registry: NetRegistry, net: str) -> None:
        with pytest.raises(Refused, match="three octets of 127/8"):
            make(tmp_path / "root", registry).present(ID, net)

    def test_of_many_at_once_one_gets_the_net(self, tmp_path: Path, registry: NetRegistry) -> None:
        def claim(number: int) -> bool:
            try:
                return make(tmp_path / f"root-{number}", registry).present(ID, NET).changed
            except Refused:
                return False

        with ThreadPoolExecutor(16) as pool:
            assert sum(pool.map(claim, range(16))) == 1

    def test_a_damaged_registry_is_named(self, tmp_path: Path, registry: NetRegistry) -> None:
        (tmp_path / "nets.json").write_text("{")
        with pytest.raises(Refused, match=r"`rm .*nets\.json`"):
            make(tmp_path / "root", registry).present(ID, NET)

    def test_every_user_may_reserve(self, tmp_path: Path, registry: NetRegistry) -> None:
        before = os.umask(0o077)
        try:
            make(tmp_path / "root", registry).present(ID, NET)
        finally:
            os.umask(before)
        assert (tmp_path / "nets.json").stat().st_mode & 0o777 == 0o666


class TestAbsent:
    @pytest.fixture
    def root(self, tmp_path: Path, registry: NetRegistry) -> Path:
        root = tmp_path / "root"
        make(root, registry).present(ID, NET)
        (root / "hosts" / "kafka-1").mkdir(parents=True)
        (root / "hosts" / "kafka-1" / "log").write_bytes(b"12345")
        (root / "state").mkdir()
        (root / "endpoints.json").write_bytes(b"{}")
        return root

    def test_lists_and_removes(self, root: Path, registry: NetRegistry, tmp_path: Path) -> None:
        planned = make(root, registry).absent(ID, plan_only=True)
        assert planned.changed
        assert planned.cluster_id == ID
        assert planned.entries == {"endpoints.json": 2, "hosts": 5, "state": 0}
        assert root.is_dir()
        assert make(root, registry).absent(ID).changed
        assert not root.exists()
        assert json.loads((tmp_path / "nets.json").read_text()) == {}
        assert not make(root, registry).absent(ID).changed

    def test_keeps_what_it_is_told_to(self, root: Path, registry: NetRegistry) -> None:
        make(root, registry).absent(ID, keep=["state"])
        assert [path.name for path in root.iterdir()] == ["state"]
        assert not make(root, registry).absent(ID, keep=["state"]).changed

    def test_follows_no_link(self, root: Path, registry: NetRegistry, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "kept").touch()
        (root / "link").symlink_to(outside)
        (root / "hosts" / "link").symlink_to(outside)
        make(root, registry).absent(ID)
        assert (outside / "kept").exists()

    def test_takes_along_what_the_runtime_keeps_elsewhere_but_not_for_a_link(
        self, root: Path, registry: NetRegistry, tmp_path: Path
    ) -> None:
        (root / "hosts" / "minio-1").mkdir()
        (root / "hosts" / "link").symlink_to(tmp_path / "outside")
        run = tmp_path / "run"
        for name in ("kafka-1", "link"):
            (run / name).mkdir(parents=True)
            (run / name / "lock").touch()
        Sandbox(root, registry=registry, processes=lambda _: [], outside=lambda host: run / host.name).absent(ID)
        assert [folder.name for folder in run.iterdir()] == ["link"]

    def test_refuses_without_the_marker(self, root: Path, registry: NetRegistry) -> None:
        (root / MARKER).unlink()
        with pytest.raises(Refused, match="no marker"):
            make(root, registry).absent(ID)
        assert (root / "endpoints.json").exists()

    def test_refuses_a_marker_that_is_a_link(self, root: Path, registry: NetRegistry) -> None:
        (root / MARKER).rename(root / "real")
        (root / MARKER).symlink_to(root / "real")
        with pytest.raises(Refused, match="something else than a file"):
            make(root, registry).absent(ID)

    def test_refuses_a_root_that_is_a_link(self, root: Path, registry: NetRegistry, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(root)
        with pytest.raises(Refused, match="a link"):
            make(tmp_path / "link", registry).absent(ID)

    def test_refuses_another_cluster_id(self, root: Path, registry: NetRegistry) -> None:
        with pytest.raises(Refused, match="expected cluster id cluster-b, as confirmed"):
            make(root, registry).absent("cluster-b")
        assert (root / "endpoints.json").exists()

    def test_refuses_while_services_run(self, root: Path, registry: NetRegistry) -> None:
        running = [Process(7, "java", "me"), Process(8, "minio", "me")]
        with pytest.raises(Refused, match=r"process 7 \(java of user me\), process 8 \(minio of user me\)"):
            make(root, registry, running).absent(ID)
        planned = make(root, registry, running).absent(ID, plan_only=True)
        assert planned.running == running
        assert "make down" in planned.refusal
        assert not planned.changed

    def test_an_interrupted_removal_can_go_on(self, root: Path, registry: NetRegistry) -> None:
        (root / "endpoints.json").unlink()
        assert (root / MARKER).exists()
        assert make(root, registry).absent(ID).changed


class TestProcesses:
    @pytest.mark.parametrize("how", ["folder", "argument", "open file"])
    def test_finds_a_real_process(self, tmp_path: Path, how: str) -> None:
        (tmp_path / "file").touch()
        script = "import sys; print('up', flush=True); sys.stdin.read()"
        if how == "open file":
            script = f"file = open({str(tmp_path)!r} + '/' + 'file'); {script}"
            # The path stands in no argument of its own, only in the script's text.
            script = script.replace(str(tmp_path), f"{tmp_path.parent}' '/{tmp_path.name}")
        arguments = [str(tmp_path / "file")] if how == "argument" else []
        process = subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            cwd=tmp_path if how == "folder" else "/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with process:
            assert process.stdout is not None
            process.stdout.readline()
            (found,) = processes_using(tmp_path)
            assert (found.pid, found.program.startswith("python")) == (process.pid, True)
            # A stranger's command line may hold secrets.
            assert "sys.stdin" not in str(found)
            process.kill()
        assert processes_using(tmp_path) == []


class TestCredentials:
    def test_are_generated_once(self, tmp_path: Path) -> None:
        path = tmp_path / "credentials.json"
        assert ensure_credentials(path, ["broker", "spark"], ["root"]) == [
            "kafka/broker",
            "kafka/spark",
            "s3/root",
        ]
        assert path.stat().st_mode & 0o777 == 0o600
        before = path.read_bytes()
        assert ensure_credentials(path, ["broker", "spark"], ["root"]) == []
        assert path.read_bytes() == before
        document = json.loads(before)
        assert document["kafka"]["broker"]["username"] == "broker"
        values = [
            document["kafka"]["broker"]["password"],
            document["kafka"]["spark"]["password"],
            document["s3"]["root"]["secret_key"],
        ]
        assert len(set(values)) == 3
        assert all(len(value) == 40 and value.isalnum() for value in values)
        assert 3 <= len(document["s3"]["root"]["access_key"]) <= 20

    def test_only_what_is_missing_is_added(self, tmp_path: Path) -> None:
        path = tmp_path / "credentials.json"
        ensure_credentials(path, ["broker"], ["root"])
        before = json.loads(path.read_text())
        assert ensure_credentials(path, ["load"], ["root"]) == ["kafka/load"]
        after = json.loads(path.read_text())
        assert after["kafka"]["broker"] == before["kafka"]["broker"]
        assert after["s3"] == before["s3"]

    def test_plan_writes_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "credentials.json"
        assert ensure_credentials(path, ["broker"], [], plan_only=True) == ["kafka/broker"]
        assert not path.exists()

    def test_a_file_that_others_read_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "credentials.json"
        ensure_credentials(path, ["broker"], [])
        path.chmod(0o644)
        with pytest.raises(Refused, match="found mode 0644, expected mode 0600"):
            ensure_credentials(path, ["broker"], [])

    def test_a_link_is_refused(self, tmp_path: Path) -> None:
        ensure_credentials(tmp_path / "real", ["broker"], [])
        (tmp_path / "credentials.json").symlink_to(tmp_path / "real")
        with pytest.raises(Refused, match="a link"):
            ensure_credentials(tmp_path / "credentials.json", ["broker"], [])

    def test_a_damaged_file_is_refused_without_its_contents(self, tmp_path: Path) -> None:
        path = tmp_path / "credentials.json"
        path.write_text('{"kafka": "hunter2"')
        path.chmod(0o600)
        with pytest.raises(Refused) as caught:
            ensure_credentials(path, ["broker"], [])
        assert "hunter2" not in str(caught.value)
        assert path.read_text() == '{"kafka": "hunter2"'


class TestGiven:
    NAMES: ClassVar[dict[str, list[str]]] = {"kafka": ["admin"], "s3": ["root"], "tokens": ["webhook"]}

    def given(self, tmp_path: Path) -> dict[str, dict[str, Any]]:
        path = tmp_path / "credentials.json"
        ensure_credentials(path, self.NAMES["kafka"], self.NAMES["s3"], tokens=self.NAMES["tokens"])
        found: dict[str, dict[str, Any]] = json.loads(path.read_text())
        return found

    def test_generated_ones_may_be_given(self, tmp_path: Path) -> None:
        assert credential_problems(json.dumps(self.given(tmp_path)), **self.NAMES) == []

    def test_each_is_named_by_its_key_and_not_by_what_it_is(self, tmp_path: Path) -> None:
        given = self.given(tmp_path)
        given["kafka"]["admin"] = {"username": "hunter", "password": 'hunter2hunter2"; super.users=*'}
        given["s3"]["root"]["secret_key"] = PLACEHOLDER
        del given["s3"]["root"]["access_key"]
        given["tokens"]["webhook"] = "hunter2"
        problems = credential_problems(json.dumps(given), **self.NAMES)
        assert problems == [
            "kafka.admin.username: not the name of the principal",
            "kafka.admin.password, tokens.webhook: not 16 to 128 letters, digits or . _ ~ -",
            "s3.root.access_key: missing",
            "s3.root.secret_key: still the placeholder of the sample",
        ]

    @pytest.mark.parametrize("text", ["", "[]", '"hunter2"', '{"kafka": "hunter2"}', '{"kafka": hunter2'])
    def test_what_has_another_form_is_named_without_its_contents(self, text: str) -> None:
        problems = credential_problems(text, **self.NAMES)
        assert problems
        assert "hunter2" not in str(problems)


class TestInventory:
    def test_one_that_is_filled_in_has_nothing_open(self) -> None:
        assert inventory_problems("AAAAAAAAAAAAAAAAAAAAAA", {"a": "10.0.0.1", "b": "kafka.example", "c": "::1"}) == []

    @pytest.mark.parametrize("cluster_id", ["", "x", "-AAAAAAAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAAAAAAAB", "A" * 23])
    def test_an_id_that_kafka_would_not_write_so_is_named(self, cluster_id: str) -> None:
        (problem,) = inventory_problems(cluster_id, {})
        assert f"kafka_cluster_id {cluster_id!r}" in problem

    def test_addresses_of_examples_are_named_with_their_hosts(self) -> None:
        (problem,) = inventory_problems("A" * 22, {"a": "192.0.2.7", "b": "10.0.0.1", "c": "203.0.113.9"})
        assert problem.startswith("a at 192.0.2.7, c at 203.0.113.9: ")
