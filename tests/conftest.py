"""What all tests share: no test is left out silently, and the last lines say what the run has proven."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

ALLOW_SKIP = "ALLOW_SKIP"
_BEGAN = pytest.StashKey[float]()
_BUSY = pytest.StashKey[float]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Have one scenario run alone (``--scenario hosts``), or all but some (``--exclude-scenario containers``)."""
    parser.addoption("--scenario", default="", help="run this scenario of Molecule and no other (tests/e2e)")
    parser.addoption(
        "--exclude-scenario",
        action="append",
        default=[],
        metavar="NAME",
        help="leave this one out; it counts as skipped",
    )
    parser.addoption(
        "--counts",
        type=Path,
        metavar="FILE",
        help="of a run in several parts: each adds its counts and seconds to this file, and ends with the sums",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Note when the run began."""
    config.stash[_BEGAN], config.stash[_BUSY] = time.monotonic(), busy()


def busy() -> float:
    """Return the seconds that this machine's processors have worked, all of them together."""
    times = psutil.cpu_times()
    # Linux counts the time of guests a second time, and beside it what other machines took from this one.
    others = times.guest + times.guest_nice + times.steal
    return float(sum(times) - others - times.idle - times.iowait)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let the reports of a test tell which faults it injects: they do not carry its marks."""
    item.user_properties += [("fault", str(mark.args[0])) for mark in item.iter_markers("fault")]


def _reports(config: pytest.Config) -> dict[str, list[pytest.TestReport]]:
    """Reports by outcome; an error in a fixture counts as failed: what it was to prove was not proven."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    stats = {} if reporter is None else reporter.stats
    found = {name: [report for report in reports if hasattr(report, "nodeid")] for name, reports in stats.items()}
    return {
        "passed": found.get("passed", []),
        "failed": found.get("failed", []) + found.get("error", []),
        "skipped": found.get("skipped", []) + found.get("xfailed", []),
    }


def _properties(report: pytest.TestReport, name: str) -> Iterator[Any]:
    """Yield each value that a test has recorded under this name; a file that does not load has none."""
    return (value for key, value in getattr(report, "user_properties", ()) if key == name)


def _faults(config: pytest.Config) -> tuple[list[str], list[str]]:
    """Return the ids of the faults that were proven, and of those of which a test failed or was left out."""
    by_outcome = {
        outcome: {fault for report in reports for fault in _properties(report, "fault")}
        for outcome, reports in _reports(config).items()
    }
    open_ones = by_outcome["failed"] | by_outcome["skipped"]

    def order(fault: str) -> tuple[bool, str]:
        return not fault.isdigit(), fault.zfill(3)

    return sorted(by_outcome["passed"] - open_ones, key=order), sorted(open_ones, key=order)


def figures(config: pytest.Config) -> dict[str, Any]:
    """Return what the passed tests have measured of the faults that they inject.

    :returns: ``scenarios``: by name what the scenario's own test recorded (seconds, negative control, procedures);
        ``tests``: by file and fault how many tests injected it, and their seconds together.
    """
    scenarios: dict[str, Any] = {}
    tests: dict[str, dict[str, dict[str, float]]] = {}
    for report in _reports(config)["passed"]:
        measured = list(_properties(report, "scenario"))
        scenarios |= {scenario["name"]: scenario for scenario in measured}
        for fault in () if measured else _properties(report, "fault"):
            row = tests.setdefault(report.nodeid.partition("::")[0], {}).setdefault(fault, {"tests": 0, "seconds": 0.0})
            row["tests"] += 1
            row["seconds"] = round(row["seconds"] + report.duration, 1)
    return {"scenarios": scenarios, "tests": tests}


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that left a test out, unless ALLOW_SKIP names it; keep what was measured of faults.

    ALLOW_SKIP is a list, separated by commas, of parts of node ids: ``ALLOW_SKIP=broker-suspend``.
    """
    allowed = [part for part in os.environ.get(ALLOW_SKIP, "").split(",") if part]
    skipped = [report.nodeid for report in _reports(session.config)["skipped"]]
    unexplained = [name for name in skipped if not any(part in name for part in allowed)]
    if unexplained and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if session.config.getoption("collectonly"):
        # Nothing was run, and what an earlier run has measured stays.
        return
    found = figures(session.config)
    alone = str(session.config.getoption("--scenario", ""))
    # Of a scenario that failed nothing of an earlier run is left.
    if any(found.values()) or alone:
        # The root of whatever pytest was called for: a test of this very file has one of its own.
        evidence = Path(session.config.rootpath) / ".cache" / "evidence"
        evidence.mkdir(parents=True, exist_ok=True)
        name = f"faults-{alone}.json" if alone else "faults.json"
        (evidence / name).write_text(json.dumps(found, indent=2) + "\n")


def summed(config: pytest.Config) -> dict[str, float]:
    """Return how many tests ended how and the seconds, together with those of the parts of the run before this one.

    :returns: ``passed``, ``failed``, ``skipped``; ``seconds``, and ``busy``, those of all processors together.
    """
    found: dict[str, float] = {outcome: len(reports) for outcome, reports in _reports(config).items()}
    found |= {"seconds": time.monotonic() - config.stash[_BEGAN], "busy": busy() - config.stash[_BUSY]}
    path: Path | None = config.getoption("--counts")
    if path is not None:
        before: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
        found = {name: value + before.get(name, 0) for name, value in found.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found) + "\n")
    return found


def summary(config: pytest.Config) -> list[str]:
    """Return what the run has proven: seconds of each scenario, what failed, ids of the faults."""
    reports = [report for some in _reports(config).values() for report in some]
    scenarios = {scenario["name"]: scenario for report in reports for scenario in _properties(report, "scenario")}
    proven, unproven = _faults(config)
    lines = [f"scenario {name}: {scenario['seconds']:.0f} s" for name, scenario in sorted(scenarios.items())]
    # What a machine keeps of a long output is its end.
    for name, scenario in sorted(scenarios.items()):
        head, *said = scenario.get("failed") or [""]
        lines += [f"scenario {name} failed in {head}", *(f"  {line}" for line in said)] if head else []
    if proven or unproven:
        lines.append(f"faults proven: {', '.join(proven) or 'none'}")
    if unproven:
        lines.append(f"faults not proven: {', '.join(unproven)}")
    return lines


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End the whole run with ``N passed, N failed``, and ``, N skipped`` when some were.

    Printed as the very last line, after pytest's own summary, so that a machine need not look for it; before it stands
    what the run has proven.
    """
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    # A worker of a run on several cores has one that shows nothing, and counts a share only.
    if reporter is None or hasattr(config, "workerinput"):
        return
    counts = summed(config)
    line = f"{counts['passed']:.0f} passed, {counts['failed']:.0f} failed"
    if counts["skipped"]:
        line += f", {counts['skipped']:.0f} skipped"
    reporter.ensure_newline()
    # Where it nears the whole, only less work would be quicker.
    share = counts["busy"] / ((os.cpu_count() or 1) * max(counts["seconds"], 0.001))
    time_line = f"all of it: {counts['seconds']:.0f} s, processors busy for {share:.0%}"
    for told in [*summary(config), time_line, line]:
        reporter.write_line(told)
