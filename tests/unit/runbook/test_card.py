"""What the card says of the alerts that a run silenced and of the notices that it sent."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.streamops.runbook.plugins.module_utils import card
from ansible_collections.streamops.runbook.plugins.module_utils.catalog import Procedure

SILENCE = {"components": ["kafka", "runbook"], "ends_at": "2030-01-31T03:15:00+00:00", "skipped_reason": ""}


def rendered(**more: Any) -> list[str]:
    procedure = Procedure("site", "Site", "S", severity="P3", risk="safe", deadline=60)
    record = {"procedure": "site", "status": "completed", "phases": {}, **more}
    return [line.strip() for line in card.render(record, procedure, "/r").splitlines()]


@pytest.mark.parametrize(
    ("silence", "left", "lines"),
    [
        (SILENCE, "", ["alerts   those of kafka, runbook were silenced"]),
        (
            SILENCE,
            "Alertmanager: no answer in time",
            [
                "alerts   those of kafka, runbook were silenced",
                "the silence stays until 2030-01-31T03:15:00+00:00: Alertmanager: no answer in time",
            ],
        ),
        (
            {**SILENCE, "skipped_reason": "Alertmanager: Connection refused"},
            "",
            ["alerts   not silenced: Alertmanager: Connection refused"],
        ),
    ],
)
def test_a_silence_its_end_and_that_there_was_none_stand_on_the_card(
    silence: dict[str, Any], left: str, lines: list[str]
) -> None:
    shown = rendered(silence=silence, silences_left=left)
    first = shown.index(lines[0])
    assert shown[first : first + len(lines)] == lines


def test_delivered_and_waiting_notices_stand_on_the_card_with_the_reason() -> None:
    reason = "contact on_call_engineer: Connection refused"
    shown = rendered(notices={"sent": ["a"], "pending": ["b", "c"], "errors": [reason]})
    first = shown.index("notices  1 delivered")
    assert shown[first + 1 : first + 3] == ["2 in the spool, make notify tries again", reason]


def test_what_the_target_cannot_do_stands_on_the_card_with_its_hosts() -> None:
    what = "memory_limit 768m: supervisor can't enforce it"
    assert f"skipped  {what} (kafka-1, kafka-2)" in rendered(skipped={what: ["kafka-1", "kafka-2"]})
    assert not any(line.startswith("skipped") for line in rendered())


def test_the_table_says_what_there_is_to_say_of_a_service() -> None:
    service = {"service": "producer", "host": "producer-1", "state": "running", "healthy": True}
    rows = card.table([service, {**service, "detail": "killed for memory"}])
    assert rows[1].endswith(" -")
    assert rows[2] == f"{rows[1]}       killed for memory"


def test_a_run_without_either_says_nothing_of_them() -> None:
    assert not any(line.startswith(("alerts", "notices")) for line in rendered())
