"""The verifier: it finds a lost, a foreign and a doubled row, and an idle producer."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from pipeline.ledger import Ledger
from pipeline.verify import COLUMNS, Verdict, compare, verify
from tests.unit.pipeline.support import FakeClock

BOOT = "boot-1"


def row(sequence: int, offset: int | None = None, boot: str = BOOT) -> dict[str, Any]:
    return {
        "device_id": "load-0001",
        "boot_id": boot,
        "sequence": sequence,
        "topic": "iot-events",
        "partition": 0,
        "offset": sequence if offset is None else offset,
    }


def table(*rows: dict[str, Any]) -> pa.Table:
    kinds = [pa.string(), pa.string(), pa.int64(), pa.string(), pa.int32(), pa.int64()]
    return pa.Table.from_pylist(list(rows), schema=pa.schema(list(zip(COLUMNS, kinds, strict=True))))


def ledger(sent: int, acked: int) -> Ledger:
    events = [(BOOT, "load-0001", n) for n in range(sent)]
    return Ledger(boot_ids={BOOT}, sent=set(events), acked=set(events[:acked]))


def test_all_is_well() -> None:
    verdict = compare(ledger(3, 2), table(row(0), row(1)))
    assert verdict.holds
    assert (verdict.sent, verdict.acked, verdict.in_table, verdict.rows) == (3, 2, 2, 2)


def test_sent_and_not_acked_may_be_in_the_table() -> None:
    assert compare(ledger(3, 2), table(row(0), row(1), row(2))).holds


def test_a_deleted_row_is_lost_and_named() -> None:
    verdict = compare(ledger(3, 3), table(row(0), row(2)))
    assert not verdict.holds
    assert verdict.lost == 1
    assert verdict.examples["lost"] == [{"boot_id": BOOT, "device_id": "load-0001", "sequence": 1}]


def test_a_row_that_was_never_sent_is_foreign() -> None:
    verdict = compare(ledger(1, 1), table(row(0), row(7)))
    assert not verdict.holds
    assert verdict.foreign == 1


def test_a_doubled_row_is_a_duplicate_whoever_sent_it() -> None:
    verdict = compare(ledger(1, 1), table(row(0), row(5, 9, "other"), row(5, 9, "other")))
    assert not verdict.holds
    assert (verdict.duplicates, verdict.duplicate_events) == (1, 0)


def test_an_event_at_two_offsets_is_a_duplicate_event_only() -> None:
    verdict = compare(ledger(1, 1), table(row(0, 0), row(0, 1)))
    assert (verdict.duplicates, verdict.duplicate_events, verdict.holds) == (0, 1, True)


def test_an_idle_producer_proves_nothing() -> None:
    assert not compare(ledger(3, 0), table(row(0))).holds


def test_rows_of_others_are_not_foreign() -> None:
    assert compare(ledger(1, 1), table(row(0), row(7, boot="other"))).holds


def waiting(versions: list[pa.Table], wait: float, clock: FakeClock, step: float = 2.0) -> Verdict:
    """Verify while a new version of the table appears every ``step`` seconds."""

    def version() -> int:
        return min(int((clock.now - 1000.0) // step), len(versions) - 1)

    return verify(lambda: ledger(2, 2), lambda: versions[version()], version, wait, clock, clock.sleep)


def test_what_is_on_its_way_is_waited_for() -> None:
    clock = FakeClock()
    assert waiting([table(), table(row(0)), table(row(0), row(1))], 60, clock).holds
    assert clock.now < 1000 + 10


def test_the_wait_ends() -> None:
    clock = FakeClock()
    verdict = waiting([table(row(0))], 10, clock)
    assert verdict.lost == 1
    assert clock.now == pytest.approx(1010, abs=1)


def test_time_does_not_heal_a_duplicate() -> None:
    clock = FakeClock()
    assert waiting([table(row(0), row(0))], 60, clock).duplicates == 1
    assert clock.slept == []
