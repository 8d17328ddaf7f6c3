"""The lease on the checkpoint: of two streaming jobs one runs, the other is refused before Spark sees it.

The lease is an object beside the checkpoint pointer. Whoever creates it by a conditional PUT
(``If-None-Match: *``), or replaces it by one (``If-Match`` with the ETag that was read), holds it for
its life; each third of that it is renewed in the same way. Times that two machines compare are those of
the object store (its ``Date``); how long something took is measured by each on a clock that no one sets.

A lease is no fence: a commit that a suspended JVM finishes late is caught by the log store's conditional
writes, not here. What is kept here is that nobody *begins* a batch whose lease may be another's.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from pipeline.config import S3Endpoint, S3Login
from pipeline.errors import PipelineError, StartRefused, Unavailable
from pipeline.events import rfc3339
from pipeline.objectstore import error_code, s3_client, split_uri

log = logging.getLogger(__name__)

EXIT_LEASE_LOST = 75
"""The lease could not be kept (sysexits' EX_TEMPFAIL); a restart waits for the store and takes it anew."""

_PATIENCE_SECONDS = 5.0
"""How much longer than a life a start waits for a lease that is held."""
_LOOK_SECONDS = 0.5
_DATE_STEP = timedelta(seconds=1)
"""HTTP dates are cut to whole seconds."""


class LeaseHeld(StartRefused):
    """Another job holds the lease, and renews it."""


class LeaseLost(PipelineError):
    """The lease was not renewed in time, or another job has it now."""

    exit_code: ClassVar[int] = EXIT_LEASE_LOST


class Owner(BaseModel):
    """The process that holds a lease.

    :param host: its host's address, as in the inventory.
    :param start_ticks: when it was started, in clock ticks since the machine's start (/proc/PID/stat).
    :param boot_id: which start of which machine that was.
    :param pid_namespace: in which its pid means anything (containers of one machine share the boot id).
    :param writable_layer: of the container that it runs in; empty outside of one.
    :param holder_id: a random name of this very holder.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    host: str
    pid: int
    start_ticks: int
    boot_id: str
    pid_namespace: str
    holder_id: str
    writable_layer: str = ""


class Record(BaseModel):
    """The content of the lease object.

    :param acquired_at: when the holder got it, on the store's clock.
    :param expires_at: until when it is his, on the store's clock.
    :param life_seconds: how long he holds it after each renewal.
    :param fence: one more with each change of the holder.
    :param renewals: how often this holder renewed it; no two contents are alike, nor their ETags.
    :param released: whether he gave it back.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    owner: Owner
    acquired_at: AwareDatetime
    expires_at: AwareDatetime
    life_seconds: float
    fence: int
    renewals: int = 0
    released: bool = False


@dataclass(frozen=True)
class Version:
    """What one look at the lease object saw, or one write of it made.

    :param body: the content; None without an object.
    :param etag: what the next conditional write has to match; empty without an object.
    :param version_id: its version in a versioned bucket; empty elsewhere.
    :param date: the store's clock when it answered.
    """

    body: bytes | None
    etag: str
    version_id: str
    date: datetime


class LeaseStore(Protocol):
    """Where the lease object is; every method raises Unavailable without an answer of the store."""

    def read(self) -> Version: ...
    def write(self, body: bytes, etag: str) -> Version | None: ...
    def forget(self, version_id: str) -> None: ...


class S3LeaseStore:
    """The lease object in an S3 store.

    :param client: boto3's, with timeouts that leave several tries within a life.
    :param uri: s3:// address of the object.
    """

    def __init__(self, client: Any, uri: str) -> None:
        import botocore.exceptions

        self._client = client
        self._uri = uri
        self._bucket, self._key = split_uri(uri)
        self._client_error = botocore.exceptions.ClientError
        self._no_answer = botocore.exceptions.BotoCoreError

    def read(self) -> Version:
        """Look at the object.

        :raises Unavailable: no answer, or a refusal.
        """
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._key)
            return _version(answer, answer["Body"].read())
        except self._client_error as error:
            if error_code(error) in ("NoSuchKey", "404"):
                return Version(None, "", "", _date(error.response))
            raise self._unavailable(error) from error
        except self._no_answer as error:
            raise self._unavailable(error) from error

    def write(self, body: bytes, etag: str) -> Version | None:
        """Write the object if it still is what was read.

        :param etag: of what was read; empty for no object.
        :returns: None when somebody else has written it meanwhile.
        :raises Unavailable: no answer, or a refusal; whether it was written is then unknown.
        """
        condition = {"IfMatch": etag} if etag else {"IfNoneMatch": "*"}
        try:
            answer = self._client.put_object(Bucket=self._bucket, Key=self._key, Body=body, **condition)
            return _version(answer, body)
        except self._client_error as error:
            # MinIO answers 412, and NoSuchKey for If-Match where no object is any more; 409 is AWS's
            # word for two conditional writers at one moment.
            if error_code(error) in (
                "PreconditionFailed",
                "412",
                "NoSuchKey",
                "404",
                "ConditionalRequestConflict",
                "409",
            ):
                return None
            raise self._unavailable(error) from error
        except self._no_answer as error:
            raise self._unavailable(error) from error

    def forget(self, version_id: str) -> None:
        """Delete one version for good.

        :raises Unavailable: no answer, or a refusal.
        """
        try:
            self._client.delete_object(Bucket=self._bucket, Key=self._key, VersionId=version_id)
        except (self._client_error, self._no_answer) as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> Unavailable:
        return Unavailable(f"lease {self._uri}", str(error), "an answer of the object store")


