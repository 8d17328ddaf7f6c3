"""A headless Chromium for the tests: find or install it, photograph a page, read what its scripts made of it.

Only pages of this machine are opened, each run in a profile of its own that is gone afterwards.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
INSTALL = ("apt-get", "install", "--yes", "--no-install-recommends", "chromium", "fonts-dejavu-core")
_INSTALL_SECONDS = 600

Show = Callable[[str], None]


class BrowserError(Exception):
    """No browser, or a page that it could not show; the message says what to do next."""


def find() -> Path | None:
    """Return the first browser on the PATH, or None."""
    return next((Path(path) for name in PROGRAMS if (path := shutil.which(name))), None)


def ensure(show: Show = print) -> Path:
    """Return a browser; as root on Debian install it when there is none.

    :param show: gets each line of a running installation.
    :raises BrowserError: when there is none and it cannot be installed here.
    """
    found = find()
    if found:
        return found
    line = " ".join(INSTALL)
    if not _is_debian():
        # Ubuntu's package of that name is a snap, which does not run in containers.
        raise BrowserError(f"browser: found none of {', '.join(PROGRAMS)} on the PATH; next: install one of them")
    if os.geteuid() != 0:
        raise BrowserError(f"browser: found none of {', '.join(PROGRAMS)} on the PATH; next: sudo {line}")
    show(f"installing the browser: {line}\n")
    deadline = time.monotonic() + _INSTALL_SECONDS
    for command in (("apt-get", "update", "--quiet"), INSTALL):
        _install(command, show, deadline)
    found = find()
    if not found:
        raise BrowserError(f"browser: {line} ended well, but found none of {', '.join(PROGRAMS)} on the PATH")
    return found


def screenshot(
    browser: Path,
    url: str,
    file: Path,
    *,
    width: int = 1440,
    height: int = 1600,
    budget: float = 10,
    timeout: float = 60,
) -> None:
    """Write a picture (PNG) of the page to ``file``.

    :param width, height: pixels of the window; what is below it is not in the picture.
    :param budget: seconds of the page's own clock before the picture; timers and requests run within it.
    :param timeout: seconds of ours, after which the browser is killed.
    :raises BrowserError: when the address is not of this machine, or no picture was made in time.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    _run(browser, url, [f"--screenshot={file.resolve()}", f"--window-size={width},{height}"], budget, timeout)
    if not file.is_file() or not file.read_bytes().startswith(b"\x89PNG"):
        raise BrowserError(f"browser: found no picture of {url} at {file}, expected a PNG")


def dom(
    browser: Path, url: str, *, width: int = 1440, height: int = 1600, budget: float = 10, timeout: float = 60
) -> str:
    """Return the page's HTML after its scripts ran; the parameters are those of :func:`screenshot`.

    :raises BrowserError: when the address is not of this machine, or nothing came in time.
    """
    html = _run(browser, url, ["--dump-dom", f"--window-size={width},{height}"], budget, timeout)
    if "<html" not in html:
        raise BrowserError(f"browser: found no page at {url}, only {html[:200]!r}")
    return html


def local(url: str) -> str:
    """Return ``url`` if it is a page of this machine.

    :raises BrowserError: for any other scheme or host.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if parts.scheme not in ("http", "https") or not loopback:
        raise BrowserError(f"browser: found the address {url}, expected http on a loopback address")
    return url


def _run(browser: Path, url: str, options: Sequence[str], budget: float, timeout: float) -> str:
    local(url)
    with tempfile.TemporaryDirectory(prefix="browser-", ignore_cleanup_errors=True) as profile:
        command = [
            str(browser),
            "--headless=new",
            f"--user-data-dir={profile}",
            f"--virtual-time-budget={int(budget * 1000)}",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-default-apps",
            "--disable-dev-shm-usage",
            "--disable-extensions",
            "--disable-gpu",
            "--disable-sync",
            "--hide-scrollbars",
            "--mute-audio",
            "--no-first-run",
            "--no-proxy-server",
            # Whatever a page names, only this machine answers.
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.*",
            # Chromium's own sandbox refuses to work as root.
            *(["--no-sandbox"] if os.geteuid() == 0 else []),
            *options,
            url,
        ]
        process = subprocess.Popen(
            command,
            env={**os.environ, "HOME": profile, "XDG_CONFIG_HOME": profile, "XDG_CACHE_HOME": profile},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise BrowserError(f"browser: {url} was not shown within {timeout:g} s") from None
        finally:
            _end(process)
    if process.returncode != 0:
        raise BrowserError(f"browser: {url} ended it with code {process.returncode}: {err[-500:]}")
    return out


def _end(process: subprocess.Popen[str]) -> None:
    """Kill what is left of the browser: its helpers are in the session that it was started in."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _install(command: Sequence[str], show: Show, deadline: float) -> None:
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        began, told = time.monotonic(), time.monotonic()
        while process.poll() is None:
            time.sleep(0.2)
            if time.monotonic() - told >= 10:
                told = time.monotonic()
                show(f"installing the browser, {told - began:.0f} s so far\n")
            if time.monotonic() > deadline:
                # apt ends cleanly on TERM between packages; a kill could leave dpkg half done.
                process.terminate()
                process.wait()
        output.seek(0)
        if process.returncode != 0:
            raise BrowserError(
                f"browser: {' '.join(command)} ended with {process.returncode}:\n{output.read()[-2000:]}"
            )


def _is_debian() -> bool:
    release = Path("/etc/os-release")
    return (
        shutil.which("apt-get") is not None
        and release.is_file()
        and "ID=debian" in release.read_text(encoding="utf-8").splitlines()
    )
