"""The module ``health``: before what runs is restarted, it is asked twice."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.streamops.runbook.plugins.module_utils import assessment
from ansible_collections.streamops.runbook.plugins.module_utils.health import Reading
from ansible_collections.streamops.runbook.plugins.module_utils.probes import Check
from ansible_collections.streamops.runbook.plugins.modules import health

INFO = {"service": "inbox", "host": "monitoring-1", "state": "running", "started_at": "2020-01-01T00:00:00Z"}


class Ended(Exception):
    """The module has given its answer."""


def ask(monkeypatch: pytest.MonkeyPatch, answers: list[bool], **changed: Any) -> tuple[dict[str, Any], int]:
    """Plan a repair while the inbox answers or not, one reading after the other; the answer and the readings taken."""
    said: dict[str, Any] = {}
    taken = 0

    def read(_: Any) -> Reading:
        nonlocal taken
        taken += 1
        good = answers[taken - 1]
        check = Check("inbox.answers", "inbox", "monitoring-1", good, "answers" if good else "timed out", "an answer")
        return Reading((check,), 0, 4.0, good, frozenset())

    class Module:
        def __init__(self, argument_spec: dict[str, Any], **_: Any) -> None:
            self.params = {name: option.get("default") for name, option in argument_spec.items()}
            self.params |= {"intent": "recover", "scope": ["monitoring"], "services": [{**INFO, **changed}]}
            self.params["interval"] = 0.0
            self.params["target"] = {"brokers": {}, "fewest_brokers": 1, "cluster_id": "C"}

        def exit_json(self, **answer: Any) -> None:
            said.update(answer)
            raise Ended

    monkeypatch.setattr(assessment, "read", read)
    monkeypatch.setattr(health, "AnsibleModule", Module)
    with pytest.raises(Ended):
        health.main()
    return said, taken


def test_what_was_only_slow_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    said, taken = ask(monkeypatch, [False, True])
    assert said["plan"]["lines"] == []
    assert said["reading"]["healthy"]
    assert said["runbook"]["decisions"] == [
        {
            "subject": "inbox on monitoring-1",
            "decision": "left",
            "why": "answers when asked again; before: timed out",
        }
    ]
    assert taken == 2


def test_what_fails_twice_is_restarted(monkeypatch: pytest.MonkeyPatch) -> None:
    said, taken = ask(monkeypatch, [False, False])
    assert said["plan"]["lines"] == ["1. restart inbox on monitoring-1: timed out"]
    assert taken == 2


def test_what_is_dead_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said, taken = ask(monkeypatch, [False], state="exited")
    assert said["plan"]["lines"] == ["1. start inbox on monitoring-1: exited"]
    assert taken == 1
