"""The lease: one job holds it, a live holder keeps it, a dead one costs no time, nobody writes without it."""

from __future__ import annotations

import email.utils
import hashlib
import io
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from pipeline import config
from pipeline.errors import EXIT_REFUSED, Unavailable
from pipeline.streaming import job
from pipeline.streaming import sink as sink_module
from pipeline.streaming.lease import (
    EXIT_LEASE_LOST,
    Lease,
    LeaseHeld,
    LeaseLost,
    Owner,
    Record,
    S3LeaseStore,
    boot_clock,
    has_ended,
    this_process,
    writable_layer,
)
from pipeline.streaming.sink import Sink
from tests.unit.pipeline.support import FakeClock
from tests.unit.pipeline.test_config import streaming

URI = "s3://iot-checkpoints/streaming/lease.json"
LIFE = 30.0
EPOCH = datetime(2026, 1, 31, 12, tzinfo=UTC)


@dataclass
class FakeS3:
    """One object of a store with the conditional writes of our MinIO, as measured on its binary.

    ``If-None-Match: *`` on what is there and a wrong ``If-Match`` are 412, ``If-Match`` on nothing is
    NoSuchKey, every answer has a Date in whole seconds, and a DELETE knows no condition.
    """

    clock: Callable[[], float]
    offset: float = 0.0
    versioned: bool = True
    versions: list[tuple[str, bytes]] = field(default_factory=list)
    before_put: Callable[[], object] | None = None
    lose_answers: int = 0
    failing: str = ""
    puts: int = 0
    deleted: list[str] = field(default_factory=list)

    def _headers(self) -> dict[str, Any]:
        moment = EPOCH + timedelta(seconds=self.clock() + self.offset)
        return {"HTTPHeaders": {"date": email.utils.format_datetime(moment, usegmt=True)}}

    def _refuse(self, code: str, status: int = 412) -> ClientError:
        answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status, **self._headers()}}
        return ClientError(cast(Any, answer), "Operation")

    def _etag(self) -> str:
        return f'"{hashlib.md5(self.versions[-1][1], usedforsecurity=False).hexdigest()}"' if self.versions else ""

    def get_object(self, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803 - boto3's names
        if self.failing:
            raise self._refuse(self.failing, 503)
        if not self.versions:
            raise self._refuse("NoSuchKey", 404)
        version, body = self.versions[-1]
        return {
            "Body": io.BytesIO(body),
            "ETag": self._etag(),
            "VersionId": version,
            "ResponseMetadata": self._headers(),
        }

    def put_object(
        self,
        Bucket: str,  # noqa: N803
        Key: str,  # noqa: N803
        Body: bytes,  # noqa: N803
        IfMatch: str = "",  # noqa: N803
        IfNoneMatch: str = "",  # noqa: N803
    ) -> dict[str, Any]:
        assert IfMatch or IfNoneMatch == "*", "an unconditional write"
        if self.failing:
            raise self._refuse(self.failing, 503)
        if self.before_put:
            act, self.before_put = self.before_put, None
            act()
        if IfNoneMatch and self.versions:
            raise self._refuse("PreconditionFailed")
        if IfMatch and not self.versions:
            raise self._refuse("NoSuchKey", 404)
        if IfMatch and IfMatch != self._etag():
            raise self._refuse("PreconditionFailed")
        self.puts += 1
        if not self.versioned:
            self.versions.clear()
        self.versions.append((f"v{self.puts}" if self.versioned else "null", Body))
        if self.lose_answers:
            self.lose_answers -= 1
            raise ReadTimeoutError(endpoint_url="http://store")
        return {"ETag": self._etag(), "VersionId": self.versions[-1][0], "ResponseMetadata": self._headers()}

    def delete_object(self, Bucket: str, Key: str, VersionId: str) -> None:  # noqa: N803
        if self.failing:
            raise self._refuse(self.failing, 503)
        self.deleted.append(VersionId)
        self.versions = [entry for entry in self.versions if entry[0] != VersionId]

    @property
    def record(self) -> Record:
        return Record.model_validate_json(self.versions[-1][1])


class FakeStop(threading.Event):
    """Waits by moving the fake clock on; something may happen meanwhile."""

    def __init__(self, clock: FakeClock, meanwhile: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self._clock = clock
        self._meanwhile = meanwhile
        self.waited = 0.0

    def wait(self, timeout: float | None = None) -> bool:
        self._clock.sleep(timeout or 0)
        self.waited += timeout or 0
        self._meanwhile()
        return self.is_set()


@dataclass
class World:
    """A store, a clock that both jobs and the store share, and jobs whose threads the test plays."""

    clock: FakeClock
    s3: FakeS3
    lost: list[LeaseLost] = field(default_factory=list)

    def job(self, **owner: Any) -> Lease:
        return Lease(
            S3LeaseStore(self.s3, URI),
            this_process("127.0.77.31").model_copy(update=owner),
            LIFE,
            self.lost.append,
            clock=self.clock,
        )

    def elsewhere(self) -> Lease:
        return self.job(host="127.0.77.32", pid=4711, boot_id="another machine")

    def acquire(self, lease: Lease, meanwhile: Callable[[], object] = lambda: None) -> float:
        """Take it; returns the seconds waited."""
        stop = FakeStop(self.clock, meanwhile)
        assert lease.acquire(stop)
        return stop.waited


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(Lease, "_keep", lambda _: None)
    clock = FakeClock()
    return World(clock, FakeS3(clock))


def test_the_first_job_takes_it_at_once_and_says_who_it_is(world: World) -> None:
    lease = world.job()
    assert not lease.held()
    with pytest.raises(LeaseLost):
        lease.require()
    assert world.acquire(lease) == 0
    assert lease.held()
    lease.require()
    body = json.loads(world.s3.versions[-1][1])
    assert body["owner"] == lease._owner.model_dump()
    assert body["owner"]["pid"] == os.getpid()
    assert (body["fence"], body["released"], body["life_seconds"]) == (1, False, LIFE)
    assert body["acquired_at"] == "2026-01-31T12:16:40Z"
    assert body["expires_at"] == "2026-01-31T12:17:11Z"


def test_a_live_job_elsewhere_is_waited_for_and_then_the_second_is_refused_for_good(world: World) -> None:
    first, second = world.elsewhere(), world.job()
    world.acquire(first)
    content = world.s3.record.owner

    def renew() -> None:
        if world.clock() - first._renewed_at >= LIFE / 3:
            assert first._renew_once()

    stop = FakeStop(world.clock, renew)
    with pytest.raises(LeaseHeld, match=r"process 4711 on 127\.0\.77\.32 since 2026-01-31T12:16:40") as raised:
        second.acquire(stop)
    assert raised.value.exit_code == EXIT_REFUSED
    assert "stop the other" in raised.value.next_step
    assert LIFE + 4 <= stop.waited <= LIFE + 6
    assert world.s3.record.owner == content
    assert first.held()
    assert not second.held()


def test_a_live_job_on_this_host_is_not_robbed(world: World) -> None:
    first, second = world.job(), world.job()
    world.acquire(first)
    with pytest.raises(LeaseHeld, match=f"process {os.getpid()} on"):
        second.acquire(FakeStop(world.clock, first._renew_once))


def test_of_two_that_see_it_free_one_gets_it(world: World) -> None:
    first, second = world.elsewhere(), world.job()
    world.s3.before_put = lambda: first.acquire(threading.Event())
    with pytest.raises(LeaseHeld):
        second.acquire(FakeStop(world.clock, first._renew_once))
    assert first.held()


def test_a_lease_that_was_given_back_is_taken_at_once(world: World) -> None:
    first, second = world.elsewhere(), world.job()
    world.acquire(first)
    first.release()
    assert not first.held()
    assert world.s3.record.released
    assert world.acquire(second) == 0
    assert world.s3.record.fence == 2


def test_one_that_is_given_back_meanwhile_is_taken_then(world: World) -> None:
    first, second = world.elsewhere(), world.job()
    world.acquire(first)
    assert world.acquire(second, first.release) < 1


def test_an_expired_lease_is_taken_at_once(world: World) -> None:
    world.acquire(world.elsewhere())
    world.clock.now += LIFE + 2
    assert world.acquire(world.job()) == 0


def test_one_that_is_not_renewed_is_taken_when_it_expires(world: World) -> None:
    world.acquire(world.elsewhere())
    assert LIFE <= world.acquire(world.job()) <= LIFE + 2


def test_the_clocks_of_the_hosts_do_not_matter(world: World) -> None:
    first = world.elsewhere()
    first._clock = lambda: world.clock() + 1_000_000
    world.acquire(first)
    second = world.job()
    second._clock = lambda: world.clock() - 500
    assert LIFE <= world.acquire(second) <= LIFE + 2


def test_a_store_whose_clock_is_set_back_does_not_keep_a_dead_job_alive(world: World) -> None:
    world.acquire(world.elsewhere())
    world.s3.offset = -1200
    assert LIFE < world.acquire(world.job()) < LIFE + 3


@pytest.mark.parametrize("fraction", [0.0, 0.001, 0.5, 0.999])
def test_the_holder_lets_go_before_anybody_may_take_it(world: World, fraction: float) -> None:
    world.clock.now += fraction
    lease = world.job()
    world.acquire(lease)
    for pause in (0.3, 9.7, 20.001):
        world.clock.now += pause
        assert lease._renew_once()
    while lease.held():
        world.clock.now += 0.25
    now = EPOCH + timedelta(seconds=world.clock())
    assert world.s3.record.expires_at - now > timedelta(seconds=LIFE / 6 - 0.3)


def ended_process() -> Iterator[tuple[int, int]]:
    """A process that was there: its pid and start."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        ticks = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19])
        process.wait()
    yield process.pid, ticks


def test_a_job_of_this_host_that_has_ended_costs_no_time(world: World) -> None:
    (pid, ticks) = next(ended_process())
    world.acquire(world.job(pid=pid, start_ticks=ticks))
    assert world.acquire(world.job()) == 0
    assert world.s3.record.fence == 2


def test_who_counts_as_ended() -> None:
    here = this_process("127.0.77.31").model_copy(update={"writable_layer": ""})

    def ended(**changes: Any) -> bool:
        return has_ended(here.model_copy(update=changes), here)

    pid, ticks = next(ended_process())
    assert not ended()
    assert ended(pid=pid, start_ticks=ticks)
    # The pid was given to another process.
    assert ended(start_ticks=here.start_ticks - 1)
    # Nothing is known of processes elsewhere.
    for place in ({"host": "127.0.77.32"}, {"boot_id": "another"}, {"pid_namespace": "pid:[1]"}):
        assert not ended(pid=pid, start_ticks=ticks, **place)


def test_a_container_that_was_started_again_is_known_by_its_writable_layer() -> None:
    here = this_process("127.0.77.31").model_copy(update={"writable_layer": "/layers/a"})

    def ended(**changes: Any) -> bool:
        return has_ended(here.model_copy(update=changes), here)

    assert ended(pid_namespace="pid:[1]")
    # A process beside this one, whatever else is the same.
    assert not ended()
    for place in ({"host": "127.0.77.32"}, {"boot_id": "another"}, {"writable_layer": "/layers/b"}):
        assert not ended(pid_namespace="pid:[1]", **place)
    # An earlier release wrote none.
    assert not ended(pid_namespace="pid:[1]", writable_layer="")


OVERLAY = (
    "717 600 0:61 / / rw,relatime master:1 - overlay overlay rw,lowerdir=/o/A:/o/B,upperdir=/o/2f1c/diff,workdir=/w\n"
    "718 717 0:64 / /proc rw,nosuid - proc proc rw\n"
    "719 717 0:70 / /mnt rw - overlay overlay rw,lowerdir=/x,upperdir=/elsewhere,workdir=/y\n"
)
DISK = "25 0 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,discard\n"


@pytest.mark.parametrize(
    ("mountinfo", "layer"),
    [(OVERLAY, "/o/2f1c/diff"), (DISK, ""), ("", ""), (OVERLAY.replace("upperdir=/o/2f1c/diff,", ""), "")],
)
def test_the_writable_layer_is_that_of_the_root(mountinfo: str, layer: str) -> None:
    assert writable_layer(mountinfo) == layer


def test_a_zombie_has_ended_and_a_suspended_process_has_not() -> None:
    here = this_process("127.0.77.31")
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        stat = Path(f"/proc/{process.pid}/stat")
        ticks = int(stat.read_text().rpartition(")")[2].split()[19])
        owner = here.model_copy(update={"pid": process.pid, "start_ticks": ticks})
        process.send_signal(19)
        assert not has_ended(owner, here)
        process.kill()
        deadline = time.monotonic() + 5
        while stat.read_text().rpartition(")")[2].split()[0] != "Z":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert has_ended(owner, here)
    finally:
        process.kill()
        process.wait()


def test_a_process_that_is_hidden_from_us_counts_as_living(monkeypatch: pytest.MonkeyPatch) -> None:
    here = this_process("127.0.77.31")

    def hidden(path: Path) -> str:
        raise FileNotFoundError(str(path))

    monkeypatch.setattr(Path, "read_text", hidden)
    assert not has_ended(here, here)

    def denied(pid: int, sign: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", denied)
    assert not has_ended(here.model_copy(update={"pid": 1}), here)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"owner": {}}'])
def test_an_unreadable_record_is_respected_for_a_life(world: World, body: bytes) -> None:
    world.s3.versions = [("v0", body)]
    assert LIFE < world.acquire(world.job()) < LIFE + 3


def test_a_stop_ends_the_wait(world: World) -> None:
    world.acquire(world.elsewhere())
    stop = FakeStop(world.clock)
    stop._meanwhile = stop.set
    lease = world.job()
    assert not lease.acquire(stop)
    lease.release()
    assert world.s3.record.owner.pid == 4711


def test_a_store_without_an_answer_is_no_refusal(world: World) -> None:
    world.s3.failing = "SlowDown"
    lease = world.job()
    with pytest.raises(Unavailable, match="SlowDown"):
        lease.acquire(FakeStop(world.clock))
    world.s3.failing = ""
    assert world.acquire(lease) == 0


def test_a_lease_written_without_an_answer_is_recognised(world: World) -> None:
    world.s3.lose_answers = 1
    lease = world.job()
    with pytest.raises(Unavailable):
        lease.acquire(FakeStop(world.clock))
    assert not lease.held()
    assert world.acquire(lease) == 0
    assert lease.held()


def test_a_renewal_without_an_answer_is_recognised(world: World) -> None:
    lease = world.job()
    world.acquire(lease)
    world.clock.now += 10
    world.s3.lose_answers = 1
    with pytest.raises(Unavailable):
        lease._renew_once()
    world.clock.now += 1
    assert lease._renew_once()
    assert lease._renewed_at == world.clock()
    assert not world.lost


def test_a_deleted_lease_is_written_again(world: World) -> None:
    lease = world.job()
    world.acquire(lease)
    world.s3.versions.clear()
    assert lease._renew_once()
    assert world.s3.record.owner == lease._owner


def test_who_was_robbed_ends_at_his_next_renewal_and_touches_nothing(world: World) -> None:
    lease = world.elsewhere()
    world.acquire(lease)
    world.s3.offset = 1200
    robber = world.job()
    assert world.acquire(robber) == 0
    before = list(world.s3.versions)
    assert not lease._renew_once()
    (error,) = world.lost
    assert error.exit_code == EXIT_LEASE_LOST
    assert "now held by process" in error.found
    assert not lease.held()
    with pytest.raises(LeaseLost, match="now held by"):
        lease.require()
    lease.release()
    assert world.s3.versions == before
    assert robber.held()


def test_a_lease_that_ran_out_is_not_renewed_even_if_nobody_took_it(world: World) -> None:
    lease = world.job()
    world.acquire(lease)
    world.clock.now += LIFE
    puts = world.s3.puts
    assert not lease._renew_once()
    assert world.s3.puts == puts
    with pytest.raises(LeaseLost, match="not renewed for 30 s"):
        lease.require()


def test_renewals_leave_no_versions_behind(world: World) -> None:
    lease = world.job()
    world.acquire(lease)
    for _ in range(5):
        world.clock.now += 10
        assert lease._renew_once()
    lease.release()
    assert len(world.s3.versions) == 1
    assert world.s3.deleted == [f"v{number}" for number in range(1, 7)]


def test_without_versions_nothing_is_deleted(world: World) -> None:
    world.s3.versioned = False
    lease = world.job()
    world.acquire(lease)
    assert lease._renew_once()
    assert world.s3.deleted == []


def test_a_version_that_may_not_be_deleted_is_no_matter(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(**_: Any) -> None:
        raise world.s3._refuse("AccessDenied", 403)

    monkeypatch.setattr(world.s3, "delete_object", refused)
    lease = world.job()
    world.acquire(lease)
    assert lease._renew_once()


def test_giving_back_is_never_an_error(world: World, caplog: pytest.LogCaptureFixture) -> None:
    lease = world.job()
    lease.release()
    world.acquire(lease)
    world.s3.failing = "SlowDown"
    with caplog.at_level(logging.WARNING):
        lease.release()
    assert "will expire" in caplog.text


def test_what_the_store_answers_is_told_apart(world: World) -> None:
    store = S3LeaseStore(world.s3, URI)
    absent = store.read()
    assert (absent.body, absent.etag) == (None, "")
    assert absent.date == EPOCH + timedelta(seconds=1000)
    assert store.write(b"x", '"of what is gone"') is None
    first = store.write(b"1", "")
    assert first is not None
    assert store.write(b"2", "") is None
    assert store.write(b"2", first.etag) is not None
    assert store.write(b"3", first.etag) is None
    world.s3.failing = "ConditionalRequestConflict"
    assert store.write(b"3", first.etag) is None
    world.s3.failing = "AccessDenied"
    calls: list[Callable[[], object]] = [store.read, partial(store.write, b"", ""), partial(store.forget, "v1")]
    for call in calls:
        with pytest.raises(Unavailable, match="AccessDenied"):
            call()


def test_an_answer_without_a_date_is_none(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.s3, "_headers", lambda: {"HTTPHeaders": {}})
    with pytest.raises(Unavailable, match="date"):
        S3LeaseStore(world.s3, URI).read()


@dataclass
class Living:
    """A lease with its own threads and the real clock."""

    s3: FakeS3
    lease: Lease
    lost: list[tuple[float, LeaseLost]]


SHORT = 1.2


@pytest.fixture
def living() -> Iterator[Living]:
    begin = boot_clock()
    s3 = FakeS3(lambda: boot_clock() - begin)
    lost: list[tuple[float, LeaseLost]] = []
    owner = this_process("127.0.77.31")
    lease = Lease(S3LeaseStore(s3, URI), owner, SHORT, lambda error: lost.append((boot_clock(), error)))
    assert lease.acquire(threading.Event())
    yield Living(s3, lease, lost)
    lease.release()


def test_it_is_renewed_by_itself(living: Living) -> None:
    deadline = time.monotonic() + 3 * SHORT
    while time.monotonic() < deadline:
        assert living.lease.held()
        time.sleep(0.05)
    assert living.s3.record.renewals >= 3
    living.lease.release()
    assert living.s3.record.released
    puts = living.s3.puts
    time.sleep(SHORT)
    assert living.s3.puts == puts
    assert not living.lost


def test_a_short_outage_is_survived(living: Living) -> None:
    living.s3.failing = "SlowDown"
    time.sleep(SHORT / 2)
    living.s3.failing = ""
    time.sleep(SHORT)
    assert living.lease.held()
    assert not living.lost


@pytest.mark.parametrize("how", ["refuses", "hangs"])
def test_the_job_is_ended_before_the_lease_is_anybody_elses(living: Living, how: str) -> None:
    hanging = threading.Event()
    if how == "refuses":
        living.s3.failing = "SlowDown"
    else:
        living.s3.before_put = lambda: hanging.wait(10)
    deadline = time.monotonic() + 5
    while not living.lost:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    when, error = living.lost[0]
    ends = living.lease._renewed_at + SHORT
    hanging.set()
    assert ends - SHORT / 6 <= when < ends
    assert error.exit_code == EXIT_LEASE_LOST
    assert not living.lease.held()
    time.sleep(0.2)
    assert len(living.lost) == 1


def test_no_batch_is_begun_without_the_lease() -> None:
    def require() -> None:
        raise LeaseLost("lease", "gone")

    # Without a writer: whatever were written would end in another error.
    sink = Sink(cast(Any, None), "e", "d", [], lambda _: None, lambda _: None, require_lease=require)
    with pytest.raises(LeaseLost):
        sink(cast(Any, None), 3)
    assert sink.stop(timeout=0)


def test_a_batch_waits_for_the_object_store_as_long_as_the_lease_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink_module, "_PAUSE_SECONDS", 0.0)
    asked: list[int] = []

    def silent(batch: int) -> None:
        asked.append(batch)
        raise Unavailable("object store", "no answer")

    def require() -> None:
        if len(asked) == 3:
            raise LeaseLost("lease", "gone")

    sink = Sink(cast(Any, None), "e", "d", [], silent, lambda _: None, require_lease=require)
    with pytest.raises(LeaseLost):
        sink(cast(Any, None), 3)
    assert asked == [3, 3, 3]


def test_the_lease_is_taken_before_anything_of_the_checkpoint_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    parsed = config.parse(config.StreamingConfig, streaming(tmp_path), "streaming.json")
    topic = SimpleNamespace(close=lambda: order.append("close"))
    monkeypatch.setattr(job, "ObjectStore", lambda *_: None)
    monkeypatch.setattr(job, "TopicReady", lambda *_: Callback(order, "topic", topic))
    monkeypatch.setattr(job, "buckets_ready", lambda *_: order.append("buckets"))
    monkeypatch.setattr(job, "_approved", lambda *_: order.append("checkpoint"))
    lease = SimpleNamespace(acquire=lambda stop: order.append("lease"))
    job.prepare(parsed, [], threading.Event(), cast(Lease, lease))
    assert order == ["buckets", "lease", "checkpoint", "topic", "close"]


class Callback:
    """A check that notes when it was asked."""

    def __init__(self, order: list[str], name: str, topic: SimpleNamespace) -> None:
        self._order = order
        self._name = name
        self.close = topic.close

    def __call__(self) -> None:
        self._order.append(self._name)


def test_the_lease_stands_beside_the_pointer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(job, "connect", lambda *arguments: asked.extend(arguments))
    parsed = config.parse(config.StreamingConfig, streaming(tmp_path, lease_seconds=12), "streaming.json")
    lease = job._lease(parsed)
    assert asked[2:] == [URI, 12.0]
    assert lease._life == 12.0
    assert lease._owner.host == parsed.metrics.host
    assert isinstance(lease._owner, Owner)


def test_losing_it_ends_the_process_and_says_why() -> None:
    code = (
        "import threading; from pipeline.streaming import job; from pipeline.streaming.lease import LeaseLost\n"
        "import time, logging; logging.basicConfig()\n"
        "threading.Thread(target=lambda: job._end_at_once(LeaseLost('lease', 'too old'))).start(); time.sleep(60)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == EXIT_LEASE_LOST
    assert "lease: found too old" in done.stderr
