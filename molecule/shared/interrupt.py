"""Start emergency-restart and end it with SIGKILL as soon as its journal tells of the first service that it started."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from faults import first_deed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="the folder of the run records")
    runs = parser.parse_args().runs
    before = set(runs.glob("*.journal.jsonl"))
    run = subprocess.Popen(
        ["ansible-playbook", "playbooks/emergency-restart.yml"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while run.poll() is None:
        deed = first_deed(runs, "emergency-restart", before, containing="start ")
        if deed is not None:
            run.kill()
            run.wait()
            print(f"killed process {run.pid} after {deed}")
            return 0
        time.sleep(0.05)
    print(f"the run ended with {run.returncode} before it could be killed", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
