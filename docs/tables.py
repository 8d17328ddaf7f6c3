"""Make every table of the docs from the catalog: the README's list of procedures and the head of each page.

``python docs/tables.py`` rewrites them; ``--check`` only says which file differs (exit code 1).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "collections"))

from ansible_collections.streamops.runbook.plugins.module_utils import catalog  # noqa: E402

BEGIN = "<!-- made by docs/tables.py from config/runbook: begin -->"
END = "<!-- end -->"


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


def with_table(text: str, table: str, name: str) -> str:
    """Return ``text`` with what stands between the two marks replaced by ``table``."""
    if BEGIN not in text or END not in text:
        raise SystemExit(f"{name}: the marks of the made table are missing; expected {BEGIN} ... {END}")
    before, rest = text.split(BEGIN, 1)
    return f"{before}{BEGIN}\n{table}\n{END}{rest.split(END, 1)[1]}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 when a file differs")
    check = parser.parse_args().check
    entries = catalog.load(ROOT / "config" / "runbook")
    wanted = {ROOT / "README.md": procedures_table(entries)}
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
