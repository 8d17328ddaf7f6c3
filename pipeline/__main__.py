"""Entry point of ``python -m pipeline`` and of the console script."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from pipeline.cli import main


def run() -> NoReturn:
    """Run one command and end the process with its exit code.

    Threads of native libraries (delta-rs, the Kafka client's own) may still be there. The interpreter's
    teardown under them was seen to abort a process whose work was done and whose answer was printed,
    so it is left out.
    """
    try:
        code = main()
    except SystemExit as end:
        # argparse ends this way for --help and for wrong usage.
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    run()
