"""How the programs of this machine are found and run."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Tools:
    """How programs are found and run; passed in, so that tests can stand in for them.

    :param which: path of a program, or None.
    :param capture: runs a command, returns (exit code, standard output and error together).
    :param run: runs a long command in a folder under an environment; gives each line of output to
        the callable as it comes; the file descriptor stays open in the child, so that its lock
        outlives a killed parent; returns (exit code, last lines).
    :param release: what the operating system says of itself, keys as in os-release; raises OSError
        where it says nothing.
    """

    which: Callable[[str], str | None]
    capture: Callable[[Sequence[str]], tuple[int, str]]
    run: Callable[[Sequence[str], Path, Mapping[str, str], int, Callable[[str], None], float], tuple[int, str]]
    release: Callable[[], Mapping[str, str]]


def local_tools() -> Tools:
    """The programs of this machine; a toolchain in our own virtual environment comes first."""
    return Tools(which=_which, capture=_capture, run=_run_streaming, release=platform.freedesktop_os_release)


def _which(name: str) -> str | None:
    own = str(Path(sys.executable).parent)
    return shutil.which(name, path=os.pathsep.join([own, os.environ.get("PATH", os.defpath)]))


def _capture(command: Sequence[str]) -> tuple[int, str]:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    return done.returncode, done.stdout


def _run_streaming(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    lock: int,
    on_line: Callable[[str], None],
    deadline_seconds: float,
) -> tuple[int, str]:
    lines: list[str] = []
    with subprocess.Popen(
        command,
        cwd=folder,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        pass_fds=(lock,),
    ) as process:
        timer = threading.Timer(deadline_seconds, process.kill)
        timer.start()
        try:
            for line in process.stdout or ():
                lines.append(line)
                del lines[:-200]
                on_line(line)
            code = process.wait()
        finally:
            timer.cancel()
    return code, "".join(lines)
