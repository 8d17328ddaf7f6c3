"""What a file of secrets must be before anybody goes on with it."""

from __future__ import annotations

from pathlib import Path

from .errors import Refused


def refuse_open_secrets(path: str | Path, mode: int) -> None:
    """Refuse a file of secrets that others than its owner could have read or written.

    :param mode: its permissions, as ``stat.S_IMODE`` gives them.
    :raises Refused: naming the file, what was found and the way out.
    """
    if mode & 0o177:
        raise Refused(
            f"credentials {path}",
            f"mode {mode:04o}",
            "mode 0600",
            f"find out who has read it, then `chmod 0600 '{path}'`.",
        )
