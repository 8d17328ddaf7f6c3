"""Notices of the runbook to people: a spool on the disk, and its delivery to webhooks.

A notice is one file of the spool from the moment that :meth:`Spool.enqueue` returns until a webhook took it: at
least once, so a receiver drops a second one of the same id. Whatever is killed at whatever point leaves the file
either pending or sent. Of more than :data:`KEPT_PENDING` the least urgent and oldest are given up, and a notice says
so. Tokens are read at the time of sending and stand in no file, error or log of ours.
"""

from __future__ import annotations

import json
import math
import os
import queue
import re
import secrets
import ssl
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

from ansible_collections.streamops.runbook.plugins.module_utils import file_lock, tls
from ansible_collections.streamops.runbook.plugins.module_utils.catalog import SEVERITIES
from ansible_collections.streamops.runbook.plugins.module_utils.errors import ProbeError, Refused, RunbookError

KEPT_SENT = 500
# A contact that nobody fills in may not fill the disk: beyond so many that wait, half of them are given up.
KEPT_PENDING = 200
# What was no emergency is no news any more after so long.
STALE_SECONDS = {"P3": 7 * 86400.0, "P4": 7 * 86400.0}
GIVEN_UP = "given up"
_MOST_LINES = 20
FIRST_RETRY_SECONDS = 30.0
LONGEST_RETRY_SECONDS = 3600.0
# A writer that was killed before its rename leaves a file that nobody was told of.
_ABANDONED_SECONDS = 3600.0

T = TypeVar("T")


@dataclass(frozen=True)
class Notice:
    """What is told: ``id`` sorts by time; ``created_at`` is RFC 3339, UTC."""

    id: str
    created_at: str
    severity: str
    procedure: str
    run: str
    status: str
    title: str
    text: str
    runbook_url: str


@dataclass(frozen=True)
class Target:
    """The webhook of one contact; an empty ``webhook_url`` is a contact that nobody filled in.

    :param token_file: file that holds the bearer token and nothing else; empty for none.
    :param files: what the stack is trusted by and shown, where it speaks TLS; a webhook may be a part of it.
    """

    contact: str
    webhook_url: str
    token_file: str
    files: tls.Files | None = None


@dataclass
class Delivery:
    """What one round did: ids that were sent, ids still pending, and why, each reason once."""

    sent: list[str] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


# Sends one notice within so many seconds; raises OSError or ProbeError with a reason that holds no secret.
Post = Callable[[Target, Mapping[str, Any], float], None]


def make_notice(
    *, severity: str, procedure: str, run: str, status: str, title: str, text: str, runbook_url: str
) -> Notice:
    """Return a notice of this moment with an id of its own.

    :raises Refused: for an unknown severity or a title of nothing.
    """
    if severity not in SEVERITIES:
        raise Refused("severity of the notice", severity, ", ".join(SEVERITIES))
    if not title.strip():
        raise Refused("title of the notice", "nothing", "what happened, in one line")
    now = datetime.now(UTC)
    return Notice(
        id=f"{now:%Y%m%dT%H%M%S.%fZ}-{secrets.token_hex(4)}",
        created_at=now.isoformat(timespec="seconds").replace("+00:00", "Z"),
        severity=severity,
        procedure=procedure,
        run=run,
        status=status,
        title=title,
        text=text,
        runbook_url=runbook_url,
    )


