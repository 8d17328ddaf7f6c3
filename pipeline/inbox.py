"""The inbox: in the sandbox, the phone of whoever is on call.

Takes messages by HTTP, those of Alertmanager (webhook version 4) and the runbook's own notices, and
keeps each as one line of a file. A 200 says that the line is on the disk.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import logging
import os
import sys
import threading
import time
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from pipeline.config import InboxConfig, Tls
from pipeline.errors import EXIT_OK, Unavailable
from pipeline.tls import secure

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 1024 * 1024


class NotJson(ValueError):
    """A body that is no JSON object."""


class MessageFile:
    """A file of JSON lines, of mode 0600, that is rotated to ``FILE.1``.

    The file may be taken away or cut by others at any time; it is opened anew for each line. Safe for
    any number of threads, not for two processes.

    :param path: of the file; its folder exists.
    :param max_lines: how many lines it takes before it is rotated.
    """

    def __init__(self, path: Path, max_lines: int) -> None:
        self._path = path
        self._max_lines = max_lines
        self._lock = threading.Lock()
        # What the number of lines was counted of: inode and size.
        self._known: tuple[int, int] | None = None
        self._lines = 0

    def check(self) -> None:
        """Make the file if there is none.

        :raises OSError: it cannot be written to.
        """
        with self._lock:
            os.close(self._open())

    def append(self, line: bytes) -> None:
        """Add a line and wait until it is on the disk.

        :param line: without the line's end.
        :raises OSError: it is not there; nothing of it was kept.
        """
        with self._lock:
            descriptor = self._open()
            try:
                if self._lines >= self._max_lines:
                    os.close(descriptor)
                    descriptor = -1
                    self._path.replace(self._path.with_name(self._path.name + ".1"))
                    descriptor = self._open()
                self._write(descriptor, line + b"\n")
            finally:
                if descriptor >= 0:
                    os.close(descriptor)

    def _write(self, descriptor: int, data: bytes) -> None:
        before = os.fstat(descriptor).st_size
        try:
            written = os.write(descriptor, data)
            if written < len(data):
                raise OSError(f"{written} of {len(data)} bytes written")
            os.fsync(descriptor)
        except OSError:
            # Whoever was not told 200 sends it again: half a line would spoil the next one.
            self._known = None
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, before)
            raise
        self._lines += 1
        self._remember(descriptor)

    def _open(self) -> int:
        """The file, open for appending, with its number of lines known."""
        new = not self._path.exists()
        descriptor = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(descriptor, 0o600)
            if new:
                # A new name is on the disk only when its folder is.
                folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
            found = os.fstat(descriptor)
            if self._known != (found.st_ino, found.st_size):
                self._count(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _count(self, descriptor: int) -> None:
        """Count the lines; half a line at the end, which a power cut leaves, is cut off."""
        lines = end = position = 0
        while chunk := os.pread(descriptor, 1 << 20, position):
            lines += chunk.count(b"\n")
            last = chunk.rfind(b"\n")
            if last >= 0:
                end = position + last + 1
            position += len(chunk)
        if end < position:
            log.warning("%s: %d bytes of an unfinished line cut off", self._path, position - end)
            os.ftruncate(descriptor, end)
        self._lines = lines
        self._remember(descriptor)

    def _remember(self, descriptor: int) -> None:
        found = os.fstat(descriptor)
        self._known = (found.st_ino, found.st_size)


class Inbox:
    """What the server's threads share: file, token, metrics.

    :param token: what a sender has to show; None hears everyone.
    """

    def __init__(self, file: MessageFile, token: str | None) -> None:
        self._file = file
        self._expected = None if token is None else f"Bearer {token}".encode()
        self.registry = CollectorRegistry()
        self._messages = Counter("inbox_messages", "Messages kept since the start.", registry=self.registry)
        self._last = Gauge(
            "inbox_last_message_timestamp_seconds",
            "Unix time of the last message kept, 0 before the first since the start.",
            registry=self.registry,
        )

    def admits(self, authorization: str) -> bool:
        """Whether a sender with this Authorization header is heard."""
        return self._expected is None or hmac.compare_digest(authorization.encode("latin-1", "replace"), self._expected)

    def keep(self, path: str, body: bytes, now: datetime) -> None:
        """Keep a message.

        :param path: of the request.
        :param body: one JSON object.
        :raises NotJson: it is none.
        :raises OSError: it could not be written.
        """
        self._file.append(line_of(path, body, now))
        self._messages.inc()
        self._last.set(time.time())


def line_of(path: str, body: bytes, now: datetime) -> bytes:
    """A message as a line of the file: received_at (RFC 3339, UTC, milliseconds), path, body.

    :raises NotJson: the body is no JSON object.
    """
    moment = now.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    try:
        content = json.loads(body.decode(), parse_constant=_no_constant)
        if not isinstance(content, dict):
            raise NotJson(f"found {type(content).__name__}, expected a JSON object")
        # Numbers beyond a double become infinite, which JSON does not know.
        line = json.dumps({"received_at": moment, "path": path, "body": content}, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise NotJson(str(error)) from None
    return line.encode()


def _no_constant(name: str) -> NoReturn:
    raise NotJson(f"found {name}, expected JSON")


class Server(ThreadingHTTPServer):
    """The HTTP server; its threads end with the process.

    :param address: host and port; port 0 takes a free one.
    :param tls: then it speaks TLS, with those alone who show a certificate of the same authority.
    :raises OSError: the address is not one of this host, or the port is taken.
    :raises ConfigError: the files of ``tls`` cannot be used.
    """

    daemon_threads = True
    # Alerts come in bursts, and five that wait, the library's own, are few on a busy machine.
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], inbox: Inbox, tls: Tls | None = None) -> None:
        self.inbox = inbox
        super().__init__(address, Handler)
        if tls is not None:
            try:
                secure(self, tls)
            except BaseException:
                self.server_close()
                raise

    def handle_error(self, _request: Any, client_address: Any) -> None:
        """A request that ended by an error is one line of the log."""
        log.warning("request of %s ended: %s", client_address, sys.exception())


class Handler(BaseHTTPRequestHandler):
    """One request; the connection is closed after it."""

    server: Server
    # Seconds that a sender may be silent.
    timeout = 10.0
    server_version = "inbox"
    sys_version = ""
    # Beyond this, the rest of a body that was refused is not read to its end.
    _DRAIN_BYTES: ClassVar[int] = 16 * MAX_BODY_BYTES

    def do_POST(self) -> None:
        """Keep a message."""
        inbox = self.server.inbox
        length = self._length()
        if length is None:
            self._answer(HTTPStatus.LENGTH_REQUIRED, "found no Content-Length, expected one")
        elif not inbox.admits(self.headers.get("Authorization", "")):
            self._answer(HTTPStatus.UNAUTHORIZED, "expected a bearer token", {"WWW-Authenticate": "Bearer"})
            self._drain(length)
        elif length > MAX_BODY_BYTES:
            self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"found {length} bytes, allowed at most {MAX_BODY_BYTES}")
            self._drain(length)
        else:
            self._keep(length)

    def do_GET(self) -> None:
        """Metrics and readiness."""
        if self.path == "/metrics":
            body = generate_latest(self.server.inbox.registry).decode()
            self._answer(HTTPStatus.OK, body, {"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})
        elif self.path == "/-/ready":
            self._answer(HTTPStatus.OK, "ready")
        else:
            self._not_allowed()

    def __getattr__(self, name: str) -> Any:
        # The base class looks for a method by the verb and would call what it does not find unknown.
        if name.startswith("do_"):
            return self._not_allowed
        raise AttributeError(name)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's
        """Say nothing of scrapes; what is refused or kept is logged where that is decided."""

    def _length(self) -> int | None:
        """Bytes of the body as the sender gave them, None if that is no number."""
        text = self.headers.get("Content-Length", "")
        if not (text.isascii() and text.isdecimal()):
            return None
        # Python refuses to read numbers of thousands of digits.
        return int(text) if len(text) < 16 else 10**16

    def _keep(self, length: int) -> None:
        body = self.rfile.read(length)
        if len(body) < length:
            self._answer(HTTPStatus.BAD_REQUEST, f"found {len(body)} bytes, expected {length}")
            return
        try:
            self.server.inbox.keep(self.path, body, datetime.now(UTC))
        except NotJson as error:
            self._answer(HTTPStatus.BAD_REQUEST, str(error))
        except OSError as error:
            log.error("message not kept: %s", error)
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, "not kept, send it again")
        else:
            self._answer(HTTPStatus.OK, "kept")

    def _not_allowed(self) -> None:
        self._answer(HTTPStatus.METHOD_NOT_ALLOWED, "POST a JSON object, or GET /metrics", {"Allow": "POST"})

    def _answer(self, status: HTTPStatus, text: str, headers: dict[str, str] | None = None) -> None:
        if status >= HTTPStatus.BAD_REQUEST:
            log.warning("%s %d: %s", self.command, status, text)
        body = text.encode() + b"\n"
        self.send_response(status)
        for name, value in {"Content-Type": "text/plain; charset=utf-8", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _drain(self, length: int) -> None:
        """Read what was refused: a sender that is cut off in the middle never sees the answer."""
        left = min(length, self._DRAIN_BYTES)
        while left and (chunk := self.rfile.read1(min(left, 65_536))):
            left -= len(chunk)


def run(config: InboxConfig, stop: threading.Event) -> int:
    """Run the service until it is stopped.

    :param stop: set by SIGTERM.
    :returns: the exit code.
    :raises Unavailable: the address or the file cannot be used.
    :raises ConfigError: the files of ``tls`` cannot be used.
    """
    file = MessageFile(config.file, config.max_lines)
    try:
        file.check()
    except OSError as error:
        raise Unavailable("inbox file", f"{config.file} ({error.strerror or error})", "a file to append to") from None
    inbox = Inbox(file, None if config.token is None else config.token.get_secret_value())
    address = config.listen
    try:
        server = Server((address.host, address.port), inbox, config.tls)
    except OSError as error:
        raise Unavailable(
            "inbox",
            f"{address.host}:{address.port} ({error.strerror or error})",
            "an address of this host with a free port",
        ) from None
    threading.Thread(target=server.serve_forever, name="inbox", daemon=True).start()
    log.info("messages go to %s", config.file)
    stop.wait()
    server.shutdown()
    server.server_close()
    return EXIT_OK
