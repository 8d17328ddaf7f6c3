"""The exporter: canaries round after round, and a service that needs nothing to start."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from kafka.errors import KafkaConnectionError
from prometheus_client import CollectorRegistry

from pipeline import config, exporter
from pipeline.canary import Canary, CanaryMetrics
from pipeline.config import S3Endpoint, S3Login
from pipeline.errors import ConfigError, PipelineError, Unavailable
from pipeline.prove import Sequences
from pipeline.tables import FollowedTable
from tests.unit.pipeline.support import FakeProducer, endpoints
from tests.unit.pipeline.test_producer import free_port, sample


class World:
    """Kafka and the table as the canary meets them."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.registry = CollectorRegistry()
        self.producers: list[FakeProducer] = []
        self.tables = 0
        self.copies = 1
        self.error: Exception | None = None
        self.kafka_down = False
        self.denied = False
        self.looked: list[str] = []

    def connect(self) -> FakeProducer:
        if self.kafka_down:
            raise KafkaConnectionError("nobody there")
        self.producers.append(FakeProducer(deny=self.denied))
        return self.producers[-1]

    def open_table(self) -> Sequences:
        self.tables += 1

        def read(boot_id: str, since: datetime) -> list[tuple[str, int]]:
            self.looked.append(boot_id)
            if self.error is not None:
                raise self.error
            sent = [json.loads(value) for producer in self.producers for _, _, value in producer.sent]
            return [(event["device_id"], 0) for event in sent if event["boot_id"] == boot_id] * self.copies

        return read

    def canary(self, interval: float = 60.0, deadline: float = 0.2) -> Canary:
        return Canary(
            "iot-events",
            self.connect,
            self.open_table,
            CanaryMetrics(self.registry),
            interval,
            deadline,
            self.stop,
        )

    def value(self, name: str) -> float:
        found = self.registry.get_sample_value(name)
        assert found is not None
        return found

    def counts(self) -> tuple[float, float]:
        return self.value("pipeline_canary_sent_total"), self.value("pipeline_canary_failures_total")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(Canary, "_POLL_SECONDS", 0.01)
    return World()


def test_rounds_share_connection_and_table(world: World) -> None:
    begun = time.time()
    canary = world.canary()
    before = time.time()
    # What never arrived since the start is as old as the process, not as old as time.
    assert begun <= world.value("pipeline_canary_last_success_timestamp_seconds") <= before
    for _ in range(3):
        canary.round()
    assert world.counts() == (3, 0)
    assert (len(world.producers), world.tables) == (1, 1)
    assert len(set(world.looked)) == 3
    assert before <= world.value("pipeline_canary_last_success_timestamp_seconds") <= time.time()
    assert 0 <= world.value("pipeline_canary_latency_seconds") < 0.2


@pytest.mark.parametrize("what", ["nothing arrives", "twice", "the store is away", "something else"])
def test_a_failed_round_is_counted_and_the_next_one_begins_anew(world: World, what: str) -> None:
    canary = world.canary()
    canary.round()
    success = world.value("pipeline_canary_last_success_timestamp_seconds")
    if what == "nothing arrives":
        world.copies = 0
    elif what == "twice":
        world.copies = 2
    else:
        world.error = Unavailable("s3", "no answer") if what == "the store is away" else KeyError("max")
    canary.round()
    assert world.counts() == (2, 1)
    assert world.value("pipeline_canary_last_success_timestamp_seconds") == success
    assert world.producers[0].closed
    world.copies, world.error = 1, None
    canary.round()
    assert world.counts() == (3, 1)
    assert (len(world.producers), world.tables) == (2, 2)
    assert world.value("pipeline_canary_last_success_timestamp_seconds") > success


def test_without_kafka_nothing_is_sent_and_the_round_ends(world: World) -> None:
    world.kafka_down = True
    canary = world.canary(deadline=0.05)
    canary.round()
    canary.round()
    assert world.counts() == (0, 2)
    world.kafka_down = False
    canary.round()
    assert world.counts() == (1, 2)