def _created(notice: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(str(notice["created_at"])).timestamp()


def _summary(given_up: Sequence[Mapping[str, Any]]) -> Notice:
    """Return the notice of notices that were given up; what an earlier one of its kind told is told on."""
    counted = Counter(str(notice["severity"]) for notice in given_up)
    moments = sorted(str(notice["created_at"]) for notice in given_up)
    counts = ", ".join(f"{severity} {number}" for severity, number in sorted(counted.items()))
    lines = [f"{moments[0]} to {moments[-1]}: {counts}; state/runs has the records of these runs"]
    for notice in reversed(given_up):
        lines += str(notice["text"]).splitlines() if notice["status"] == GIVEN_UP else []
    return make_notice(
        severity=min(counted),
        procedure="notify",
        run="",
        status=GIVEN_UP,
        title=f"{len(given_up)} notices could not be delivered and were given up",
        text="\n".join(lines[:_MOST_LINES]),
        runbook_url="",
    )


class Spool:
    """The folder: pending notices as ``<id>.json``, those that were sent in ``sent/``.

    :param clock: Unix time, for when a notice is tried next.
    :param monotonic: for the length of a round.
    """

    def __init__(
        self,
        folder: Path,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._monotonic = monotonic
        self._sleep = sleep

    def enqueue(self, notice: Notice) -> Path:
        """Put a notice into the spool; once this returns it survives a kill and a power cut.

        :raises OSError: when the spool can't be written.
        """
        self._make()
        path = self._folder / f"{notice.id}.json"
        self._write(path, {"notice": asdict(notice), "attempts": 0, "next_try": 0.0, "last_error": ""})
        return path

    def pending(self) -> list[str]:
        """Ids of the notices that no webhook took yet, oldest first."""
        return [path.stem for path in self._paths()]

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob("[!.]*.json"))

    def deliver(
        self, targets: Mapping[str, Target], *, post: Post | None = None, timeout: float = 2.0, total: float = 5.0
    ) -> Delivery:
        """Send every pending notice whose time has come, oldest first; never raises.

        :param targets: where a notice of each severity goes.
        :param timeout: seconds for one webhook.
        :param total: seconds for the whole round, waiting for another round included; the rest stays pending.
        """
        done = Delivery()
        end = self._monotonic() + total
        try:
            self._make()
            with file_lock.held(self._folder / ".lock", end, self._monotonic, self._sleep) as mine:
                if mine:
                    self._round(targets, post or post_json, timeout, end, done)
                else:
                    done.errors.append("another round of deliveries goes on")
            done.pending = self.pending()
        except OSError as error:
            done.errors.append(f"the spool: {error.strerror or type(error).__name__}")
        done.errors = list(dict.fromkeys(done.errors))
        return done

    def _round(self, targets: Mapping[str, Target], post: Post, timeout: float, end: float, done: Delivery) -> None:
        for path in self._paths():
            left = end - self._monotonic()
            if left <= 0:
                done.errors.append("the time of this round is over")
                break
            entry = self._read(path, done)
            if entry is None or entry["next_try"] > self._clock():
                continue
            target = targets.get(entry["notice"]["severity"])
            if target is None or not target.webhook_url:
                # Nobody to send it to is no failed attempt: it goes out as soon as the contact is filled in.
                contact = target.contact if target else f"of severity {entry['notice']['severity']}"
                done.errors.append(f"contact {contact} is not filled in")
                continue
            try:
                post(target, entry["notice"], min(timeout, left))
            except (OSError, ProbeError) as error:
                self._failed(path, entry, f"contact {target.contact}: {reason(error)}", done)
                continue
            # A kill right here sends it once more, with the same id.
            path.replace(self._folder / "sent" / path.name)
            done.sent.append(path.stem)
        self._give_up(done)
        self._tidy()

    def _give_up(self, done: Delivery) -> None:
        """Give up what is stale and, beyond the limit, the least urgent and oldest, of which one notice then tells."""
        waiting = [(path, entry["notice"]) for path in self._paths() if (entry := self._read(path, done)) is not None]
        stale = [
            (path, notice)
            for path, notice in waiting
            if self._clock() - _created(notice) > STALE_SECONDS.get(notice["severity"], math.inf)
        ]
        over = [one for one in waiting if one not in stale]
        # By id, so by age, within a severity.
        over.sort(key=lambda one: str(one[1]["severity"]), reverse=True)
        over = over[: len(over) - KEPT_PENDING // 2] if len(over) > KEPT_PENDING else []
        if over:
            # Before they go: whatever is killed in between tells twice and keeps nothing back.
            self.enqueue(_summary([notice for _, notice in over]))
        for path, _ in stale + over:
            path.unlink()
        if stale or over:
            done.errors.append(f"{len(stale + over)} notices waited for too long and were given up")

    def _failed(self, path: Path, entry: dict[str, Any], error: str, done: Delivery) -> None:
        attempts = int(entry["attempts"]) + 1
        wait = min(FIRST_RETRY_SECONDS * 2 ** min(attempts - 1, 20), LONGEST_RETRY_SECONDS)
        self._write(path, {**entry, "attempts": attempts, "next_try": self._clock() + wait, "last_error": error})
        done.errors.append(error)

    @staticmethod
    def _read(path: Path, done: Delivery) -> dict[str, Any] | None:
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
            notice = Notice(**entry["notice"])
            if notice.severity not in SEVERITIES or _created(entry["notice"]) <= 0:
                raise ValueError(path.name)
            return {
                "notice": asdict(notice),
                "attempts": int(entry["attempts"]),
                "next_try": float(entry["next_try"]),
                "last_error": str(entry["last_error"]),
            }
        except (OSError, ValueError, KeyError, TypeError):
            # It is left as it is: a person may still read what it said.
            done.errors.append(f"notice {path.stem} can not be read")
            return None

    def _make(self) -> None:
        for folder in (self._folder, self._folder / "sent"):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def _tidy(self) -> None:
        for path in sorted((self._folder / "sent").glob("*.json"))[:-KEPT_SENT]:
            path.unlink()
        for path in self._folder.glob(".*.json.*"):
            if self._clock() - path.stat().st_mtime > _ABANDONED_SECONDS:
                path.unlink()

    def _write(self, path: Path, document: Mapping[str, Any]) -> None:
        spare = self._folder / f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}"
        with os.fdopen(os.open(spare, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
            json.dump(document, stream, indent=2)
            stream.flush()
            os.fsync(stream.fileno())
        spare.replace(path)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def reason(error: Exception) -> str:
    """Say why a request failed, in words that hold neither an address nor a header nor a body."""
    if isinstance(error, ProbeError):
        return error.found
    if isinstance(error, urllib.error.HTTPError):
        phrase = next((status.phrase for status in HTTPStatus if status == error.code), "unknown")
        return f"HTTP {error.code} {phrase}"
    inner = getattr(error, "reason", error)
    if isinstance(inner, ssl.SSLCertVerificationError):
        return f"its certificate {tls.verdict(inner)}"
    if isinstance(inner, ssl.SSLError):
        # Its errno is none of the system's.
        return f"no TLS with it ({inner.reason})"
    if isinstance(inner, TimeoutError):
        return "no answer in time"
    if isinstance(inner, OSError) and inner.errno is not None:
        return os.strerror(inner.errno) if inner.errno > 0 else "the host's name is not known"
    return type(inner).__name__


def within(seconds: float, work: Callable[[], T]) -> T:
    """Return what ``work`` returns, or raise TimeoutError after so many seconds.

    The limit of a socket starts anew with each byte, and looking up a name knows none; this one is of the whole. What
    is given up may still come to its end behind our back.
    """
    answers: queue.Queue[tuple[bool, Any]] = queue.Queue()

    def run() -> None:
        try:
            answers.put((True, work()))
        except Exception as error:  # noqa: BLE001  it is raised again by whoever waits
            answers.put((False, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        good, value = answers.get(timeout=max(seconds, 0.001))
    except queue.Empty:
        raise TimeoutError("no answer in time") from None
    if not good:
        raise value
    answer: T = value
    return answer


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the token to a stranger; it is an error like any other status."""

    def redirect_request(self, *_: Any) -> None:
        return None


def request(
    method: str,
    url: str,
    *,
    timeout: float,
    document: Any = None,
    token: str = "",
    proxies: Mapping[str, str] | None = None,
    context: ssl.SSLContext | None = None,
) -> bytes:
    """Make one HTTP request; redirects are not followed.

    :param document: sent as JSON where there is one.
    :param timeout: seconds for the whole request.
    :param proxies: as urllib takes them; None is those of the environment.
    :param context: whom an address of https is trusted by; None are the authorities of this machine.
    :returns: the body, at most 8 MiB of it.
    :raises OSError: no connection, no answer in time (TimeoutError), a status other than 2xx (HTTPError).
    :raises ProbeError: an address or a token that can't be used; without saying what it holds.
    """
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if not re.match(r"https?://", url):
        raise ProbeError("the address of a request", "no http address", "http:// or https://")
    if token:
        if not re.fullmatch(r"[\x21-\x7e]+", token):
            raise ProbeError("the token of a request", "a token that is not one line of printable characters")
        headers["Authorization"] = f"Bearer {token}"
    handlers: list[urllib.request.BaseHandler] = [
        _NoRedirects(),
        urllib.request.ProxyHandler(None if proxies is None else dict(proxies)),
    ]
    if context is not None:
        handlers.append(urllib.request.HTTPSHandler(context=context))
    opener = urllib.request.build_opener(*handlers)
    body = None if document is None else json.dumps(document).encode()

    def work() -> bytes:
        made = urllib.request.Request(url, data=body, headers=headers, method=method)  # noqa: S310
        with opener.open(made, timeout=timeout) as answer:
            content: bytes = answer.read(8 * 1024 * 1024)
            return content

    try:
        return within(timeout, work)
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001  its type is all that may be told
        # http.client puts what it does not like into its message, which may be the token.
        raise ProbeError("a request", type(error).__name__) from None


def post_json(target: Target, notice: Mapping[str, Any], timeout: float) -> None:
    """POST one notice as JSON with the bearer token of its contact; see :func:`request` for what it raises."""
    token = ""
    if target.token_file:
        try:
            token = Path(target.token_file).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise ProbeError(f"token of {target.contact}", f"its token file: {type(error).__name__}") from None
    context = None
    if target.files is not None and target.webhook_url.startswith("https:"):
        try:
            context = tls.outward_context(target.files)
        except RunbookError as error:
            raise ProbeError(f"TLS with {target.contact}", error.found, error.expected) from None
    request("POST", target.webhook_url, timeout=timeout, document=notice, token=token, context=context)
