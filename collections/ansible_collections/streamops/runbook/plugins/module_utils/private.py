"""What a file of secrets must be before anybody goes on with it."""

from __future__ import annotations

import json
import stat
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


def check_credentials(path: Path) -> None:
    """Refuse to go on with secrets that a deployment has lost, that others could have read or that nobody can read.

    :raises Refused: naming the file and what is wrong with it; never a word that stands in it.
    """
    way_back = "put it back from a backup; new ones would lock everybody out"
    expected = "the file that the services were deployed with"
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except FileNotFoundError:
        raise Refused(f"credentials {path}", "no such file", expected, way_back) from None
    refuse_open_secrets(path, mode)
    try:
        whole = isinstance(json.loads(path.read_text(encoding="utf-8")), dict)
    except (OSError, ValueError):
        # The parser's own message may quote what stands in the file.
        whole = False
    if not whole:
        raise Refused(f"credentials {path}", "a damaged file, which holds no JSON object", expected, way_back)
