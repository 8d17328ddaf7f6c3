"""Make every table of the docs from the catalog: the README's procedures, the head of each page, the faults.

``python docs/tables.py`` rewrites them; ``--check`` only says which file differs (exit code 1). ``--measured FILES``
takes over what runs of the tests have measured of faults (``.cache/evidence/faults*.json``, written by
tests/conftest.py). A row of which they hold nothing keeps what it had; when one has no figures at all, that is refused.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "collections"))

from ansible_collections.streamops.runbook.plugins.module_utils import catalog  # noqa: E402

BEGIN = "<!-- made by docs/tables.py from config/runbook: begin -->"
BEGIN_OUTAGE = "<!-- made by docs/tables.py from docs/faults.json: begin -->"
END = "<!-- end -->"
MEASURED = ROOT / "docs" / "faults.json"
#: Where everything is killed under load: by inventory the scenario and the fault; None is what it begins with.
OUTAGES = {
    "sandbox": ("default", None),
    "containers": ("containers", "containers-down"),
    "hosts: machines over SSH, TLS, four MinIO nodes, Spark standalone": ("hosts", None),
}


def procedures_table(entries: dict[str, catalog.Procedure]) -> str:
    """Return the README's table: a row a procedure."""
    rows = [
        "| Procedure | What it does | Risk | Severity | make | Proved by |",
        "|---|---|---|---|---|---|",
    ]
    for entry in entries.values():
        makes = ", ".join(f"`make {name}`" for name in entry.make)
        proofs = ", ".join(f"`{proof['scenario']}`" for proof in entry.proved_by)
        page = f"[{entry.name}](docs/runbooks/{entry.name}.md)"
        rows.append(f"| {page} | {entry.title} | {entry.risk} | {entry.severity} | {makes} | {proofs} |")
    return "\n".join(rows)


def outage_table(measured: dict[str, Any]) -> str:
    """Return the table of one playbook on three inventories: the repair of the same outage on each."""
    rows = [
        "| Inventory | emergency-restart, s | changed | again, changed | events acknowledged | in the table | twice |",
        "|---|---|---|---|---|---|---|",
    ]
    for inventory, (scenario, fault) in OUTAGES.items():
        found = measured.get("scenarios", {}).get(scenario, {})
        runs = found.get("faults", {}).get(fault, {}) if fault else found.get("procedures", {})
        run = runs.get("emergency-restart", {})
        counts = [run.get(name) for name in ("changed", "changed_again", "acked", "in_table", "duplicates")]
        cells = ["-" if count is None else f"{count:,}" for count in counts]
        rows.append(f"| {inventory} | {run.get('seconds', '-')} | {' | '.join(cells)} |")
    return "\n".join(rows)


def page_head(entry: catalog.Procedure) -> str:
    """Return the head of a procedure's page: its facts and its parameters."""
    lines = [
        "| | |",
        "|---|---|",
        f"| Command | `ansible-playbook playbooks/{entry.name}.yml` |",
        f"| make | {', '.join(f'`make {name}`' for name in entry.make)} |",
        f"| Severity, risk | {entry.severity}, {entry.risk} |",
        f"| Locks | {', '.join(entry.locks) or 'none'} |",
        f"| Deadline | {entry.deadline} s |",
    ]
    if entry.parameters:
        lines += ["", "| Parameter | Allowed | Default | Meaning |", "|---|---|---|---|"]
        for spec in entry.parameters.values():
            lines.append(f"| `{spec.name}` | {spec.allowed()} | {spec.default or '-'} | {spec.text} |")
    return "\n".join(lines)


def fault_rows(entries: dict[str, catalog.Procedure]) -> dict[str, list[tuple[str, str]]]:
    """Return, by fault, what proves it: (scenario, procedure), or (test file, empty)."""
    found: dict[str, list[tuple[str, str]]] = {}
    for entry in entries.values():
        for proof in entry.proved_by:
            for fault in proof.get("faults", ()):
                found.setdefault(str(fault), []).append((str(proof["scenario"]), entry.name))
    for path in sorted((ROOT / "tests" / "e2e").glob("test_*.py")):
        for fault in sorted(set(re.findall(r'pytest[.]mark[.]fault[(]"([^"]+)"[)]', path.read_text(encoding="utf-8")))):
            found.setdefault(fault, []).append((f"tests/e2e/{path.name}", ""))
    return found


def figures(measured: dict[str, Any], fault: str, proof: str, procedure: str) -> tuple[str, str]:
    """Return what was measured of one row: what came of no action, and what the procedure did in how many seconds.

    :param measured: as tests/conftest.py writes it: ``scenarios`` by name, ``tests`` by file and fault; may be empty.
    :param proof: a scenario, or a file of tests, which are about what is refused or comes to a defined end by itself.
    """
    if not procedure:
        tests = measured.get("tests", {}).get(proof, {}).get(fault)
        if not tests:
            return "-", "-"
        return "nothing to repair", f"{tests['tests']} test{'s' * (tests['tests'] > 1)}, {tests['seconds']:.0f} s"
    scenario = measured.get("scenarios", {}).get(proof, {})
    later = injected_later(proof, fault)
    runs = scenario.get("faults", {}).get(fault, {}) if later else scenario.get("procedures", {})
    run = runs.get(procedure)
    if later:
        without = "not asked" if scenario else "-"
    elif not (ROOT / "molecule" / proof / "fault.yml").exists():
        without = "heals by itself" if scenario else "-"
    else:
        without = "verify failed" if scenario.get("negative_control") else "-"
    if not run:
        return without, "-"
    ended = "proven" if run["status"] == "completed" else run["status"].replace("_", " ")
    return without, f"{procedure}: {ended} in {run['seconds']:.1f} s"


