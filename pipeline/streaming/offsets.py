"""The group that shows lag: what the stream has read, committed for whoever watches.

The stream itself never starts from these offsets; its checkpoint alone says where it goes on.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable
from typing import Any, Protocol

from pipeline.clients import connect_admin
from pipeline.config import KafkaEndpoint, KafkaLogin

log = logging.getLogger(__name__)

EndOffsets = dict[str, dict[str, int]]
"""Topic to partition (as text) to the first offset that was not read."""


class GroupOffsets(Protocol):
    """Commits offsets for a group without being a member of it."""

    def commit(self, offsets: EndOffsets) -> None: ...
    def close(self) -> None: ...


class KafkaGroupOffsets:
    """Commits to Kafka by the admin protocol.

    :raises kafka.errors.KafkaError: no broker answered within ten seconds.
    """

    def __init__(self, endpoint: KafkaEndpoint, login: KafkaLogin) -> None:
        self._group = endpoint.group
        self._admin: Any = connect_admin(endpoint, login, "iot-streaming-offsets", timeout=10.0)

    def commit(self, offsets: EndOffsets) -> None:
        """Commit; raises KafkaError when refused or not answered."""
        from kafka.structs import OffsetAndMetadata, TopicPartition

        answers = self._admin.alter_group_offsets(
            self._group,
            {
                TopicPartition(topic, int(partition)): OffsetAndMetadata(offset, "", -1)
                for topic, partitions in offsets.items()
                for partition, offset in partitions.items()
            },
        )
        for error in answers.values():
            if error.errno:
                raise error(f"group {self._group}")

    def close(self) -> None:
        """Let go of the connections."""
        self._admin.close()


class OffsetCommitter:
    """Commits the newest offsets in a thread of its own, so that a slow Kafka delays no batch.

    Only the newest offsets matter: what was overtaken is never committed. A failure is logged and
    the offsets are tried again, for they are for watching only.

    :param connect: makes a connected client, raising KafkaError while there is no broker.
    """

    _RETRY_SECONDS = 2.0

    def __init__(self, connect: Callable[[], GroupOffsets]) -> None:
        self._connect = connect
        self._client: GroupOffsets | None = None
        self._newest: EndOffsets | None = None
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="offset-committer", daemon=True)
        self._thread.start()

    def offer(self, offsets: EndOffsets) -> None:
        """Hand over newer offsets; returns at once."""
        with self._changed:
            self._newest = offsets
            self._changed.notify()

    def close(self, timeout: float = 5.0) -> None:
        """Commit what is left, at most for so many seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._newest is None and not self._closing:
                    self._changed.wait()
                offsets, self._newest = self._newest, None
            if offsets is None:
                break
            if not self._commit(offsets):
                with self._changed:
                    if self._closing:
                        break
                    self._newest = self._newest or offsets
                    self._changed.wait(self._RETRY_SECONDS)
        self._drop()

    def _commit(self, offsets: EndOffsets) -> bool:
        from kafka.errors import KafkaError

        try:
            if self._client is None:
                self._client = self._connect()
            self._client.commit(offsets)
        except KafkaError as error:
            log.warning("offsets not committed, lag is shown too high: %s", error)
            self._drop()
            return False
        return True

    def _drop(self) -> None:
        # An admin client never asks again who coordinates the group, be that broker as dead as it may.
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):
                client.close()
