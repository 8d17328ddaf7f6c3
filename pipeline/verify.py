"""The invariant: acked is a subset of the table, the table a subset of sent, and no row twice."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.ledger import Ledger

log = logging.getLogger(__name__)

COLUMNS = ["device_id", "boot_id", "sequence", "topic", "partition", "offset"]
_NAMED_AT_MOST = 10


@dataclass(frozen=True)
class Verdict:
    """What a ledger and the table say about each other.

    :param sent: events that the ledger calls sent.
    :param acked: events that the ledger calls acknowledged.
    :param in_table: distinct events of the ledger's loads in the table.
    :param lost: acknowledged events that are not in the table.
    :param foreign: events in the table under the ledger's boot ids that were never sent.
    :param duplicates: rows of the whole table beyond one for each (topic, partition, offset).
    :param duplicate_events: rows of the ledger's loads beyond one for each event; more than
        ``duplicates`` says that a sender sent twice.
    :param rows: rows of the whole table.
    :param examples: the first lost and foreign events, for whoever looks for the reason.
    """

    sent: int
    acked: int
    in_table: int
    lost: int
    foreign: int
    duplicates: int
    duplicate_events: int
    rows: int
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether the invariant holds for at least one acknowledged event."""
        return self.acked > 0 and not (self.lost or self.foreign or self.duplicates)

    def as_json(self) -> dict[str, Any]:
        """The verdict as a JSON object."""
        return {"holds": self.holds, **self.__dict__}


def compare(ledger: Ledger, rows: pa.Table) -> Verdict:
    """Hold a ledger against the rows of the table.

    :param rows: the whole table, the columns :data:`COLUMNS`.
    """
    ours = rows.filter(pc.is_in(rows["boot_id"], pa.array(sorted(ledger.boot_ids), pa.string())))
    found = set(
        zip(
            ours["boot_id"].to_pylist(),
            ours["device_id"].to_pylist(),
            ours["sequence"].to_pylist(),
            strict=True,
        )
    )
    lost = ledger.acked - found
    foreign = found - ledger.sent
    positions = rows.group_by(["topic", "partition", "offset"]).aggregate([]).num_rows
    return Verdict(
        sent=len(ledger.sent),
        acked=len(ledger.acked),
        in_table=len(found),
        lost=len(lost),
        foreign=len(foreign),
        duplicates=rows.num_rows - positions,
        duplicate_events=ours.num_rows - len(found),
        rows=rows.num_rows,
        examples={
            name: [
                {"boot_id": boot, "device_id": device, "sequence": sequence}
                for boot, device, sequence in sorted(events)[:_NAMED_AT_MOST]
            ]
            for name, events in (("lost", lost), ("foreign", foreign))
            if events
        },
    )


def verify(
    read_ledger: Callable[[], Ledger],
    read_rows: Callable[[], pa.Table],
    table_version: Callable[[], int],
    wait_seconds: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Verdict:
    """Compare, and compare again while acknowledged events may still be on their way.

    Only what time can heal is waited for: foreign and doubled rows end the wait at once.

    :param read_ledger: reads the ledger (it may still grow).
    :param read_rows: reads the table's newest version.
    :param table_version: newest version of the table, -1 without one; rows are only read again
        when it changed.
    :param wait_seconds: how long at most; 0 compares once.
    """
    deadline = clock() + wait_seconds
    while True:
        version = table_version()
        verdict = compare(read_ledger(), read_rows())
        if verdict.holds or verdict.foreign or verdict.duplicates:
            return verdict
        log.info("%d of %d acked events not in the table yet", verdict.lost, verdict.acked)
        while table_version() == version:
            if clock() >= deadline:
                return verdict
            sleep(0.5)
        if clock() >= deadline:
            return verdict
