"""Who is told how a run ended: through the spool, so that a receiver that is down keeps nobody waiting."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import tls
from .alerting import Escalation, load_escalation
from .catalog import Procedure
from .notices import Delivery, Spool, Target, make_notice

# Ends that somebody must hear of, whatever the procedure.
BAD = ("failed", "degraded", "rolled_back", "failed_rollback", "interrupted")
# Ends at which nothing was done.
IDLE = ("refused", "locked")


def targets(escalation: Escalation, token_file: str, files: tls.Files | None = None) -> dict[str, Target]:
    """Return where a notice of each severity goes.

    :param token_file: file on this machine with the bearer token of the webhooks.
    :param files: what the stack is trusted by and shown, where it speaks TLS.
    """
    contacts = {severity: escalation.contact_of(severity) for severity in escalation.levels}
    return {severity: Target(one.name, one.webhook_url, token_file, files) for severity, one in contacts.items()}


def worth_telling(record: Mapping[str, Any], procedure: Procedure) -> bool:
    """Tell whether anybody must hear of a run: one that acted and ended badly, an emergency that changed something."""
    if procedure.risk == "read-only" or record["status"] in IDLE:
        return False
    return record["status"] in BAD or (procedure.severity == "P1" and bool(record.get("changed")))


def announce(
    record: Mapping[str, Any], procedure: Procedure, spool: Path, contacts: Mapping[str, Any], project: Path
) -> Delivery:
    """Put a notice of a run into the spool where one is due, and deliver what waits there, within seconds.

    :param record: the finished record.
    :param spool: folder of what waits.
    :param contacts: the inventory's ``contacts`` (webhook address by contact), ``token_file``, ``runbook_url`` (what
        stands before docs/runbooks) and, where the stack speaks TLS, ``tls``; empty tells nobody.
    :param project: the repository's root, where the escalation stands.
    :raises OSError: the spool can't be written; the run's own record is not touched by that.
    """
    if not contacts:
        return Delivery()
    place = Spool(spool)
    if worth_telling(record, procedure):
        lines = [str(failure.get("message", "")) for failure in record.get("failures", [])]
        lines += (record.get("proof") or {}).get("lines", [])
        notice = make_notice(
            severity=procedure.severity,
            procedure=procedure.name,
            run=str(record.get("id") or record.get("run", "")),
            status=str(record["status"]),
            title=f"{procedure.name}: {record['status']}",
            text="\n".join(line for line in lines if line),
            runbook_url=f"{contacts['runbook_url'].rstrip('/')}/docs/runbooks/{procedure.name}.md",
        )
        place.enqueue(notice)
    elif not place.pending():
        return Delivery()
    escalation = load_escalation(project / "config" / "escalation.yml", contacts.get("contacts", {}))
    return place.deliver(targets(escalation, str(contacts.get("token_file", "")), contacts.get("tls")))
