"""The module ``proof``: what it makes of the answers of ``pipeline prove``."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from ansible_collections.streamops.runbook.plugins.module_utils import health
from ansible_collections.streamops.runbook.plugins.modules import proof

HOLDS = '{"holds": true, "sent": 1, "found": 1, "duplicates": 0, "failed": 0, "seconds": 2.0}'
LACKS = '{"holds": false, "sent": 1, "found": 0, "duplicates": 0, "failed": 0, "seconds": 9.0}'
STILL = "import faulthandler, time; faulthandler.dump_traceback_later(0.2, exit=True, file=2); time.sleep(60)"


def answer(script: str) -> dict[str, Any]:
    """Run a script in place of the pipeline's command line."""
    return proof.canary({"command": [sys.executable, "-c", script], "environment": {}, "deadline": 5.0, "events": 1})


def test_what_was_seen_is_the_answer() -> None:
    assert answer(f"print('{HOLDS}')")["proven"] is True
    lacking = answer(f"import sys; print('{LACKS}'); sys.exit(1)")
    assert (lacking["proven"], lacking["found"], "error" in lacking) == (False, 0, False)


def test_connections_that_do_not_close_change_nothing_of_it() -> None:
    assert answer(f"print('{HOLDS}', flush=True); {STILL}")["proven"] is True


def test_where_it_stood_still_is_told() -> None:
    found = answer(STILL)
    assert found["proven"] is False
    assert 'pipeline prove ended with 1: stood still in File "<string>"' in found["error"]


def test_brokers_that_died_meanwhile_are_said_at_once() -> None:
    brokers = {f"kafka-{number}": "h:9092" for number in (1, 2, 3)}
    given: dict[str, Any] = {
        "target": {"voters": ["control-1"], "brokers": brokers, "fewest_brokers": 2},
        "unreachable": {"kafka-2": ["kafka"], "kafka-3": ["kafka"]},
        "services": [],
    }
    kafka, _ = proof.impossible(given, health.Reading((), 0, 0.0, False))
    assert kafka == "kafka-2, kafka-3 out of reach and without an answer, which leaves 1 of 3 brokers"
    del given["unreachable"]["kafka-3"]
    assert proof.impossible(given, health.Reading((), 0, 0.0, False)) == ("", "")


@pytest.mark.parametrize(("stderr", "said"), [("", "no output"), ("one\ntwo\n\n", "two")])
def test_last_words(stderr: str, said: str) -> None:
    assert proof.last_words(stderr) == said
