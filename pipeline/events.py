"""Events as the topic carries them, and the devices that are simulated to make them.

The contract is the JSON schema ``config/schemas/iot-event.json``; a test holds what is made here
against it.
"""

from __future__ import annotations

import json
import random
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

SCHEMA_VERSION = 1
CANARY_PREFIX = "canary-"
"""Device identifiers that begin so belong to probes and never to business data."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event of one device.

    :param device_id: the device; also the key of the message, so that its events stay in order.
    :param boot_id: one life of the sender, a new one after each start.
    :param sequence: counts the events of this device in this life, from 0.
    :param event_time: when it was measured, in UTC.
    :param readings: name to value, in the unit that the name ends with.
    """

    device_id: str
    boot_id: str
    sequence: int
    event_time: datetime
    readings: dict[str, float]

    def key(self) -> bytes:
        """The key of the message: the device, UTF-8."""
        return self.device_id.encode()

    def value(self) -> bytes:
        """The value of the message: one JSON object, UTF-8, about 250 bytes."""
        return json.dumps(
            {
                "schema_version": SCHEMA_VERSION,
                "device_id": self.device_id,
                "boot_id": self.boot_id,
                "sequence": self.sequence,
                "event_time": rfc3339(self.event_time),
                "readings": self.readings,
            },
            separators=(",", ":"),
        ).encode()


def rfc3339(moment: datetime) -> str:
    """A moment as RFC 3339 in UTC with microseconds, such as 2026-01-31T12:00:00.000000Z."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def new_boot_id() -> str:
    """An identifier for one life of a sender, unique everywhere (36 characters)."""
    return str(uuid.uuid4())


class Devices:
    """A set of simulated devices whose readings wander, one boot for all.

    :param prefix: device identifiers are the prefix and a number of four digits, from 1.
    :param count: how many devices, at least 1.
    :param boot_id: the life that the events belong to.
    :param seed: fixes the readings; None takes a new one each time.
    """

    def __init__(self, prefix: str, count: int, boot_id: str, seed: int | None = None) -> None:
        if count < 1:
            raise ValueError(f"count of devices: found {count}, expected at least 1")
        self.boot_id = boot_id
        self._random = random.Random(seed)  # noqa: S311 - makes up readings, keeps no secret
        self._ids = [f"{prefix}{number:04d}" for number in range(1, count + 1)]
        self._temperatures = [self._random.uniform(15.0, 30.0) for _ in self._ids]
        self._sequences = [0] * count
        self._next = 0

    def next_event(self, now: datetime) -> Event:
        """The next event, device after device in turn.

        :param now: becomes the event's time.
        """
        index = self._next
        self._next = (index + 1) % len(self._ids)
        self._temperatures[index] += self._random.uniform(-0.1, 0.1)
        event = Event(
            device_id=self._ids[index],
            boot_id=self.boot_id,
            sequence=self._sequences[index],
            event_time=now,
            readings={
                "temperature_celsius": round(self._temperatures[index], 2),
                "humidity_percent": round(self._random.uniform(30.0, 70.0), 1),
            },
        )
        self._sequences[index] += 1
        return event

    def stream(self, now: datetime, count: int) -> Iterator[Event]:
        """The next events, all of one moment."""
        for _ in range(count):
            yield self.next_event(now)
