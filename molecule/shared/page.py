"""Carry out a page of the docs word by word: every block marked ``sh`` of the steps that are asked for, in order.

A step is a heading that begins with a number. The block below the heading "In every shell" comes before whatever is
asked for, as it does for a person. What belongs to the reader alone, as addresses, is replaced before.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

ALWAYS = "In every shell"
_HEADING = re.compile(r"^## (?:(\d+)[.] )?(.+)$")


def blocks(text: str) -> dict[str, list[str]]:
    """Return the marked blocks by the number of their step; those of :data:`ALWAYS` by that name.

    :raises ValueError: a marked block that no step holds, so that nobody would ever try it, or one without an end.
    """
    found: dict[str, list[str]] = {}
    step, block = "", None
    for line in text.splitlines():
        if block is not None:
            if line == "```":
                found.setdefault(step, []).append("".join(block))
                block = None
            else:
                block.append(f"{line}\n")
        elif heading := _HEADING.match(line):
            step = heading[1] or (ALWAYS if heading[2] == ALWAYS else "")
        elif line == "```sh":
            if not step:
                raise ValueError(f"a block below no numbered heading, after: {list(found)[-1:]}")
            block = []
    if block is not None:
        raise ValueError(f"the last block of step {step} has no end")
    return found


def script(text: str, steps: Iterable[str], replaced: Mapping[str, str]) -> str:
    """Return what to carry out.

    :param replaced: by what the page says, what is meant here.
    :raises ValueError: a step that the page does not have, or something to replace that it does not say.
    """
    there = blocks(text)
    wanted = [ALWAYS, *steps]
    for step in wanted:
        if step not in there:
            raise ValueError(f"step {step}: found {', '.join(there)}")
    whole = "".join(block for step in wanted for block in there[step])
    for said, meant in replaced.items():
        if said not in text:
            raise ValueError(f"{said!r}: the page does not say so")
        whole = whole.replace(said, meant)
    return whole


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--steps", nargs="+", required=True, help="their numbers")
    parser.add_argument("--replace", nargs="*", default=[], metavar="SAID=MEANT")
    parser.add_argument("--home", type=Path, required=True, help="what ~ stands for")
    given = parser.parse_args()
    try:
        whole = script(given.page.read_text(), given.steps, dict(text.split("=", 1) for text in given.replace))
    except ValueError as error:
        print(f"{given.page}: {error}", file=sys.stderr)
        return 2
    given.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    cache = os.environ.get("XDG_CACHE_HOME") or f"{os.environ['HOME']}/.cache"
    # Whoever reads the page has a home of his own, and what was fetched once for all clones.
    own = {"HOME": str(given.home), "STREAMOPS_CACHE": os.environ.get("STREAMOPS_CACHE", f"{cache}/streamops")}
    shell = ["bash", "-euxo", "pipefail", "-c", whole]
    return subprocess.run(shell, env={**os.environ, **own}, stdin=subprocess.DEVNULL, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
