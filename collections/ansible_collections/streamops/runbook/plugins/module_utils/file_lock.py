"""A kernel lock on a file that is waited for with a limit; the kernel frees the lock of whoever dies."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_POLL_SECONDS = 0.1


@contextmanager
def held(path: Path, until: float, clock: Callable[[], float], sleep: Callable[[float], None]) -> Iterator[bool]:
    """Hold the lock, or wait in vain.

    :param path: of the lock's own file, which is made and stays.
    :param until: time of ``clock`` from which on nobody waits any more; tried once in any case.
    :returns: whether it is held.
    """
    with path.open("a") as stream:
        mine = False
        while not mine:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                mine = True
            except BlockingIOError:
                if clock() >= until:
                    break
                sleep(_POLL_SECONDS)
        yield mine
