"""Every scenario several times in a row, each run on a lab of its own: a line a run, and a record.

``python tests/bench/soak.py --runs 5`` ends with 1 as soon as any run was not whole; ``--exclude containers`` leaves
that scenario out of each. What each run said stands in ``.cache/evidence/soak-N.log``, its figures in
``.cache/evidence/soak.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EVIDENCE = ROOT / ".cache" / "evidence"
TESTS = "tests/e2e/test_scenarios.py"


@dataclass(frozen=True)
class Round:
    """One run of all scenarios.

    :param commit: the checked-out one; None outside of git.
    :param code: exit code of the tests.
    :param scenarios: whether each passed.
    :param left_out: those that were not run, as ``ALLOW_SKIP`` allows; in no run of a row they count for anything.
    """

    number: int
    began: str
    commit: str | None
    seconds: float
    code: int
    scenarios: dict[str, bool]
    left_out: list[str]

    @property
    def whole(self) -> bool:
        """Whether all of it passed, at least one scenario."""
        return self.code == 0 and bool(self.scenarios) and all(self.scenarios.values())

    def line(self, runs: int) -> str:
        """Say it in one line."""
        failed = [name for name, passed in self.scenarios.items() if not passed]
        told = f"{len(self.scenarios) - len(failed)} of {len(self.scenarios)} scenarios passed"
        apart = f", left out: {', '.join(self.left_out)}" if self.left_out else ""
        end = "" if self.whole else f"; not whole: {', '.join(failed) or f'exit code {self.code}'}"
        return f"run {self.number} of {runs}: {self.seconds:.0f} s, {told}{apart}{end}"


def read_report(path: Path) -> tuple[dict[str, bool], list[str]]:
    """Read from a JUnit report whether each scenario passed, and which were left out; nothing where there is none.

    :param path: as pytest writes it.
    """
    passed: dict[str, bool] = {}
    left_out = []
    # Written a moment ago by our own tests.
    for case in ElementTree.parse(path).iter("testcase") if path.exists() else ():  # noqa: S314
        if not case.attrib["name"].startswith("test_scenario["):
            continue
        name = case.attrib["name"].removeprefix("test_scenario[").removesuffix("]")
        said = {child.tag for child in case}
        if "skipped" in said:
            left_out.append(name)
        else:
            passed[name] = not said & {"failure", "error"}
    return passed, left_out


def commit() -> str | None:
    """Return the checked-out commit, None outside of git."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def go(number: int, command: Sequence[str], excluded: Sequence[str] = ()) -> Round:
    """Run all scenarios once but the excluded ones; ``command`` takes the name of the report as its last word."""
    given = os.environ.get("ALLOW_SKIP")
    allowed = ",".join(filter(None, [given, *(f"test_scenario[{name}]" for name in excluded)]))
    report, said = EVIDENCE / f"soak-{number}.xml", EVIDENCE / f"soak-{number}.log"
    report.unlink(missing_ok=True)
    began, moment = time.monotonic(), datetime.now(UTC)
    with said.open("wb") as log:
        done = subprocess.run(
            [*command, *(f"--exclude-scenario={name}" for name in excluded), f"--junitxml={report}"],
            cwd=ROOT,
            env=os.environ | {"ALLOW_SKIP": allowed},
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    passed, left_out = read_report(report)
    return Round(
        number=number,
        began=moment.isoformat(timespec="seconds"),
        commit=commit(),
        seconds=round(time.monotonic() - began, 1),
        code=done.returncode,
        scenarios=passed,
        left_out=left_out,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="how many runs in a row (5)")
    parser.add_argument("--exclude", action="append", default=[], metavar="NAME", help="leave this scenario out")
    given = parser.parse_args()
    runs = given.runs
    EVIDENCE.mkdir(parents=True, exist_ok=True)
    whole = 0
    for number in range(1, runs + 1):
        one = go(number, [sys.executable, "-m", "pytest", TESTS], given.exclude)
        with (EVIDENCE / "soak.jsonl").open("a", encoding="utf-8") as record:
            record.write(json.dumps(asdict(one)) + "\n")
        print(one.line(runs), flush=True)
        whole += one.whole
    print(f"{whole} of {runs} runs whole")
    return 0 if whole == runs else 1


if __name__ == "__main__":
    sys.exit(main())
