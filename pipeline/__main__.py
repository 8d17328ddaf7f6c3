"""Entry point of ``python -m pipeline`` and of the console script."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from pipeline.cli import main


def run() -> NoReturn:
    """Run one command and end the process with its exit code.

    A process that had printed a proof that holds was once seen to end with a failing code. The suspected
    cause is the interpreter's teardown under threads of native libraries (delta-rs, the Kafka client's
    own), so that is left out.
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
