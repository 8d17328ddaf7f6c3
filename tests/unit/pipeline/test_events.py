"""Events: what is made here keeps the contract."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import jsonschema
import pytest

from pipeline.events import CANARY_PREFIX, Devices, Event, new_boot_id, rfc3339
from tests.unit.pipeline.support import SCHEMA

NOW = datetime(2026, 1, 31, 12, 0, 0, 5, tzinfo=UTC)


def contract() -> jsonschema.Draft202012Validator:
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_simulated_events_keep_the_contract() -> None:
    validator = contract()
    for prefix in ("device-", "load-", CANARY_PREFIX):
        for event in Devices(prefix, 3, new_boot_id()).stream(NOW, 9):
            validator.validate(json.loads(event.value()))


@pytest.mark.parametrize(
    ("change", "valid"),
    [
        ({}, True),
        ({"new_field": [1, {"x": None}]}, True),
        ({"sequence": "1"}, False),
        ({"sequence": -1}, False),
        ({"device_id": None}, False),
        ({"device_id": ""}, False),
        ({"event_time": "2026-01-31T12:00:00+01:00"}, False),
        ({"event_time": "yesterday"}, False),
        ({"readings": {}}, False),
        ({"readings": {"a": "5"}}, False),
        ({"readings": [1]}, False),
        ({"schema_version": 0}, False),
    ],
)
def test_the_contract_tells_good_from_bad(change: dict[str, Any], valid: bool) -> None:
    event = Event("device-0001", "boot", 0, NOW, {"temperature_celsius": 20.0})
    assert contract().is_valid({**json.loads(event.value()), **change}) is valid


def test_every_required_field_is_required() -> None:
    complete = json.loads(Event("device-0001", "boot", 0, NOW, {"a": 1.0}).value())
    for name in complete:
        without = {key: value for key, value in complete.items() if key != name}
        assert not contract().is_valid(without), name


def test_devices_take_turns_and_count_for_themselves() -> None:
    devices = Devices("device-", 2, "boot", seed=1)
    events = list(devices.stream(NOW, 5))
    assert [(event.device_id, event.sequence) for event in events] == [
        ("device-0001", 0),
        ("device-0002", 0),
        ("device-0001", 1),
        ("device-0002", 1),
        ("device-0001", 2),
    ]


def test_no_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="found 0"):
        Devices("device-", 0, "boot")


def test_times_are_utc_with_microseconds() -> None:
    assert rfc3339(NOW) == "2026-01-31T12:00:00.000005Z"
    assert rfc3339(NOW.astimezone(timezone(timedelta(hours=2)))) == "2026-01-31T12:00:00.000005Z"


def test_the_key_is_the_device() -> None:
    assert Event("device-ä", "boot", 0, NOW, {"a": 1.0}).key() == "device-ä".encode()