def connect(endpoint: S3Endpoint, login: S3Login, uri: str, life_seconds: float) -> S3LeaseStore:
    """The lease object with a client of its own: a renewal may not hang for as long as a read may.

    :param uri: s3:// address of the lease object.
    """
    client = s3_client(
        endpoint,
        login,
        connect_timeout=life_seconds / 15,
        read_timeout=life_seconds / 10,
        # The lease tries again itself: a second try of the client's own could answer its first with 412.
        retries={"total_max_attempts": 1},
    )
    return S3LeaseStore(client, uri)


def this_process(host: str) -> Owner:
    """This process as the owner of a lease.

    :param host: the address of this host.
    """
    return Owner(
        host=host,
        pid=os.getpid(),
        start_ticks=int(_stat(os.getpid())[19]),
        boot_id=Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        pid_namespace=str(Path("/proc/self/ns/pid").readlink()),
        holder_id=uuid.uuid4().hex,
        writable_layer=writable_layer(Path("/proc/self/mountinfo").read_text()),
    )


def writable_layer(mountinfo: str) -> str:
    """Return the folder that takes what is written to the root of this container; empty where the root is no overlay.

    Of the containers of one machine no two have the same, and one that is started again keeps its own.

    :param mountinfo: as of proc_pid_mountinfo(5).
    """
    for line in mountinfo.splitlines():
        mount, _, source = line.partition(" - ")
        kind, *_, options = source.split()
        if mount.split()[4] == "/" and kind == "overlay":
            upper = (
                option.removeprefix("upperdir=") for option in options.split(",") if option.startswith("upperdir=")
            )
            return next(upper, "")
    return ""


