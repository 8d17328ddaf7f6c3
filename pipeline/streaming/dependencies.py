"""Waiting, inside the job, for what it needs: so that it can be started together with Kafka."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from pipeline.clients import connect_admin
from pipeline.config import KafkaEndpoint, KafkaLogin
from pipeline.errors import Unavailable

log = logging.getLogger(__name__)


class Buckets(Protocol):
    """What is used of :class:`pipeline.objectstore.ObjectStore`."""

    def has_bucket(self, bucket: str) -> bool: ...


def buckets_ready(store: Buckets, names: Sequence[str]) -> None:
    """Pass if the object store answers and has the buckets.

    :raises Unavailable: naming what is not there.
    """
    for name in names:
        if not store.has_bucket(name):
            raise Unavailable(f"bucket {name}", "none", "a bucket of this name")


class TopicReady:
    """Passes, when called, if the topic is there and each partition has a leader.

    Keeps its connection from one call to the next.
    """

    def __init__(self, endpoint: KafkaEndpoint, login: KafkaLogin) -> None:
        self._endpoint = endpoint
        self._login = login
        self._admin: Any = None

    def __call__(self) -> None:
        """Look once.

        :raises Unavailable: no broker answers, no topic, or partitions without a leader.
        """
        from kafka.errors import KafkaError

        topic = self._endpoint.topic
        try:
            if self._admin is None:
                self._admin = connect_admin(self._endpoint, self._login, "iot-streaming-start", timeout=10.0)
            answer = self._admin.describe_topics([topic])[0]
        except KafkaError as error:
            raise Unavailable(
                f"Kafka {self._endpoint.bootstrap}", f"{type(error).__name__}: {error}", "an answer"
            ) from error
        if answer["error_code"]:
            raise Unavailable(f"topic {topic}", f"error {answer['error_code']}", "a topic")
        without = [p["partition_index"] for p in answer["partitions"] if p["leader_id"] < 0]
        if without:
            raise Unavailable(f"topic {topic}", f"no leader of {without}", "a leader of each partition")

    def close(self) -> None:
        """Let go of the connection."""
        if self._admin is not None:
            self._admin.close()
            self._admin = None


def wait_for(
    check: Callable[[], None],
    stop: threading.Event,
    deadline: float,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Call a check until it passes.

    :param check: raises Unavailable while what it looks for is not there.
    :param stop: ends the wait.
    :param deadline: on the clock.
    :returns: False when stopped first.
    :raises Unavailable: the check's last word, at the deadline.
    """
    said = ""
    while not stop.is_set():
        try:
            check()
        except Unavailable as error:
            if clock() >= deadline:
                raise
            if str(error) != said:
                log.info("waiting: %s", error)
                said = str(error)
        else:
            return True
        stop.wait(0.3)
    return False