def test_a_canary_that_was_given_up_ends_its_round_at_once(world: World) -> None:
    world.denied, world.copies = True, 0
    begun = time.monotonic()
    assert not world.canary(deadline=60).round()
    assert time.monotonic() - begun < 5
    assert world.counts() == (1, 1)


def test_an_event_that_is_never_taken_ends_with_the_deadline(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "connect", lambda: FakeProducer(refuse=10**9))
    begun = time.monotonic()
    world.canary(deadline=0.3).round()
    assert time.monotonic() - begun < 2
    assert world.counts() == (0, 1)


def test_a_stop_in_the_middle_of_a_round_is_no_failure(world: World) -> None:
    world.copies = 0
    canary = world.canary(deadline=60)
    thread = threading.Thread(target=canary.run)
    thread.start()
    while not world.looked:
        time.sleep(0.01)
    world.stop.set()
    thread.join(2)
    assert not thread.is_alive()
    assert world.counts()[1] == 0
    assert world.producers[0].closed


def test_a_round_that_takes_too_long_leaves_the_next_ones_out(world: World) -> None:
    now, begun = 1000.0, []

    class Slow(Canary):
        def round(self) -> bool:
            nonlocal now
            begun.append(now)
            now += [1, 130, 2, 120, 0][len(begun) - 1]
            return len(begun) < 3

    def wait(seconds: float) -> bool:
        nonlocal now
        now += seconds
        if len(begun) == 5:
            world.stop.set()
        return world.stop.is_set()

    stop = threading.Event()
    stop.is_set = world.stop.is_set  # type: ignore[method-assign]
    stop.wait = wait  # type: ignore[method-assign, assignment]
    canary = Slow("t", world.connect, world.open_table, CanaryMetrics(world.registry), 60, 120, stop, lambda: now)
    canary.run()
    # The third and the fourth fail: the next ones come soon.
    assert begun == [1000, 1060, 1240, 1247, 1372]


def rows(boot_id: str, moments: list[datetime]) -> pa.Table:
    return pa.table(
        {
            "device_id": [f"canary-{n:04d}" for n in range(len(moments))],
            "boot_id": [boot_id] * len(moments),
            "sequence": pa.array([0] * len(moments), pa.int64()),
            "event_time": pa.array(moments, pa.timestamp("us", "UTC")),
        }
    )


LOGIN = S3Login.model_validate({"access_key": "a", "secret_key": "b"})
ENDPOINT = S3Endpoint(endpoint="http://127.0.0.1:9", region="us-east-1")
NOW = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)


def test_a_table_is_followed_from_before_it_is_there(tmp_path: Path) -> None:
    path = str(tmp_path / "t")
    table = FollowedTable(path, ENDPOINT, LOGIN)
    assert table.version() == -1
    with pytest.raises(Unavailable, match="no table"):
        table.sequences("one", NOW)
    write_deltalake(path, rows("one", [NOW]))
    assert table.sequences("one", NOW) == [("canary-0000", 0)]
    assert table.sequences("two", NOW) == []
    write_deltalake(path, rows("two", [NOW, NOW]), mode="append")
    assert table.sequences("two", NOW) == [("canary-0000", 0), ("canary-0001", 0)]
    assert (table.version(), table.current().version()) == (1, 1)


def test_a_life_of_a_sender_is_not_taken_for_the_one_before(tmp_path: Path) -> None:
    """The answer for one canary must not be kept for the next one while the table stays as it is."""
    write_deltalake(str(tmp_path / "t"), rows("one", [NOW]))
    table = FollowedTable(str(tmp_path / "t"), ENDPOINT, LOGIN)
    assert len(table.sequences("one", NOW)) == 1
    assert table.sequences("two", NOW) == []
    assert len(table.sequences("one", NOW)) == 1


