"""Make every table of the docs from the catalog: the README's procedures, the head of each page, the faults.

``python docs/tables.py`` rewrites them; ``--check`` only says which file differs (exit code 1). ``--measured FILE``
takes over what the last run of all scenarios has measured (``.cache/evidence/faults.json``, written by the
end-to-end tests).
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "collections"))

from ansible_collections.streamops.runbook.plugins.module_utils import catalog  # noqa: E402

BEGIN = "<!-- made by docs/tables.py from config/runbook: begin -->"
END = "<!-- end -->"
MEASURED = ROOT / "docs" / "faults.json"


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
        for fault in sorted(set(re.findall(r'@pytest[.]mark[.]fault\("([^"]+)"\)', path.read_text(encoding="utf-8")))):
            found.setdefault(fault, []).append((f"tests/e2e/{path.name}", ""))
    return found


def faults_table(entries: dict[str, catalog.Procedure]) -> str:
    """Return the matrix of faults: what is injected, what must happen, what proves it, what was measured."""
    faults = yaml.safe_load((ROOT / "config" / "faults.yml").read_text(encoding="utf-8"))["faults"]
    measured = json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.exists() else {}
    rows = [
        "| Fault | Injected | Must happen | Proved by | No action | Procedure |",
        "|---|---|---|---|---|---|",
    ]
    proved = fault_rows(entries)
    for fault, told in faults.items():
        for proof, procedure in proved.get(fault) or [("", "")]:
            figures = measured.get(proof, {})
            without = "verify failed" if figures.get("negative_control") else "-"
            repaired = (
                f"{procedure}: proven in {figures['seconds']:.1f} s" if "seconds" in figures else procedure or "-"
            )
            rows.append(f"| {fault} | {told['injected']} | {told['expected']} | `{proof}` | {without} | {repaired} |")
    return "\n".join(rows)


def with_table(text: str, table: str, name: str) -> str:
    """Return ``text`` with what stands between the two marks replaced by ``table``."""
    if BEGIN not in text or END not in text:
        raise SystemExit(f"{name}: the marks of the made table are missing; expected {BEGIN} ... {END}")
    before, rest = text.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{table}\n{END}{rest.split(END, 1)[1]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when a file differs")
    parser.add_argument("--measured", type=Path, help="take over these figures of a run of all scenarios")
    given = parser.parse_args()
    check = given.check
    if given.measured:
        shutil.copyfile(given.measured, MEASURED)
    entries = catalog.load(ROOT / "config" / "runbook")
    wanted = {ROOT / "README.md": procedures_table(entries)}
    wanted[ROOT / "docs" / "faults.md"] = faults_table(entries)
    wanted |= {ROOT / "docs" / "runbooks" / f"{name}.md": page_head(entry) for name, entry in entries.items()}
    stale = []
    for path, table in wanted.items():
        text = path.read_text(encoding="utf-8")
        made = with_table(text, table, str(path.relative_to(ROOT)))
        if made != text:
            stale.append(str(path.relative_to(ROOT)))
            if not check:
                path.write_text(made, encoding="utf-8")
    if check and stale:
        print("stale: " + ", ".join(stale) + "; run python docs/tables.py", file=sys.stderr)
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