def injected_later(scenario: str, fault: str) -> bool:
    """Whether a fault is injected after its scenario has converged: its run is told with it, and no control is."""
    playbooks = (ROOT / "molecule" / scenario).rglob("*.yml")
    told = re.compile(rf"\blab_fault: {re.escape(fault)}(?![\w-])")
    return any(told.search(path.read_text(encoding="utf-8")) for path in playbooks)


def faults_table(entries: dict[str, catalog.Procedure], measured: dict[str, Any]) -> str:
    """Return the matrix of faults: what is injected, what must happen, what proves it, what was measured."""
    faults = yaml.safe_load((ROOT / "config" / "faults.yml").read_text(encoding="utf-8"))["faults"]
    rows = [
        "| Fault | Injected | Must happen | Proved by | No action | Measured |",
        "|---|---|---|---|---|---|",
    ]
    proved = fault_rows(entries)
    for fault, told in faults.items():
        for proof, procedure in proved.get(fault) or [("", "")]:
            without, seen = figures(measured, fault, proof, procedure)
            seen = procedure if procedure and seen == "-" else seen
            rows.append(f"| {fault} | {told['injected']} | {told['expected']} | `{proof}` | {without} | {seen} |")
    return "\n".join(rows)


def unmeasured(entries: dict[str, catalog.Procedure], measured: dict[str, Any]) -> list[str]:
    """Return the rows of the matrix of which a figure is missing, as ``fault: proof, procedure``."""
    return [
        f"{fault}: {proof}" + (f", {procedure}" if procedure else "")
        for fault, proofs in fault_rows(entries).items()
        for proof, procedure in proofs
        if "-" in figures(measured, fault, proof, procedure)
    ]


def load_measured(*paths: Path) -> dict[str, Any]:
    """Read figures of runs together, the later ones in place of the earlier; empty where there is no such file."""
    found: dict[str, Any] = {}
    for path in paths:
        read = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        found.setdefault("scenarios", {}).update(read.get("scenarios", {}))
        for name, faults in read.get("tests", {}).items():
            found.setdefault("tests", {}).setdefault(name, {}).update(faults)
    return {kind: rows for kind, rows in found.items() if rows}


def of_today(entries: dict[str, catalog.Procedure], measured: dict[str, Any]) -> dict[str, Any]:
    """Leave out the figures of scenarios and tests that are no more."""
    proofs = {(fault, proof) for fault, rows in fault_rows(entries).items() for proof, _ in rows}
    names = {proof for _, proof in proofs}
    tests = {
        name: {fault: row for fault, row in faults.items() if (fault, name) in proofs}
        for name, faults in measured.get("tests", {}).items()
    }
    scenarios = measured.get("scenarios", {})
    return {
        "scenarios": {name: row for name, row in scenarios.items() if name in names},
        "tests": {name: rows for name, rows in tests.items() if rows},
    }


def with_table(text: str, table: str, name: str, begin: str = BEGIN) -> str:
    """Return ``text`` with what stands between the two marks replaced by ``table``."""
    before, mark, rest = text.partition(begin)
    if not mark or END not in rest:
        raise SystemExit(f"{name}: the marks of the made table are missing; expected {begin} ... {END}")
    return f"{before}{begin}\n{table}\n{END}{rest.split(END, 1)[1]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when a file differs")
    parser.add_argument("--measured", type=Path, nargs="+", help="take over these figures of faults")
    given = parser.parse_args()
    check = given.check
    if check and given.measured:
        parser.error("--check changes nothing, --measured does: one of them")
    entries = catalog.load(ROOT / "config" / "runbook")
    if given.measured:
        if absent := [str(path) for path in given.measured if not path.exists()]:
            print(f"{', '.join(absent)}: found no such file, expected what make test leaves", file=sys.stderr)
            return 1
        newest_last = sorted(given.measured, key=lambda path: path.stat().st_mtime)
        measured = of_today(entries, load_measured(MEASURED, *newest_last))
        if missing := unmeasured(entries, measured):
            found = f"{', '.join(map(str, given.measured))}: found no figures of {'; '.join(missing)}"
            print(f"{found}; expected those of every row. Next: make test", file=sys.stderr)
            return 1
        MEASURED.write_text(json.dumps(measured, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    measured = load_measured(MEASURED)
    readme = {BEGIN: procedures_table(entries), BEGIN_OUTAGE: outage_table(measured)}
    wanted = {ROOT / "README.md": readme, ROOT / "docs" / "faults.md": {BEGIN: faults_table(entries, measured)}}
    wanted |= {ROOT / "docs" / "runbooks" / f"{name}.md": {BEGIN: page_head(entry)} for name, entry in entries.items()}
    stale = []
    for path, made_tables in wanted.items():
        text = made = path.read_text(encoding="utf-8")
        for begin, table in made_tables.items():
            made = with_table(made, table, str(path.relative_to(ROOT)), begin)
        if made != text:
            stale.append(str(path.relative_to(ROOT)))
            if not check:
                path.write_text(made, encoding="utf-8")
    if check and stale:
        print("stale: " + ", ".join(stale) + "; run python docs/tables.py", file=sys.stderr)
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