def test_statistics_that_are_cut_to_milliseconds_hide_no_row(tmp_path: Path) -> None:
    write_deltalake(str(tmp_path / "t"), rows("one", [NOW]))
    assert "12:00:00.123Z" in (tmp_path / "t" / "_delta_log" / "00000000000000000000.json").read_text()
    assert FollowedTable(str(tmp_path / "t"), ENDPOINT, LOGIN).sequences("one", NOW) == [("canary-0000", 0)]


def test_old_files_are_not_opened(tmp_path: Path) -> None:
    write_deltalake(str(tmp_path / "t"), rows("one", [NOW - timedelta(hours=1)]))
    (old,) = DeltaTable(str(tmp_path / "t")).file_uris()
    write_deltalake(str(tmp_path / "t"), rows("two", [NOW]), mode="append")
    Path(old).unlink()
    assert FollowedTable(str(tmp_path / "t"), ENDPOINT, LOGIN).sequences("two", NOW) == [("canary-0000", 0)]


def settings(**changes: Any) -> dict[str, Any]:
    values = endpoints()
    # Ports where nobody listens.
    values["kafka"]["bootstrap"] = "127.0.0.1:9"
    values["s3"]["endpoint"] = "http://127.0.0.1:9"
    return {
        "endpoints": values,
        "credentials": {
            "kafka": {"username": "operator", "password": "kafka-canary"},
            "s3": {"access_key": "operator", "secret_key": "s3-canary"},
        },
        "metrics": {"host": "127.0.0.1", "port": free_port()},
        **changes,
    }


def test_the_defaults() -> None:
    parsed = config.parse(config.ExporterConfig, settings(), "f")
    found = (parsed.canary_interval_seconds, parsed.canary_deadline_seconds, parsed.scrape_timeout_seconds)
    assert found == (60, 120, 4)
    assert "kafka-canary" not in repr(parsed)


@pytest.mark.parametrize("field", ["canary_interval_seconds", "canary_deadline_seconds", "scrape_timeout_seconds"])
def test_a_bad_value_is_named(field: str) -> None:
    with pytest.raises(ConfigError, match=f"{field}: 0"):
        config.parse(config.ExporterConfig, settings(**{field: 0}), "f")


def wait_for(check: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if check():
                return True
        except OSError:
            pass
        time.sleep(0.1)
    return False


def test_the_process_starts_without_anything_and_ends_in_the_middle_of_a_round(tmp_path: Path) -> None:
    values = settings(scrape_timeout_seconds=0.5)
    path, port = tmp_path / "exporter.json", values["metrics"]["port"]
    path.write_text(json.dumps(values))
    command = [sys.executable, "-m", "pipeline", "exporter", "--config", str(path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, cwd=Path(exporter.__file__).parents[1]) as process:
        try:
            up = 'pipeline_exporter_up{source="kafka"}'
            assert wait_for(lambda: sample(port, up) == 0, 60)
            assert sample(port, "pipeline_canary_failures_total") == 0
            begun = time.monotonic()
            process.terminate()
            assert process.wait(10) == 0
            assert time.monotonic() - begun < 2
        finally:
            process.kill()
        assert process.stderr is not None
        said = process.stderr.read().decode()
    assert "Traceback" not in said
    assert "canary" in said
    assert "kafka-canary" not in said
    assert "s3-canary" not in said


def test_a_canary_thread_that_ended_ends_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Canary, "run", lambda self: None)
    with pytest.raises(PipelineError, match="thread ended"):
        exporter.run(config.parse(config.ExporterConfig, settings(), "f"), threading.Event())


def test_a_taken_port_is_named() -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        values = settings(metrics={"host": "127.0.0.1", "port": port})
        with pytest.raises(Unavailable, match=f"127.0.0.1:{port}"):
            exporter.run(config.parse(config.ExporterConfig, values, "f"), threading.Event())
