"""The card at the end of a run: what was wrong, what was done, what was proven, what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import commands
from .catalog import Procedure
from .health import silent_lines

# As many deeds as a screen of a card holds; the record has them all.
_MOST = 16
_COLUMNS = ("service", "host", "state", "healthy", "since", "pid", "memory", "detail")


def _memory(value: Any) -> str:
    return "-" if value is None else f"{int(value) / 2**20:.0f} MiB"


def table(services: Sequence[Mapping[str, Any]]) -> list[str]:
    """Render one line a service under a head line: service, host, state, healthy, since, pid, memory, detail.

    :param services: ServiceInfo with ``healthy`` filled in.
    """
    rows = [_COLUMNS] + [
        (
            str(service["service"]),
            str(service["host"]),
            str(service["state"]),
            "yes" if service["healthy"] else "NO",
            str(service.get("started_at") or "-"),
            str(service.get("pid") or "-"),
            _memory(service.get("memory_bytes")),
            str(service.get("detail") or ""),
        )
        for service in services
    ]
    return aligned(rows)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Render rows of equally many cells as lines whose columns stand below each other."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _rows(label: str, lines: Sequence[str]) -> list[str]:
    return [f"  {label if number == 0 else '':<8} {line}" for number, line in enumerate(lines)]


def _shortened(lines: Sequence[str]) -> list[str]:
    more = [f"... and {len(lines) - _MOST} more, in the record"] if len(lines) > _MOST else []
    return [*lines[:_MOST], *more]


def _wrong(record: Mapping[str, Any]) -> list[str]:
    before = record.get("readings", {}).get("before", {})
    first: dict[str, str] = {}
    for check in before.get("failed", []):
        # Of one service the first finding is the cause, the others follow from it; the record has them all.
        first.setdefault(check["subject"], check["seen"])
    return [f"{subject}: {seen}" for subject, seen in first.items()] or ["nothing"]


def _done(record: Mapping[str, Any]) -> list[str]:
    decisions = [f"{item['subject']}: {item['decision']} ({item['why']})" for item in record.get("decisions", [])]
    return _shortened([*record.get("did", []), *decisions]) or ["nothing"]


def _proven(record: Mapping[str, Any]) -> list[str]:
    proof = record.get("proof")
    return list(proof["lines"]) if proof else ["nothing"]


def _skipped(record: Mapping[str, Any]) -> list[str]:
    return _shortened([f"{what} ({', '.join(hosts)})" for what, hosts in record.get("skipped", {}).items()])


def _alerts(record: Mapping[str, Any]) -> list[str]:
    silence = record.get("silence")
    if not silence:
        return []
    if silence["skipped_reason"]:
        return [f"not silenced: {silence['skipped_reason']}"]
    lines = [f"those of {', '.join(silence['components'])} were silenced"]
    if record.get("silences_left"):
        lines.append(f"the silence stays until {silence['ends_at']}: {record['silences_left']}")
    return lines


def _notices(record: Mapping[str, Any]) -> list[str]:
    delivery = record.get("notices", {})
    sent, pending = len(delivery.get("sent", [])), len(delivery.get("pending", []))
    lines = [f"{sent} delivered"] if sent else []
    if pending:
        lines.append(f"{pending} in the spool, {commands.line('notify')} tries again")
    return lines + list(delivery.get("errors", []))


def _next(record: Mapping[str, Any], procedure: Procedure) -> list[str]:
    failures = [str(failure.get("message", "")) for failure in record.get("failures", []) if failure.get("message")]
    # What is known from the start stands beside what the newest reading says.
    steps = [*record.get("next", []), *record.get("hints", [])]
    if failures and not steps:
        steps = [f"read docs/runbooks/{procedure.name}.md, then {commands.line('status-all')}"]
    return [*failures, *steps] or ["nothing"]


def _silent(record: Mapping[str, Any]) -> list[str]:
    return silent_lines(record.get("unreachable") or {})


def render(record: Mapping[str, Any], procedure: Procedure, path: str) -> str:
    """Render a finished record for the person on call.

    :param record: the finished record.
    :param path: the file in which it stands.
    """
    title = f"{record['procedure']}{' --check' if record.get('check') else ''}: {record['status']}"
    lines = [
        "",
        f"{title} in {record.get('seconds', 0):.1f} s, changed={record.get('changed', 0)}, "
        f"module results {record.get('module_results', 0)}",
    ]
    lines += [f"  {row}" for row in record.get("table", [])]
    if procedure.risk == "read-only":
        lines += _rows("silent", _silent(record))
        if record.get("failures") or record.get("next"):
            lines += _rows("next", _next(record, procedure))
    else:
        lines += _rows("wrong", _wrong(record))
        lines += _rows("silent", _silent(record))
        if record.get("check"):
            lines += _rows(
                "plan",
                [str(line) for line in record.get("plan", {}).get("lines", [])] or ["nothing to do"],
            )
        else:
            lines += _rows("done", _done(record))
            lines += _rows("proven", _proven(record))
            lines += _rows("skipped", _skipped(record))
            lines += _rows("alerts", _alerts(record))
            lines += _rows("notices", _notices(record))
        lines += _rows("next", _next(record, procedure))
        lines += _rows("urls", record.get("urls", []))
    lines += _rows("times", [", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in record["phases"].items())])
    lines += _rows("record", [path])
    return "\n".join(lines)
