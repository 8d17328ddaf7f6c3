"""A filter that looks at declared topics before anything is done for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible_collections.streamops.runbook.plugins.module_utils import kafka_admin


def topic_problems(topics: Sequence[Mapping[str, Any]], brokers: int) -> list[str]:
    """What keeps the topics from being made, each in a sentence; see module_utils/kafka_admin.py."""
    return kafka_admin.topic_problems(topics, brokers)


class FilterModule:
    """The filter ``topic_problems`` of ``streamops.runbook``."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names and functions, as Ansible wants them."""
        return {"topic_problems": topic_problems}
