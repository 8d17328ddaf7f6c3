"""Start emergency-restart and end it with SIGKILL as soon as its journal tells of the first deed."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path


def first_deed(runs: Path, before: set[Path]) -> str | None:
    """Return the journal line of the first deed of a run that began since ``before`` was taken."""
    for journal in set(runs.glob("*-emergency-restart-*.journal.jsonl")) - before:
        for line in journal.read_text(encoding="utf-8").splitlines():
            if '"did"' in line:
                return line
    return None


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
        deed = first_deed(runs, before)
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