def has_ended(owner: Owner, here: Owner) -> bool:
    """Whether the owner was a process of this machine, or of this container before it was started again, and is gone
    for certain.

    :param here: this process.
    """
    if (owner.host, owner.boot_id) != (here.host, here.boot_id):
        return False
    if owner.pid_namespace != here.pid_namespace:
        # A container has one such namespace at a time, and nothing outlives the end of it. Who makes another one inside
        # of it, by unshare(1), is not this project.
        return bool(here.writable_layer) and owner.writable_layer == here.writable_layer
    try:
        state, *fields = _stat(owner.pid)
    except OSError:
        # Other users' processes can be hidden from us; signal 0 sees them all the same.
        try:
            os.kill(owner.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False
    # A zombie has ended, and a pid may by now be another process's.
    return state in "ZX" or int(fields[18]) != owner.start_ticks


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on: [0] the state, [19] the start in clock ticks."""
    # The name in parentheses may hold anything, spaces and parentheses too.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def boot_clock() -> float:
    """Seconds since the machine's start; goes on while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lease:
    """One job's hold of the checkpoint.

    :param store: the lease object.
    :param owner: this process.
    :param life_seconds: how long the lease is held after each renewal.
    :param on_lost: called once, in a thread of the lease, a sixth of a life before another job may take
        it over; must end the process.
    :param clock: seconds, by no means set back or forward.
    """

    def __init__(
        self,
        store: LeaseStore,
        owner: Owner,
        life_seconds: float,
        on_lost: Callable[[LeaseLost], None],
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        self._store = store
        self._owner = owner
        self._life = life_seconds
        self._margin = life_seconds / 6
        self._on_lost = on_lost
        self._clock = clock
        self._ended = threading.Event()
        self._lost: LeaseLost | None = None
        self._losing = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._version: Version | None = None
        self._record: Record | None = None
        self._dated = (datetime.min.replace(tzinfo=UTC), 0.0)
        self._renewed_at = 0.0
        self._problem = "no answer yet"

    def acquire(self, stop: threading.Event) -> bool:
        """Take the lease, or wait for it while another job has it.

        Another's is taken over at once when it was released, when it has expired, or when its owner
        was a process of this host or container that has ended; and when it was not renewed under our eyes for its
        whole life, whatever the store's clock says.

        :param stop: ends the wait.
        :returns: False when stopped first.
        :raises LeaseHeld: it was renewed by its holder while we waited for longer than a life.
        :raises Unavailable: the object store does not answer.
        """
        began = self._clock()
        seen_since = (began, "")
        told = False
        while not stop.is_set():
            asked_at = self._clock()
            found = self._store.read()
            record = _parse(found.body)
            if found.etag != seen_since[1]:
                seen_since = (self._clock(), found.etag)
            reason = self._free(found, record, self._clock() - seen_since[0])
            if reason:
                if self._take(found, record, asked_at):
                    log.info("lease taken (%s)", reason)
                    self._keep()
                    return True
                continue
            life = record.life_seconds if record else self._life
            if self._clock() - began > life + _PATIENCE_SECONDS:
                raise _held(record, self._clock() - began)
            if not told:
                told = True
                log.info("waiting: the checkpoint is leased to %s", _who(record))
            stop.wait(_LOOK_SECONDS)
        return False

    def held(self) -> bool:
        """Whether the lease is ours for certain, and for long enough to write something small."""
        return (
            self._record is not None
            and self._lost is None
            and not self._ended.is_set()
            and self._clock() < self._renewed_at + self._life - self._margin
        )

    def require(self) -> None:
        """Pass if the lease is ours.

        :raises LeaseLost: it is not, or not for certain.
        """
        if not self.held():
            raise self._lost or self._expired()

    def release(self) -> None:
        """Give the lease back; nothing of this job may write any more. Failure is only logged."""
        if self._record is None or self._version is None:
            return
        self._ended.set()
        for thread in self._threads:
            thread.join(timeout=self._life / 3)
        if self._lost is not None:
            return
        try:
            given_back = self._record.model_copy(update={"released": True, "expires_at": self._version.date})
            self._replace(given_back, self._clock())
        except Unavailable as error:
            log.warning("lease not given back, it will expire: %s", error)

    def _free(self, found: Version, record: Record | None, unchanged: float) -> str:
        """Why the lease may be taken; empty when it may not."""
        if found.body is None:
            return "nobody had it"
        if unchanged > (record.life_seconds if record else self._life) + _DATE_STEP.total_seconds():
            return f"unchanged for {unchanged:.0f} s, last {_who(record)}"
        if record is None:
            return ""
        if record.owner.holder_id == self._owner.holder_id:
            return "written before, without an answer"
        if record.released:
            return f"given back by {_who(record)}"
        if found.date >= record.expires_at:
            return f"expired, last {_who(record)}"
        if has_ended(record.owner, self._owner):
            return f"its owner has ended: {_who(record)}"
        return ""

    def _take(self, found: Version, record: Record | None, asked_at: float) -> bool:
        self._version = found
        self._dated = (found.date, asked_at)
        fence = (record.fence if record else 0) + 1
        return self._renew(
            Record(
                owner=self._owner,
                acquired_at=found.date,
                expires_at=found.date,
                life_seconds=self._life,
                fence=fence,
            )
        )

    def _keep(self) -> None:
        for work in (self._renew_again_and_again, self._watch):
            thread = threading.Thread(target=work, name=f"lease-{work.__name__.strip('_')}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def _renew_again_and_again(self) -> None:
        pause = self._life / 3
        while not self._ended.wait(pause):
            pause = self._life / 30
            try:
                if self._renew_once():
                    pause = self._life / 3
            except Unavailable as error:
                self._problem = str(error)
                log.warning("lease not renewed: %s", error)
            if self._lost is not None:
                return

    def _renew_once(self) -> bool:
        record = self._record
        if record is None or not self.held():
            # Too late: it may be another's. The watch ends the process.
            return False
        if self._renew(record.model_copy(update={"renewals": record.renewals + 1})):
            return True
        asked_at = self._clock()
        found = self._store.read()
        now = _parse(found.body)
        if found.body is not None and (now is None or now.owner.holder_id != self._owner.holder_id):
            self._lose(LeaseLost("lease of the checkpoint", f"now held by {_who(now)}", "our own"))
            return False
        # Deleted by somebody, or written by a try of ours whose answer was lost: still ours.
        self._version = found
        self._dated = (found.date, asked_at)
        return self._renew(record.model_copy(update={"renewals": record.renewals + 2}))

    def _renew(self, record: Record) -> bool:
        """Write the lease with a new life; False when somebody else has written it."""
        sent_at = self._clock()
        date, asked_at = self._dated
        # The latest time that the store's clock can show now. Our own reckoning begins before the
        # write is sent, so that it always ends before another's may begin.
        latest = date + _DATE_STEP + timedelta(seconds=sent_at - asked_at)
        record = record.model_copy(update={"expires_at": latest + timedelta(seconds=self._life)})
        if not self._replace(record, sent_at):
            return False
        self._record = record
        self._renewed_at = sent_at
        return True

    def _replace(self, record: Record, sent_at: float) -> bool:
        former = self._version
        if former is None:
            return False
        written = self._store.write(record.model_dump_json(indent=2).encode(), former.etag)
        if written is None:
            return False
        self._version = written
        self._dated = (written.date, sent_at)
        if former.version_id:
            # In a versioned bucket each renewal leaves a version behind, thousands a day.
            try:
                self._store.forget(former.version_id)
            except Unavailable as error:
                log.info("old version of the lease not removed: %s", error)
        return True

    def _watch(self) -> None:
        while not self._ended.is_set():
            left = self._renewed_at + self._life - self._margin - self._clock()
            if left <= 0:
                self._lose(self._expired())
                return
            self._ended.wait(min(left, 1.0))

    def _expired(self) -> LeaseLost:
        return LeaseLost(
            "lease of the checkpoint",
            f"not renewed for {self._clock() - self._renewed_at:.0f} s ({self._problem})",
            f"a renewal within {self._life - self._margin:g} s",
            "nothing, if it is started again: it waits for the object store and goes on from the checkpoint",
        )

    def _lose(self, error: LeaseLost) -> None:
        with self._losing:
            if self._lost is not None or self._ended.is_set():
                return
            self._lost = error
        self._on_lost(error)


def _version(answer: Any, body: bytes) -> Version:
    version = answer.get("VersionId") or ""
    # "null" is what a bucket without versions, or no longer with, calls its only one: the current.
    return Version(body, answer["ETag"], "" if version == "null" else version, _date(answer))


def _date(answer: Any) -> datetime:
    text = answer["ResponseMetadata"]["HTTPHeaders"].get("date", "")
    try:
        return parsedate_to_datetime(text).astimezone(UTC)
    except ValueError:
        raise Unavailable("object store", f"an answer with the date {text!r}", "the time of its clock") from None


def _parse(body: bytes | None) -> Record | None:
    try:
        return None if body is None else Record.model_validate_json(body)
    except ValidationError:
        return None


def _who(record: Record | None) -> str:
    if record is None:
        return "an unreadable record"
    owner = record.owner
    return f"process {owner.pid} on {owner.host} since {rfc3339(record.acquired_at)}"


def _held(record: Record | None, waited: float) -> LeaseHeld:
    return LeaseHeld(
        "lease of the checkpoint",
        f"held by {_who(record)}, who renewed it while this job waited for {waited:.0f} s",
        "one streaming job for a checkpoint",
        "find out which of the two jobs is wanted and stop the other; this one is not started again by itself",
    )
